"""The parts of the paper's experiments: agents, data sets and sweeps, each a bcq_exp command.

Names derive from all settings that determine the content, so that existing parts are found again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bcq_exp.cli.child import Command
from bcq_exp.config.identity import identity
from bcq_exp.config.naming import RunNaming, as_name
from bcq_exp.config.overrides import one_of, online_agent
from bcq_exp.training.record import RunRecord

Compose = Callable[[str, tuple[str, ...]], DictConfig]
"""A configuration, by the name of its root and overrides."""

LAST = 0.25  # the last share of training, whose mean evaluation is a run's result
EARLY = 0.25  # the first share of training, which counts as few iterations
AGENT_KEYS = ("online.env", "online.noise_std", "seed")
# Settings of an algorithm's own paper besides the shared protocol: TD3+BC normalizes observations.
OWN_OVERRIDES: Mapping[str, tuple[str, ...]] = {"td3_bc": ("trainer.normalize_obs=true",)}


@dataclass(frozen=True)
class AgentSweep:
    """The behaviour agents of every environment.

    Args:
        folders: the folders of their runs, by (environment, exploration noise, seed).
        num_steps: the steps of each run.
        agent: their common settings.
    """

    command: Command
    folders: Mapping[tuple[str, float, int], Path]
    num_steps: int
    agent: Mapping[str, Any]

    def runs(self) -> Iterator[tuple[Path, tuple[str, ...], int]]:
        """Yield each run's folder, overrides and seed."""
        for (env, noise, seed), folder in self.folders.items():
            yield folder, online_agent(**self.agent, env=env, noise_std=noise, seed=0), seed


@dataclass(frozen=True)
class DataSet:
    """One recorded data set.

    Args:
        id: Minari's id, with a digest of all settings that determine the content, except versions:
            ``bcq_paper/Hopper-v5/imperfect-3f2a9c1d-s0-v0``.
        seed: the seed of the agent and of the recording.
        is_agent_itself: whether the agent's final policy acted, without noise.
        agent: the folder of the agent's run.
    """

    id: str
    setting: str
    env: str
    seed: int
    num_steps: int
    record: str
    is_agent_itself: bool
    agent: Path
    command: Command


@dataclass(frozen=True)
class LearnerSweep:
    """Algorithms that share a protocol, over all seeds, on the data of one setting and environment.

    Args:
        folders: the folders of the runs, by (algorithm, seed).
        overrides: the overrides of every run, without algorithm and seed.
    """

    setting: str
    env: str
    command: Command
    folders: Mapping[tuple[str, int], Path]
    overrides: tuple[str, ...]

    def runs(self) -> Iterator[tuple[Path, tuple[str, ...], int]]:
        """Yield each run's folder, overrides and seed."""
        for (algo, seed), folder in self.folders.items():
            yield folder, (*self.overrides, f"algo={algo}"), seed


@dataclass(frozen=True)
class PaperPlan:
    """The plan of all experiments, in order.

    Args:
        num_steps: the steps of a learner.
    """

    name: str
    agents: AgentSweep
    datasets: tuple[DataSet, ...]
    sweeps: tuple[LearnerSweep, ...]
    num_steps: int

    @property
    def num_learners(self) -> int:
        """The number of runs of all sweeps."""
        return sum(len(sweep.folders) for sweep in self.sweeps)

    @property
    def sweeps_left(self) -> list[LearnerSweep]:
        """The sweeps with steps left."""
        return [sweep for sweep in self.sweeps if self._seeds_left(sweep)]

    @property
    def datasets_left(self) -> list[DataSet]:
        """The data sets of learners with steps left, whether they exist or not."""
        own = {data.seed for data in self.datasets}  # 0 alone: all learn from one agent's data
        wanted = {
            (sweep.setting, sweep.env, seed if seed in own else 0)
            for sweep in self.sweeps
            for seed in self._seeds_left(sweep)
        }
        return [data for data in self.datasets if (data.setting, data.env, data.seed) in wanted]

    def _seeds_left(self, sweep: LearnerSweep) -> set[int]:
        folders = sweep.folders.items()
        return {seed for (_, seed), place in folders if steps_taken(place) < self.num_steps}

    @property
    def output(self) -> Path:
        """The folder of the results."""
        return Path("multirun", self.name)


def make_plan(cfg: DictConfig, launcher: Sequence[str], compose: Compose) -> PaperPlan:
    """Make the plan of a validated ``conf/paper.yaml``.

    Args:
        launcher: overrides of every sweep's launcher.
        compose: composes ``config`` and ``collect``.
    """
    settings = {s: compose("collect", (f"setting={s}", "id=x-v0")) for s in cfg.settings}
    agents = _agents(cfg, sorted({float(s.agent.noise_std) for s in settings.values()}), launcher)
    datasets: list[DataSet] = []
    sweeps: list[LearnerSweep] = []
    for env in cfg.envs:
        for name, setting in settings.items():
            made = list(_data(cfg, env, name, setting, agents, compose))
            datasets += made
            sweeps += _learners(cfg, env, name, made, launcher)
    num_steps = cfg.learner.num_steps
    return PaperPlan(cfg.name, agents, tuple(datasets), tuple(sweeps), num_steps)


def steps_taken(folder: Path) -> int:
    """Return the steps of a run from its summary."""
    summary = RunRecord(folder).summary()
    return 0 if summary is None else summary["step"]


def agent_seeds(cfg: DictConfig) -> range:
    """The seeds of an environment's agents, and so of its data sets in a setting."""
    return range(cfg.num_seeds if cfg.own_agents else 1)


def _agents(cfg: DictConfig, noises: Sequence[float], launcher: Sequence[str]) -> AgentSweep:
    name, seeds = f"{cfg.name}_agents", agent_seeds(cfg)
    command = Command(
        "bcq_exp",
        (
            "-m",
            f"name={name}",
            *launcher,
            *online_agent(
                **dict(cfg.agent),
                env=one_of(cfg.envs),
                noise_std=one_of(noises),
                seed=one_of(seeds),
            ),
        ),
    )
    folders = {
        (env, noise, seed): _run_folder(name, AGENT_KEYS, (env, noise, seed))
        for env in cfg.envs
        for noise in noises
        for seed in seeds
    }
    return AgentSweep(command, folders, cfg.agent.num_steps, dict(cfg.agent))


def _data(
    cfg: DictConfig,
    env: str,
    name: str,
    setting: DictConfig,
    agents: AgentSweep,
    compose: Compose,
) -> Iterator[DataSet]:
    """Plan the data sets of one setting in one environment, one for each agent."""
    num_steps = cfg.transitions[name]
    explorer = {**cfg.agent, "env": env, "noise_std": float(setting.agent.noise_std)}
    # names keep the default of earlier versions, which equals auto for the paper's actions
    agent = compose("config", (*online_agent(**explorer, seed=0), "policy.action_scaling=false"))
    learnt = identity(OmegaConf.to_container(agent, resolve=True))  # type: ignore[arg-type]
    recording = ("record", "noise_std", "random_action_prob")
    named = {re.sub(r"^online\.", "dataset.", key): value for key, value in learnt.items()}
    digest = _digest(
        agent=named | {"trainer.objective": "return_mean"},  # the keys in names of earlier versions
        agent_steps=cfg.agent.num_steps,
        num_steps=num_steps,
        **{key: setting[key] for key in recording},
    )
    for seed in agent_seeds(cfg):
        id = f"bcq_paper/{as_name(env)}/{name}-{digest}-s{seed}-v0"
        folder = agents.folders[env, float(setting.agent.noise_std), seed]
        arguments = (
            f"id={id}", f"setting={name}", "behaviour=run", f"run={folder}",
            f"num_steps={num_steps}", f"seed={seed}",
        )  # fmt: skip
        command = Command("bcq_exp.collect", arguments)
        record, is_noisy = setting.record, bool(setting.noise_std or setting.random_action_prob)
        itself = record == "policy" and not is_noisy
        yield DataSet(id, name, env, seed, num_steps, record, itself, folder, command)


def _learners(
    cfg: DictConfig, env: str, setting: str, made: Sequence[DataSet], launcher: Sequence[str]
) -> Iterator[LearnerSweep]:
    """Plan the sweeps over one setting's data, one for each protocol."""
    seeds = range(cfg.num_seeds)
    id = made[0].id.replace("-s0-v0", "-s${seed}-v0") if cfg.own_agents else made[0].id
    learner = cfg.learner
    protocol = [
        "dataset=minari",
        f"dataset.id={id}",
        "dataset.download=false",
        f"networks={learner.networks}",
        "trainer=paper",
        f"trainer.num_steps={learner.num_steps}",
        f"trainer.eval_every={learner.eval_every}",
        f"trainer.eval_episodes={learner.eval_episodes}",
        f"trainer.precision={learner.precision}",
        f"logger={learner.logger}",
    ]
    if setting == "concurrent":  # the learner's first step follows the agent's last random one
        protocol.append(f"trainer.concurrent_from={cfg.agent.start_steps}")
    for own in sorted({OWN_OVERRIDES.get(algo, ()) for algo in cfg.algorithms}):
        algorithms = [a for a in cfg.algorithms if OWN_OVERRIDES.get(a, ()) == own]
        name = "_".join((cfg.name, setting, as_name(env), *(algorithms if own else ())))
        overrides = (*protocol, *own)
        swept = (f"algo={one_of(algorithms)}", f"seed={one_of(seeds)}")
        yield LearnerSweep(
            setting,
            env,
            Command("bcq_exp", ("-m", f"name={name}", *launcher, *overrides, *swept)),
            {
                (algo, seed): _run_folder(name, ("algo", "seed"), (algo, seed))
                for algo in algorithms
                for seed in seeds
            },
            overrides,
        )


def _digest(**recipe: Any) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]


def _run_folder(sweep: str, keys: Sequence[str], values: Sequence[object]) -> Path:
    overrides = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
    folder = Path("multirun", sweep)
    return folder / RunNaming(tuple(keys)).continuing(folder).folder(overrides)
