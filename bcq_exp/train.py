"""``bcq_exp train``: train one run, or with ``-m`` a sweep; returns the objective."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from bcq_exp.cli.entry import entry
from bcq_exp.errors import RunStopped, UserError

if TYPE_CHECKING:
    from bcq_exp.training.spec import RunSpec

log = logging.getLogger(__name__)


@entry("config", plan="++hydra.launcher.plan_only=true", as_text=("name",))
def main(cfg: DictConfig) -> float:
    from hydra.core.hydra_config import HydraConfig

    from bcq_exp.config.containers import unresolved
    from bcq_exp.training.provenance import command, own_configs
    from bcq_exp.training.spec import RunSpec

    hydra = HydraConfig.get()
    asked = command([*own_configs(hydra), *unresolved(hydra.overrides.task)])
    return train(RunSpec.of(cfg, Path(hydra.runtime.output_dir), asked, hydra.runtime.cwd))


def train(spec: RunSpec) -> float:
    """Train a run to its end, from its checkpoint if there is one; return its objective.

    Raises:
        RunStopped: if the run failed or was stopped by a signal.
        UserError: if data set, environment or device is not available.
    """
    from bcq_exp.training import start
    from bcq_exp.training.cohort import train_cohort

    was_complete = start.is_complete(spec)
    if not was_complete:
        (failure,) = train_cohort([spec])
        if failure is not None:
            raise RunStopped(f"run failed: {failure}; its files are in {spec.folder}", status=1)
    if spec.objective.fqe is not None:
        from bcq_exp.selection.fqe_objective import estimate_objectives

        for reason in estimate_objectives([spec], spec.folder).values():
            raise UserError(reason)
    value = spec.objective.value(spec.record)
    if was_complete:
        log.info("%s is complete; a larger number of steps continues it", spec.folder)
    return value


if __name__ == "__main__":
    main()
