"""Sweeps: plans, sweepers, launchers that train runs as cohorts, workers, and state."""
