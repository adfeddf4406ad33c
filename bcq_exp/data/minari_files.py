"""Reading a Minari data set's folder into a :class:`Contents`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from bcq_exp.data.contents import Contents, Episode, assemble, episode_sums
from bcq_exp.data.environments import make_raw, parse_spec
from bcq_exp.data.spaces import Leaf, check_action_space, flat_box, observation_leaves
from bcq_exp.data.transitions import DataError, Transitions, check_transitions, content_hash

# What h5py, json, Minari and NumPy raise on files that are not what they should be.
_DAMAGE = (
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    AssertionError,
)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A data set on disk, its spaces already known to be usable."""

    name: str
    folder: Path
    num_episodes: int
    leaves: tuple[Leaf, ...]
    observation_space: Box
    action_space: Box


def read_minari(name: str, folder: Path) -> Contents:
    """Everything in the ``data`` folder of a Minari data set, validated.

    HDF5 is read directly, episode by episode, into arrays of the final size; other storage
    formats go through Minari's own (slower) episode objects.

    Args:
        name: the data set's id, for messages.
        folder: its ``data`` folder, with ``metadata.json``.

    Raises:
        DataError: metadata or storage that cannot be read, spaces BCQ cannot use, or data that
            :func:`check_transitions` refuses.
    """
    metadata = _read_metadata(name, folder)
    with _readable(name, folder / "metadata.json"):
        observation_space, action_space = _spaces(name, metadata)
        leaves = observation_leaves(name, observation_space)
        source = _Source(
            name=name,
            folder=folder,
            num_episodes=int(metadata["total_episodes"]),
            leaves=leaves,
            observation_space=flat_box(observation_space),
            action_space=check_action_space(name, action_space),
        )
        scores = _reference_scores(metadata)
    read = _read_hdf5 if metadata.get("data_format", "hdf5") == "hdf5" else _read_any
    with _readable(name, folder):
        transitions, lengths = read(source)
    check_transitions(name, transitions, source.action_space, lengths)
    lengths = lengths[lengths > 0]
    return Contents(
        transitions=transitions,
        observation_space=source.observation_space,
        action_space=source.action_space,
        leaves=leaves,
        episode_lengths=lengths,
        episode_returns=episode_sums(transitions.rew, lengths),
        env_spec=_spec_text(metadata),
        reference_scores=scores,
        content_hash=content_hash(transitions),
    )


def _read_metadata(name: str, folder: Path) -> dict[str, Any]:
    with _readable(name, folder / "metadata.json"):
        metadata = json.loads((folder / "metadata.json").read_text())
        if not isinstance(metadata, dict):
            raise ValueError("not a JSON object")
    return metadata


@contextmanager
def _readable(name: str, path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes a reader raise into one clear line."""
    try:
        yield
    except _DAMAGE as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(
            f"data set {name!r}: {path} is missing or damaged ({what[:200]}); "
            "delete the data set and fetch or make it again"
        ) from error


def _spaces(name: str, metadata: dict[str, Any]) -> tuple[gym.Space, gym.Space]:
    """(observation, action) space; early Minari versions left out what the environment has."""
    from minari.serialization import deserialize_space

    stored = [metadata.get(key) for key in ("observation_space", "action_space")]
    if None not in stored:
        return deserialize_space(stored[0]), deserialize_space(stored[1])
    text = _spec_text(metadata)
    env = make_raw(name, parse_spec(name, text) if text is not None else None)
    spaces = env.observation_space, env.action_space
    env.close()
    return spaces


def _spec_text(metadata: dict[str, Any]) -> str | None:
    """The environment to evaluate in; the one collected in where no other is named."""
    return metadata.get("eval_env_spec") or metadata.get("env_spec")


def _reference_scores(metadata: dict[str, Any]) -> tuple[float, float] | None:
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    return (float(low), float(high)) if low is not None and high is not None else None


def _read_hdf5(source: _Source) -> tuple[Transitions, np.ndarray]:
    """(transitions, episode lengths) straight from ``main_data.hdf5``."""
    import h5py

    with h5py.File(source.folder / "main_data.hdf5", "r") as file:
        _bound_memory(file)
        keys = [f"episode_{index}" for index in range(source.num_episodes)]
        lengths = np.array([_open(file, f"{key}/rewards").shape[0] for key in keys], np.int64)
        episodes = (_hdf5_episode(file, key, source.leaves) for key in keys)
        return _assemble(source, lengths, episodes), lengths


def _bound_memory(file: Any) -> None:
    """Keep HDF5's cache of object headers small: nothing is read twice, and it grows by 200 MB."""
    config = file.id.get_mdc_config()
    config.set_initial_size = True
    config.min_size = config.initial_size = 1 << 20
    config.max_size = 2 << 20
    file.id.set_mdc_config(config)


def _hdf5_episode(file: Any, episode: str, leaves: tuple[Leaf, ...]) -> Episode:
    def read_leaf(leaf: Leaf) -> np.ndarray:
        keys = [f"_index_{key}" if isinstance(key, int) else key for key in leaf.path]
        return _read(file, "/".join([episode, "observations", *keys]))

    return Episode(
        obs=_flatten([read_leaf(leaf) for leaf in leaves]),
        act=_flatten([_read(file, f"{episode}/actions")]),
        rew=_read(file, f"{episode}/rewards"),
        terminated=_read(file, f"{episode}/terminations"),
        truncated=_read(file, f"{episode}/truncations"),
    )


def _open(file: Any, path: str) -> Any:
    # h5py's low level, because its usual interface takes twice as long for many short episodes.
    import h5py

    return h5py.h5d.open(file.id, path.encode())


def _read(file: Any, path: str) -> np.ndarray:
    """A whole array of the file."""
    import h5py

    stored = _open(file, path)
    array = np.empty(stored.shape, stored.dtype)
    stored.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array


def _read_any(source: _Source) -> tuple[Transitions, np.ndarray]:
    """(transitions, episode lengths) of any storage format Minari itself can read."""
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
    episodes = (_minari_episode(episode, source.leaves) for episode in dataset.iterate_episodes())
    return _assemble(source, lengths, episodes), lengths


def _minari_episode(episode: Any, leaves: tuple[Leaf, ...]) -> Episode:
    return Episode(
        obs=_flatten([np.asarray(leaf.pick(episode.observations)) for leaf in leaves]),
        act=_flatten([np.asarray(episode.actions)]),
        rew=np.asarray(episode.rewards),
        terminated=np.asarray(episode.terminations),
        truncated=np.asarray(episode.truncations),
    )


def _assemble(source: _Source, lengths: np.ndarray, episodes: Iterator[Episode]) -> Transitions:
    sizes = source.observation_space.shape[0], source.action_space.shape[0]
    return assemble(source.name, lengths, episodes, *sizes)


def _flatten(parts: list[np.ndarray]) -> np.ndarray:
    """Arrays ``(T, ...)`` side by side: ``(T, sum of their sizes)``."""
    flat = [part.reshape(len(part), int(np.prod(part.shape[1:]))) for part in parts]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
