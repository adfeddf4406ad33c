"""Checkpoints: one file with all that a run needs to resume, or to be evaluated elsewhere.

The file is a ZIP archive, whose checksums are verified before anything is read from it. The
previous checkpoint is kept too, and used if the newest is damaged.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from bcq_exp.config.identity import differences, identity
from bcq_exp.errors import Damaged, UserError
from bcq_exp.files import atomic_path, clear_halves, written
from bcq_exp.formatting import listed
from bcq_exp.training.record import NOTHING, Marks, RunRecord, report_damage
from bcq_exp.training.tensor_files import save_tensors

log = logging.getLogger(__name__)

FORMAT = 2


class LaterEntries(TypedDict, total=False):
    """Entries that checkpoints of earlier versions lack.

    With ``NotRequired``, ``__required_keys__`` would name them too.
    """

    seconds: float


class Checkpoint(LaterEntries):
    """The content of ``checkpoint.pt``, in tensors and plain containers.

    ``engine`` has networks, targets, optimizers with their schedules, and the step; random numbers
    follow from the seed in ``config`` and the step (:mod:`bcq_exp.engine.stream`). ``window``
    holds the metrics (steps, S) since the last row of ``train.csv``; ``seconds`` is the time of
    training so far; ``record`` holds the marks of the run's tables.
    """

    format: int
    step: int
    config: dict[str, Any]
    engine: dict[str, Any]
    window: Tensor
    normalization: dict[str, list[float]] | None
    environment: dict[str, Any]
    record: Marks


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically and keep the previous one: a kill leaves either or both.

    Raises:
        CannotWrite: if the system refuses; the previous files stay in place.
    """
    with written(path), atomic_path(path) as temporary:
        save_tensors(dict(checkpoint), temporary)
        if path.exists():
            os.replace(path, _previous(path))


def load(path: Path, *, lazily: bool = False) -> Checkpoint:
    """Read a checkpoint onto the CPU; ``lazily`` reads tensors when they are used.

    Raises:
        UserError: if there is no checkpoint.
        Damaged: if it is no checkpoint of this format, or its checksums do not match.
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    with report_damage(path):
        with zipfile.ZipFile(path) as archive:
            if (part := archive.testzip()) is not None:
                raise Damaged(f"{path} is damaged (checksum mismatch of {part})")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
        found = checkpoint.get("format") if isinstance(checkpoint, dict) else None
        if found != FORMAT:
            raise Damaged(f"{path}: not a checkpoint of format {FORMAT}")
        if lacking := Checkpoint.__required_keys__ - checkpoint.keys():
            raise ValueError(f"without {', '.join(sorted(lacking))}")
    return checkpoint


@dataclass(frozen=True)
class StoredCheckpoint:
    """An undamaged checkpoint and its path."""

    path: Path
    content: Checkpoint


def newest(record: RunRecord) -> Checkpoint | None:
    """Return a run's newest undamaged checkpoint; ``None`` if it has no checkpoint yet.

    Raises:
        Damaged: if all checkpoints are damaged.
    """
    found = _newest(record, load)
    return None if found is None else found.content


def find_resumable(record: RunRecord, *, lazily: bool = False) -> StoredCheckpoint | None:
    """Return the newest undamaged checkpoint of the run whose marks its tables match.

    Raises:
        Damaged: if there are checkpoints, but none such.
    """
    return _newest(record, partial(_with_rows, record, lazily=lazily))


def prepare_to_resume(record: RunRecord, found: StoredCheckpoint | None) -> None:
    """Rewind a run's folder to a checkpoint: remove newer rows, set a damaged checkpoint aside.

    Half-written files of killed processes are removed too.

    Raises:
        CannotWrite: if the system refuses.
    """
    clear_halves(record.folder)
    if found is None:
        record.rewind(NOTHING)
        return
    if found.path != record.checkpoint:
        with written(record.checkpoint):
            if record.checkpoint.exists():
                os.replace(record.checkpoint, record.checkpoint.with_stem("checkpoint.damaged"))
            os.replace(found.path, record.checkpoint)
    record.rewind(found.content["record"])


def _newest(record: RunRecord, read: Callable[[Path], Checkpoint]) -> StoredCheckpoint | None:
    damage: Damaged | None = None
    for path in (record.checkpoint, _previous(record.checkpoint)):
        if not path.exists():
            continue
        try:
            content = read(path)
        except Damaged as error:
            damage = damage or error
            continue
        if damage is not None:
            step = content["step"]
            log.warning("%s; using the previous checkpoint, of step %d", damage.what, step)
        return StoredCheckpoint(path, content)
    if damage is not None:
        raise damage
    return None


def _with_rows(record: RunRecord, path: Path, *, lazily: bool) -> Checkpoint:
    content = load(path, lazily=lazily)
    summary = record.summary()
    with report_damage(path):
        was = content["config"] if summary is None else summary["config"]
        if changed := differences(identity(content["config"]), identity(was)):
            raise Damaged(f"{path} belongs to another run ({listed([*changed.values()])})")
    if summary is not None and summary["step"] == content["step"] and summary["record"]:
        # it covers the evaluation that followed the checkpoint
        with suppress(Damaged):
            record.check(summary["record"])
            return {**content, "record": summary["record"]}
    record.check(content["record"])
    return content


def _previous(path: Path) -> Path:
    return path.with_stem(f"{path.stem}.previous")
