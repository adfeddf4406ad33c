"""Runs that are trained together: what they must share, and how a group is trained."""

from __future__ import annotations

import logging
import resource
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from bcq_exp.training import start
from bcq_exp.training.folders import hold
from bcq_exp.training.spec import RunSpec

log = logging.getLogger(__name__)

FILES_PER_RUN = 3  # open while it is trained: its lock, its log, its connection to W&B


@dataclass(frozen=True)
class CohortKey:
    """Runs whose keys are equal can be trained together.

    Args:
        shared: settings that runs of a cohort share: algorithm, data, sizes, cadence.
        step: the step that the run has reached.
        window: steps taken since its last row of ``train.csv``.
        optimizers: settings by which the runs of a cohort are sorted, because equal ones step
            together; not compared.
    """

    shared: str
    step: int
    window: int
    optimizers: str = field(compare=False)


def cohort_key(spec: RunSpec, *, restarts: bool = False) -> CohortKey:
    """Return the key of a run; with ``restarts`` its folder is ignored.

    Raises:
        Damaged: if the checkpoint that it would resume from is damaged.
    """
    step, window = 0, 0
    if not restarts:
        from bcq_exp.training import checkpoint  # brings torch

        found = checkpoint.find_resumable(spec.record, lazily=True)
        if found is not None:
            step, window = found.content["step"], len(found.content["window"])
    return CohortKey(spec.shared, step, window, spec.algorithm.optimizers)


def cohorts(keys: Sequence[CohortKey]) -> list[list[int]]:
    """Group runs, by number, that can be trained together."""
    groups: dict[CohortKey, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return [sorted(group, key=lambda i: keys[i].optimizers) for group in groups.values()]


def train_cohort(specs: Sequence[RunSpec]) -> list[str | None]:
    """Train the runs of one cohort to their end; for each, why it failed, or ``None``.

    Raises:
        RunStopped: after a signal, with every run's checkpoint saved.
        UserError: if data set, environment or device is not available, one of the first two changed
            since a run began, another process has a run, or a folder holds another run by now.
    """
    from bcq_exp.data.task import load_task
    from bcq_exp.engine.memory import enough_memory
    from bcq_exp.engine.placement import place
    from bcq_exp.training.build import build_trainer
    from bcq_exp.training.tracking import wait_for

    first = specs[0]
    # a missing device is reported before the data is loaded
    placement = place(first.trainer, first.algorithm.hidden_sizes, len(specs))
    task = load_task(first.dataset)
    for line in task.summary:
        log.info("%s", line)
    for spec in specs:
        spec.objective.check_known(task)
        start.check_task(spec, task)
    _let_open(FILES_PER_RUN * len(specs))
    with enough_memory(), ExitStack() as until_trained:
        for spec in specs:
            until_trained.enter_context(hold(spec.folder))
            summary = spec.record.progress()
            if summary is not None:  # perhaps of a run that began while the data were loaded
                start.check_continues(spec, summary)
        until_trained.enter_context(placement.in_force())
        trainer = build_trainer(specs, task, placement)
        try:
            trainer.fit()
        finally:
            wait_for([run.tracker for run in trainer.runs])
            for run in trainer.runs:
                run.note_tracker()
    return [run.failure for run in trainer.runs]


def _let_open(num_files: int) -> None:
    """Let this process open more files than before, up to the limit that the system sets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        more = soft + num_files
        soft = more if hard == resource.RLIM_INFINITY else min(more, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
