"""Reading a Minari data set's folder into a :class:`Contents`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from bcq_exp.data.contents import Contents, episode_sums
from bcq_exp.data.env_specs import parse_spec
from bcq_exp.data.environments import spaces_of
from bcq_exp.data.resolution import Resolution
from bcq_exp.data.spaces import (
    ActionSpace,
    Leaf,
    act_size,
    check_action_space,
    flat_box,
    observation_leaves,
)
from bcq_exp.data.transitions import DataError, Transitions, content_hash
from bcq_exp.data.validation import (
    as_flags,
    check_ends,
    check_numbers,
    check_same_length,
    check_width,
    place,
    readable,
    validated,
)

_ARRAYS = {  # besides observations
    "act": "actions",
    "rew": "rewards",
    "terminated": "terminations",
    "truncated": "truncations",
}
_AGAIN = "; delete the data set, then download or record it again"


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A data set on disk, its spaces already known to be usable."""

    name: str
    folder: Path
    num_episodes: int
    leaves: tuple[Leaf, ...]
    observation_space: Box
    action_space: ActionSpace
    resolution: Resolution


def read_minari(name: str, folder: Path, clips_actions: bool = False) -> Contents:
    """Read and validate the ``data`` folder of a Minari data set.

    HDF5 is read directly, episode by episode, into arrays of the final size; other storage
    formats are read through Minari's slower episode objects.

    Args:
        name: the data set's id, for messages.
        folder: its ``data`` folder, with ``metadata.json``.
        clips_actions: whether actions beyond their bounds are clipped, not refused.

    Raises:
        DataError: metadata or storage that cannot be read or contradict each other, spaces BCQ
            cannot use, or data that :func:`_assemble` or :func:`validated` refuses.
    """
    with readable(name, folder / "metadata.json", "is missing or damaged", _AGAIN):
        metadata = json.loads((folder / "metadata.json").read_bytes())
        if not isinstance(metadata, dict):
            raise ValueError("not a JSON object")
        observation_space, action_space = _spaces(name, metadata)
        leaves = observation_leaves(name, observation_space)
        source = _Source(
            name=name,
            folder=folder,
            num_episodes=_count(name, metadata, "total_episodes"),
            leaves=leaves,
            observation_space=flat_box(observation_space),
            action_space=check_action_space(name, action_space),
            resolution=Resolution(),
        )
        scores, notes = _reference_scores(name, metadata)
    read = _read_hdf5 if metadata.get("data_format", "hdf5") == "hdf5" else _read_any
    with readable(name, folder, "is missing or damaged", _AGAIN):
        transitions, lengths = read(source)
    if "total_steps" in metadata:
        _check_total(name, "steps", _count(name, metadata, "total_steps"), int(lengths.sum()))
    transitions = validated(
        name,
        transitions,
        source.observation_space,
        source.action_space,
        lengths,
        "correct the values, or the space in metadata.json",
        clips_actions=clips_actions,
    )
    lengths = lengths[lengths > 0]
    return Contents(
        transitions=transitions,
        observation_space=source.observation_space,
        action_space=source.action_space,
        leaves=leaves,
        episode_lengths=lengths,
        episode_rows=lengths,
        episode_returns=episode_sums(transitions.rew, lengths),
        env_text=spec_text(metadata),
        reference_scores=scores,
        content_hash=content_hash(transitions),
        notes=(*source.resolution.notes(), *notes),
    )


def _spaces(name: str, metadata: dict[str, Any]) -> tuple[gym.Space, gym.Space]:
    """Return (observation, action) space; from the environment if Minari stored none."""
    from minari.serialization import deserialize_space

    stored = [metadata.get(key) for key in ("observation_space", "action_space")]
    if None not in stored:
        return deserialize_space(stored[0]), deserialize_space(stored[1])
    text = spec_text(metadata)
    return spaces_of(name, None if text is None else parse_spec(name, text))


def spec_text(metadata: dict[str, Any]) -> str | None:
    """Return the evaluation environment's text; by default that of the collection."""
    return metadata.get("eval_env_spec") or metadata.get("env_spec")


def _count(name: str, metadata: dict[str, Any], key: str) -> int:
    count = metadata[key]
    if type(count) is not int or count < 0:
        raise DataError(
            f"data set {name!r}: {key} in its metadata.json is {count!r}; it must be a whole number"
        )
    return count


def _check_total(name: str, what: str, stated: int, found: int) -> None:
    """Raise DataError where a file holds more or less than the metadata state."""
    if stated != found:
        raise DataError(
            f"data set {name!r}: its metadata.json states {stated} {what}, its data have {found}; "
            f"correct total_{what} if the data are complete, else download or record it again"
        )


def _reference_scores(
    name: str, metadata: dict[str, Any]
) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Return the (random, expert) returns, where the first is the lower one, and notes."""
    keys = ("ref_min_score", "ref_max_score")
    low, high = (metadata.get(key) for key in keys)
    if low is None or high is None:
        alone = [key for key in keys if metadata.get(key) is not None]
        needed = "is not used; a normalized score needs " + " and ".join(keys)
        return None, tuple(f"{key} alone in its metadata.json {needed}" for key in alone)
    if not ({type(low), type(high)} <= {int, float} and -inf < low < high < inf):
        raise DataError(
            f"data set {name!r}: ref_min_score={low!r}, ref_max_score={high!r} in its "
            "metadata.json; they must be finite numbers, the first below the second, or be absent"
        )
    return (float(low), float(high)), ()


def _read_hdf5(source: _Source) -> tuple[Transitions, np.ndarray]:
    """Read (transitions, episode lengths) directly from ``main_data.hdf5``."""
    import h5py

    with h5py.File(source.folder / "main_data.hdf5", "r") as file:
        _bound_memory(file)
        found = sum(key.startswith("episode_") for key in file)
        _check_total(source.name, "episodes", source.num_episodes, found)
        keys = [f"episode_{index}" for index in range(source.num_episodes)]
        lengths = np.array([_open(file, f"{key}/rewards").shape[0] for key in keys], np.int64)
        leaves = [
            "/".join(f"_index_{key}" if isinstance(key, int) else key for key in leaf.path)
            for leaf in source.leaves
        ]
        recorded = (
            (
                [_read(file, f"{key}/observations/{leaf}".rstrip("/")) for leaf in leaves],
                {name: _read(file, f"{key}/{array}") for name, array in _ARRAYS.items()},
            )
            for key in keys
        )
        return _assemble(source, lengths, recorded), lengths


def _bound_memory(file: Any) -> None:
    """Keep HDF5's cache of object headers small; it would grow by 200 MB without use."""
    config = file.id.get_mdc_config()
    config.set_initial_size = True
    config.min_size = config.initial_size = 1 << 20
    config.max_size = 2 << 20
    file.id.set_mdc_config(config)


def _open(file: Any, path: str) -> Any:
    # h5py's low level, because its usual interface takes twice as long for many short episodes.
    import h5py

    return h5py.h5d.open(file.id, path.encode())


def _read(file: Any, path: str) -> np.ndarray:
    """Read an array of the file."""
    import h5py

    stored = _open(file, path)
    array = np.empty(stored.shape, stored.dtype)
    stored.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array


def _read_any(source: _Source) -> tuple[Transitions, np.ndarray]:
    """Read (transitions, episode lengths) of any storage format that Minari supports."""
    try:
        from minari.dataset.minari_dataset import MinariDataset

        dataset = MinariDataset(source.folder)
        # Two passes: the first only counts, so that the second can write into place.
        lengths = np.array([len(e.rewards) for e in dataset.iterate_episodes()], dtype=np.int64)
    except ImportError as error:
        raise DataError(
            f"data set {source.name!r}: its storage format needs a package that is missing "
            f"({error})"
        ) from error
    recorded = (
        (
            [np.asarray(leaf.pick(episode.observations)) for leaf in source.leaves],
            {name: np.asarray(getattr(episode, array)) for name, array in _ARRAYS.items()},
        )
        for episode in dataset.iterate_episodes()
    )
    return _assemble(source, lengths, recorded), lengths


def _assemble(
    source: _Source,
    lengths: np.ndarray,
    recorded: Iterable[tuple[list[np.ndarray], dict[str, np.ndarray]]],
) -> Transitions:
    """Write episodes one by one into float32 arrays of the final size.

    Only one episode of the source (often float64) is in memory at a time, so that memory stays near
    the size of the result.

    Args:
        lengths: steps of each episode ``(E,)``.
        recorded: of each, the arrays of the leaves, and those of _ARRAYS by name.

    Raises:
        DataError: an episode whose arrays do not fit each other, its length or the spaces, hold no
            numbers, or that continues after its end.
    """
    name, rows = source.name, int(lengths.sum())
    obs_shape = rows, source.observation_space.shape[0]
    obs, obs_next = (np.empty(obs_shape, np.float32) for _ in range(2))
    act = np.empty((rows, act_size(source.action_space)), np.float32)
    rew = np.empty(rows, np.float32)
    flags = {flag: np.empty(rows, bool) for flag in ("terminated", "truncated")}
    start = 0
    # A float64 too large for float32 becomes infinity here and is reported by the finite check.
    with np.errstate(over="ignore"):
        for index, (length, (parts, others)) in enumerate(zip(lengths, recorded, strict=True)):
            where = f", episode {index}"
            episode = {"obs": _observations(source, parts, where), **others}
            episode["act"] = _actions(source, episode["act"])
            source.resolution.see({key: episode[key] for key in ("obs", "act", "rew")})
            _check_episode(name, where, int(length), episode, (obs.shape[1], act.shape[1]))
            part = slice(start, start + int(length))
            obs[part], obs_next[part] = episode["obs"][:-1], episode["obs"][1:]
            act[part], rew[part] = episode["act"], episode["rew"]
            for flag, array in flags.items():
                values = episode[flag]
                if values.dtype != bool:  # booleans are checked below, all at once
                    values = as_flags(name, flag, values, f"episode {index}, step {{}}".format)
                array[part] = values
            start = part.stop
    for flag, array in flags.items():
        as_flags(name, flag, array, lambda row: place(row, lengths))
    check_ends(name, flags, lengths)
    last = np.cumsum(lengths[lengths > 0]) - 1
    flags["truncated"][last] |= ~flags["terminated"][last]  # also if only the recording stopped
    return Transitions(obs=obs, act=act, rew=rew, obs_next=obs_next, **flags)


def _check_episode(
    name: str, where: str, length: int, episode: dict[str, np.ndarray], sizes: tuple[int, int]
) -> None:
    """Refuse arrays that do not fit each other; ``sizes`` are those of obs and act."""
    for key, values in episode.items():
        check_numbers(name, key, values, where)
        rank = 2 if key in ("obs", "act") else 1
        if values.ndim != rank:
            raise DataError(
                f"data set {name!r}{where}: {key} has shape {values.shape}; it must be (steps,)"
            )
    found = {
        "recorded steps": length,
        "rewards": len(episode["rew"]),
        "observations - 1": len(episode["obs"]) - 1,
        "actions": len(episode["act"]),
        "terminations": len(episode["terminated"]),
        "truncations": len(episode["truncated"]),
    }
    check_same_length(name, found, where)
    for key, size in zip(("obs", "act"), sizes, strict=True):
        check_width(name, key, episode[key].shape[1], size, where)


def _observations(source: _Source, parts: list[np.ndarray], where: str) -> np.ndarray:
    """The leaves' arrays ``(T + 1, ...)`` side by side: ``(T + 1, O)``."""
    flat = [_flat(part) for part in parts]
    if len(flat) == 1:
        return flat[0]
    # One by one, because errors of two parts could cancel in the total size.
    for leaf, part in zip(source.leaves, flat, strict=True):
        check_numbers(source.name, leaf.name, part, where)
        check_width(source.name, leaf.name, part.shape[1], leaf.size, where)
    return np.concatenate(flat, axis=1)


def _actions(source: _Source, values: np.ndarray) -> np.ndarray:
    """Recorded actions ``(T, ...)`` as ``(T, A)``, or as ``(T, 1)`` indices from 0."""
    act, space = _flat(values), source.action_space
    if isinstance(space, Discrete) and space.start and act.dtype.kind in "iuf":
        return act - np.array(space.start, np.float64)
    return act


def _flat(values: np.ndarray) -> np.ndarray:
    """An array ``(T, ...)`` as ``(T, size)``."""
    return values.reshape(len(values), int(np.prod(values.shape[1:])))
