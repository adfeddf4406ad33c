"""Estimate how long section 6 takes on this machine, by the cost of every kind of run."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from joblib import cpu_count
from omegaconf import DictConfig

from bcq_exp.config.overrides import changed, online_agent
from bcq_exp.formatting import duration
from bcq_exp.paper import prechecks
from bcq_exp.paper.claims import DATASETS_TO_DECIDE
from bcq_exp.paper.experiments import Compose, PaperPlan, agent_seeds, steps_taken
from bcq_exp.sweep import plugins
from bcq_exp.sweep.launcher import CohortLauncher
from bcq_exp.training.cost import RunCost, cost_of
from bcq_exp.training.spec import RunSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """One kind of work: the items left, their total number, and the time left."""

    name: str
    num_left: int
    num: int
    seconds: float


def log_how_long(cfg: DictConfig, plan: PaperPlan, compose: Compose) -> None:
    """Log the work left, and how long it takes on an idle machine."""
    shares = list(shares_of(cfg, plan, compose))
    for share in shares:
        left = f"{share.num_left} of {share.num}" if share.num_left < share.num else str(share.num)
        log.info("%-14s %10s   about %s", share.name, left, duration(share.seconds))
    log.info("%-14s %10s   about %s", "in all", "", duration(sum(s.seconds for s in shares)))
    if (num_datasets := len(cfg.envs) * len(agent_seeds(cfg))) < DATASETS_TO_DECIDE:
        log.info("data sets per setting: %d, too few to decide any claim", num_datasets)


def shares_of(cfg: DictConfig, plan: PaperPlan, compose: Compose) -> Iterator[Share]:
    """Estimate what is left of each kind of work, with this command's launcher."""
    env = cfg.envs[0]  # the runs of one budget have similar costs
    workers = _num_workers()
    explorer = online_agent(**cfg.agent, env=env, noise_std=0.1, seed=0)
    agent = _cost(compose("config", explorer))
    folders = plan.agents.folders.values()
    yield _share("agents", folders, cfg.agent.num_steps, agent, min(workers, len(folders)))

    missing = prechecks.missing_data(plan)
    steps = sum(dataset.num_steps for dataset in missing if dataset.record == "policy")
    seconds = steps * agent.acting_seconds(1) / cpu_count()
    yield Share("data sets", len(missing), len(plan.datasets), seconds)

    stacked = 1 if cfg.own_agents else cfg.num_seeds
    for algo in cfg.algorithms:
        sweeps = [s for s in plan.sweeps if (algo, 0) in s.folders]
        runs = [folder for s in sweeps for (a, _), folder in s.folders.items() if a == algo]
        composed = compose("config", (*sweeps[0].overrides, f"algo={algo}", "seed=0"))
        given = {"trainer": {"concurrent_from": None}, "dataset": {"env": env}}
        at_a_time = min(workers, len(sweeps[0].folders) // stacked) * cfg.at_once
        cost = _cost(changed(composed, given))
        yield _share(algo, runs, cfg.learner.num_steps, cost, at_a_time)


def _cost(cfg: DictConfig) -> RunCost:
    return cost_of(RunSpec.of(cfg, Path()))


def _share(
    name: str, folders: Collection[Path], num_steps: int, cost: RunCost, at_a_time: int
) -> Share:
    """Estimate the runs of one kind, with so many trained at a time."""
    left = [max(0, num_steps - steps_taken(folder)) for folder in folders]
    return Share(name, sum(map(bool, left)), len(folders), cost.seconds(sum(left)) / at_a_time)


def _num_workers() -> int:
    """The groups that the launcher trains at a time, on this machine or a cluster."""
    from hydra.core.hydra_config import HydraConfig

    plugins.register()
    launcher = instantiate(HydraConfig.get().launcher)
    return launcher.workers.count if isinstance(launcher, CohortLauncher) else 1
