"""The contents of a source file, independent of the evaluation environment."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from bcq_exp.data.spaces import ActionSpace, Leaf
from bcq_exp.data.transitions import Transitions


@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """Validated transitions with the facts in their file.

    Args:
        transitions: all episodes, one after the other, float32; actions in environment units, or
            (N, 1) the index of a discrete one, from 0.
        observation_space: flat ``(O,)``.
        action_space: ``(A,)``, finite bounds; or Discrete.
        leaves: the parts of a flat observation, in order; empty if it has no parts.
        episode_lengths: recorded steps ``(E,)`` int64.
        episode_rows: transitions ``(E,)`` int64; fewer than steps, none even, where successors are
            unknown.
        episode_returns: sums of recorded rewards ``(E,)`` float64.
        content_hash: sha256 (hex) over the transitions of the whole set.
        env_text: the environment as :meth:`EnvSpec.to_json` text, where the file names one.
        reference_scores: (random, expert) returns, where the file names them.
        notes: sentences on irregularities of the data.
        behaviour_prob: of each transition's action under the policy that took it ``(N,)``, where a
            table has them; densities of continuous actions.
        columns: the roles of a table's columns, in plain values.
        summary: lines that summarize a table.
    """

    transitions: Transitions
    observation_space: Box
    action_space: ActionSpace
    episode_lengths: np.ndarray
    episode_rows: np.ndarray
    episode_returns: np.ndarray
    content_hash: str
    leaves: tuple[Leaf, ...] = ()
    env_text: str | None = None
    reference_scores: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    behaviour_prob: np.ndarray | None = None
    columns: dict[str, Any] | None = None
    summary: tuple[str, ...] = ()


def episode_sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sum ``values (N,)`` over each of the neighbouring runs of ``lengths (E,) > 0``, in float64.

    Each run is summed alone: a huge number in one episode does not reduce the precision of others.
    """
    starts = np.cumsum(lengths) - lengths
    return np.add.reduceat(values, starts, dtype=np.float64)
