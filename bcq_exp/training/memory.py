"""Memory: what a run takes, what there is, and how the C library keeps what a step frees."""

from __future__ import annotations

import ctypes
import sys
from itertools import pairwise

import psutil
import torch
from omegaconf import DictConfig

from bcq_exp.algorithm.losses import ROWS_AT_ONCE

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_THRESHOLD = 32 * 2**20  # glibc takes no larger one


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next tensor of that size; says whether it could be set.

    By default it returns blocks of megabytes to the system at once, and the next gradient step
    takes a page fault for every 4 KiB of its activations: a third of the step's time.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    )


def free_bytes(device: torch.device) -> int:
    """Memory that a device can still give."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def run_bytes(cfg: DictConfig) -> int:
    """About what one run takes: weights, targets, moments and the activations of a step."""
    sizes = {
        name: [_THIN, *cfg[name].get("hidden_sizes", []), _THIN]
        for name in ("actor", "critic", "vae")
    }
    weights = {name: sum(a * b for a, b in pairwise(layers)) for name, layers in sizes.items()}
    # each with its gradient and two moments; targets of all but the VAE, which is two networks
    held = 5 * weights["actor"] + 2 * 5 * weights["critic"] + 2 * 4 * weights["vae"]
    batch = cfg.trainer.batch_size
    rows = min(batch * cfg.algo.num_sampled_action, ROWS_AT_ONCE["cpu"])
    widest = max(max(layers) for layers in sizes.values())
    units = sum(sum(layers) for layers in sizes.values())
    numbers = held + 4 * rows * widest + 3 * batch * units
    return numbers * (8 if cfg.trainer.precision == "fp64" else 4) + _ENVIRONMENTS


_THIN = 64  # more than the inputs and outputs of most tasks
_ENVIRONMENTS = 8 * 2**20  # a run's evaluation environments and records
