"""The contents of a source file, independent of the evaluation environment."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box

from bcq_exp.data.spaces import ActionSpace, Leaf
from bcq_exp.data.transitions import DataError, Transitions
from bcq_exp.data.validation import (
    as_flags,
    check_ends,
    check_numbers,
    check_same_length,
    check_width,
    place,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """Validated transitions with the facts in their file.

    Args:
        transitions: all episodes, one after the other; actions in environment units, or (N, 1) the
            index of a discrete one, from 0.
        observation_space: flat ``(O,)``.
        action_space: ``(A,)``, finite bounds; or Discrete.
        leaves: the parts of a flat observation.
        episode_lengths: recorded steps ``(E,)`` int64.
        episode_rows: transitions ``(E,)`` int64; fewer where a step's successor is unknown.
        episode_returns: sums of recorded rewards ``(E,)`` float64.
        content_hash: sha256 (hex) over the transitions.
        env_spec: the environment as :meth:`EnvSpec.to_json` text, where the file names one.
        reference_scores: (random, expert) returns, where the file names them.
        notes: sentences on irregularities of the data.
        behaviour_prob: of each transition's action under the policy that took it ``(N,)``.
        columns: the roles of a table's columns, in plain values.
        summary: lines that summarize a table.
    """

    transitions: Transitions
    observation_space: Box
    action_space: ActionSpace
    leaves: tuple[Leaf, ...]
    episode_lengths: np.ndarray
    episode_rows: np.ndarray
    episode_returns: np.ndarray
    content_hash: str
    env_spec: str | None = None
    reference_scores: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    behaviour_prob: np.ndarray | None = None
    columns: dict[str, Any] | None = None
    summary: tuple[str, ...] = ()


class Episode(NamedTuple):
    """One recorded episode of ``T`` steps: ``obs`` holds ``T + 1`` vectors, the rest ``T``."""

    obs: np.ndarray
    act: np.ndarray
    rew: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def assemble(
    source: str, lengths: np.ndarray, episodes: Iterable[Episode], obs_size: int, act_size: int
) -> Transitions:
    """Write episodes one by one into float32 arrays of the final size.

    Only one episode of the source (often float64) is in memory at a time, so that memory stays near
    the size of the result.

    Args:
        source: the data set's name, for messages.
        lengths: steps of each episode ``(E,)``.
        episodes: the ``E`` episodes, in the same order.
        obs_size: ``O``, numbers in a flat observation.
        act_size: ``A``, numbers in an action.

    Raises:
        DataError: an episode whose arrays do not fit each other, its length or the sizes, hold no
            numbers, or that continues after its end.
    """
    rows = int(lengths.sum())
    obs, obs_next = (np.empty((rows, obs_size), np.float32) for _ in range(2))
    act, rew = np.empty((rows, act_size), np.float32), np.empty(rows, np.float32)
    terminated, truncated = np.empty(rows, bool), np.empty(rows, bool)
    flags = {"terminated": terminated, "truncated": truncated}
    start = 0
    # A float64 too large for float32 becomes infinity here and is reported by the finite check.
    with np.errstate(over="ignore"):
        for index, (length, episode) in enumerate(zip(lengths, episodes, strict=True)):
            _check_episode(source, index, int(length), episode, obs_size, act_size)
            part = slice(start, start + int(length))
            obs[part], obs_next[part] = episode.obs[:-1], episode.obs[1:]
            act[part], rew[part] = episode.act, episode.rew
            for name, array in flags.items():
                array[part] = _flags(source, name, getattr(episode, name), index)
            start = part.stop
    for name, array in flags.items():
        as_flags(source, name, array, lambda row: place(row, lengths))
    check_ends(source, flags, lengths)
    last = np.cumsum(lengths[lengths > 0]) - 1
    truncated[last] |= ~terminated[last]  # also if only the recording stopped
    return Transitions(
        obs=obs, act=act, rew=rew, terminated=terminated, truncated=truncated, obs_next=obs_next
    )


def _check_episode(
    source: str, index: int, length: int, episode: Episode, obs_size: int, act_size: int
) -> None:
    where = f", episode {index}"
    for name, values in episode._asdict().items():
        check_numbers(source, name, values, where)
        rank = 2 if name in ("obs", "act") else 1
        if values.ndim != rank:
            raise DataError(
                f"data set {source!r}{where}: {name} has shape {values.shape}; it must be (steps,)"
            )
    found = {
        "rewards": len(episode.rew),
        "observations - 1": len(episode.obs) - 1,
        "actions": len(episode.act),
        "terminations": len(episode.terminated),
        "truncations": len(episode.truncated),
    }
    check_same_length(source, {"recorded steps": length, **found}, where)
    check_width(source, "obs", episode.obs.shape[1], obs_size, where)
    check_width(source, "act", episode.act.shape[1], act_size, where)


def _flags(source: str, name: str, values: np.ndarray, index: int) -> np.ndarray:
    """Convert an episode's flags to bool; booleans are checked later, all at once."""
    if values.dtype == bool:
        return values
    return as_flags(source, name, values, lambda step: f"episode {index}, step {step}")


def episode_sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sum ``values (N,)`` over each of the neighbouring runs of ``lengths (E,) > 0``, in float64.

    Each run is summed alone: a huge number in one episode does not reduce the precision of others.
    """
    starts = np.cumsum(lengths) - lengths
    return np.add.reduceat(values, starts, dtype=np.float64)
