"""Gradient steps compiled by XLA, through JAX."""

from __future__ import annotations

from importlib.util import find_spec

import torch


def is_installed(device: torch.device) -> bool:
    """Whether JAX is, for such a device."""
    if device.type == "cpu":
        return find_spec("jax") is not None
    return any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


class UntraceableError(RuntimeError):
    """A step that no XLA program can be made of; the message says why."""
