"""``trainer.objective=fqe``: runs valued without an environment, all of a sweep's at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from bcq_exp import locks
from bcq_exp.config.fqe import FQESettings
from bcq_exp.errors import UserError
from bcq_exp.files import written
from bcq_exp.selection.candidates import Candidate, load_candidate, load_evidence, policies_actions
from bcq_exp.selection.fit import FittedQ, estimate_row
from bcq_exp.selection.notes import of_settings
from bcq_exp.selection.selection_files import CRITICS
from bcq_exp.training.progress import progress
from bcq_exp.training.record import RunRecord
from bcq_exp.training.wandb_export import add_estimates
from bcq_exp.words import counted

log = logging.getLogger(__name__)

LOCK = ".fqe.lock"


def estimate(wanted: Mapping[Path, FQESettings], place: Path) -> dict[Path, str]:
    """Fitted Q evaluation of the runs' policies, recorded in their folders and in W&B (``ope/``).

    Each kind of data and settings is one computation. A run is valued the same whatever others
    there are, up to rounding.

    Args:
        wanted: how to value trained runs, by folder; these were held against the user's
            configuration (:func:`bcq_exp.training.start.check_folder`), and have held-out episodes.
        place: where fitted critics are kept until they are done.

    Returns:
        Why runs have none, by folder: their checkpoints cannot be read.

    Raises:
        UserError: if the data cannot be loaded, or another process is at it.
        CannotWrite: if the system refuses.
    """
    kinds: dict[tuple[str, FQESettings], list[Path]] = {}
    for folder, settings in wanted.items():
        dataset = RunRecord(folder).required_summary()["config"]["dataset"]
        kinds.setdefault((json.dumps(dataset, sort_keys=True), settings), []).append(folder)
    for note in {note for _, settings in kinds for note in of_settings(settings)}:
        log.warning("trainer.fqe_steps: %s", note)
    failures: dict[Path, str] = {}
    with locks.hold(place / LOCK, f"{place}: another process is estimating its runs; wait for it"):
        for (_, settings), same in kinds.items():
            failures |= _estimate(same, settings, place / CRITICS)
    return failures


def _estimate(folders: Sequence[Path], settings: FQESettings, keep: Path) -> dict[Path, str]:
    candidates: list[Candidate] = []
    failures: dict[Path, str] = {}
    for folder in folders:
        try:
            config = RunRecord(folder).required_summary()["config"]
            candidates.append(load_candidate(folder, folder.name, config=config))
        except UserError as error:
            failures[folder] = str(error)
    if not candidates:
        return failures
    policies = counted(len(candidates), "policy", "policies")
    log.info("fitted Q evaluation of %s", policies)
    evidence = load_evidence([each.folder for each in candidates], trusted=True)
    acts = policies_actions(candidates, evidence, settings.seed)
    with progress(0, settings.num_steps, policies) as shown:
        fitted = FittedQ(evidence, *acts, settings)
        fitted.fit(keep, shown.update)
    add_estimates(
        {
            each.folder: estimate_row(each.step, values, settings)
            for each, values in zip(candidates, fitted.estimates(), strict=True)
        }
    )
    with written(keep):
        keep.unlink()
    return failures
