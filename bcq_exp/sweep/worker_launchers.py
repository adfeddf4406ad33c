"""Launchers whose groups are trained by workers, with the keys of Hydra's plugins of these names.

:mod:`bcq_exp.config.plugin_schema` has the keys, ``conf/hydra/launcher/`` their defaults.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from bcq_exp.config.checking import unknown
from bcq_exp.config.containers import plain
from bcq_exp.config.keys import schema_of
from bcq_exp.config.plugin_schema import JoblibConfig
from bcq_exp.errors import UserError
from bcq_exp.sweep.launcher import CohortLauncher
from bcq_exp.sweep.submitted import Submitit
from bcq_exp.sweep.workers import Joblib, Ray


class JoblibLauncher(CohortLauncher):
    """``hydra/launcher=joblib``; ``parallel`` has arguments of ``joblib.Parallel``."""

    def __init__(
        self, *, group_size: int | str, n_jobs: int, plan_only: bool = False, **parallel: Any
    ) -> None:
        known = schema_of(JoblibConfig)
        for name in parallel.keys() - known:  # joblib would pass them to its backend
            raise UserError(unknown(f"hydra.launcher.{name}", known))
        super().__init__(group_size, Joblib(n_jobs, **parallel), plan_only)


class RayLauncher(CohortLauncher):
    """``hydra/launcher=ray``; ``ray`` has arguments of ``ray.init`` and ``ray.remote``."""

    def __init__(
        self, *, group_size: int | str, num_workers: int, ray: DictConfig, plan_only: bool = False
    ) -> None:
        workers = Ray(num_workers, init=plain(ray.init), remote=plain(ray.remote))
        super().__init__(group_size, workers, plan_only)


class SlurmLauncher(CohortLauncher):
    """``hydra/launcher=submitit_slurm``; ``parameters`` are those of submitit."""

    cluster = "slurm"

    def __init__(
        self,
        *,
        group_size: int | str,
        num_workers: int,
        submitit_folder: str,
        plan_only: bool = False,
        **parameters: Any,
    ) -> None:
        given = {name: plain(value) for name, value in parameters.items()}
        workers = Submitit(self.cluster, num_workers, submitit_folder, given)
        super().__init__(group_size, workers, plan_only)


class LocalLauncher(SlurmLauncher):
    """``hydra/launcher=submitit_local``."""

    cluster = "local"
