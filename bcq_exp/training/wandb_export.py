"""Log a run's record to W&B again, if W&B lost it or never had it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bcq_exp.errors import UserError
from bcq_exp.files import set_aside
from bcq_exp.training.folders import hold
from bcq_exp.training.record import RunRecord
from bcq_exp.training.tracking import Tracker, Warnings, build_tracker, wait_for

log = logging.getLogger(__name__)

SET_ASIDE = "set_aside"
OPE = "ope"  # off-policy evaluation
AT_ONCE = 16  # runs of W&B


def add_estimates(rows: Mapping[Path, Mapping[str, Any]]) -> None:
    """Store estimates of runs' policies, by folder, and log them to W&B if the runs are there.

    Raises:
        CannotWrite: if the system refuses.
    """
    folders, warnings = list(rows), Warnings()
    for first in range(0, len(folders), AT_ONCE):
        with ExitStack() as held:
            trackers = []
            for folder in folders[first : first + AT_ONCE]:
                try:
                    held.enter_context(hold(folder))
                except UserError as error:  # it is being trained, and its W&B run is in use
                    log.warning("%s; its files do not include the estimate", error)
                    continue
                trackers.append(_add_estimate(folder, rows[folder], warnings))
            wait_for(trackers)


def _add_estimate(folder: Path, row: Mapping[str, Any], warnings: Warnings) -> Tracker:
    record = RunRecord(folder)
    record.add_estimate(row)
    summary = record.required_summary()
    tracker = build_tracker(record, summary, warnings)
    tracker.log(OPE, _metrics(row))
    tracker.finish(summary)
    return tracker


def _metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "settings"}


def mirror(folder: Path) -> Path:
    """Write a run's complete record as one offline run of W&B; return its folder.

    It has the run's id at W&B, so that an upload replaces the run there. Earlier files of W&B are
    set aside (``wandb/set_aside/``), out of the way of ``wandb sync``.

    Raises:
        UserError: if the folder holds no run, another process holds it, or W&B cannot write.
    """
    record, said = RunRecord(folder), list[str]()
    with hold(folder):
        summary = record.required_summary()
        rows = [("train", row) for row in record.rows("train", summary["record"])]
        rows += [("eval", row) for row in record.rows("eval", summary["record"])]
        rows += [(OPE, _metrics(row)) for row in record.estimates()]
        wandb = folder / "wandb"
        for old in [*wandb.glob("offline-run-*"), *wandb.glob("run-*")]:
            set_aside(old, wandb / SET_ASIDE)
        warnings = Warnings(said.append)
        tracker = build_tracker(record, summary, warnings, again=True)
        for prefix, row in sorted(rows, key=lambda each: each[1]["step"] or 0):
            tracker.log(prefix, row)
        tracker.finish(summary)
        is_written = wait_for([tracker])
        if is_written:
            record.note_wandb_id(tracker.id)
    if not is_written:
        raise UserError(f"{folder}: {said[-1]}")
    for warning in said:
        log.warning("%s", warning)
    (written,) = wandb.glob("offline-run-*")
    return written
