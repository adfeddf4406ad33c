"""Vectors of the authors' own training step, and what replays them (see README.md)."""
