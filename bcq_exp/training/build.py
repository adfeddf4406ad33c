"""From composed configurations and data to the trainer of a cohort."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.algorithm.policy import Policy
from bcq_exp.config.meaning import config_hash
from bcq_exp.config.naming import shortened
from bcq_exp.config.schema import source
from bcq_exp.data.datasets import Dataset
from bcq_exp.data.environments import changes
from bcq_exp.data.online import Exploration
from bcq_exp.data.task import Task
from bcq_exp.data.transitions import Transitions
from bcq_exp.engine.buffers import MappedTransitions, TransitionTable
from bcq_exp.engine.engine import CohortEngine, Engine, ParallelEngine
from bcq_exp.engine.executors import ExecutorFactory
from bcq_exp.engine.explorer import Explorer
from bcq_exp.engine.online import OnlineEngine
from bcq_exp.engine.placement import Placement
from bcq_exp.engine.stream import (
    DeviceStream,
    GrowingStream,
    HostStream,
    RandomStream,
)
from bcq_exp.errors import UserError
from bcq_exp.ranges import LONGEST_WANDB_NAME, LONGEST_WANDB_TAG
from bcq_exp.training import provenance
from bcq_exp.training.checkpoint import Found, take_up, to_go_on
from bcq_exp.training.evaluation import Evaluator, ObsNormalizer
from bcq_exp.training.job import Job
from bcq_exp.training.parts import build_algorithm, with_scaling_decided
from bcq_exp.training.record import RunRecord, sweep_name
from bcq_exp.training.run import Run, run_log
from bcq_exp.training.tracking import NoTracker, Tracker, WandbTracker, Warnings
from bcq_exp.training.trainer import Cadence, Trainer
from bcq_exp.words import counted


def build_trainer(jobs: Sequence[Job], task: Task, placement: Placement) -> Trainer:
    """The trainer of a cohort's runs, each at its checkpoint if it has one.

    Raises:
        UserError: if a part cannot be built, or the environment of a checkpoint is another now.
    """
    jobs = [replace(job, cfg=with_scaling_decided(job.cfg, task.action_space)) for job in jobs]
    cfgs, records = [job.cfg for job in jobs], [RunRecord(job.folder) for job in jobs]
    found = [to_go_on(record) for record in records]
    for job, saved in zip(jobs, found, strict=True):
        if saved is not None:
            _check_environment(job.folder, saved, task)
            _check_scaling(job, saved)
    normalizer = build_normalizer(cfgs[0], task, found[0])
    engine = build_engine(cfgs, task, normalizer, placement)
    nothing = torch.empty(0, len(engine.statistics), dtype=torch.float64)
    windows = []
    for k, (record, saved) in enumerate(zip(records, found, strict=True)):
        if saved is not None:
            engine.load_state_dict(k, saved.content["engine"])
        windows.append(nothing if saved is None else saved.content["window"])
        take_up(record, saved)
    warnings = Warnings()
    runs = [
        build_run(job, task, normalizer, engine.algorithm(k), warnings)
        for k, job in enumerate(jobs)
    ]
    for run in runs:
        run.log.info("engine: %s", placement)
    settings = cfgs[0].trainer
    cadence = Cadence(
        num_steps=settings.num_steps,
        log_every=settings.log_every,
        eval_every=settings.eval_every,
        checkpoint_every=settings.checkpoint_every,
        until=jobs[0].until or settings.num_steps,
    )
    window = torch.stack(windows)
    return Trainer(engine, runs, cadence, window, placement.num_threads, jobs[0].part)


def _check_scaling(job: Job, saved: Found) -> None:
    """Hold what ``policy.action_scaling=auto`` came to against the checkpoint.

    Raises:
        UserError: if the run there learnt in other units.
    """
    policy = saved.content["config"].get("policy")
    if policy is not None and policy["action_scaling"] != job.cfg.policy.action_scaling:
        raise UserError(
            f"{job.folder} holds a run with policy.action_scaling={policy['action_scaling']}, but "
            f"auto gives {job.cfg.policy.action_scaling} for its action space; give the value of "
            "the run, or resume=restart to set it aside"
        )


def _check_environment(folder: Path, found: Found, task: Task) -> None:
    """Compare a run's environment with the one of its checkpoint.

    Raises:
        UserError: if its spaces or episodes are others now.
    """
    if changed := changes(found.content["environment"], task.environment_state()):
        raise UserError(
            f"cannot resume {folder}: its environment changed: {', '.join(changed.values())}; use "
            "a new name= or resume=restart"
        )


def build_dataset(cfg: DictConfig) -> Task:
    """The data set, loaded and validated, or the environment it will be collected in.

    Raises:
        UserError: whatever is wrong with it, in one line.
    """
    return called(source(cfg))


def called(node: Any) -> Any:
    """What a ``dataset`` node's ``_target_`` makes; what is wrong with it as that says it.

    Raises:
        UserError: from there, not wrapped by Hydra, whose first line does not have it.
    """
    try:
        return instantiate(node, _recursive_=False)
    except InstantiationException as error:
        cause = error.__cause__
        if not isinstance(cause, UserError):
            raise
    raise cause  # not in the handler, where the wrapper would become the cause's own context


def build_engine(
    cfgs: Sequence[DictConfig],
    task: Task,
    normalizer: ObsNormalizer | None,
    placement: Placement,
) -> Engine:
    """The algorithms of a cohort with fresh weights over the data, ready to advance."""
    spaces = (task.observation_space, task.action_space)
    runs = [build_algorithm(cfg, *spaces, placement) for cfg in cfgs]
    if isinstance(task, Exploration):
        executor = placement.executor()
        engines: Sequence[CohortEngine | OnlineEngine] = [
            build_online(cfg, run, task, executor, placement.eager_steps)
            for cfg, run in zip(cfgs, runs, strict=True)
        ]
    else:
        assert isinstance(task, Dataset)
        engines = _offline(cfgs, runs, task, normalizer, placement)
    return engines[0] if len(engines) == 1 else ParallelEngine(engines, placement.num_threads)


def _offline(
    cfgs: Sequence[DictConfig],
    runs: Sequence[OfflineAlgorithm],
    dataset: Dataset,
    normalizer: ObsNormalizer | None,
    placement: Placement,
) -> list[CohortEngine]:
    """The runs in stacks, or each by itself, over one table of the data or the data themselves."""
    transitions, dtype = dataset.transitions, placement.precision.dtype
    units = partial(for_training, policy=runs[0].policy, normalizer=normalizer)
    in_place = transitions.is_large and placement.device.type == "cpu"
    whole = None if in_place else TransitionTable.of(transitions, dtype, placement.device, units)
    streams = [
        build_stream(cfg, run, len(transitions), placement.device)
        for cfg, run in zip(cfgs, runs, strict=True)
    ]
    stacks = placement.stacks and all(run.is_pure for run in runs)
    parts = placement.num_stacks(len(runs)) if stacks else len(runs)
    bounds = [len(runs) * i // parts for i in range(parts + 1)]
    table = whole or MappedTransitions(transitions, dtype, units)
    settings = placement.executor(), placement.eager_steps, placement.buffered_steps
    return [CohortEngine(runs[a:b], table, streams[a:b], *settings) for a, b in pairwise(bounds)]


def build_online(
    cfg: DictConfig,
    run: OfflineAlgorithm,
    task: Exploration,
    executor: ExecutorFactory,
    eager_steps: int,
) -> OnlineEngine:
    """A run that explores the environment of ``online=explore``.

    Raises:
        UserError: if it is to have its data by another schedule.
    """
    if cfg.trainer.concurrent_from is not None:
        raise UserError(
            f"trainer.concurrent_from={cfg.trainer.concurrent_from}: online=explore collects its "
            "data during training already; use null, and online.start_steps"
        )
    batch_size = cfg.trainer.batch_size
    stream = GrowingStream(
        seed=cfg.seed,
        num_rows=cfg.trainer.num_steps,
        batch_size=batch_size,
        noise=run.noise_shapes(batch_size),
        first_rows=task.start_steps + 1,
    )
    return OnlineEngine(
        run,
        Explorer(task.make_env(), cfg.seed, task.start_steps, task.noise_std),
        capacity=cfg.trainer.num_steps,
        start_steps=task.start_steps,
        stream=stream,
        executor=executor,
        eager_steps=eager_steps,
    )


def build_stream(
    cfg: DictConfig, algorithm: OfflineAlgorithm, num_rows: int, device: torch.device
) -> RandomStream:
    """The run's random numbers, drawn where it trains.

    Raises:
        UserError: if ``trainer.concurrent_from`` is more than there is.
    """
    batch_size = cfg.trainer.batch_size
    needs = {
        "seed": cfg.seed,
        "num_rows": num_rows,
        "batch_size": batch_size,
        "noise": algorithm.noise_shapes(batch_size),
    }
    first_rows = cfg.trainer.concurrent_from
    if first_rows is not None:
        if first_rows > num_rows:
            raise UserError(
                f"trainer.concurrent_from={first_rows}: the data set has "
                f"{counted(num_rows, 'transition')}; give at most as many, or null"
            )
        return GrowingStream(**needs, first_rows=first_rows)
    return HostStream(**needs) if device.type == "cpu" else DeviceStream(**needs, device=device)


def build_normalizer(cfg: DictConfig, task: Task, found: Found | None) -> ObsNormalizer | None:
    """The scaling of observations, from the checkpoint where there is one.

    Raises:
        UserError: where there is no data to scale by.
    """
    if not cfg.trainer.normalize_obs:
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
    """Transitions in the networks' units: actions as the policy's, observations scaled."""
    arrays: dict[str, np.ndarray] = {}
    if not isinstance(policy.action_space, Discrete):  # those are indices already
        arrays["act"] = policy.map_action_inverse(transitions.act)
    if normalizer is not None:
        arrays |= {name: normalizer(getattr(transitions, name)) for name in ("obs", "obs_next")}
    return transitions.replace(**arrays)


def build_run(
    job: Job,
    task: Task,
    normalizer: ObsNormalizer | None,
    algorithm: OfflineAlgorithm,
    warnings: Warnings,
) -> Run:
    """The run's own half: record, log, tracker, evaluator."""
    cfg, record = job.cfg, RunRecord(job.folder)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    facts = {
        "seed": cfg.seed,
        "algorithm": type(algorithm).__name__,
        "losses": list(algorithm.losses()),
        "watches": [asdict(watch) for watch in algorithm.watches],
        "dataset": task.facts(),
        "command": job.command,
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
        "config_hash": config_hash(config),
        "config": config,
    }
    run = Run(
        title=job.title,
        record=record,
        log=logging.getLogger("bcq_exp.run") if job.is_alone else run_log(job.folder),
        tracker=(
            NoTracker()
            if cfg.logger.mode == "disabled"
            else build_tracker(
                cfg.logger.mode, record, facts, job.title, warnings, record.num_logged
            )
        ),
        evaluator=_evaluator(cfg, task),
        normalizer=normalizer,
        normalized_score=task.normalized_score,
        facts=facts,
        environment=task.environment_state(),
    )
    data = facts["dataset"]
    if data["num_transitions"]:
        words = "%s: %d transitions, behaviour's return %.1f"
        run.log.info(words, data["id"], data["num_transitions"], data["behaviour_return"])
    return run


def _evaluator(cfg: DictConfig, task: Task) -> Evaluator | None:
    count = cfg.trainer.eval_episodes
    return Evaluator(task.make_env, count, cfg.trainer.eval_seed) if count else None


def build_tracker(
    mode: str,
    record: RunRecord,
    facts: Mapping[str, Any],
    title: str,
    warnings: Warnings,
    num_rows: int,
) -> Tracker:
    """W&B with the identity that makes its grouping work without further clicks.

    What is longer than W&B takes, such as a data set's id as a tag, is shortened.

    Args:
        mode: offline or online.
        facts: what ``summary.json`` says of the run.
        num_rows: rows of it that W&B was given before.
    """
    logger = facts["config"]["logger"]
    sweep, before = sweep_name(record.folder), record.summary()
    group = logger["group"] or sweep or facts["dataset"]["id"]
    tags = [*logger["tags"], facts["dataset"]["id"]]
    logged = ("dataset", "versions", "git_commit", "config_hash", "command")
    return WandbTracker(
        mode=mode,
        folder=record.folder,
        sweep=None if sweep is None else record.folder.parent,
        id=None if before is None else before["wandb_id"],
        config={**facts["config"], "run": {name: facts[name] for name in logged}},
        identity={
            "project": logger["project"],
            "entity": logger["entity"],
            "group": shortened(group, LONGEST_WANDB_NAME),
            "job_type": logger["job_type"],
            "tags": [shortened(tag, LONGEST_WANDB_TAG) for tag in tags],
            "name": shortened(title, LONGEST_WANDB_NAME),
        },
        num_rows=num_rows,
        warnings=warnings,
    )
