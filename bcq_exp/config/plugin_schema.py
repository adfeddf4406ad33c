"""The schema of launchers and sweepers with the names of Hydra's plugins.

Their keys, types and meanings are those of hydra-joblib-launcher 1.2, hydra-ray-launcher 1.2,
hydra-submitit-launcher 1.2 and hydra-optuna-sweeper 1.3: a command line that was written for these
plugins runs. A key that has no effect here allows one value and explains why. ``group_size``,
``num_workers`` and ``plan_only`` are additions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bcq_exp.config.keys import key
from bcq_exp.ranges import COUNT, FRACTION, NATURAL, PATH, POSITIVE, Matching, OneOf

_ONE_TASK = OneOf((1,), "a group of runs is one task of one node")
_PROCESSES = "workers are processes"


@dataclass
class LauncherConfig:
    _target_: str = "???"
    group_size: Any = key()
    plan_only: bool = False


@dataclass
class JoblibConfig(LauncherConfig):
    n_jobs: int = key()
    backend: str | None = key(OneOf(("loky", None), _PROCESSES))
    prefer: str = key(OneOf(("processes",), _PROCESSES))
    require: str | None = key(OneOf((None,), _PROCESSES))
    verbose: int = key(NATURAL)
    timeout: float | None = key(OneOf((None,), "a group of runs trains to its end"))
    pre_dispatch: str = key(
        Matching(
            r"all|[1-9]\d*(\s*\*\s*n_jobs)?|n_jobs", "all, or at least 1, such as 4 or 2*n_jobs"
        )
    )
    batch_size: str = key(Matching(r"auto|[1-9]\d*", "auto or an integer at least 1"))
    temp_folder: str | None = key(PATH)
    max_nbytes: str | None = key(Matching(r"\d+[KMG]?", "a number of bytes, such as 10M"))
    mmap_mode: str | None = key(OneOf((None, "r+", "r", "w+", "c")))


@dataclass
class RayArguments:
    init: dict[str, Any] = field(default_factory=dict)
    remote: dict[str, Any] = field(default_factory=dict)


@dataclass
class RayConfig(LauncherConfig):
    num_workers: int = key(COUNT)
    ray: RayArguments = field(default_factory=RayArguments)


@dataclass
class LocalConfig(LauncherConfig):
    """Submitit's parameters for every cluster."""

    num_workers: int = key(COUNT)
    submitit_folder: str = key(Matching(r"(?s).*/%j", "a path that ends in /%j"))
    timeout_min: int = key(COUNT)
    cpus_per_task: int | None = key(COUNT)
    gpus_per_node: int | None = key(NATURAL)
    tasks_per_node: int = key(_ONE_TASK)
    mem_gb: float | None = key(POSITIVE)
    nodes: int = key(_ONE_TASK)
    name: str = key()
    stderr_to_stdout: bool = key()


@dataclass
class SlurmConfig(LocalConfig):
    """Submitit's parameters for Slurm."""

    partition: str | None = key()
    qos: str | None = key()
    comment: str | None = key()
    constraint: str | None = key()
    exclude: str | None = key()
    gres: str | None = key()
    cpus_per_gpu: int | None = key(COUNT)
    gpus_per_task: int | None = key(NATURAL)
    mem_per_gpu: str | None = key()
    mem_per_cpu: str | None = key()
    account: str | None = key()
    signal_delay_s: int = key(COUNT)
    max_num_timeout: int = key(NATURAL)
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    array_parallelism: int = key(COUNT)
    setup: list[str] | None = key()
    srun_args: list[str] | None = key()


@dataclass
class OptunaConfig:
    _target_: str = "???"
    _recursive_: bool = key()
    sampler: Any = key()
    direction: str = key(OneOf(("maximize", "minimize")))
    storage: Any = key()
    study_name: str = key()
    n_trials: int = key(COUNT)
    n_jobs: int = key(COUNT)
    max_failure_rate: float = key(FRACTION)
    search_space: Any = key(OneOf((None,), "Hydra replaced it by hydra.sweeper.params"))
    params: dict[str, Any] | None = key()
    custom_search_space: str | None = key()


PLUGIN_SCHEMAS = {  # as choice files name them: /schema/NAME@_here_
    "joblib_launcher": JoblibConfig,
    "ray_launcher": RayConfig,
    "local_launcher": LocalConfig,
    "slurm_launcher": SlurmConfig,
    "optuna_sweeper": OptunaConfig,
}
