"""A run's folder: the one place that writes and reads its files.

====================  =====================================================================
``train.csv``         a row each ``trainer.log_every`` steps: losses and diagnostics
``eval.csv``          a row an evaluation: step, return, normalized score, length, discounted
                      return and what the critic took it to be
``eval_returns.npz``  every episode: ``step`` (V,), ``returns`` (V, E), ``lengths`` (V, E)
``timing.csv``        a row each ``trainer.log_every`` steps: seconds trained, steps a second
``summary.json``      status, last and best evaluation, data set, versions, configuration
``checkpoint.pt``     all that training needs to go on (:mod:`bcq_exp.training.checkpoint`)
====================  =====================================================================

``train.csv``, ``eval.csv`` and ``eval_returns.npz`` follow from configuration and seed to the bit;
what depends on the machine's speed is kept apart in ``timing.csv`` and ``summary.json``.
"""

from __future__ import annotations

import csv
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

from bcq_exp import locks
from bcq_exp.errors import Damaged, UserError, first_line
from bcq_exp.training.older import summary_of_today

Table = Literal["train", "eval", "timing"]
TABLES: tuple[Table, ...] = ("train", "eval", "timing")
COMPARED = (  # columns of eval.csv
    "return_mean", "normalized_score", "length_mean", "discounted_return_mean", "value_mean",
)  # fmt: skip
LOCK = ".lock"  # in a run's folder, or a sweep's: held by the process that has it in hand
SUMMARY = {"status", "failure", "step", "last", "best", "dataset", "config", "seed"}  # at least
SWEEP_FILE = "sweep.json"  # in a sweep's folder: the runs there should be
Row = Mapping[str, float | int | None]


class RunRecord:
    """Writes and reads the files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint lies."""
        return self.folder / "checkpoint.pt"

    def append(self, table: Table, row: Row) -> None:
        """Add a row to a CSV file; its first row names the columns. ``None`` is an empty cell.

        A file begun by an earlier version keeps the columns it has.
        """
        path = self._csv(table)
        with path.open("a+", newline="") as file:
            file.seek(0)
            first = file.readline()
            columns = next(csv.reader([first])) if first else list(row)
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            if not first:
                writer.writeheader()
            writer.writerow(row)

    def rows(self, table: Table) -> list[dict[str, float | None]]:
        """The complete rows of a CSV file; a half-written last line is left out.

        Raises:
            Damaged: if what is there is no table of numbers.
        """
        path = self._csv(table)
        if not path.exists():
            return []
        with _whole(path):
            header, *lines = path.read_text().split("\n")
            names = next(csv.reader([header]))
            cells = [next(csv.reader([line.strip("\r")])) for line in lines[:-1] if line]
            return [
                {name: _number(cell) for name, cell in zip(names, row, strict=True)}
                for row in cells
                if len(row) == len(names)
            ]

    def append_episodes(self, step: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Add an evaluation's episodes, (E,) each, to ``eval_returns.npz``."""
        old = self.episodes()
        new = {"step": np.array([step]), "returns": returns[None], "lengths": lengths[None]}
        self._write_episodes({k: np.concatenate([old[k], v]) if old else v for k, v in new.items()})

    def episodes(self) -> dict[str, np.ndarray]:
        """The arrays of ``eval_returns.npz``; empty before the first evaluation."""
        path = self.folder / "eval_returns.npz"
        if not path.exists():
            return {}
        with _whole(path), np.load(path) as file:
            return dict(file)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace ``summary.json`` at once."""
        write_atomically(
            self.folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode()
        )

    def summary(self) -> dict[str, Any] | None:
        """``summary.json``, or ``None`` where no run has begun.

        Raises:
            Damaged: if it is none.
        """
        path = self.folder / "summary.json"
        if not self.has_begun:
            return None
        with _whole(path):
            found = json.loads(path.read_bytes())
            if not isinstance(found, dict) or not found.keys() >= SUMMARY:
                raise ValueError("not a run's summary")
            return summary_of_today(found)

    @property
    def has_begun(self) -> bool:
        """Whether there is a summary, whole or not."""
        return (self.folder / "summary.json").exists()

    def rewind(self, step: int) -> None:
        """Forget every row after ``step``: a run that goes on from there writes them anew."""
        for table in TABLES:
            self._rewind_table(self._csv(table), step)
        if episodes := self.episodes():
            kept = episodes["step"] <= step
            self._write_episodes({name: array[kept] for name, array in episodes.items()})

    def _rewind_table(self, path: Path, step: int) -> None:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        header, *rows = [line for line in lines if line.endswith(b"\n")] or [b""]
        with _whole(path):
            kept = [row for row in rows if int(row.split(b",")[0]) <= step]
        if header:
            write_atomically(path, header + b"".join(kept))
        else:  # a kill while the header was written
            path.unlink(missing_ok=True)

    def _csv(self, table: str) -> Path:
        return self.folder / f"{table}.csv"

    def _write_episodes(self, arrays: dict[str, np.ndarray]) -> None:
        path = self.folder / "eval_returns.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say in one line that a file is damaged, whatever its reader makes of it."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, BadZipFile) as error:
        raise Damaged(
            f"{path} is damaged ({type(error).__name__}: {first_line(error)})",
            "resume=restart sets the run aside",
        ) from error


def this_process() -> dict[str, Any]:
    """Who trains, for people to read in ``summary.json``."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def hold(folder: Path) -> AbstractContextManager[None]:
    """Keep a run's folder, or a sweep's, to this process inside the block.

    Raises:
        UserError: if another process has it.
    """
    return locks.hold(folder / LOCK, _refusal(folder))


def check_free(folder: Path) -> None:
    """Look whether a folder could be held.

    Raises:
        UserError: if another process has it.
    """
    if locks.is_held(folder / LOCK):
        raise UserError(_refusal(folder))


def present_status(summary: Mapping[str, Any], folder: Path) -> str:
    """A run's status: one said to be running that nobody has in hand was interrupted."""
    if summary["status"] == "running" and not locks.is_held(folder / LOCK):
        return "interrupted"
    return summary["status"]


def _refusal(folder: Path) -> str:
    what = "launching this sweep" if is_sweep(folder) else "training this run"
    try:
        process = (RunRecord(folder).summary() or {})["process"]
        who = f"process {process['pid']} on {process['host']}"
    except (Damaged, LookupError, TypeError):  # it has written none yet
        who = "another process"
    return f"{folder}: {who} is {what}; wait for it, or stop it first"


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds a sweep's runs rather than a run."""
    return any((folder / name).exists() for name in ("multirun.yaml", SWEEP_FILE))


def sweep_name(folder: Path) -> str | None:
    """The name of the sweep that a run's folder lies in, if it lies in one."""
    return folder.parent.name if is_sweep(folder.parent) else None


def _number(cell: str) -> float | None:
    if cell == "":
        return None
    return int(cell) if cell.lstrip("-").isdigit() else float(cell)


class atomic_path:  # noqa: N801 - reads as a function: with atomic_path(p) as temporary
    """A path to write to that takes the place of ``path`` when the block ends without an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        return self._temporary

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content such that a reader, or a kill, sees the old or the new."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
