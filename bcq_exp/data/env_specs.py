"""Specifications of environments: by id, or from the text in a file, whose code is not run."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from bcq_exp.data.transitions import DataError
from bcq_exp.errors import first_line

# First word of a D4RL file's name -> environment. An Ant maze is another environment than Ant.
_FILE_NAMES = {
    r"hopper(?![a-z])": "Hopper-v5",
    r"halfcheetah(?![a-z])": "HalfCheetah-v5",
    r"walker2d(?![a-z])": "Walker2d-v5",
    r"ant(?![a-z]|[-_]?maze)": "Ant-v5",
    r"pendulum(?![a-z])": "Pendulum-v1",
}

_GONE_FIELDS = ("autoreset", "apply_api_compatibility")  # in specs written before Gymnasium 1.0

# for messages: how to have another environment than the one that a file names
_OF_DATA = "set dataset.env to 'module:id', or trainer.eval_episodes=0 to train without it"
OF_RUN = "set env to 'module:id', or trust=true if you trust the run's folder"

# Wrappers of Gymnasium that leave returns as they are.
SAME_RETURNS = (
    *("ClipAction", "RescaleAction", "NormalizeObservation", "DtypeObservation"),
    *("FilterObservation", "FlattenObservation", "FrameStackObservation", "RescaleObservation"),
    *("ReshapeObservation", "TimeAwareObservation", "OrderEnforcing", "PassiveEnvChecker"),
    "RecordEpisodeStatistics",
)
# Those that only map observations, actions and rewards or count steps; the others write files, open
# windows, or take functions.
_HARMLESS_WRAPPERS = (
    *SAME_RETURNS,
    *("StickyAction", "RepeatAction", "ClipReward", "NormalizeReward", "DelayObservation"),
    "TimeLimit",
)


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
        where, key = named_by(source, env)
        raise DataError(
            f"{where}environment {env!r} is not registered with Gymnasium "
            f"({first_line(error).rstrip('.')}); set {key} to an id it knows, or to 'module:id'"
        ) from error


def guess_env(file_name: str) -> str | None:
    """The environment id an old D4RL file's name points to, else None."""
    known = (env for name, env in _FILE_NAMES.items() if re.match(name, file_name.lower()))
    return next(known, None)


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
    spec = read_spec(source, text)
    if trusted and spec.entry_point is not None:
        return spec
    if trusted and spec.id not in gym.registry:
        raise DataError(
            f"data set {source!r}: environment {spec.id!r} is not registered with Gymnasium, and "
            "its entry point was not stored; set env to 'module:id' to import the module first"
        )
    return _registered(source, spec, remedy)


def read_spec(source: str, text: str) -> EnvSpec:
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


def importable(spec: EnvSpec) -> EnvSpec:
    """Return a specification that can be stored, without entry points that are classes.

    :func:`parse_spec` uses the registered ones instead.
    """
    entry, vector = (
        point if isinstance(point, str) else None
        for point in (spec.entry_point, spec.vector_entry_point)
    )
    return replace(spec, entry_point=entry, vector_entry_point=vector)


def without_code(source: str, text: str) -> EnvSpec | None:
    """Remove entry points from an untrusted specification; None if it cannot be read."""
    try:
        spec = read_spec(source, text)
        wrappers = tuple(_harmless(source, wrapper) for wrapper in spec.additional_wrappers)
    except DataError:
        return None
    return replace(spec, entry_point=None, vector_entry_point=None, additional_wrappers=wrappers)


def named_by(source: str, env: str) -> tuple[str, str]:
    """For messages: the data set that names the environment, and the key that would."""
    if source == f"online/{env}":
        return "", "online.env"
    return ("", "env") if source == env else (f"data set {source!r}: ", "dataset.env")
