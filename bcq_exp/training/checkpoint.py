"""Checkpoints: one file with all that a run needs to go on, or to be evaluated elsewhere."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from bcq_exp.errors import Damaged, UserError, first_line
from bcq_exp.training.older import checkpoint_of_today
from bcq_exp.training.record import atomic_path

FORMAT = 2


class Checkpoint(TypedDict):
    """What ``checkpoint.pt`` holds, in tensors and plain containers.

    ``engine`` has networks, targets, optimizers with their schedules, and the step; random numbers
    follow from the seed in ``config`` and the step (:mod:`bcq_exp.engine.stream`). ``window``
    holds the statistics (steps, S) since the last row of ``train.csv``.
    """

    format: int
    step: int
    config: dict[str, Any]
    engine: dict[str, Any]
    window: Tensor
    normalization: dict[str, list[float]] | None
    environment: dict[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint at once: a kill leaves the old one or the new one."""
    with atomic_path(path) as temporary:
        torch.save(dict(checkpoint), temporary)


def load(path: Path, *, lazily: bool = False) -> Checkpoint:
    """Read a checkpoint onto the CPU; ``lazily`` reads tensors when they are used.

    Raises:
        UserError: if there is none.
        Damaged: if it is no checkpoint of this format.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no checkpoint") from None
    except (pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
        raise Damaged(f"{path}: not a readable checkpoint ({first_line(error)})") from error
    found = checkpoint.get("format") if isinstance(checkpoint, dict) else None
    if found not in (1, FORMAT):
        raise Damaged(f"{path}: not a checkpoint of format {FORMAT}, nor of format 1")
    return checkpoint if found == FORMAT else checkpoint_of_today(checkpoint)  # type: ignore[return-value]
