"""Checks for errors that would otherwise show only after hours."""

from __future__ import annotations

import math
import shutil
from collections import defaultdict
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bcq_exp.config.checking import check_learning_begins
from bcq_exp.config.overrides import changed
from bcq_exp.data import env_scores, environments, minari_store
from bcq_exp.data.cache import cache_root
from bcq_exp.errors import UserError
from bcq_exp.paper.experiments import EARLY, LAST, Compose, DataSet, PaperPlan, steps_taken
from bcq_exp.training import start
from bcq_exp.training.provenance import versions
from bcq_exp.training.record import RunRecord
from bcq_exp.training.spec import RunSpec

DECISIVE = ("bcq_exp", "gymnasium", "mujoco")  # must have one version for data of one name
_RUN_BYTES = 60 * 2**20  # bytes of two checkpoints at the paper's sizes, W&B's files, tables


def check_budget(cfg: DictConfig) -> None:
    """Refuse an invalid budget.

    Raises:
        UserError: an environment that cannot be made or has no reference scores, or numbers that
            do not fit together.
    """
    for name in ("envs", "settings", "algorithms"):
        if not cfg[name] or len(set(cfg[name])) < len(cfg[name]):
            raise UserError(f"{name}={list(cfg[name])}: must name at least one, and none twice")
    _check_numbers(cfg)
    for env in cfg.envs:
        made = environments.make(env)
        made.close()
        if env_scores.reference_scores(made.spec) is None:
            known = ", ".join(env_scores.REFERENCE_SCORES)
            raise UserError(
                f"envs={env}: has no reference scores, without which no claim can be decided; "
                f"known are those of {known}"
            )


def check_runs(plan: PaperPlan, compose: Compose) -> None:
    """Compare existing runs under the plan's names with the plan.

    Raises:
        UserError: for a run of another configuration or that learned from other data, an agent that
            took more steps or was trained with other versions.
    """
    agents, hashes = set(plan.agents.folders.values()), dict[str, str]()
    for folder, overrides, seed in chain(plan.agents.runs(), *(s.runs() for s in plan.sweeps)):
        summary = RunRecord(folder).summary()
        if summary is None:
            continue
        spec = RunSpec.of(changed(compose("config", overrides), {"seed": seed}), folder)
        try:
            start.check_continues(spec, summary)
            _check_content(hashes, summary["dataset"], folder)
            if folder in agents and summary["step"] > plan.agents.num_steps:
                raise UserError(f"the agent in {folder} has taken {summary['step']} steps")
        except UserError as error:
            reason = str(error).partition("; ")[0]
            raise UserError(f"name={plan.name}: {reason}; give another name=") from error
        if folder in agents:
            _check_versions(f"the agent in {folder}", summary["versions"], folder.parent)


def _check_content(hashes: dict[str, str], data: Mapping[str, Any], folder: Path) -> None:
    """Refuse runs that learned from other data under the same name."""
    found = data["content_hash"]
    if found is not None and hashes.setdefault(data["id"], found) != found:
        raise UserError(f"the run in {folder} was trained on another {data['id']} than the others")


def _is_here(dataset: DataSet, agent_steps: int) -> bool:
    """Whether the data set exists already.

    Raises:
        UserError: if it was made with other versions, or by an agent of another length.
    """
    place = minari_store.data_folder(dataset.id).parent
    if not place.is_dir():
        return False
    made = minari_store.provenance(dataset.id) or {}
    agent = made.get("agent") or {}
    _check_versions(f"data set {dataset.id}", made.get("versions", {}), place)
    _check_versions(f"the agent of data set {dataset.id}", agent.get("versions", {}), place)
    if agent.get("step") != agent_steps:
        raise UserError(
            f"data set {dataset.id} was recorded with an agent of {agent.get('step')} steps, not "
            f"{agent_steps}; delete {place} to record it again"
        )
    return True


def _check_versions(what: str, made: Mapping[str, str | None], place: Path) -> None:
    for name in DECISIVE:
        if made.get(name) != versions()[name]:
            raise UserError(
                f"{what} was made with {name} {made.get(name)}, but {versions()[name]} is "
                f"installed; install that version, or delete {place} to make it again"
            )


def missing_data(plan: PaperPlan) -> list[DataSet]:
    """Return the data sets left to record; a data set whose runs are all done is not needed.

    Raises:
        UserError: if an existing one was made differently.
    """
    steps = plan.agents.num_steps
    return [dataset for dataset in plan.datasets_left if not _is_here(dataset, steps)]


def _check_numbers(cfg: DictConfig) -> None:
    agent = cfg.agent
    check_learning_begins(
        "agent.num_steps", agent.num_steps, "agent.start_steps", agent.start_steps
    )
    for name in {"final_buffer", "concurrent"} & set(cfg.settings):
        if cfg.transitions[name] > cfg.agent.num_steps:
            raise UserError(
                f"transitions.{name}={cfg.transitions[name]}: must be at most the agent's "
                f"agent.num_steps={cfg.agent.num_steps}"
            )
    if "concurrent" in cfg.settings and cfg.agent.start_steps >= cfg.transitions.concurrent:
        raise UserError(
            f"agent.start_steps={cfg.agent.start_steps}: must be below transitions.concurrent="
            f"{cfg.transitions.concurrent}"
        )
    every = cfg.agent.eval_every
    for name in {"final_buffer", "concurrent"} & set(cfg.settings):
        end = cfg.transitions[name]
        if end < cfg.agent.num_steps and end // every * every <= (1 - LAST) * end:
            raise UserError(
                f"agent.eval_every={every}: the agent has no evaluation in the last {LAST:.0%} of "
                f"transitions.{name}={end}, which claims need; give at most {LAST * end:.0f}"
            )
    share = min(EARLY, LAST)
    if cfg.learner.eval_every > share * cfg.learner.num_steps:
        raise UserError(
            f"learner.eval_every={cfg.learner.eval_every}: claims need evaluations in the first "
            f"and the last {share:.0%} of learner.num_steps={cfg.learner.num_steps}; give at most "
            f"{share * cfg.learner.num_steps:.0f}"
        )


def check_disk(plan: PaperPlan) -> None:
    """Check that the disks have enough room.

    Raises:
        UserError: naming the room needed and the disk; or as :func:`missing_data`.
    """
    data, runs, arrays = minari_store.work_folder(), Path.cwd(), _existing(cache_root())
    sizes = {env: _numbers(env) for env in {dataset.env for dataset in plan.datasets}}
    wanted = dict.fromkeys((data, runs, arrays), 0)
    for dataset in missing_data(plan):  # in float64, and two observations in float32
        wanted[data] += dataset.num_steps * 8 * sizes[dataset.env]
        wanted[arrays] += dataset.num_steps * 8 * sizes[dataset.env]
    for (env, _, _), folder in plan.agents.folders.items():
        if not steps_taken(folder):  # two checkpoints with all collected data
            wanted[runs] += _RUN_BYTES + 2 * plan.agents.num_steps * 8 * sizes[env]
    learners = [folder for sweep in plan.sweeps for folder in sweep.folders.values()]
    wanted[runs] += _RUN_BYTES * sum(not steps_taken(folder) for folder in learners)

    by_device: defaultdict[int, list[Path]] = defaultdict(list)
    for place in wanted:
        by_device[place.stat().st_dev].append(place)
    for places in by_device.values():
        need, free = sum(wanted[p] for p in places), shutil.disk_usage(places[0]).free
        if need > free:
            raise UserError(
                f"name={plan.name}: about {need / 2**30:.1f} GiB are needed in "
                f"{' and '.join(map(str, places))}, and {free / 2**30:.1f} are free; choose a "
                "smaller budget, fewer envs or num_seeds, or another MINARI_DATASETS_PATH"
            )


def _existing(place: Path) -> Path:
    return next(folder for folder in (place, *place.parents) if folder.exists())


def _numbers(env: str) -> int:
    """Count the numbers in one step of an environment: observation, action, reward, flags."""
    made = environments.make(env)
    shapes = (made.observation_space.shape or (), made.action_space.shape or ())
    made.close()
    return sum(map(math.prod, shapes)) + 2
