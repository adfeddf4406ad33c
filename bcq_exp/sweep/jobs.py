"""The jobs of a sweep: compose and check them, and compare each with its folder.

Every job is composed and checked before anything is written. Only the result is kept
(:class:`~bcq_exp.training.spec.RunSpec`), as a thousand configurations are millions of objects.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bcq_exp.config.checking import check
from bcq_exp.config.containers import unresolved
from bcq_exp.config.naming import RunNaming
from bcq_exp.config.schema import TrainerConfig
from bcq_exp.errors import Damaged, UserError
from bcq_exp.internals import save_config
from bcq_exp.sweep.composing import SweepComposer, parted
from bcq_exp.training import start
from bcq_exp.training.cohort import CohortKey, cohort_key
from bcq_exp.training.provenance import command, own_configs
from bcq_exp.training.spec import RunSpec

GRIDS = ("BasicSweeper", "GridSweeper")  # sweepers that train every run, whatever others return


@dataclass(frozen=True)
class Planned:
    """A job of the sweep that was composed and checked.

    Args:
        number: Hydra's number of the job.
        overrides: the job's overrides.
        spec: the run.
        key: the key of its cohort; ``None`` if it needs no training.
        value: the objective, if the run is trained.
        damage: the reason that it cannot resume.
    """

    number: int
    overrides: list[str]
    spec: RunSpec
    key: CohortKey | None = None
    value: float | None = None
    damage: str | None = None


class SweepJobs:
    """Composes the jobs of one sweep.

    Args:
        loader: Hydra's loader, with the sweep's search path.
        sweep: the configuration of the sweep itself.
    """

    def __init__(self, loader: ConfigLoader, sweep: DictConfig) -> None:
        self._composer = SweepComposer(loader, sweep)
        self._dir, self._own_configs = str(sweep.hydra.sweep.dir), own_configs(sweep.hydra)
        self._naming = RunNaming.of(str(unresolved(sweep.hydra.sweep)["subdir"]))  # of sweep.plan
        self._chooses = not sweep.hydra.sweeper._target_.endswith(GRIDS)
        self._cwd, self._chdir = str(sweep.hydra.runtime.cwd), bool(sweep.hydra.job.chdir)

    def plan(
        self, job_overrides: Sequence[Sequence[str]], first: int, until: int | None
    ) -> list[Planned]:
        """Compose and check the jobs; nothing is written.

        Raises:
            UserError: for a value out of range, two jobs of one folder, or a folder with another
                configuration's run.
        """
        planned: dict[Path, Planned] = {}
        with _rare_collections():
            for number, overrides in enumerate(job_overrides, first):
                cfg, folder = self._own(number, overrides)
                check(cfg)
                spec = self._spec(cfg, folder, overrides, until)
                spec.check(is_swept=self._chooses)
                if until is not None:
                    check_evaluated(spec.trainer, until)
                if folder in planned:
                    raise UserError(f"two runs of the sweep map to one folder: {folder}")
                planned[folder] = _planned(number, spec, list(overrides))
        return list(planned.values())

    def compose(self, number: int, overrides: Sequence[str]) -> tuple[DictConfig, Path]:
        """Compose a job's configuration with its ``hydra`` node; return it and the folder."""
        cfg = self._composer.compose(overrides)
        hydra = cfg.hydra
        hydra.job.id, hydra.job.num = str(number), number
        HydraConfig.instance().cfg = cfg  # type: ignore[assignment]  # ${hydra:...}, uncopied
        folder = Path(str(hydra.sweep.dir), str(hydra.sweep.subdir)).absolute()
        hydra.runtime.output_dir = str(folder)
        OmegaConf.set_readonly(hydra, True)
        return cfg, folder

    def write_hydra_files(self, each: Planned) -> None:
        """Write the configuration to the run's folder, as Hydra does for a single run."""
        full, folder = self.compose(each.number, each.overrides)
        cfg, hydra = parted(full)
        if hydra.hydra.output_subdir is None:
            return
        folder = folder / hydra.hydra.output_subdir
        folder.mkdir(parents=True, exist_ok=True)
        save_config(cfg, "config.yaml", folder)
        save_config(hydra, "hydra.yaml", folder)
        save_config(hydra.hydra.overrides.task, "overrides.yaml", folder)

    def _own(self, number: int, overrides: Sequence[str]) -> tuple[DictConfig, Path]:
        """Compose a job's own configuration and its folder, faster than :meth:`compose`."""
        own = None if self._naming is None else self._composer.own(overrides)
        if self._naming is None or own is None:
            full, folder = self.compose(number, overrides)
            return parted(full)[0], folder
        return own, Path(self._dir, self._naming.folder(overrides)).absolute()

    def _spec(
        self, cfg: DictConfig, folder: Path, overrides: Sequence[str], until: int | None
    ) -> RunSpec:
        if until == cfg.trainer.num_steps:
            until = None
        of_sweep = ("name=", "sweep=", "resume=")
        alone = [override for override in overrides if not override.startswith(of_sweep)]
        asked = command([*self._own_configs, *alone])
        return RunSpec.of(
            cfg, folder, asked, self._cwd, is_alone=False, until=until, chdir=self._chdir
        )


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Run the garbage collector less often inside the block.

    A configuration is a cyclic tree, which only the collector frees; by default it takes a quarter
    of the time of composing a thousand.
    """
    before = gc.get_threshold()
    gc.set_threshold(200_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def check_evaluated(settings: TrainerConfig, until: int) -> None:
    """Check that a run is evaluated at a step, where it will be compared.

    Raises:
        UserError: if it is not.
    """
    if until > settings.num_steps or (until < settings.num_steps and until % settings.eval_every):
        raise UserError(
            f"trainer.eval_every={settings.eval_every}, trainer.num_steps={settings.num_steps}: no "
            f"evaluation at step {until}, where the runs of the sweep are compared; give all runs "
            "the same values"
        )


def _planned(number: int, spec: RunSpec, overrides: list[str]) -> Planned:
    """Compare a job with its folder.

    Raises:
        UserError: if the run there must not be continued.
    """
    found = Planned(number, overrides, spec)
    try:
        summary = start.check_folder(spec)
        if start.is_trained(spec, summary):
            if spec.objective.fqe is not None:  # it has an estimate, or will have
                return found
            return replace(found, value=spec.objective.value(spec.record, spec.until, summary))
        start.check_has_checkpoint(spec, summary)
        return replace(found, key=cohort_key(spec, restarts=spec.resume == "restart"))
    except Damaged as error:
        return replace(found, damage=str(error))
