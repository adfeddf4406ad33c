"""Gradient steps compiled by XLA for CPUs, through JAX."""


class UntraceableError(RuntimeError):
    """A step that XLA cannot compile; the message has the reason."""
