"""Environments of evaluations: make them, store them, and compare their spaces."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete

from bcq_exp.data.env_specs import (
    OF_RUN,
    find_spec,
    importable,
    named_by,
    parse_spec,
    without_code,
)
from bcq_exp.data.spaces import (
    ActionSpace,
    Leaf,
    check_action_space,
    observation_leaves,
    space_facts,
    space_of,
)
from bcq_exp.data.transitions import DataError
from bcq_exp.errors import first_line

EnvMaker = Callable[..., gym.Env]
"""Makes an environment with flat observations; keyword arguments are for ``gym.make``."""

_SPACES = ("obs_dim", "act_low", "act_high", "act_n", "act_start")
_DECISIVE = ("id", "entry_point", "kwargs", "max_episode_steps", "additional_wrappers")


def make_raw(source: str, spec: EnvSpec | None, **kwargs: Any) -> gym.Env:
    """Make an environment with its own, unflattened observations.

    Raises:
        DataError: the spec is missing, or Gymnasium cannot make it (missing package, wrong kwargs).
    """
    if spec is None:
        raise DataError(
            f"data set {source!r} names no environment; set dataset.env to a Gymnasium id, or "
            "trainer.eval_episodes=0 to train without one"
        )
    try:
        return gym.make(spec, **kwargs)
    except Exception as error:  # any error of the environment's constructor
        where, key = named_by(source.rpartition(":")[2], spec.id)
        raise DataError(
            f"{where}environment {spec.id!r} cannot be made "
            f"({type(error).__name__}: {first_line(error)}); install what it needs or set "
            f"{key} to another"
        ) from error


def spaces_of(source: str, spec: EnvSpec | None) -> tuple[gym.Space, gym.Space]:
    """The observation and action spaces of an environment, which is made for that and closed.

    Raises:
        DataError: as :func:`make_raw`.
    """
    env = make_raw(source, spec)
    spaces = env.observation_space, env.action_space
    env.close()
    return spaces


def flatten_env(env: gym.Env) -> gym.Env:
    """``env`` with flat observation vectors; unchanged where they are flat already."""
    space = env.observation_space
    if isinstance(space, Box) and len(space.shape) == 1:
        return env
    return gym.wrappers.FlattenObservation(env)


def to_state(
    source: str,
    spec: EnvSpec | str | None,
    observation_space: Box,
    action_space: ActionSpace,
) -> dict[str, Any]:
    """An environment and its flat spaces in plain values, for a checkpoint.

    Args:
        spec: text if it is a data set's, of code that is not registered here. Such code is not
            stored: it must be registered to make the environment.
    """
    spec = without_code(source, spec) if isinstance(spec, str) else spec
    try:
        text = None if spec is None else importable(spec).to_json()
    except (TypeError, ValueError):  # a function among its keyword arguments
        text = None
    actions = {f"act_{name}": value for name, value in space_facts(action_space).items()}
    return {"source": source, "spec": text, "obs_dim": int(observation_space.shape[0]), **actions}


def decisive(state: dict[str, Any]) -> dict[str, Any]:
    """Return the values that affect episodes of an environment as :func:`to_state` stores it.

    Those of its specification are left out where none is stored.
    """
    values = {name: state.get(name) for name in _SPACES}
    if state["spec"] is not None:
        spec = json.loads(state["spec"])
        values |= {name: spec.get(name) for name in _DECISIVE}
    return values


def from_state(
    state: dict[str, Any], *, trusted: bool = False, env: str | None = None, **kwargs: Any
) -> gym.Env:
    """Make the environment of :func:`to_state`, with flat observations.

    Args:
        trusted: whether the state may name any code.
        env: ``module:id`` if the run's configuration has that; if trusted, the module is imported,
            which registers the environment.
        kwargs: keyword arguments of ``gym.make``.

    Raises:
        DataError: no environment was stored, it cannot be made here, or it has changed.
    """
    source = state["source"]
    if trusted and env is not None:
        find_spec(source, env)
    if state["spec"] is None:
        raise DataError(
            f"data set {source!r}: no environment is stored with the run; give env=ID or "
            "env=module:ID"
        )
    spec = parse_spec(source, state["spec"], trusted=trusted, remedy=OF_RUN)
    made = flatten_env(make_raw(source, spec, **kwargs))
    check_acts_in(made, *spaces_of_state(state))
    return made


def make(env: str, **kwargs: Any) -> gym.Env:
    """Make an environment by its id, with flat observations.

    Raises:
        DataError: Gymnasium does not know the id, or cannot make it.
    """
    return flatten_env(make_raw(env, find_spec(env, env), **kwargs))


def spaces_of_state(state: dict[str, Any]) -> tuple[Box, ActionSpace]:
    """The flat observation and action spaces of :func:`to_state`."""
    observation_space = Box(-np.inf, np.inf, (state["obs_dim"],), np.float32)
    actions = {k.removeprefix("act_"): v for k, v in state.items() if k.startswith("act_")}
    return observation_space, space_of(actions)


def check_acts_in(env: gym.Env, observation_space: Box, action_space: ActionSpace) -> None:
    """Refuse a flat environment whose spaces differ from the agent's.

    Raises:
        DataError: naming both sizes.
    """
    if env.observation_space.shape == observation_space.shape and _same(
        env.action_space, action_space
    ):
        return
    raise DataError(
        f"environment {env_name(env)!r} has observations {env.observation_space.shape} and actions "
        f"{env.action_space}; the agent was trained with {observation_space.shape} and "
        f"{action_space}"
    )


def _same(space: gym.Space, other: ActionSpace) -> bool:
    if isinstance(other, Discrete):
        return isinstance(space, Discrete) and (space.n, space.start) == (other.n, other.start)
    return (
        isinstance(space, Box)
        and space.shape == other.shape
        and np.allclose(space.low, other.low)
        and np.allclose(space.high, other.high)
    )


def check_fit(
    source: str, env: gym.Env, leaves: tuple[Leaf, ...], action_space: ActionSpace
) -> None:
    """Refuse an environment in which a policy learned from the data could not be run.

    Args:
        source: the data set's name, for messages.
        env: the environment, observations not yet flattened.
        leaves: parts and order of the data's flat observations.
        action_space: the data's action space.

    Raises:
        DataError: other observation parts, sizes or order, or another action space.
    """
    name = env_name(env)
    found = observation_leaves(source, env.observation_space)
    if found != leaves:
        raise DataError(
            f"data set {source!r}: observations are {_layout(leaves)}, but environment {name!r} "
            f"gives {_layout(found)}; set dataset.env to one that fits"
        )
    space = check_action_space(source, env.action_space)
    if not _same(space, action_space):
        raise DataError(
            f"data set {source!r}: its actions are {action_space}, but environment {name!r} "
            f"takes {space}; set dataset.env to one that fits"
        )


def check_ends(env: gym.Env) -> None:
    """Refuse an environment without step limit where whole episodes are needed.

    Raises:
        DataError: naming it.
    """
    wrapped = env
    while isinstance(wrapped, gym.Wrapper):
        if isinstance(wrapped, gym.wrappers.TimeLimit):
            return
        wrapped = wrapped.env
    raise DataError(
        f"environment {env_name(env)!r} has no step limit, so an episode may never end; register "
        "it with max_episode_steps and give its id (dataset.env, online.env; env in evaluate and "
        "collect), or train without it (trainer.eval_episodes=0)"
    )


def env_name(env: gym.Env) -> str:
    """Return the id of an environment, else the name of its class."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _layout(leaves: tuple[Leaf, ...]) -> str:
    return ", ".join(f"{leaf.name} ({leaf.size})" for leaf in leaves)
