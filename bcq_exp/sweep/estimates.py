"""Estimates of a sweep's runs, where what it maximizes takes no environment."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bcq_exp.config.fqe import FQESettings
from bcq_exp.errors import UserError
from bcq_exp.sweep.jobs import Planned
from bcq_exp.words import counted

log = logging.getLogger(__name__)


def estimate_objectives(planned: Sequence[Planned], sweep: Path) -> dict[Path, str]:
    """See that runs whose objective is an estimate have it; why others do not, by folder.

    Raises:
        UserError: if the data that they learnt from cannot be loaded.
        CannotWrite: if the system refuses.
    """
    failures: dict[Path, str] = {}
    wanted: dict[Path, FQESettings] = {}
    for each in planned:
        if each.objective.fqe is not None:
            with _noted(each.folder, failures):
                if each.objective.row(each.folder, each.until) is None:
                    wanted[each.folder] = each.objective.fqe
    if wanted:
        from bcq_exp.selection.fqe_objective import estimate

        failures |= estimate(wanted, sweep)
    num_beyond = 0
    for each in planned:
        if each.objective.fqe is not None and each.folder not in failures:
            with _noted(each.folder, failures):
                row = each.objective.row(each.folder, each.until)
                each.objective.number(row, each.folder)
                num_beyond += row is not None and row["step"] > (each.until or row["step"])
    if num_beyond:
        are = f"{counted(num_beyond, 'run')} {'is' if num_beyond == 1 else 'are'}"
        log.warning("%s compared at a later training step than the others", are)
    return failures


@contextmanager
def _noted(folder: Path, failures: dict[Path, str]) -> Iterator[None]:
    """Note why a run failed, by its folder."""
    try:
        yield
    except UserError as error:
        failures[folder] = str(error)
