"""Sweeps: planning a grid, launching its runs as cohorts, searching, and saying how far it is."""
