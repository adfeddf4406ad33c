"""A run's folder: the only module that writes and reads its files.

====================  =====================================================================
``train.csv``         a row each ``trainer.log_every`` steps: losses and diagnostics
``eval.csv``          a row an evaluation: step, return, normalized score, length, discounted
                      return and what the critic took it to be
``eval_returns.npz``  every episode: ``step`` (V,), ``returns`` (V, E), ``lengths`` (V, E)
``timing.csv``        a row each ``trainer.log_every`` steps: seconds trained, steps a second
``estimates.json``    the policy's value, estimated from data alone (:mod:`bcq_exp.select`)
``summary.json``      status, last and best evaluation, data set, versions, configuration
``checkpoint.pt``     all that training needs to resume (:mod:`bcq_exp.training.checkpoint`);
                      ``checkpoint.previous.pt`` is the one before
====================  =====================================================================

``train.csv``, ``eval.csv`` and ``eval_returns.npz`` are bitwise determined by configuration and
seed. What depends on the speed of the machine is in ``timing.csv`` and ``summary.json``.

``summary.json`` and every checkpoint hold marks: the size and checksum of each table when they were
written. Lost or changed rows are noticed by them, and newer rows can still be read.
"""

from __future__ import annotations

import csv
import json
import os
import pickle
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeAlias
from zipfile import BadZipFile

import numpy as np

from bcq_exp.algorithm.alerts import Watch
from bcq_exp.config.schema import source
from bcq_exp.errors import Damaged, UserError, first_line, is_out_of_memory
from bcq_exp.files import Mark, as_json, atomic_path, check_mark, mark, write_atomically, written

Table = Literal["train", "eval", "timing"]
TABLES: tuple[Table, ...] = ("train", "eval", "timing")
COMPARED = (  # columns of eval.csv
    "return_mean", "normalized_score", "length_mean", "discounted_return_mean", "value_mean",
)  # fmt: skip
SUMMARY = {  # at least
    "status", "failure", "step", "last", "best", "dataset", "config", "seed", "record",
}  # fmt: skip
STATUSES = ("running", "completed", "interrupted", "failed", "stopped")
EPISODES = ("step", "returns", "lengths")  # the arrays of eval_returns.npz
SET_ASIDE = "resume=restart sets the run aside"
Row = Mapping[str, float | int | None]
Marks: TypeAlias = dict[str, Mark]
"""How far each table went, by its name."""
NOTHING: Marks = {table: Mark(size=0, crc32=0) for table in TABLES}


class RunRecord:
    """Writes and reads the files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / "checkpoint.pt"
        self._summary_file = folder / "summary.json"
        self._episodes_file = folder / "eval_returns.npz"
        self._estimates_file = folder / "estimates.json"

    def append(self, table: Table, row: Row) -> None:
        """Add a row to a CSV file; its first row names the columns. ``None`` is an empty cell.

        A file begun by an earlier version keeps the columns it has.

        Raises:
            CannotWrite: if the system refuses.
        """
        path = self._csv(table)
        with written(path), path.open("a+", encoding="utf-8", newline="") as file:
            file.seek(0)
            first = file.readline()
            columns = next(csv.reader([first])) if first else list(row)
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            if not first:
                writer.writeheader()
            writer.writerow(row)

    def rows(self, table: Table, marks: Marks | None = None) -> list[dict[str, float | None]]:
        """The complete rows of a CSV file; a half-written last line is left out.

        Args:
            marks: how far to read, as a summary or a checkpoint has it; ``None`` reads all.

        Raises:
            Damaged: if the file is no table of numbers, or lacks rows that it had.
        """
        with report_damage(self._csv(table)):
            names, rows = self._cells(table, marks)
            return [dict(zip(names, map(_number, row), strict=True)) for row in rows]

    def last_row(self, table: Table, marks: Marks) -> dict[str, float | None]:
        """The last row, even if newer than the marks; empty where there is none.

        Raises:
            Damaged: if the table lacks rows that it had.
        """
        with report_damage(self._csv(table)):
            names, rows = self._cells(table, marks, newer=True)
            return dict(zip(names, map(_number, rows[-1]), strict=True)) if rows else {}

    def columns(self, table: Table, marks: Marks | None = None) -> dict[str, np.ndarray]:
        """Columns (rows,) of float64, NaN where a cell is empty.

        Rows that are newer than the marks are read too, up to the first that is damaged.

        Raises:
            Damaged: as :meth:`rows` does.
        """
        with report_damage(self._csv(table)):
            names, rows = self._cells(table, marks, newer=True)
            values = np.array([[float(cell or "nan") for cell in row] for row in rows])
            return dict(zip(names, values.reshape(len(rows), len(names)).T, strict=True))

    def is_half_written(self, table: Table) -> bool:
        """Whether a kill left a piece of a row at a table's end."""
        content = self._content(table)
        return bool(content) and not content.endswith(b"\n")

    def _cells(
        self, table: Table, marks: Marks | None, *, newer: bool = False
    ) -> tuple[list[str], list[list[str]]]:
        """A table's column names and the cells of its complete rows.

        Args:
            newer: read beyond the marks too. A power cut can leave garbage there: the table ends
                before it, and a run that resumes discards it.
        """
        content = self._content(table)
        end = len(content)
        if marks:
            check_mark(self._csv(table), content, marks[table])
            end = marks[table]["size"]
        header, *lines = _lines(content[:end].decode()) or [""]
        names, rows = next(csv.reader([header]), []), [line.split(",") for line in lines]
        if any(len(row) != len(names) for row in rows):
            raise ValueError("rows of different lengths")
        for line in _lines(content[end:].decode(errors="replace")) if newer else ():
            row = line.split(",")
            if not names and row[0] == "step":
                names = next(csv.reader([line]))
            elif len(row) == len(names) and _are_numbers(row):
                rows.append(row)
            else:
                break
        return names, rows

    def marks(self, *, lasting: bool = False) -> Marks:
        """Return the marks of all tables; ``lasting`` flushes these to disk first."""
        return {table: mark(self._csv(table), lasting=lasting) for table in TABLES}

    def append_episodes(self, step: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Add an evaluation's episodes, (E,) each, to ``eval_returns.npz``."""
        old = self.episodes()
        new = {"step": np.array([step]), "returns": returns[None], "lengths": lengths[None]}
        self._write_episodes({k: np.concatenate([old[k], v]) if old else v for k, v in new.items()})

    def episodes(self) -> dict[str, np.ndarray]:
        """The arrays of ``eval_returns.npz``; empty before the first evaluation."""
        path = self._episodes_file
        if not path.exists():
            return {}
        with report_damage(path), np.load(path) as file:
            found = {name: file[name] for name in EPISODES}
            steps, returns, lengths = found.values()
            are_numbers = all(array.dtype.kind in "iuf" for array in found.values())
            belong = returns.shape == lengths.shape and steps.shape == returns.shape[:1]
            if not are_numbers or not belong or returns.ndim != 2 or not returns.shape[1]:
                raise ValueError("shapes or types of its arrays do not match")
            return found

    def estimates(self) -> list[dict[str, Any]]:
        """Off-policy estimates, one row per step, oldest first.

        Raises:
            Damaged: if the file is invalid.
        """
        path = self._estimates_file
        if not path.exists():
            return []
        with report_damage(path, "delete it, it is written again"):
            return [
                {**row, "step": int(row["step"]), "settings": dict(row["settings"])}
                for row in json.loads(path.read_bytes())
            ]

    def add_estimate(self, row: Mapping[str, Any]) -> None:
        """Store an estimate; it replaces one of the same step and settings.

        Raises:
            CannotWrite: if the system refuses.
        """
        new = json.loads(as_json(row))  # as they are read
        same = ("step", "settings")
        others = [old for old in self.estimates() if any(old[key] != new[key] for key in same)]
        rows = sorted([*others, new], key=lambda each: each["step"])
        write_atomically(self._estimates_file, as_json(rows))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace ``summary.json`` atomically; the marks of the tables are added.

        Raises:
            CannotWrite: if the system refuses.
        """
        self._write_summary({**summary, "record": self.marks()})

    def note_wandb_id(self, id: str | None) -> None:
        """Store the id of the run at W&B in ``summary.json``, if there is one; the marks stay.

        Raises:
            CannotWrite: if the system refuses.
        """
        summary = self.summary()
        if summary is not None and summary.get("wandb_id") != id:
            self._write_summary({**summary, "wandb_id": id})

    def _write_summary(self, summary: Mapping[str, Any]) -> None:
        whole = {**summary, "crc32": _checksum(summary)}
        write_atomically(self._summary_file, as_json(whole))

    def summary(self) -> dict[str, Any] | None:
        """``summary.json``, or ``None`` where no run has begun.

        Raises:
            Damaged: if it is invalid, or missing though there is a checkpoint.
        """
        path = self._summary_file
        if not self.has_begun:
            return None
        if not path.exists():
            raise Damaged(f"{path} is missing beside its checkpoint", SET_ASIDE)
        with report_damage(path):
            found = json.loads(path.read_bytes())
            if not isinstance(found, dict) or not found.keys() >= SUMMARY:
                raise ValueError("not a run's summary")
            checksum = found.pop("crc32", None)
            if checksum != _checksum(found):
                raise ValueError("checksum mismatch")
            _check_kinds(found)
            return found

    def required_summary(self) -> dict[str, Any]:
        """:meth:`summary` of a run that is to be there.

        Raises:
            UserError: if it is missing.
            Damaged: as :meth:`summary`.
        """
        summary = self.summary()
        if summary is None:
            raise UserError(f"{self.folder}: contains no summary.json; give the folder of a run")
        return summary

    def progress(self) -> dict[str, Any] | None:
        """:meth:`summary` of a run that has something to resume or to lose.

        ``None`` where no run has begun, or it ended before its first row was logged.

        Raises:
            Damaged: as that does.
        """
        summary = self.summary()
        if summary is None or self.checkpoint.exists():
            return summary
        marks = summary["record"]
        return summary if marks != NOTHING or self.last_row("train", marks) else None

    @property
    def has_begun(self) -> bool:
        """Whether there is a summary, or a checkpoint, whose summary is missing."""
        return self._summary_file.exists() or self.checkpoint.exists()

    def check(self, marks: Marks) -> None:
        """Check the tables that a run reads when it resumes.

        Raises:
            Damaged: naming the first file that lacks rows that it had, or is invalid.
        """
        for table in TABLES:
            with report_damage(self._csv(table)):
                check_mark(self._csv(table), self._content(table), marks[table])
        evaluated = [row["step"] for row in self.rows("eval", marks)]
        found = self.episodes().get("step", np.empty(0))
        if list(found[: len(evaluated)]) != evaluated:
            path = self._episodes_file
            raise Damaged(f"{path} is damaged (evaluations of eval.csv are missing)", SET_ASIDE)

    def rewind(self, marks: Marks) -> None:
        """Remove the rows after the marks; a run that resumes from there writes them again."""
        if summary := self.summary():  # which so is true before, while and after they are cut
            self._write_summary({**summary, "record": marks})
        for table in TABLES:
            path = self._csv(table)
            if path.exists():
                with written(path):
                    os.truncate(path, marks[table]["size"])
        if episodes := self.episodes():
            num_kept = len(self.rows("eval"))
            self._write_episodes({name: array[:num_kept] for name, array in episodes.items()})

    def _csv(self, table: Table) -> Path:
        return self.folder / f"{table}.csv"

    def _content(self, table: Table) -> bytes:
        path = self._csv(table)
        return path.read_bytes() if path.exists() else b""

    def _write_episodes(self, arrays: dict[str, np.ndarray]) -> None:
        path = self._episodes_file
        with written(path), atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]


_UNREADABLE = (  # raised by readers of damaged files
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, BadZipFile,
    zlib.error, csv.Error, pickle.UnpicklingError,
)  # fmt: skip


@contextmanager
def report_damage(path: Path, advice: str = SET_ASIDE) -> Iterator[None]:
    """Raise :class:`Damaged`, in one line, for any error of reading a run's file.

    Raises:
        Damaged: with ``advice``, by default how to set the run aside.
    """
    try:
        yield
    except Damaged as error:
        raise Damaged(error.what, advice) from None
    except _UNREADABLE as error:
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise Damaged(f"{path} is damaged ({reason})", advice) from error


def _check_kinds(summary: Mapping[str, Any]) -> None:
    """Check types of the summary's fields; a valid checksum does not prove them.

    Raises:
        LookupError, TypeError: if not.
    """
    wanted: list[tuple[Any, Any]] = [
        (summary["config"]["trainer"]["num_steps"], int),
        (summary["config"]["algo"]["_target_"], str),
        (source(summary["config"]), dict),
        (summary["dataset"]["id"], str),
        (summary["dataset"]["content_hash"], str | None),
        (summary["dataset"]["behaviour_return"], Real | None),
        (summary["step"], int),
        (summary["seed"], int),
        (summary["record"], dict),
        (summary["failure"], str | None),
        *((summary.get(name), Real | None) for name in ("wall_time", "steps_per_second")),
        *((summary.get(name), str | None) for name in ("command", "git_commit", "config_hash")),
        *((version, str | None) for version in summary.get("versions", {}).values()),
        *((loss, str) for loss in summary.get("losses", ())),
        *(kind for watch in summary.get("watches", ()) for kind in _kinds_of(Watch(**watch))),
        *((kind, str) for kind in summary.get("trouble", ())),
    ]
    if summary["status"] not in STATUSES:
        raise ValueError(f"its status is {summary['status']!r}")
    for name in ("last", "best"):
        if (row := summary[name]) is not None:
            wanted += [(row["step"], int), (row["return_mean"], Real)]
            wanted.append((row["normalized_score"], Real | None))
    for value, kind in wanted:
        if not isinstance(value, kind):
            raise TypeError(f"{value!r} has the wrong type")


def _kinds_of(watch: Watch) -> list[tuple[Any, Any]]:
    bounds = [(bound, Real | None) for bound in (watch.below, watch.above)]
    return [(watch.kind, str), *((name, str) for name in watch.statistics), *bounds]


def _checksum(content: Any) -> int:
    return zlib.crc32(as_json(content))


def _lines(text: str) -> list[str]:
    """The complete lines, without a half-written last one."""
    return text.replace("\r\n", "\n").split("\n")[:-1]


def _are_numbers(cells: Sequence[str]) -> bool:
    """Whether every cell is a number, or empty."""
    try:
        for cell in cells:
            _number(cell)
    except ValueError:
        return False
    return True


def _number(cell: str) -> float | None:
    if cell == "":
        return None
    return int(cell) if cell.lstrip("-").isdigit() else float(cell)
