"""``trainer.objective=fqe``: runs valued without an environment, all of a sweep's at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from bcq_exp.config.fqe import FQESettings
from bcq_exp.files import written
from bcq_exp.selection.candidates import load_candidates, policies_actions
from bcq_exp.selection.fit import FittedQ, estimate_row
from bcq_exp.training.mirror import add_estimates
from bcq_exp.training.record import RunRecord

log = logging.getLogger(__name__)

CRITICS = "fqe.pt"  # while they are fitted, to go on from


def estimate(wanted: Mapping[Path, FQESettings], place: Path) -> None:
    """Fitted Q evaluation of the runs' policies, told in their folders and in W&B (``ope/``).

    Each kind of data and settings is one computation. A run is valued the same
    whatever others there are, up to rounding.

    Args:
        wanted: how to value trained runs, by folder; these were held against the user's
            configuration (:func:`bcq_exp.training.start.check_folder`), and have held-out episodes.
        place: where fitted critics are kept until they are done.

    Raises:
        UserError: if a checkpoint or the data are not to be had.
        CannotWrite: if the system refuses.
    """
    kinds: dict[tuple[str, FQESettings], list[Path]] = {}
    for folder, settings in wanted.items():
        dataset = RunRecord(folder).told_summary()["config"]["dataset"]
        kinds.setdefault((json.dumps(dataset, sort_keys=True), settings), []).append(folder)
    for (_, settings), same in kinds.items():
        log.info("fitted Q evaluation of %d policies", len(same))
        _estimate(same, settings, place / CRITICS)


def _estimate(folders: Sequence[Path], settings: FQESettings, keep: Path) -> None:
    candidates, evidence = load_candidates(folders, are_own=True)
    acts = policies_actions(candidates, evidence, settings.seed)
    fitted = FittedQ(evidence, *acts, settings)
    fitted.fit(keep)
    add_estimates(
        {
            each.folder: estimate_row(each.step, values, settings)
            for each, values in zip(candidates, fitted.estimates(), strict=True)
        }
    )
    with written(keep):
        keep.unlink()
