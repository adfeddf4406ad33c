"""Memory: what a run needs, what is free, and how the C library keeps freed blocks."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import psutil
import torch

from bcq_exp.algorithm.losses import ROWS_AT_ONCE
from bcq_exp.errors import UserError, first_line, is_out_of_memory

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_THRESHOLD = 32 * 2**20  # glibc takes no larger one


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensor of that size; skip other C libraries.

    By default it returns blocks of megabytes to the system at once, and the next gradient step
    takes a page fault for every 4 KiB of its activations: a third of the step's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD):
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def enough_memory(
    remedy: str = "reduce trainer.batch_size, the networks or hydra.launcher.group_size",
) -> Iterator[None]:
    """Report in one line that memory ran out, whichever library raises it.

    Raises:
        UserError: if memory runs out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"not enough memory ({first_line(error)}); {remedy}") from error


def free_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def run_bytes(hidden_sizes: Sequence[Sequence[int]], batch_size: int, *, double: bool) -> int:
    """Estimate the memory of one run: weights, targets, moments and the activations of a step.

    Args:
        hidden_sizes: the hidden layers of each network.
        double: whether it computes in float64.
    """
    layers = [[_THIN, *sizes, _THIN] for sizes in hidden_sizes]
    weights = sum(a * b for sizes in layers for a, b in pairwise(sizes))
    rows = max(batch_size, ROWS_AT_ONCE["cpu"])
    widest = max((max(sizes) for sizes in layers), default=_THIN)
    units = sum(sum(sizes) for sizes in layers)
    numbers = _COPIES * weights + 4 * rows * widest + 3 * batch_size * units
    return numbers * (8 if double else 4) + _ENVIRONMENTS


_THIN = 64  # more than the inputs and outputs of most tasks
_COPIES = 10  # two networks of each kind, with gradient, two moments and a target
_ENVIRONMENTS = 8 * 2**20  # a run's evaluation environments and records
