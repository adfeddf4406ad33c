"""``trainer.objective=fqe``: estimate the runs of a sweep together, without an environment."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bcq_exp import locks
from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.errors import UserError
from bcq_exp.files import written
from bcq_exp.formatting import counted
from bcq_exp.selection.candidates import Candidate, load_candidate, load_evidence, policies_actions
from bcq_exp.selection.fitted_q import FittedQ, estimate_row
from bcq_exp.selection.notes import of_settings
from bcq_exp.selection.selection_files import CRITICS
from bcq_exp.training.progress import progress
from bcq_exp.training.spec import RunSpec
from bcq_exp.training.wandb_export import add_estimates

log = logging.getLogger(__name__)

LOCK = ".fqe.lock"


def estimate_objectives(specs: Sequence[RunSpec], place: Path) -> dict[Path, str]:
    """Estimate trained runs whose objective is fitted Q evaluation and that have no estimate yet.

    The estimates are recorded in the runs' folders and in W&B (``ope/``). Runs with equal data and
    settings are one computation. Up to rounding, estimates do not depend on the other runs.

    Args:
        specs: trained runs with held-out episodes.
        place: the folder of critics that are being fitted.

    Returns:
        The reasons of runs without an estimate, by folder: unreadable checkpoints or diverged
        critics.

    Raises:
        UserError: if the data cannot be loaded, or another process is estimating in this folder.
        CannotWrite: if the system refuses.
    """
    failures: dict[Path, str] = {}
    kinds: dict[tuple[str, FQESettings], list[Candidate]] = {}
    valued = [(spec, fqe) for spec in specs if (fqe := spec.objective.fqe) is not None]
    for spec, fqe in valued:
        with _noted(spec.folder, failures):
            if spec.objective.row(spec.record, spec.until) is None:
                config = spec.record.required_summary()["config"]
                candidate = load_candidate(spec.folder, spec.folder.name, config=config)
                data = json.dumps(config["dataset"], sort_keys=True)
                kinds.setdefault((data, fqe), []).append(candidate)
    if kinds:
        for note in {note for _, each in kinds for note in of_settings(each, "trainer.fqe_steps")}:
            log.warning("%s", note)
        refusal = f"{place}: another process is estimating its runs; wait for it"
        with locks.hold(place / LOCK, refusal):
            for (_, settings), candidates in kinds.items():
                _estimate(candidates, settings, place / CRITICS)
    num_beyond = 0
    for spec, _ in valued:
        if spec.folder not in failures:
            with _noted(spec.folder, failures):
                row = spec.objective.row(spec.record, spec.until)
                spec.objective.number(row, spec.record)
                num_beyond += row is not None and row["step"] > (spec.until or row["step"])
    if num_beyond:
        are = counted(num_beyond, "run is", "runs are")
        log.warning("%s compared at a later training step than the others", are)
    return failures


@contextmanager
def _noted(folder: Path, failures: dict[Path, str]) -> Iterator[None]:
    """Record why a run failed, by its folder."""
    try:
        yield
    except UserError as error:
        failures[folder] = str(error)


def _estimate(candidates: Sequence[Candidate], settings: FQESettings, keep: Path) -> None:
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
