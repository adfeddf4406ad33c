"""Environments of evaluations: find, make, compare, and normalize their returns."""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.spaces import Box, Discrete

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

# Mean returns of a random and of an expert policy, by environment name without version.
# MuJoCo: D4RL's published d4rl/infos.py. Pendulum: 100 episodes of each scripted behaviour,
# python -c "from bcq_exp.data.behaviour import *; import gymnasium as gym, numpy as np
# env = gym.make('Pendulum-v1')
# for b in (UniformRandom(env.action_space), swing_up):
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

_SPACES = ("obs_dim", "act_low", "act_high", "act_n", "act_start")
_DECISIVE = ("id", "entry_point", "kwargs", "max_episode_steps", "additional_wrappers")
_GONE_FIELDS = ("autoreset", "apply_api_compatibility")  # in specs written before Gymnasium 1.0

# for messages: how to have another environment than the one that a file names
_OF_DATA = "set dataset.env to 'module:id', or trainer.eval_episodes=0 to train without it"
_OF_RUN = "set env to 'module:id', or trust=true if you trust the run's folder"

# Wrappers of Gymnasium that leave returns as they are.
_SAME_RETURNS = (
    *("ClipAction", "RescaleAction", "NormalizeObservation", "DtypeObservation"),
    *("FilterObservation", "FlattenObservation", "FrameStackObservation", "RescaleObservation"),
    *("ReshapeObservation", "TimeAwareObservation", "OrderEnforcing", "PassiveEnvChecker"),
    "RecordEpisodeStatistics",
)
# Those that only map observations, actions and rewards or count steps; the others write files, open
# windows, or take functions.
_HARMLESS_WRAPPERS = (
    *_SAME_RETURNS,
    *("StickyAction", "RepeatAction", "ClipReward", "NormalizeReward", "DelayObservation"),
    "TimeLimit",
)
# Keyword arguments that leave returns as they are, by their beginnings.
_SAME_RETURNS_KWARGS = (
    "render_",
    "width",
    "height",
    "camera_",
    "default_camera_",
    "include_",
    "exclude_",
)


def same_environment(spec: EnvSpec, text: str) -> bool:
    """Whether a specification and another's text are of one task, in any version and wrappers."""
    try:
        other = _read_spec(spec.id, text)
    except DataError:
        return False
    names = [(each.namespace, each.name) for each in (spec, other)]
    return names[0] == names[1] and _same_settings(spec, other)


def reference_scores(spec: EnvSpec | None) -> tuple[float, float] | None:
    """(random, expert) mean returns known for an environment, else None.

    They are of the environment as it is registered: with other keyword arguments, another step
    limit or a wrapper that changes returns it has none.
    """
    if spec is None or spec.namespace is not None:  # another package's, of the same name
        return None
    known = gym.registry.get(spec.id)
    if known is not None and not same_task(spec, known):
        return None
    return REFERENCE_SCORES.get(spec.name)


def notes(spec: EnvSpec | None) -> Iterator[str]:
    """Report wrappers whose scale depends on what they have seen, in a line each."""
    adaptive = {"NormalizeReward": "rewards", "NormalizeObservation": "observations"}
    for wrapper in () if spec is None else spec.additional_wrappers:
        if what := adaptive.get(wrapper.name):
            yield (
                f"{wrapper.name} of the environment starts again at each evaluation, so {what} are "
                "not on the scale of the recorded ones"
            )


def same_task(one: EnvSpec, other: EnvSpec) -> bool:
    """Whether two specifications of one id have the same returns."""
    return _same_settings(one, other) and _plain_wrappers(one) == _plain_wrappers(other)


def _same_settings(one: EnvSpec, other: EnvSpec) -> bool:
    limits = {one.max_episode_steps, other.max_episode_steps} - {None}
    return len(limits) <= 1 and _plain_kwargs(one) == _plain_kwargs(other)


def _plain_kwargs(spec: EnvSpec) -> str:
    """The keyword arguments that affect returns, as text, in which tuples are lists."""
    kept = {k: v for k, v in spec.kwargs.items() if not k.startswith(_SAME_RETURNS_KWARGS)}
    return json.dumps(kept, sort_keys=True, default=_as_plain)


def _plain_wrappers(spec: EnvSpec) -> str:
    """The wrappers that affect returns, as text."""
    kept = [(w.name, w.kwargs) for w in spec.additional_wrappers if w.name not in _SAME_RETURNS]
    return json.dumps(kept, sort_keys=True, default=_as_plain)


def _as_plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def normalized_score(ret: float, scores: tuple[float, float] | None) -> float | None:
    """``ret`` on the scale random = 0, expert = 100; None where the scale is not known."""
    if scores is None:
        return None
    random, expert = scores
    return 100.0 * (ret - random) / (expert - random)


def guess_env(file_name: str) -> str | None:
    """The environment id an old D4RL file's name points to, else None."""
    known = (env for name, env in _FILE_NAMES.items() if re.match(name, file_name.lower()))
    return next(known, None)


def find_spec(source: str, env: str) -> EnvSpec:
    """The registered spec of ``env``: an id, or ``module:id`` to import the module first.

    Args:
        source: the data set's name, for messages; ``env`` itself where none names it.

    Raises:
        DataError: Gymnasium knows no such environment.
    """
    module, _, name = env.rpartition(":")
    try:
        if module.startswith("."):
            raise ImportError(f"{module!r} is a relative name")
        if module:
            importlib.import_module(module)
        return gym.spec(name)
    except (gym.error.Error, ImportError) as error:
        where, key = _named_by(source, env)
        raise DataError(
            f"{where}environment {env!r} is not registered with Gymnasium "
            f"({first_line(error).rstrip('.')}); set {key} to an id it knows, or to 'module:id'"
        ) from error


def parse_spec(source: str, text: str, *, trusted: bool = False, remedy: str = _OF_DATA) -> EnvSpec:
    """An EnvSpec from the JSON in a data set's metadata or a checkpoint.

    Unless it is ``trusted``, the text's entry points are ignored: the environment registered under
    its id is made, and only harmless wrappers of Gymnasium are applied. The same holds if the text
    has no entry point.

    Args:
        remedy: for messages, how to have another environment.

    Raises:
        DataError: the text is no environment specification, or its id is not registered.
    """
    spec = _read_spec(source, text)
    if trusted and spec.entry_point is not None:
        return spec
    if trusted and spec.id not in gym.registry:
        raise DataError(
            f"data set {source!r}: environment {spec.id!r} is not registered with Gymnasium, and "
            "its entry point was not stored; set env to 'module:id' to import the module first"
        )
    return _registered(source, spec, remedy)


def _read_spec(source: str, text: str) -> EnvSpec:
    """Parse a specification without changes.

    Raises:
        DataError: the text is invalid.
    """
    try:
        stored = json.loads(text)
        for field in _GONE_FIELDS:
            stored.pop(field, None)
        stored.setdefault("additional_wrappers", [])
        spec = EnvSpec.from_json(json.dumps(stored))
        dict(**spec.kwargs)  # not validated before
        return spec
    except (ValueError, TypeError, AttributeError, RecursionError, gym.error.Error) as error:
        raise DataError(
            f"data set {source!r}: its environment specification cannot be read "
            f"({first_line(error)}); set dataset.env to the environment's id, or "
            "trainer.eval_episodes=0 to train without it"
        ) from error


def _registered(source: str, spec: EnvSpec, remedy: str) -> EnvSpec:
    """Replace the code of an untrusted specification by registered code, without rendering.

    Raises:
        DataError: the environment is not registered, or a wrapper neither registered nor harmless.
    """
    known = gym.registry.get(spec.id)
    if known is None:
        raise _refused(source, f"environment {spec.id!r} is not registered with Gymnasium", remedy)
    return replace(
        spec,
        entry_point=known.entry_point,
        vector_entry_point=known.vector_entry_point,
        kwargs={key: value for key, value in spec.kwargs.items() if key != "render_mode"},
        additional_wrappers=tuple(
            wrapper if wrapper in known.additional_wrappers else _harmless(source, wrapper, remedy)
            for wrapper in spec.additional_wrappers
        ),
    )


def _harmless(source: str, wrapper: WrapperSpec, remedy: str = _OF_DATA) -> WrapperSpec:
    """Replace an untrusted wrapper by the present Gymnasium's.

    Raises:
        DataError: it is not Gymnasium's, or not one of the harmless ones.
    """
    module, _, name = str(wrapper.entry_point).partition(":")
    if f"{module}.".startswith("gymnasium.wrappers.") and name in _HARMLESS_WRAPPERS:
        return replace(wrapper, entry_point=f"gymnasium.wrappers:{name}")
    allowed = ", ".join(sorted(_HARMLESS_WRAPPERS))
    reason = f"wrapper {wrapper.entry_point!r} is not one of Gymnasium's {allowed}"
    raise _refused(source, reason, remedy)


def _refused(source: str, reason: str, remedy: str) -> DataError:
    return DataError(
        f"data set {source!r}: {reason}, and code named in a file is not run; {remedy}"
    )


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
        where, key = _named_by(source.rpartition(":")[2], spec.id)
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


def _named_by(source: str, env: str) -> tuple[str, str]:
    """For messages: the data set that names the environment, and the key that would."""
    if source == f"online/{env}":
        return "", "online.env"
    return ("", "env") if source == env else (f"data set {source!r}: ", "dataset.env")


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
    spec = _without_code(source, spec) if isinstance(spec, str) else spec
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


def importable(spec: EnvSpec) -> EnvSpec:
    """Return a specification that can be stored, without entry points that are classes.

    :func:`parse_spec` uses the registered ones instead.
    """
    entry, vector = (
        point if isinstance(point, str) else None
        for point in (spec.entry_point, spec.vector_entry_point)
    )
    return replace(spec, entry_point=entry, vector_entry_point=vector)


def _without_code(source: str, text: str) -> EnvSpec | None:
    """Remove entry points from an untrusted specification; None if it cannot be read."""
    try:
        spec = _read_spec(source, text)
        wrappers = tuple(_harmless(source, wrapper) for wrapper in spec.additional_wrappers)
    except DataError:
        return None
    return replace(spec, entry_point=None, vector_entry_point=None, additional_wrappers=wrappers)


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
    spec = parse_spec(source, state["spec"], trusted=trusted, remedy=_OF_RUN)
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
        "collect), "
        "or train without it (trainer.eval_episodes=0)"
    )


def env_name(env: gym.Env) -> str:
    """Return the id of an environment, else the name of its class."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _layout(leaves: tuple[Leaf, ...]) -> str:
    return ", ".join(f"{leaf.name} ({leaf.size})" for leaf in leaves)
