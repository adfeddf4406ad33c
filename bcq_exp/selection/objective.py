"""``trainer.objective=fqe``: runs valued without an environment, all of a sweep's at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bcq_exp.files import written
from bcq_exp.selection.candidates import actions, load_candidates
from bcq_exp.selection.fit import FittedQ, FQESettings, estimate_row
from bcq_exp.training.mirror import add_estimates
from bcq_exp.training.record import RunRecord

log = logging.getLogger(__name__)

CRITICS = "fqe.pt"  # while they are fitted, to go on from


def estimate(folders: Sequence[Path], place: Path) -> None:
    """Fitted Q evaluation of the runs' policies, told in their folders and in W&B (``ope/``).

    Each kind of data and ``trainer.fqe_steps`` is one computation. A run is valued the same
    whatever others there are, up to rounding.

    Args:
        folders: of trained runs that were held against the user's configuration
            (:func:`bcq_exp.training.start.check_folder`), and have held-out episodes.
        place: where fitted critics are kept until they are done.

    Raises:
        UserError: if a checkpoint or the data are not to be had.
        CannotWrite: if the system refuses.
    """
    kinds: dict[str, list[Path]] = {}
    for folder in folders:
        config = RunRecord(folder).told_summary()["config"]
        kind = json.dumps([config["dataset"], config["trainer"]["fqe_steps"]], sort_keys=True)
        kinds.setdefault(kind, []).append(folder)
    for kind, same in kinds.items():
        log.info("fitted Q evaluation of %d policies", len(same))
        _estimate(same, FQESettings(num_steps=json.loads(kind)[1]), place / CRITICS)


def _estimate(folders: Sequence[Path], settings: FQESettings, keep: Path) -> None:
    candidates, evidence = load_candidates(folders, are_own=True)
    obs = (evidence.dataset.transitions.obs_next, evidence.first_obs)
    act_next, first_act = (
        np.stack([actions(each.agent, x, settings.seed) for each in candidates]) for x in obs
    )
    fitted = FittedQ(evidence, act_next, first_act, settings)
    fitted.fit(keep)
    add_estimates(
        {
            each.folder: estimate_row(each.step, values, settings)
            for each, values in zip(candidates, fitted.estimates(), strict=True)
        }
    )
    with written(keep):
        keep.unlink()
