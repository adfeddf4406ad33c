"""A trained run's checkpoint as an agent that acts, without its data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box

from bcq_exp.config.identity import flattened, identity
from bcq_exp.config.naming import as_name
from bcq_exp.config.schema import TrainerConfig, source
from bcq_exp.data import environments
from bcq_exp.data.behaviour import Behaviour
from bcq_exp.data.environments import EnvMaker
from bcq_exp.data.spaces import ActionSpace
from bcq_exp.engine.memory import enough_memory
from bcq_exp.engine.placement import place
from bcq_exp.errors import UserError
from bcq_exp.files import as_json, write_atomically
from bcq_exp.ranges import DEVICE
from bcq_exp.training import checkpoint
from bcq_exp.training.algorithms import build_algorithm
from bcq_exp.training.evaluation import Agent, EpisodeResults, ObsNormalizer
from bcq_exp.training.folders import is_sweep
from bcq_exp.training.record import RunRecord, report_damage
from bcq_exp.training.spec import RunSpec

OURS = "bcq_exp.algorithm."


class TrainedRun(NamedTuple):
    """The newest checkpoint of a run, ready to act.

    Args:
        agent: the policy with its observation scaling.
        step: gradient steps taken.
        num_steps: gradient steps that the run takes in all.
        make_env: makes its environment.
        spaces: the flat observation and action spaces that it was trained with.
    """

    agent: Agent
    step: int
    num_steps: int
    make_env: EnvMaker
    spaces: tuple[Box, ActionSpace]

    @property
    def progress(self) -> str:
        """The steps taken, and whether more are to come."""
        unfinished = self.step != self.num_steps
        return f"{self.step}{f' of {self.num_steps}: the run is not finished' * unfinished}"

    def env_maker(self, env: str | None) -> EnvMaker:
        """Return a maker of another environment of the same spaces, by id; of its own for None."""
        if env is None:
            return self.make_env

        def make(**kwargs: Any) -> gym.Env:
            made = environments.make(env, **kwargs)
            environments.check_acts_in(made, *self.spaces)
            return made

        return make


def load_run(
    folder: str | Path,
    device: str | torch.device = "auto",
    *,
    trusted: bool = False,
    config: Mapping[str, Any] | None = None,
) -> TrainedRun:
    """Load the agent of a run's newest checkpoint and the maker of its environment.

    Args:
        trusted: whether the checkpoint may name code outside bcq_exp and Gymnasium.
        config: the user's config; if its identity matches, the checkpoint's code is trusted.

    Raises:
        UserError: if there is no readable checkpoint, no such device, it names such code, or learns
            something else than ``config``; or if memory runs out.
    """
    device = str(device)
    if device not in DEVICE:
        raise UserError(f"device={device}: must be {DEVICE}")
    memory = enough_memory("use another device, or end other programs")
    # damage is reported too where tensors do not fit the checkpoint's own configuration
    with memory, report_damage(RunRecord(Path(folder)).checkpoint):
        saved = _checkpoint(folder)
        if config is not None and identity(saved["config"]) != identity(config):
            raise UserError(f"{folder}: its checkpoint.pt belongs to another configuration")
        if not trusted and config is None:
            _check_names_only_ours(saved["config"], f"run={folder}")
        spec = RunSpec(saved["config"], Path(folder))
        placement = place(_to_act(spec.trainer, device), spec.algorithm.hidden_sizes)
        spaces = environments.spaces_of_state(saved["environment"])
        algorithm = build_algorithm(spec.algorithm, *spaces, placement, checks=False)
        algorithm.load_state_dict(saved["engine"]["algorithm"])
        scaling = saved["normalization"]
        normalizer = ObsNormalizer.from_state_dict(scaling) if scaling is not None else None
        agent = Agent.of(algorithm, normalizer)
        num_steps = spec.trainer.num_steps
        return TrainedRun(agent, saved["step"], num_steps, _env_maker(saved, trusted), spaces)


def _to_act(trainer: TrainerConfig, device: str) -> TrainerConfig:
    """The settings of a run on a device that may lack its executor or its kind of products."""
    precision = "fp32" if trainer.precision == "tf32" else trainer.precision
    return replace(trainer, device=device, engine="auto", precision=precision)


def load_policy(
    folder: str | Path, device: str | torch.device = "auto", *, trusted: bool = False
) -> Agent:
    """Load a policy that acts on the environment's observations: ``load_policy(f).predict(obs)``.

    Args:
        folder: the folder of the run.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or torch's own object.
        trusted: whether the checkpoint may name code outside bcq_exp and Gymnasium.

    Raises:
        UserError: as :func:`load_run` does.
    """
    return load_run(folder, device, trusted=trusted).agent


def _check_names_only_ours(config: Mapping[str, Any], where: str) -> None:
    """Refuse a stored configuration that names third-party code, which loading would run.

    Each node may have one ``_target_``, of :mod:`bcq_exp.algorithm`; the nodes of data set and
    trainer are not instantiated.

    Raises:
        UserError: for any other target, for other keys that Hydra acts on, and for
            interpolations, which call functions.
    """
    for key, value in flattened(config):
        node, _, name = key.rpartition(".")
        if node.partition(".")[0] in ("dataset", "online"):
            continue
        if name == "_target_" and node and "." not in node:
            is_fine = _is_ours(str(value))
        else:
            is_fine = not (_is_special(name) or _runs_code(value))
        if not is_fine:
            raise UserError(
                f"{where}: its checkpoint names {key}={value}, which is not part of bcq_exp; give "
                "trust=true (in Python trusted=True) if you trust the source of the folder"
            )


def _is_ours(path: str) -> bool:
    """Whether a path names a class defined in an algorithm's module, not one imported there."""
    if not path.startswith(OURS):
        return False
    try:
        found = resolve_name(path)
    except (ImportError, AttributeError, ValueError):
        return False
    return isinstance(found, type) and found.__module__.startswith(OURS)


def _is_special(text: str) -> bool:
    return len(text) > 2 and text[0] == text[-1] == "_"


def _runs_code(value: Any) -> bool:
    """Whether Hydra or OmegaConf would act on a value, or on anything in it."""
    if isinstance(value, Mapping):
        return any(_runs_code(x) for pair in value.items() for x in pair)
    if isinstance(value, list | tuple):
        return any(map(_runs_code, value))
    return isinstance(value, str) and (_is_special(value) or "${" in value)


def _env_maker(saved: checkpoint.Checkpoint, trusted: bool) -> EnvMaker:
    named = str(source(saved["config"]).get("env"))
    env = named if ":" in named else None
    return partial(environments.from_state, saved["environment"], trusted=trusted, env=env)


def load_collected(
    folder: str | Path, num_steps: int | None = None, *, trusted: bool = False
) -> tuple[dict[str, np.ndarray], EnvMaker, int]:
    """Load the steps that a run with ``online=explore`` took, its environment's maker and its step.

    Raises:
        UserError: if there is no readable checkpoint, or its run did not collect as many.
    """
    saved = _checkpoint(folder)
    if "collected" not in saved["engine"]:
        raise UserError(f"run={folder}: collected no data; give a run with online=explore")
    if saved["step"] < (num_steps or 0):
        raise UserError(
            f"num_steps={num_steps}: must be at most the {saved['step']} steps of the run in "
            f"{folder}"
        )
    collected = saved["engine"]["collected"].items()
    steps = {name: values[:num_steps].numpy() for name, values in collected}
    return steps, _env_maker(saved, trusted), saved["step"]


def origin(folder: str | Path) -> dict[str, Any]:
    """Return the provenance of a run's agent: command, configuration, seed, versions, commit.

    Raises:
        UserError: if the folder holds no run.
    """
    summary = RunRecord(Path(folder)).summary()
    if summary is None:
        raise UserError(f"run={folder}: contains no summary.json; give the folder of a trained run")
    names = ("algorithm", "command", "seed", "config_hash", "versions", "git_commit", "config")
    return {name: summary[name] for name in names}


def as_behaviour(agent: Agent, seed: int) -> Behaviour:
    """The agent as a policy that collects: one observation (O,) in, one action (A,) out."""
    generator = torch.Generator().manual_seed(seed)

    def behave(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return agent.act(obs[None], generator)[0]

    return behave


def save_evaluation(
    folder: str | Path, step: int, seed: int, results: EpisodeResults, env: str | None = None
) -> Path:
    """Write every episode of an evaluation at a step to the run's folder; return the path.

    ``env`` is the id of the environment, where it is not the run's own.
    """
    place = "" if env is None else f"_in_{as_name(env)}"
    path = Path(folder) / f"evaluation_{len(results.returns)}_episodes_seed_{seed}{place}.json"
    content = {
        "step": step,
        "env": env,
        "seed": seed,
        "return_mean": results.return_mean,
        "return_std": results.return_std,
        "length_mean": results.length_mean,
        "returns": results.returns.tolist(),
        "lengths": results.lengths.tolist(),
    }
    write_atomically(path, as_json(content))
    return path


def _checkpoint(folder: str | Path) -> checkpoint.Checkpoint:
    found = checkpoint.newest(RunRecord(Path(folder)))
    if found is not None:
        return found
    if Path(folder).is_file():
        raise UserError(f"run={folder}: is a file; give the folder of a run, {Path(folder).parent}")
    if is_sweep(Path(folder)):
        raise UserError(f"run={folder}: is a sweep; give the folder of one of its runs")
    raise UserError(f"run={folder}: contains no checkpoint.pt; give the folder of a trained run")
