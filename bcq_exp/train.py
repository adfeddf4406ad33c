"""``python -m bcq_exp``: train one run, or with ``-m`` a sweep. Returns the sweep's objective."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from bcq_exp.cli import Compose, entry
from bcq_exp.errors import RunStopped
from bcq_exp.training import launch
from bcq_exp.training.provenance import command
from bcq_exp.training.record import RunRecord

log = logging.getLogger(__name__)


def plan_sweep(overrides: list[str], compose: Compose) -> list[str]:
    """:func:`bcq_exp.sweep.plan.plan_sweep`, with our plugins known to Hydra."""
    from bcq_exp.sweep import plan, plugins

    plugins.register()
    return plan.plan_sweep(overrides, compose)


@entry("config", before_run=launch.check_folder, before_sweep=plan_sweep)
def main(cfg: DictConfig) -> float:
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    return train(cfg, Path(hydra.runtime.output_dir), hydra.overrides.task)


def train(cfg: DictConfig, folder: Path, overrides: Sequence[str] = ()) -> float:
    """Train the run of a folder to its end, from its checkpoint if it has one.

    ``overrides`` are what the command line changed, for the record.

    Raises:
        RunStopped: if the run failed or was stopped by a signal.
        UserError: if data set, environment or device cannot be had.
    """
    from bcq_exp.training.cohort import train_cohort
    from bcq_exp.training.job import Job

    record = RunRecord(folder)
    summary = record.summary()
    if summary is not None:
        launch.check_continues(cfg, summary, folder)
    if launch.is_completed(cfg, summary):
        log.info("%s is complete: nothing to do (trainer.num_steps=... goes on)", folder)
    else:
        (failure,) = train_cohort([Job(cfg, folder, command(overrides))])
        if failure is not None:
            raise RunStopped(f"run failed: {failure}; its files are in {folder}", status=1)
    summary = record.summary()
    assert summary is not None
    return launch.objective(cfg, summary)


if __name__ == "__main__":
    main()
