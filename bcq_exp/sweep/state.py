"""The state of a sweep: which runs are done, running, failed, interrupted or missing.

``sweep.json`` in the sweep's folder lists the expected runs; the rest is read from the runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bcq_exp import files
from bcq_exp.config.fqe_settings import FQESettings, value_key
from bcq_exp.errors import Damaged, UserError, first_line
from bcq_exp.files import as_json, write_atomically
from bcq_exp.ranges import FQE
from bcq_exp.training import start
from bcq_exp.training.folders import SWEEP_FILE, is_sweep, present_status
from bcq_exp.training.record import Marks, RunRecord

log = logging.getLogger(__name__)

Status = Literal["done", "running", "failed", "stopped", "interrupted", "missing", "damaged"]


@dataclass(frozen=True)
class RunState:
    """One run of a sweep.

    Args:
        name: its folder's path in the sweep's.
        step, num_steps: gradient steps taken and in total; 0 before it begins.
        seconds_left: the time left at its last rate, while it runs.
        last_return: mean return of its last evaluation.
        reason: why it failed or was stopped, or which file is damaged.
        estimate: its last value by fitted Q evaluation, where that is the objective.
    """

    name: str
    status: Status
    step: int = 0
    num_steps: int = 0
    seconds_left: float | None = None
    last_return: float | None = None
    reason: str | None = None
    estimate: float | None = None


def expect(folder: Path, names: Sequence[str], command: str) -> None:
    """Add expected runs and the command to sweep.json."""
    folder.mkdir(parents=True, exist_ok=True)
    before = _read(folder)
    runs = list(dict.fromkeys([*before["runs"], *names]))
    commands = list(dict.fromkeys([*before["commands"], command]))
    _write(folder, {**before, "commands": commands, "runs": runs})


def expected(folder: Path) -> list[str]:
    """Return the names of all expected runs."""
    return list(_read(folder)["runs"])


def set_aside(folder: Path, study: str) -> None:
    """Set all runs and the study's file of a search aside; sweep.json keeps the commands."""
    before = _read(folder)
    for name in _names(folder, before):
        if (folder / name / "summary.json").exists():
            start.set_aside(folder / name)
    files.set_aside(folder / study, folder / ".set_aside")
    _write(folder, {**before, "runs": [], "stopped": {}})


def note_stopped(folder: Path, reasons: Mapping[str, str]) -> None:
    """Record why runs, by name, were stopped early."""
    _write(folder, {**_read(folder), "stopped": dict(reasons)})


def run_states(folder: Path) -> list[RunState]:
    """Every run of a sweep, in the order of its grid.

    Raises:
        UserError: if the folder holds no sweep.
    """
    if not is_sweep(folder):
        raise UserError(f"{folder}: not a sweep; give the folder of a sweep, such as multirun/NAME")
    read = _read(folder)
    stopped = read.get("stopped", {})
    return [_run_state(folder, name, stopped.get(name)) for name in _names(folder, read)]


def _names(folder: Path, read: Mapping[str, Any]) -> list[str]:
    """The names of the expected runs of a sweep's file, then of others in the folder."""
    found = sorted(path.parent.name for path in folder.glob("*/summary.json"))
    return list(dict.fromkeys([*read["runs"], *found]))


def _run_state(sweep: Path, name: str, why_stopped: str | None) -> RunState:
    record = RunRecord(sweep / name)
    try:
        summary = record.summary()
        if summary is None:
            return RunState(name, "missing")
        found = present_status(summary, record.folder)
        timing = _timing(record, summary["record"], found)
        of_objective = summary["config"]["trainer"].get("objective") == FQE
        known = record.estimates() if of_objective else []
    except Damaged as error:
        return RunState(name, "damaged", reason=str(error))
    step = max(int(timing.get("step") or 0), summary["step"])
    num_steps = summary["config"]["trainer"]["num_steps"]
    # `bcq_exp select` may have added values with another discount
    estimates = [e for e in known if value_key(e["settings"]) == value_key(FQESettings())]
    status: Status = {"completed": "done"}.get(found, found)  # type: ignore[assignment]
    rate = timing.get("steps_per_second")
    return RunState(
        name=name,
        status=status,
        step=step,
        num_steps=num_steps,
        seconds_left=(num_steps - step) / rate if status == "running" and rate else None,
        last_return=None if summary["last"] is None else summary["last"]["return_mean"],
        reason=why_stopped if status == "stopped" else summary["failure"],
        estimate=estimates[-1]["fqe"] if estimates else None,
    )


def _timing(record: RunRecord, marks: Marks, status: str) -> Mapping[str, float | None]:
    """Read the last row of ``timing.csv``; empty where a launch would train lost rows again.

    Raises:
        Damaged: if a launch would refuse the run.
    """
    if status not in ("completed", "running"):
        _check_resumable(record)
    try:
        return record.last_row("timing", marks)
    except Damaged:
        if status == "completed":
            raise
        if status == "running":
            _check_resumable(record)
    return {}


def _check_resumable(record: RunRecord) -> None:
    """Check the files from which a launch resumes a run.

    Raises:
        Damaged: if a launch would refuse the run.
    """
    from bcq_exp.training import checkpoint  # brings torch

    checkpoint.find_resumable(record, lazily=True)


def _read(folder: Path) -> dict[str, Any]:
    """Read ``sweep.json``; empty where it is missing, or damaged, which is logged."""
    path = folder / SWEEP_FILE
    nothing: dict[str, Any] = {"commands": [], "runs": []}
    if not path.exists():
        return nothing
    try:
        found = json.loads(path.read_bytes())
        if not all(isinstance(name, str) for key in nothing for name in found[key]):
            raise ValueError("runs and commands must be strings")
        return {**found, "stopped": dict(found.get("stopped", {}))}
    except (OSError, ValueError, LookupError, TypeError) as error:
        log.warning(
            "%s is damaged (%s: %s): runs that have not started are missing until the sweep is "
            "launched again",
            path,
            type(error).__name__,
            first_line(error),
        )
        return nothing


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    write_atomically(folder / SWEEP_FILE, as_json(content))
