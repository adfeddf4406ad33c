"""Build the trainer of a cohort from its runs and their data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.algorithm.policy import Policy
from bcq_exp.config.identity import config_hash
from bcq_exp.data.datasets import Dataset
from bcq_exp.data.task import Task
from bcq_exp.data.transitions import Transitions
from bcq_exp.engine.assembly import build_engine
from bcq_exp.engine.placement import Placement
from bcq_exp.errors import UserError
from bcq_exp.formatting import numbers
from bcq_exp.training import provenance
from bcq_exp.training.algorithms import build_algorithm, with_scaling_decided
from bcq_exp.training.checkpoint import (
    Checkpoint,
    StoredCheckpoint,
    find_resumable,
    prepare_to_resume,
)
from bcq_exp.training.evaluation import Evaluator, ObsNormalizer
from bcq_exp.training.record import RunRecord
from bcq_exp.training.run import Run, run_log
from bcq_exp.training.spec import RunSpec
from bcq_exp.training.tracking import Warnings, build_tracker
from bcq_exp.training.trainer import Cadence, Trainer


def build_trainer(specs: Sequence[RunSpec], task: Task, placement: Placement) -> Trainer:
    """Build the trainer of a cohort, with each run at its checkpoint if it has one.

    Raises:
        UserError: if a part cannot be built, or actions are scaled otherwise than before.
    """
    specs = [with_scaling_decided(spec, task.action_space) for spec in specs]
    found = [find_resumable(spec.record) for spec in specs]
    for spec, saved in zip(specs, found, strict=True):
        if saved is not None:
            _check_scaling(spec, saved.content)
    normalizer = build_normalizer(specs[0].trainer.normalize_obs, task, found[0])
    trainer, until = specs[0].trainer, specs[0].until
    spaces = (task.observation_space, task.action_space)
    algorithms = [build_algorithm(spec.algorithm, *spaces, placement) for spec in specs]
    units = partial(for_training, policy=algorithms[0].policy, normalizer=normalizer)
    seeds = [spec.seed for spec in specs]
    engine = build_engine(algorithms, seeds, task, units, trainer, placement)
    nothing = torch.empty(0, len(engine.statistics), dtype=torch.float64)
    for k, (spec, saved) in enumerate(zip(specs, found, strict=True)):
        if saved is not None:
            engine.load_state_dict(k, saved.content["engine"])
        prepare_to_resume(spec.record, saved)
    warnings = Warnings()
    compiles = algorithms[0].can_be_compiled
    how = str(placement if compiles else replace(placement, engine="eager"))
    return Trainer(
        engine,
        [
            build_run(spec, task, normalizer, engine.algorithm(k), warnings, how, saved)
            for k, (spec, saved) in enumerate(zip(specs, found, strict=True))
        ],
        Cadence(
            num_steps=trainer.num_steps,
            log_every=trainer.log_every,
            eval_every=trainer.eval_every,
            checkpoint_every=trainer.checkpoint_every,
            until=until or trainer.num_steps,
        ),
        torch.stack([nothing if each is None else each.content["window"] for each in found]),
        placement.num_threads,
        specs[0].part,
    )


def _check_scaling(spec: RunSpec, saved: Checkpoint) -> None:
    """Compare a run's action scaling with its checkpoint.

    Raises:
        UserError: if it learned in another unit of actions than ``policy.action_scaling=auto``
            comes to.
    """
    before, now = (config.get("policy", {}) for config in (saved["config"], spec.config))
    scaled, scales = (policy.get("action_scaling") for policy in (before, now))
    if scaled != scales:
        raise UserError(
            f"{spec.folder} holds a run with policy.action_scaling={scaled}, but auto gives "
            f"{scales} for its action space; give the value of the run, or resume=restart to set "
            "it aside"
        )


def build_normalizer(
    wanted: bool, task: Task, found: StoredCheckpoint | None
) -> ObsNormalizer | None:
    """Make the scaling of observations if it is ``wanted``, from the checkpoint if there is one.

    Raises:
        UserError: if there is no data to compute it from.
    """
    if not wanted:
        return None
    if not isinstance(task, Dataset):
        raise UserError(
            "trainer.normalize_obs=true: online=explore has no data to normalize by; use false"
        )
    if found is not None and (scaling := found.content["normalization"]) is not None:
        return ObsNormalizer.from_state_dict(scaling)
    return ObsNormalizer.of(task.transitions.obs, task.is_one_hot)


def for_training(
    transitions: Transitions, policy: Policy, normalizer: ObsNormalizer | None
) -> Transitions:
    """Convert transitions to the networks' units: the policy's actions, scaled observations."""
    arrays: dict[str, np.ndarray] = {}
    if not isinstance(policy.action_space, Discrete):  # discrete actions are indices already
        arrays["act"] = policy.map_action_inverse(transitions.act)
    if normalizer is not None:
        arrays |= {name: normalizer(getattr(transitions, name)) for name in ("obs", "obs_next")}
    return transitions.replace(**arrays)


def build_run(
    spec: RunSpec,
    task: Task,
    normalizer: ObsNormalizer | None,
    algorithm: OfflineAlgorithm,
    warnings: Warnings,
    engine: str,
    saved: StoredCheckpoint | None,
) -> Run:
    """Build a run: record, log, tracker, evaluator. ``engine`` is a text for the log.

    Args:
        saved: the checkpoint that it resumes from.
    """
    num_episodes, data = spec.trainer.eval_episodes, task.facts()
    made_by = {
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
        "engine": engine,
    }
    facts = {
        "seed": spec.seed,
        "algorithm": type(algorithm).__name__,
        "losses": list(algorithm.losses()),
        "watches": [asdict(watch) for watch in algorithm.watches],
        "dataset": data,
        **task.lasting_facts(),
        "command": spec.command,
        **made_by,
        "earlier": [] if saved is None else _earlier(spec.record, saved.content["step"], made_by),
        "config_hash": config_hash(spec.config),
        "config": spec.config,
    }
    run = Run(
        record=spec.record,
        log=logging.getLogger("bcq_exp.run") if spec.is_alone else run_log(spec.folder),
        tracker=build_tracker(spec.record, facts, warnings),
        evaluator=(
            Evaluator(task.make_env, num_episodes, spec.trainer.eval_seed) if num_episodes else None
        ),
        normalizer=normalizer,
        normalized_score=task.normalized_score,
        facts=facts,
        environment=task.environment_state,
        seconds=0.0 if saved is None else saved.content.get("seconds", 0.0),
    )
    if data["num_transitions"]:
        words = "%s: %d transitions, behaviour's return %s"
        run.log.info(words, data["id"], data["num_transitions"], *numbers(data["behaviour_return"]))
    run.log.info("engine: %s", engine)
    return run


def _earlier(record: RunRecord, step: int, made_by: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What trained the steps so far, where it differs from what trains the next ones.

    Each part has the number of steps after which it ended, and the names of ``made_by``.
    """
    summary = record.summary()
    if summary is None:
        return []
    before = {name: summary.get(name) for name in made_by}
    new = [] if before == made_by else [{"step": step, **before}]
    return [*summary.get("earlier", []), *new]
