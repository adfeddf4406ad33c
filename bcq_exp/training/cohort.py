"""Runs that are trained together: what they must agree in, and how a group of them is trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from bcq_exp.config.meaning import shared_by_stack
from bcq_exp.config.plain import plain
from bcq_exp.config.schema import algorithm_nodes, hidden_sizes
from bcq_exp.training import start
from bcq_exp.training.job import Job
from bcq_exp.training.objective import Objective
from bcq_exp.training.record import RunRecord, hold

if TYPE_CHECKING:
    from bcq_exp.engine.placement import Placement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CohortKey:
    """The jobs of equal keys, optimizers aside, can be trained together.

    Args:
        shared: what those of one cohort agree in: algorithm, data, sizes, cadence.
        step: where it stands.
        window: how many steps it has taken since its last row.
        optimizers: inside a cohort those of equal ones stand side by side, as the stack wants them.
    """

    shared: str
    step: int
    window: int
    optimizers: str


def cohort_key(job: Job, *, restarts: bool = False) -> CohortKey:
    """The key of a job, which may be about to leave behind what its folder has.

    Raises:
        Damaged: if what it would go on from is.
    """
    step, window = (0, 0) if restarts else _place(job)
    return CohortKey(shared_by_stack(job.cfg), step, window, _optimizers(job))


def cohorts(keys: Sequence[CohortKey]) -> list[list[int]]:
    """The jobs of these keys, by number, that can be trained together."""
    groups: dict[tuple[str, int, int], list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault((key.shared, key.step, key.window), []).append(number)
    return [sorted(group, key=lambda i: keys[i].optimizers) for group in groups.values()]


def placement_of(cfg: DictConfig, num_runs: int, group_size: int | str = "auto") -> Placement:
    """Where and how the runs of one cohort are trained; ``cfg`` is one's.

    Raises:
        UserError: for a device, precision or group size that is not available here.
    """
    from bcq_exp.engine.placement import place

    return place(cfg.trainer, hidden_sizes(cfg), num_runs, group_size)


def train_cohort(jobs: Sequence[Job]) -> list[str | None]:
    """Train the jobs of one cohort to their end; for each, why it failed, or ``None``.

    Raises:
        RunStopped: after a signal, with every run's checkpoint saved.
        UserError: if data set, environment or device cannot be had, the data set changed since a
            run began, or another process has a run.
    """
    from bcq_exp.engine.memory import enough_memory
    from bcq_exp.training import build
    from bcq_exp.training.tracking import wait_for

    # says what is lacking before the data is loaded
    placement = placement_of(jobs[0].cfg, len(jobs))
    dataset = build.build_dataset(jobs[0].cfg)
    for line in dataset.summary:
        log.info("%s", line)
    for job in jobs:
        Objective.of(job.cfg).check_known(dataset)
        start.check_data(job, dataset.facts())
    with enough_memory(), ExitStack() as until_trained:
        for job in jobs:
            until_trained.enter_context(hold(job.folder))
        until_trained.enter_context(placement.in_force())
        trainer = build.build_trainer(jobs, dataset, placement)
        try:
            trainer.fit()
        finally:
            wait_for([run.tracker for run in trainer.runs])
            for run in trainer.runs:
                run.note_tracker()
    return [run.failure for run in trainer.runs]


def _place(job: Job) -> tuple[int, int]:
    from bcq_exp.training import checkpoint

    found = checkpoint.to_go_on(RunRecord(job.folder), lazily=True)
    return (0, 0) if found is None else (found.content["step"], len(found.content["window"]))


def _optimizers(job: Job) -> str:
    nodes = algorithm_nodes(job.cfg)
    named = sorted(name for name in nodes if name.endswith("_optim"))
    return json.dumps([plain(nodes[name]) for name in named])
