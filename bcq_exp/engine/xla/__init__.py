"""Gradient steps compiled by XLA for CPUs, through JAX."""
