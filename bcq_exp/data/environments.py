"""Environments: finding, making and scoring the one a data set is evaluated in."""

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from bcq_exp.data.spaces import Leaf, check_action_space, observation_leaves
from bcq_exp.data.transitions import DataError
from bcq_exp.errors import first_line

EnvMaker = Callable[..., gym.Env]
"""Makes an environment with flat observations; keyword arguments are for ``gym.make``."""

# Mean returns of a random and of an expert policy, by environment name without version.
# MuJoCo: D4RL's published d4rl/infos.py. Pendulum: 100 episodes each of our own behaviours,
# python -c "from bcq_exp.data.behaviour import *; import gymnasium as gym, numpy as np
# env = gym.make('Pendulum-v1')
# for b in (UniformRandom(env.action_space), ScriptedPendulum()):
#     print(np.mean([sum(e.rewards) for e in collect(env, b, num_steps=20_000, seed=0)]))"
REFERENCE_SCORES: dict[str, tuple[float, float]] = {
    "Hopper": (-20.272305, 3234.3),
    "HalfCheetah": (-280.178953, 12135.0),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
    "Pendulum": (-1196.757, -150.479),
}

# First word of a D4RL file's name -> environment. An Ant maze is another environment than Ant.
_FILE_NAMES = {
    r"hopper(?![a-z])": "Hopper-v5",
    r"halfcheetah(?![a-z])": "HalfCheetah-v5",
    r"walker2d(?![a-z])": "Walker2d-v5",
    r"ant(?![a-z]|[-_]?maze)": "Ant-v5",
    r"pendulum(?![a-z])": "Pendulum-v1",
}

_GONE_FIELDS = ("autoreset", "apply_api_compatibility")  # in specs written before Gymnasium 1.0


def reference_scores(spec: EnvSpec | None) -> tuple[float, float] | None:
    """(random, expert) mean returns known for an environment, else None."""
    if spec is None or spec.namespace is not None:  # a stranger's of the same name
        return None
    return REFERENCE_SCORES.get(spec.name)


def normalized_score(ret: float, scores: tuple[float, float] | None) -> float | None:
    """``ret`` on the scale random = 0, expert = 100; None where the scale is not known."""
    if scores is None:
        return None
    random, expert = scores
    return 100.0 * (ret - random) / (expert - random)


def guess_env(file_name: str) -> str | None:
    """The environment id an old D4RL file's name points to, else None."""
    for pattern, env in _FILE_NAMES.items():
        if re.match(pattern, file_name.lower()):
            return env
    return None


def find_spec(source: str, env: str) -> EnvSpec:
    """The registered spec of ``env``: an id, or ``module:id`` to import the module first.

    Raises:
        DataError: Gymnasium knows no such environment.
    """
    module, _, name = env.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gym.spec(name)
    except (gym.error.Error, ImportError) as error:
        raise DataError(
            f"data set {source!r}: environment {env!r} is not registered with Gymnasium "
            f"({first_line(error)}); set dataset.env to an id it knows, or to 'module:id'"
        ) from error


def parse_spec(source: str, text: str, *, trusted: bool = False) -> EnvSpec:
    """An EnvSpec from the JSON in a data set's metadata or a checkpoint.

    Unless it is ``trusted``, the code that it runs is not its own: the environment is the
    registered one of its id, whatever entry point the text has, and its wrappers are Gymnasium's.

    Raises:
        DataError: text that is no environment specification, or of code that is not registered.
    """
    try:
        stored = json.loads(text)
        for field in _GONE_FIELDS:
            stored.pop(field, None)
        stored.setdefault("additional_wrappers", [])
        spec = EnvSpec.from_json(json.dumps(stored))
    except (ValueError, TypeError, AttributeError, RecursionError, gym.error.Error) as error:
        raise DataError(
            f"data set {source!r}: its environment specification cannot be read "
            f"({first_line(error)}); set dataset.env to the environment's id"
        ) from error

    return spec if trusted else _registered(source, spec)


def _registered(source: str, spec: EnvSpec) -> EnvSpec:
    """A stranger's specification with the entry points that this process knows."""
    known = gym.registry.get(spec.id)
    foreign = [
        wrapper.entry_point
        for wrapper in spec.additional_wrappers
        if not str(wrapper.entry_point).startswith("gymnasium.wrappers.")
    ]
    if known is None or foreign:
        what = f"wrapper {foreign[0]!r}" if foreign else f"environment {spec.id!r}"
        raise DataError(
            f"data set {source!r}: {what} is not one that Gymnasium has registered, and code that "
            "a file names is not run; set dataset.env to 'module:id', or trust=true for a run's "
            "folder that you trust"
        )
    return replace(spec, entry_point=known.entry_point, vector_entry_point=known.vector_entry_point)


def make_raw(source: str, spec: EnvSpec | None, **kwargs: Any) -> gym.Env:
    """``gym.make`` with the observations as the environment gives them.

    Raises:
        DataError: there is no spec, or Gymnasium cannot make it (missing package, wrong kwargs).
    """
    if spec is None:
        raise DataError(
            f"data set {source!r} names no environment; set dataset.env to a Gymnasium id"
        )
    try:
        return gym.make(spec, **kwargs)
    except Exception as error:  # whatever the environment's own constructor may raise
        raise DataError(
            f"data set {source!r}: environment {spec.id!r} cannot be made "
            f"({type(error).__name__}: {first_line(error)}); install what it needs or set "
            "dataset.env to another"
        ) from error


def flatten_env(env: gym.Env) -> gym.Env:
    """``env`` with flat observation vectors; unchanged where they are flat already."""
    space = env.observation_space
    if isinstance(space, Box) and len(space.shape) == 1:
        return env
    return gym.wrappers.FlattenObservation(env)


def to_state(
    source: str, spec: EnvSpec | None, observation_space: Box, action_space: Box
) -> dict[str, Any]:
    """An environment and its flat spaces in plain values, for a checkpoint.

    ``spec`` is None in it where Gymnasium cannot write the specification down (an entry point that
    is a function of somebody's session).
    """
    try:
        text = spec.to_json() if spec is not None else None
    except ValueError:
        text = None
    return {
        "source": source,
        "spec": text,
        "obs_dim": int(observation_space.shape[0]),
        "act_low": action_space.low.tolist(),
        "act_high": action_space.high.tolist(),
    }


def spec_of_state(state: dict[str, Any], *, trusted: bool = False) -> EnvSpec:
    """The specification in :func:`to_state`'s values, as :func:`parse_spec` reads it.

    Raises:
        DataError: none was written down, or it is of code that is not registered.
    """
    if state["spec"] is None:
        raise DataError(f"data set {state['source']!r}: its environment could not be written down")
    return parse_spec(state["source"], state["spec"], trusted=trusted)


def from_state(state: dict[str, Any], *, trusted: bool = False, **kwargs: Any) -> gym.Env:
    """The environment of :func:`to_state`, with flat observations; ``kwargs`` for ``gym.make``.

    Raises:
        DataError: no environment was written down, it cannot be made here, or it is another now.
    """
    spec = spec_of_state(state, trusted=trusted)
    env = flatten_env(make_raw(state["source"], spec, **kwargs))
    check_acts_in(env, *spaces_of_state(state))
    return env


def make(env: str, **kwargs: Any) -> gym.Env:
    """An environment by its id, with flat observations.

    Raises:
        DataError: Gymnasium knows none of this id, or cannot make it.
    """
    return flatten_env(make_raw(env, find_spec(env, env), **kwargs))


def spaces_of_state(state: dict[str, Any]) -> tuple[Box, Box]:
    """The flat observation and action spaces of :func:`to_state`."""
    low, high = (np.asarray(state[name], dtype=np.float32) for name in ("act_low", "act_high"))
    return Box(-np.inf, np.inf, (state["obs_dim"],), np.float32), Box(low, high)


def check_acts_in(env: gym.Env, observation_space: Box, action_space: Box) -> None:
    """Refuse an environment, flat, for an agent of other flat spaces.

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


def _same(space: gym.Space, other: Box) -> bool:
    return (
        isinstance(space, Box)
        and space.shape == other.shape
        and np.allclose(space.low, other.low)
        and np.allclose(space.high, other.high)
    )


def check_fit(source: str, env: gym.Env, leaves: tuple[Leaf, ...], action_space: Box) -> None:
    """Refuse an environment in which a policy learned from the data could not be run.

    Args:
        source: the data set's name, for messages.
        env: the environment, observations not yet flattened.
        leaves: parts and order of the data's flat observations.
        action_space: the data's action space ``(A,)``.

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
    """Refuse an environment of which whole episodes are wanted and that has no step limit.

    Raises:
        DataError: naming it.
    """
    wrapped = env
    while isinstance(wrapped, gym.Wrapper):
        if isinstance(wrapped, gym.wrappers.TimeLimit):
            return
        wrapped = wrapped.env
    raise DataError(
        f"environment {env_name(env)!r} has no step limit, and an episode may never end; register "
        "it with max_episode_steps and give its id as dataset.env, or train with "
        "trainer.eval_episodes=0"
    )


def env_name(env: gym.Env) -> str:
    """The id it was made from, else the name of its class."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _layout(leaves: tuple[Leaf, ...]) -> str:
    return ", ".join(f"{leaf.name} ({leaf.size})" for leaf in leaves)
