"""Folders of runs and sweeps: which of the two one is, and which process holds it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bcq_exp import locks
from bcq_exp.errors import Damaged, UserError
from bcq_exp.training.record import RunRecord

LOCK = ".lock"  # held by the process that has the run or the sweep in hand
SWEEP_FILE = "sweep.json"  # in a sweep's folder: the runs there should be


def hold(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of a run's or sweep's folder inside the block.

    Raises:
        UserError: if another process has it.
    """
    refusal = _refusal(folder)
    return locks.hold(folder / LOCK, refusal)


def check_free(folder: Path) -> None:
    """Check that no other process holds a folder.

    Raises:
        UserError: if another process has it.
    """
    if locks.is_held(folder / LOCK):
        raise UserError(_refusal(folder))


def present_status(summary: Mapping[str, Any], folder: Path) -> str:
    """A run's status; a running one whose folder no process holds was interrupted."""
    if summary["status"] == "running" and not locks.is_held(folder / LOCK):
        return "interrupted"
    return summary["status"]


def this_process() -> dict[str, Any]:
    """The host and process that train, for readers of ``summary.json``."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds a sweep's runs rather than a run."""
    return any((folder / name).exists() for name in ("multirun.yaml", SWEEP_FILE))


def sweep_of(folder: Path) -> Path | None:
    """Return the folder of the sweep that a run belongs to, if there is one.

    ``hydra.sweep.subdir`` may place a run several folders below it. Other programs that use Hydra
    write multirun.yaml too, so of folders further above only those with our own file count.
    """
    parent, *above = folder.absolute().parents
    if is_sweep(parent):
        return parent
    return next((path for path in above if (path / SWEEP_FILE).exists()), None)


def _refusal(folder: Path) -> str:
    what = "launching this sweep" if is_sweep(folder) else "training this run"
    try:
        process = (RunRecord(folder).summary() or {})["process"]
        who = f"process {process['pid']} on {process['host']}"
    except (Damaged, LookupError, TypeError):  # it has written none yet
        who = "another process"
    return f"{folder}: {who} is {what}; wait for it, or stop it first"
