"""How long it will take on this machine: every kind of run, tried for a moment."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig

from bcq_exp.config.overrides import changed, online_agent
from bcq_exp.config.schema import hidden_sizes
from bcq_exp.data import environments
from bcq_exp.data.datasets import Dataset
from bcq_exp.data.online import explore
from bcq_exp.data.task import Task
from bcq_exp.data.transitions import Transitions
from bcq_exp.engine.placement import place
from bcq_exp.paper import checks
from bcq_exp.paper.claims import DATASETS_TO_DECIDE
from bcq_exp.paper.plan import PaperPlan, agent_seeds, steps_taken
from bcq_exp.sweep.workers import InProcess
from bcq_exp.training import build
from bcq_exp.training.evaluation import Agent
from bcq_exp.words import duration

log = logging.getLogger(__name__)

TRY_FOR = 0.7  # seconds, once everything is recorded
ACTS = 20  # of an evaluation's actions that are timed
ROWS = 1000  # of random data to try on
ROOM = 100_000  # steps that an agent which is tried may take
NO_LIMIT = 1000  # steps to count an episode of an environment without one as


@dataclass(frozen=True)
class Share:
    """One kind of work: how many of how many are left, and for how long."""

    name: str
    num_left: int
    num: int
    seconds: float


@dataclass(frozen=True)
class Speed:
    """Of one run.

    Args:
        rate: steps a second.
        acting: seconds in which all episodes of an evaluation take a step.
        episode: steps of an episode, at most.
    """

    rate: float
    acting: float
    episode: int

    def seconds(self, num_steps: int, eval_every: int) -> float:
        """Of so many steps, with evaluations whose episodes are as long as they may be."""
        return num_steps / self.rate + num_steps / eval_every * self.episode * self.acting


def say_how_long(cfg: DictConfig, plan: PaperPlan) -> None:
    """Log what there is to do, and how long that takes where nothing else runs."""
    shares = list(_shares(cfg, plan))
    for share in shares:
        left = f"{share.num_left} of {share.num}" if share.num_left < share.num else str(share.num)
        log.info("%-14s %10s   about %s", share.name, left, duration(share.seconds))
    log.info("%-14s %10s   about %s", "in all", "", duration(sum(s.seconds for s in shares)))
    if (num_datasets := len(cfg.envs) * len(agent_seeds(cfg))) < DATASETS_TO_DECIDE:
        log.info("data sets per setting: %d, too few to decide any claim", num_datasets)


def _shares(cfg: DictConfig, plan: PaperPlan) -> Iterator[Share]:
    env = cfg.envs[0]  # those of one budget are much alike
    workers, cores = _num_workers(), os.cpu_count() or 1
    agent = partial(tried, _agent_configs(cfg, env), explore(env, start_steps=0, noise_std=0.1))
    folders = plan.agents.folders.values()
    yield _share("agents", folders, cfg.agent, agent, min(workers, len(folders)))

    missing = checks.missing_data(plan)
    steps = sum(dataset.num_steps for dataset in missing if dataset.record == "policy")
    seconds = steps * agent(cores, num_episodes=1).acting / cores if steps else 0.0
    yield Share("data sets", len(missing), len(plan.datasets), seconds)

    task = random_data(env)
    stacked = 1 if cfg.own_agents else cfg.num_seeds
    for algo in cfg.algorithms:
        sweeps = [s for s in plan.sweeps if (algo, 0) in s.folders]
        runs = [folder for s in sweeps for (a, _), folder in s.folders.items() if a == algo]
        configs = [_config(sweeps[0].overrides, algo, seed) for seed in range(stacked)]
        at_a_time = min(workers, len(sweeps[0].folders) // stacked) * cfg.at_once
        yield _share(algo, runs, cfg.learner, partial(tried, configs, task), at_a_time)


def _share(
    name: str,
    folders: Collection[Path],
    cadence: DictConfig,
    tried: Callable[[int], Speed],
    at_a_time: int,
) -> Share:
    """Runs of one kind, which are tried if there are any left."""
    left = [max(0, cadence.num_steps - steps_taken(folder)) for folder in folders]
    seconds = 0.0
    if any(left):
        seconds = tried(at_a_time).seconds(sum(left), cadence.eval_every) / at_a_time
    return Share(name, sum(map(bool, left)), len(folders), seconds)


def _num_workers() -> int:
    """Groups that the launcher trains at a time, if they are on this machine."""
    from hydra.core.hydra_config import HydraConfig

    workers = HydraConfig.get().launcher.get("workers")
    return (InProcess() if workers is None else instantiate(workers)).count


def _config(overrides: Sequence[str], algo: str, seed: int) -> DictConfig:
    composed = compose("config", [*overrides, f"algo={algo}", f"seed={seed}"])
    return changed(composed, {"trainer": {"concurrent_from": None}})


def _agent_configs(cfg: DictConfig, env: str) -> list[DictConfig]:
    agent = {**cfg.agent, "start_steps": 0, "num_steps": ROOM}
    return [compose("config", [*online_agent(**agent, env=env, noise_std=0.1, seed=0)])]


def tried(
    cfgs: Sequence[DictConfig], task: Task, at_a_time: int, num_episodes: int | None = None
) -> Speed:
    """The speed of runs that train together, each's share of it.

    Args:
        at_a_time: groups that are trained at once; this one gets a core's share.
        num_episodes: of an evaluation; ``None`` is the configuration's.
    """
    if at_a_time > 1:
        cfgs = [changed(cfg, {"trainer": {"num_threads": 1}}) for cfg in cfgs]
    placement = place(cfgs[0].trainer, hidden_sizes(cfgs[0]), len(cfgs))
    with placement.in_force():
        normalizer = build.build_normalizer(cfgs[0], task, None)
        engine = build.build_engine(cfgs, task, normalizer, placement)
        engine.advance(20)
        rate = _rate(lambda: engine.advance(10)) * 10 * len(cfgs)
        agent = Agent.of(engine.algorithm(0), normalizer)
        return Speed(rate, *_acting(task, agent, num_episodes or cfgs[0].trainer.eval_episodes))


def _rate(work: Callable[[], object]) -> float:
    first, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - first) < TRY_FOR or count < 2:
        work()
        count += 1
    return count / passed


def _acting(task: Task, agent: Agent, num_episodes: int) -> tuple[float, int]:
    """Seconds in which episodes side by side take a step, and steps they have at most."""
    env = task.make_env()
    obs, _ = env.reset(seed=0)
    many, generator = np.tile(obs, (num_episodes, 1)), torch.Generator()
    act = agent.act(many, generator)
    first = time.perf_counter()
    for _ in range(ACTS):
        agent.act(many, generator)
        for _ in range(num_episodes):
            _, _, terminated, truncated, _ = env.step(act[0])
            if terminated or truncated:
                env.reset()
    seconds = (time.perf_counter() - first) / ACTS
    limit = env.spec.max_episode_steps if env.spec is not None else None
    env.close()
    return seconds, limit or NO_LIMIT


def random_data(env_id: str) -> Dataset:
    """Something to step on, of an environment's sizes."""
    made = environments.make(env_id)
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((2, ROWS, *(made.observation_space.shape or ())), np.float32)
    act = np.stack([made.action_space.sample() for _ in range(ROWS)])
    flags = np.zeros(ROWS, bool)
    task = explore(env_id, start_steps=0, noise_std=0.0)
    made.close()
    return Dataset(
        id="random",
        observation_space=task.observation_space,
        action_space=task.action_space,
        env_spec=task.env_spec,
        reference_scores=task.reference_scores,
        leaves=task.leaves,
        transitions=Transitions(
            obs=obs[0], act=act, rew=rng.standard_normal(ROWS), terminated=flags, truncated=flags,
            obs_next=obs[1],
        ),
        content_hash="",
        episode_returns=np.zeros(1),
        episode_lengths=np.array([ROWS]),
        episode_rows=np.array([ROWS]),
    )  # fmt: skip
