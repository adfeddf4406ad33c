"""``bcq_exp train``: train one run, or with ``-m`` a sweep. Returns the sweep's objective."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from bcq_exp.cli.entry import entry
from bcq_exp.config.overrides import located
from bcq_exp.errors import RunStopped, UserError

log = logging.getLogger(__name__)


@entry("config", plan="++hydra.launcher.plan_only=true", as_text=("name",))
def main(cfg: DictConfig) -> float:
    from hydra.core.hydra_config import HydraConfig

    from bcq_exp.training.provenance import command, own_configs

    hydra = HydraConfig.get()
    asked = command([*own_configs(hydra), *hydra.overrides.task])
    return train(located(cfg, hydra.runtime.cwd), Path(hydra.runtime.output_dir), asked)


def train(cfg: DictConfig, folder: Path, asked: str = "") -> float:
    """Train the run of a folder to its end, from its checkpoint if it has one.

    ``asked`` is the command line, for the record.

    Raises:
        RunStopped: if the run failed or was stopped by a signal.
        UserError: if data set, environment or device cannot be had.
    """
    from bcq_exp.training import start
    from bcq_exp.training.cohort import train_cohort
    from bcq_exp.training.job import Job
    from bcq_exp.training.record import RunRecord

    record = RunRecord(folder)
    summary = record.progress()
    if summary is not None:
        start.check_continues(cfg, summary, folder)
    if start.is_completed(cfg, summary):
        log.info("%s is complete; a larger trainer.num_steps continues it", folder)
    else:
        (failure,) = train_cohort([Job(cfg, folder, asked)])
        if failure is not None:
            raise RunStopped(f"run failed: {failure}; its files are in {folder}", status=1)
    return _objective(cfg, folder)


def _objective(cfg: DictConfig, folder: Path) -> float:
    from bcq_exp.training.objective import Objective

    objective = Objective.of(cfg)
    if objective.fqe is not None and objective.row(folder) is None:
        from bcq_exp.selection.objective import estimate

        for reason in estimate({folder: objective.fqe}, folder).values():
            raise UserError(reason)
    return objective.value(folder)


if __name__ == "__main__":
    main()
