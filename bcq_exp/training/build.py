"""From a composed configuration to the objects that train it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from bcq_exp.algorithm.actions import ActionMap
from bcq_exp.algorithm.bcq import BCQ, BCQPolicy
from bcq_exp.algorithm.mlp import choose_compute_dtype
from bcq_exp.algorithm.networks import latent_dim
from bcq_exp.algorithm.optim import CosineSchedule, LinearSchedule, OptimizerFactory, Schedule
from bcq_exp.config import config_hash
from bcq_exp.data.datasets import Dataset
from bcq_exp.data.transitions import Transitions
from bcq_exp.errors import UserError
from bcq_exp.training import provenance
from bcq_exp.training.capture import (
    Capture,
    cuda_graph,
    inductor,
    inductor_cuda_graph,
    kernel_list,
)
from bcq_exp.training.checkpoint import Checkpoint, load
from bcq_exp.training.engine import CohortEngine, Engine, ParallelEngine, TransitionTable
from bcq_exp.training.evaluation import Evaluator, ObsNormalizer
from bcq_exp.training.job import Job
from bcq_exp.training.precision import Precision, resolve_precision
from bcq_exp.training.record import RunRecord, sweep_name
from bcq_exp.training.run import Run, run_log
from bcq_exp.training.stream import DeviceStream, HostStream, RandomStream, init_seed
from bcq_exp.training.tracking import NoTracker, Tracker, WandbTracker
from bcq_exp.training.trainer import Cadence, Trainer

CAPTURES: dict[tuple[str, bool], Capture] = {  # by device and trainer.compile
    ("cpu", False): kernel_list,
    ("cpu", True): inductor,
    ("cuda", False): cuda_graph,
    ("cuda", True): inductor_cuda_graph,
}
WIDE = 256  # hidden units
STACKED_BELOW = 128
SCHEDULES: dict[str, Callable[[int, float], Schedule]] = {
    "linear": LinearSchedule,
    "cosine": CosineSchedule,
}


def build_trainer(jobs: Sequence[Job], dataset: Dataset, num_threads: int = 1) -> Trainer:
    """The trainer of a cohort's runs, each at its checkpoint if it has one."""
    cfgs, records = [job.cfg for job in jobs], [RunRecord(job.folder) for job in jobs]
    saved = [load(r.checkpoint) if r.checkpoint.exists() else None for r in records]
    normalizer = build_normalizer(cfgs[0], dataset, saved[0])
    engine = build_engine(cfgs, dataset, normalizer, num_threads)
    for k, checkpoint in enumerate(saved):
        if checkpoint is not None:
            engine.load_state_dict(k, checkpoint["engine"])
    for record in records:
        record.rewind(engine.step)
    runs = [build_run(job, dataset, normalizer) for job in jobs]
    for run, checkpoint in zip(runs, saved, strict=True):
        if checkpoint is not None:
            run.window = checkpoint["window"]
    settings = cfgs[0].trainer
    cadence = Cadence(
        num_steps=settings.num_steps,
        log_every=settings.log_every,
        eval_every=settings.eval_every,
        checkpoint_every=settings.checkpoint_every,
    )
    return Trainer(engine, runs, cadence, num_threads)


def build_dataset(cfg: DictConfig) -> Dataset:
    """The data set, loaded and validated.

    Raises:
        UserError: whatever is wrong with it, in one line.
    """
    return instantiate(cfg.dataset)


def build_engine(
    cfgs: Sequence[DictConfig],
    dataset: Dataset,
    normalizer: ObsNormalizer | None,
    num_threads: int = 1,
) -> Engine:
    """The algorithms of a cohort with fresh weights over the data, ready to advance.

    On a CPU the cohort is divided over ``num_threads``.
    """
    runs = [build_bcq(cfg, dataset.observation_space, dataset.action_space) for cfg in cfgs]
    param = next(runs[0].parameters())
    transitions = for_training(dataset.transitions, runs[0].policy, normalizer)
    table = TransitionTable(transitions, param.dtype, param.device)
    streams = [
        build_stream(cfg, bcq, len(transitions)) for cfg, bcq in zip(cfgs, runs, strict=True)
    ]
    stacks = pays_to_stack(cfgs[0]) and all(run.has_own_networks for run in runs)
    parts = min(num_threads, len(runs)) if stacks else len(runs)
    bounds = [len(runs) * i // parts for i in range(parts + 1)]
    capture = CAPTURES[param.device.type, cfgs[0].trainer.compile]
    engines = [CohortEngine(runs[a:b], table, streams[a:b], capture) for a, b in pairwise(bounds)]
    return engines[0] if parts == 1 else ParallelEngine(engines, num_threads)


def build_stream(cfg: DictConfig, bcq: BCQ, num_rows: int) -> RandomStream:
    """The run's random numbers, drawn where it trains."""
    device = resolve_device(cfg.trainer.device)
    sizes = {
        "seed": cfg.seed,
        "num_rows": num_rows,
        "batch_size": cfg.trainer.batch_size,
        "num_sampled_action": bcq.num_sampled_action,
        "latent_dim": latent_dim(bcq.policy.vae),
    }
    return HostStream(**sizes) if device.type == "cpu" else DeviceStream(**sizes, device=device)


def pays_to_stack(cfg: DictConfig) -> bool:
    """Whether stacked runs of these sizes train faster than the same runs side by side.

    On a GPU always. On a CPU up to some 100 units: above, one run's products fill a core, and the
    activations of several leave its cache (see tests/bench/RESULTS.md).
    """
    return resolve_device(cfg.trainer.device).type == "cuda" or widest_layer(cfg) < STACKED_BELOW


@contextmanager
def threads(cfgs: Sequence[DictConfig]) -> Iterator[int]:
    """How many threads a cohort is divided over, with torch set for each of them.

    One run of wide networks divides its products instead.
    """
    before = torch.get_num_threads()
    asked = cfgs[0].trainer.num_threads
    available = before if asked is None else asked
    alone = len(cfgs) == 1
    # small networks lose more by sharing their work than they gain
    torch.set_num_threads(available if alone and (asked or are_wide(cfgs[0])) else 1)
    try:
        yield 1 if alone else available
    finally:
        torch.set_num_threads(before)


def build_bcq(cfg: DictConfig, observation_space: Box, action_space: Box) -> BCQ:
    """BCQ with initial weights that follow from ``cfg.seed`` alone, in dtype and on device."""
    try:
        actions = ActionMap(
            action_space,
            action_scaling=cfg.policy.action_scaling,
            bound_method=cfg.policy.action_bound_method,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"policy: {error}") from error
    low, high = actions.range
    sizes = {"obs_dim": observation_space.shape[0], "act_dim": action_space.shape[0]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed(cfg.seed))
        policy = BCQPolicy(
            actor_perturbation=instantiate(cfg.actor, **sizes, low=low, high=high),
            critic=instantiate(cfg.critic, **sizes),
            vae=instantiate(cfg.vae, **sizes, low=low, high=high),
            action_space=action_space,
            observation_space=observation_space,
            **cfg.policy,
        )
        # the optimizers hold references to the parameters, so these get their final type first
        precision = build_precision(cfg)
        policy.to(dtype=precision.dtype, device=resolve_device(cfg.trainer.device))
        choose_compute_dtype(policy, precision.compute_dtype)
        num_steps = cfg.trainer.num_steps
        return BCQ(
            policy=policy,
            actor_perturbation_optim=build_optimizer(cfg.actor_optim, num_steps),
            critic_optim=build_optimizer(cfg.critic_optim, num_steps),
            vae_optim=build_optimizer(cfg.vae_optim, num_steps),
            **cfg.algo,
        )


def build_precision(cfg: DictConfig) -> Precision:
    """The number types of ``trainer.precision`` on ``trainer.device``.

    Raises:
        UserError: for a precision or device that is not to be had here.
    """
    device = resolve_device(cfg.trainer.device)
    return resolve_precision(cfg.trainer.precision, device, are_wide=are_wide(cfg))


def are_wide(cfg: DictConfig) -> bool:
    """Whether matrix products, not the overhead around them, take the time of a step."""
    return widest_layer(cfg) >= WIDE


def widest_layer(cfg: DictConfig) -> int:
    """Units of the widest hidden layer; 0 where the networks are not of the usual kind."""
    networks = (cfg.actor, cfg.critic, cfg.vae)
    return max(size for net in networks for size in net.get("hidden_sizes", [0]))


def build_optimizer(cfg: DictConfig, num_steps: int) -> OptimizerFactory:
    """An optimizer factory with its learning-rate schedule over ``num_steps``."""
    options = dict(cfg)
    kind, final = options.pop("schedule"), options.pop("final_lr_fraction")
    schedule = SCHEDULES[kind](num_steps, final) if kind in SCHEDULES else None
    return instantiate(options, _partial_=True)(schedule=schedule)


def build_normalizer(
    cfg: DictConfig, dataset: Dataset, checkpoint: Checkpoint | None
) -> ObsNormalizer | None:
    """The scaling of observations, from the checkpoint where there is one."""
    if not cfg.trainer.normalize_obs:
        return None
    if checkpoint is not None and checkpoint["normalization"] is not None:
        return ObsNormalizer.from_state_dict(checkpoint["normalization"])
    return ObsNormalizer.of(dataset.transitions.obs)


def for_training(
    transitions: Transitions, policy: BCQPolicy, normalizer: ObsNormalizer | None
) -> Transitions:
    """Transitions in the networks' units: actions as the policy's, observations scaled."""
    arrays: dict[str, np.ndarray] = {"act": policy.map_action_inverse(transitions.act)}
    if normalizer is not None:
        arrays |= {name: normalizer(getattr(transitions, name)) for name in ("obs", "obs_next")}
    return transitions.replace(**arrays)


def build_run(job: Job, dataset: Dataset, normalizer: ObsNormalizer | None) -> Run:
    """The run's own half: record, log, tracker, evaluator."""
    cfg, record = job.cfg, RunRecord(job.folder)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    facts = {
        "seed": cfg.seed,
        "perturbation_bound": perturbation_bound(cfg, dataset),
        "dataset": {
            "id": dataset.id,
            "content_hash": dataset.content_hash,
            "num_transitions": len(dataset.transitions),
            "num_episodes": len(dataset.episode_returns),
            "behaviour_return": dataset.behaviour_return,
        },
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
        tracker=build_tracker(cfg, record, facts, job.title),
        evaluator=Evaluator(dataset.make_env, cfg.trainer.eval_episodes, cfg.trainer.eval_seed),
        normalizer=normalizer,
        normalized_score=dataset.normalized_score,
        facts=facts,
        environment=dataset.environment_state(),
    )
    run.log.info(
        "%s: %d transitions, behaviour's return %.1f",
        dataset.id,
        len(dataset.transitions),
        dataset.behaviour_return,
    )
    return run


def perturbation_bound(cfg: DictConfig, dataset: Dataset) -> float | None:
    """The largest mean |perturbation| there can be: phi times half the actions' range."""
    if "phi" not in cfg.actor:
        return None
    space = dataset.action_space
    half = 1.0 if cfg.policy.action_scaling else float(np.mean(space.high - space.low)) / 2
    return float(cfg.actor.phi) * half


def build_tracker(
    cfg: DictConfig, record: RunRecord, facts: Mapping[str, Any], title: str
) -> Tracker:
    """W&B with the identity that makes its grouping work without further clicks, or nothing."""
    logger = cfg.logger
    if logger.mode == "disabled":
        return NoTracker()
    before = record.summary()
    logged = ("dataset", "versions", "git_commit", "config_hash", "command")
    return WandbTracker(
        mode=logger.mode,
        folder=record.folder,
        id=None if before is None else before["wandb_id"],
        config={**facts["config"], "run": {name: facts[name] for name in logged}},
        identity={
            "project": logger.project,
            "entity": logger.entity,
            "group": logger.group or sweep_name(record.folder) or facts["dataset"]["id"],
            "job_type": logger.job_type,
            "tags": [*logger.tags, facts["dataset"]["id"]],
            "name": title,
        },
    )


def resolve_device(device: str) -> torch.device:
    """The torch device of ``trainer.device``.

    Raises:
        UserError: for a CUDA device that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise UserError(
                f"trainer.device={device}: this machine has {torch.cuda.device_count()} CUDA "
                "devices; use cpu or auto"
            )
    return torch.device(device)
