"""What would only show after hours, looked at first."""

from __future__ import annotations

import math
import shutil
from collections import defaultdict
from pathlib import Path

from omegaconf import DictConfig

from bcq_exp.data import environments, minari_store
from bcq_exp.errors import UserError
from bcq_exp.paper.plan import DataSet, PaperPlan
from bcq_exp.training.provenance import versions

DECISIVE = ("bcq_exp", "gymnasium", "mujoco")  # versions that data of a name must agree in
_RUN_BYTES = 40 * 2**20  # a checkpoint of the paper's sizes, W&B's files, tables


def check_budget(cfg: DictConfig) -> None:
    """Refuse what cannot be planned.

    Raises:
        UserError: an environment that cannot be made or has no reference scores, or numbers that
            do not fit together.
    """
    _check_numbers(cfg)
    for env in cfg.envs:
        made = environments.make(env)
        made.close()
        if environments.reference_scores(made.spec) is None:
            known = ", ".join(environments.REFERENCE_SCORES)
            raise UserError(
                f"envs: no reference scores are known for {env}, so its claims could not be "
                f"decided; there are some for {known}"
            )


def _is_here(dataset: DataSet) -> bool:
    """Whether the data set is here already.

    Raises:
        UserError: if it is, made by others' versions.
    """
    if not minari_store.data_folder(dataset.id).is_dir():
        return False
    made = (minari_store.provenance(dataset.id) or {}).get("versions", {})
    for name in DECISIVE:
        if made.get(name) != versions()[name]:
            raise UserError(
                f"data set {dataset.id} was made with {name} {made.get(name)}, here is "
                f"{versions()[name]}: use that version, or delete "
                f"{minari_store.data_folder(dataset.id).parent} to have it made again"
            )
    return True


def missing_data(plan: PaperPlan) -> list[DataSet]:
    """The data sets that are still to be recorded.

    Raises:
        UserError: if one that is here was made with other versions.
    """
    return [dataset for dataset in plan.datasets if not _is_here(dataset)]


def _check_numbers(cfg: DictConfig) -> None:
    for name in ("envs", "settings", "algorithms"):
        if len(set(cfg[name])) < len(cfg[name]):
            raise UserError(f"{name}: each once, not {', '.join(cfg[name])}")
    for name in ("final_buffer", "concurrent"):
        if cfg.transitions[name] > cfg.agent.num_steps:
            raise UserError(
                f"transitions.{name}={cfg.transitions[name]}: an agent takes "
                f"agent.num_steps={cfg.agent.num_steps} steps; give at most as many"
            )
    if cfg.agent.start_steps >= cfg.transitions.concurrent:
        raise UserError(
            f"agent.start_steps={cfg.agent.start_steps}: must be below transitions.concurrent="
            f"{cfg.transitions.concurrent}, or no learner could begin"
        )


def check_disk(plan: PaperPlan) -> None:
    """Refuse what the disk cannot hold.

    Raises:
        UserError: saying what is needed, where; or as :func:`missing_data`.
    """
    data, runs = minari_store.work_folder(), Path.cwd()
    sizes = {env: _numbers(env) for env in {dataset.env for dataset in plan.datasets}}
    wanted = {data: 0, runs: 0}
    for dataset in missing_data(plan):  # as Minari stores it, and the arrays kept for a quick load
        wanted[data] += dataset.num_steps * (8 + 8) * sizes[dataset.env]
    for (env, _, _), folder in plan.agents.folders.items():
        if not (folder / "checkpoint.pt").exists():
            wanted[runs] += _RUN_BYTES + plan.agents.num_steps * 8 * sizes[env]
    learners = [folder for sweep in plan.sweeps for folder in sweep.folders.values()]
    wanted[runs] += _RUN_BYTES * sum(not (f / "checkpoint.pt").exists() for f in learners)

    by_device: defaultdict[int, list[Path]] = defaultdict(list)
    for place in wanted:
        by_device[place.stat().st_dev].append(place)
    for places in by_device.values():
        need, free = sum(wanted[p] for p in places), shutil.disk_usage(places[0]).free
        if need > free:
            raise UserError(
                f"name={plan.name}: about {need / 2**30:.1f} GiB are needed in "
                f"{' and '.join(map(str, places))}, {free / 2**30:.1f} are free; a smaller budget, "
                "fewer envs or num_seeds, or another MINARI_DATASETS_PATH"
            )


def _numbers(env: str) -> int:
    """Numbers in one step of an environment: observation, action, reward, flags."""
    made = environments.make(env)
    shapes = (made.observation_space.shape or (), made.action_space.shape or ())
    made.close()
    return sum(map(math.prod, shapes)) + 2
