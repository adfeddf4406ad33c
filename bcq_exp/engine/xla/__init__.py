"""Gradient steps compiled by XLA for CPUs, through JAX."""


class UntraceableError(RuntimeError):
    """A step that no XLA program can be made of; the message says why."""
