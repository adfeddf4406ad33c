"""Reading an old D4RL file (one flat HDF5 table of steps) into a :class:`Contents`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from bcq_exp.data.contents import Contents, episode_sums
from bcq_exp.data.environments import spaces_of
from bcq_exp.data.resolution import Resolution
from bcq_exp.data.spaces import Leaf, bounded, check_continuous, flat_box, observation_leaves
from bcq_exp.data.transitions import DataError, Transitions, content_hash
from bcq_exp.data.validation import (
    as_flags,
    check_finite,
    check_not_empty,
    check_numbers,
    check_same_length,
    check_width,
    readable,
    validated,
)

_VECTORS = ("observations", "actions", "next_observations")
_FLAGS = ("terminals", "timeouts")
_NEEDED = ("observations", "actions", "rewards", "terminals")
_OPTIONAL = ("timeouts", "next_observations")

_SAMPLED = 100_000  # rows whose resolution is checked


def read_d4rl(
    name: str,
    path: Path,
    spec: EnvSpec | None,
    *,
    action_bounds: Sequence[Any] | None = None,
    clips_actions: bool = False,
) -> Contents:
    """Read and validate a D4RL file.

    Returns and lengths of episodes count every recorded step, also those that are dropped because
    their successor is unknown.

    Args:
        name: the data set's name, for messages.
        path: the ``.hdf5`` file.
        spec: gives the step limit for files without ``timeouts`` and, without ``action_bounds``,
            the spaces.
        action_bounds: lowest and highest action, one pair for all or one for each. No environment
            is made if they are given, and observations have no bounds.
        clips_actions: whether actions beyond their bounds are clipped, not refused.

    Raises:
        DataError: a file that cannot be read or lacks an array, edges that cannot be known, arrays
            that do not fit the environment, or data that :func:`validated` refuses.
    """
    table, notes = _read_table(name, path)
    width = table["observations"].shape[1]
    leaves: tuple[Leaf, ...] = ()
    if action_bounds is None:
        observations, actions = spaces_of(name, spec)
        leaves = observation_leaves(name, observations)
        observation_space = flat_box(observations)
        action_space = check_continuous(name, actions)
    else:
        observation_space = Box(-np.inf, np.inf, (width,), np.float32)
        action_space = bounded(name, action_bounds, table["actions"].shape[1])
    check_width(name, "observations", width, observation_space.shape[0])
    cuts = _cuts(name, table, None if spec is None else spec.max_episode_steps)
    lengths = np.diff(np.flatnonzero(table["terminals"] | cuts), prepend=-1)
    check_finite(name, "rew", table["rewards"], lengths)  # those of dropped rows are summed, too
    transitions, kept = _transitions(table, cuts), lengths
    if len(transitions) < len(cuts):
        kept = lengths - cuts[np.cumsum(lengths) - 1]
    transitions = validated(
        name,
        transitions,
        observation_space,
        action_space,
        kept,
        "correct the values, or set dataset.env to the environment they were recorded in",
        clips_actions=clips_actions,
    )
    return Contents(
        transitions=transitions,
        observation_space=observation_space,
        action_space=action_space,
        leaves=leaves,
        episode_lengths=lengths,
        episode_rows=kept,
        episode_returns=episode_sums(table["rewards"], lengths),
        content_hash=content_hash(transitions),
        notes=notes,
    )


def _read_table(name: str, path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the file's arrays, and notes on what float32 loses of them.

    The arrays are vectors float32 ``(N, ...)``, rewards float32 and flags bool ``(N,)``.
    """
    import h5py

    with readable(name, path), h5py.File(path, "r") as file:
        missing = [key for key in _NEEDED if key not in file]
        if missing:
            raise DataError(
                f"data set {name!r}: {path} has no {', '.join(missing)}; a D4RL file has "
                f"{', '.join(_NEEDED)} and optionally {', '.join(_OPTIONAL)}"
            )
        keys = [key for key in (*_NEEDED, *_OPTIONAL) if key in file]
        stored = {key: _whole(name, key, file[key]) for key in keys}
    check_same_length(name, {key: len(array) for key, array in stored.items()})
    check_not_empty(name, len(stored["rewards"]))
    if "next_observations" in stored:
        widths = (stored[key].shape[1] for key in ("next_observations", "observations"))
        check_width(name, "next_observations", *widths)
    table = {key: _convert(name, key, array) for key, array in stored.items()}
    follows = np.flatnonzero(~(table["terminals"] | table.get("timeouts", False))[:-1])
    names = {"obs": "observations", "act": "actions", "rew": "rewards"}
    resolution = Resolution()
    resolution.see({short: stored[key] for short, key in names.items()}, follows, _SAMPLED)
    return table, resolution.notes()


def _whole(name: str, key: str, stored: Any) -> np.ndarray:
    """Read an array of the file, ``(N, size)``, or ``(N,)`` for one number per step.

    Raises:
        DataError: the array is missing, or has another shape or kind of values.
    """
    shape = getattr(stored, "shape", None)  # a group has none, an empty data set's is None
    if key in _VECTORS:
        fits, allowed = shape is not None and len(shape) == 2, "(steps, size)"
    else:
        fits = shape is not None and (len(shape) == 1 or shape[1:] == (1,))
        allowed = "(steps,) or (steps, 1)"
    if not fits:
        found = "is not an array" if shape is None else f"has shape {shape}"
        raise DataError(f"data set {name!r}: {key} {found}; it must be {allowed}")
    check_numbers(name, key, stored)
    values = stored[()]
    return values if key in _VECTORS else values.reshape(-1)


def _convert(name: str, key: str, values: np.ndarray) -> np.ndarray:
    if key in _FLAGS:
        return as_flags(name, key, values, lambda row: f"row {row}")
    with np.errstate(over="ignore"):  # becomes infinite, which the finite check reports
        return values.astype(np.float32, copy=False)


def _cuts(name: str, table: dict[str, np.ndarray], max_episode_steps: int | None) -> np.ndarray:
    """``(N,)`` bool: rows after which an episode is cut; a terminal is never one.

    Raises:
        DataError: neither the file nor the environment defines where episodes are cut.
    """
    terminals = table["terminals"]
    if "timeouts" in table:
        cuts = table["timeouts"] & ~terminals
    elif max_episode_steps is not None:
        cuts = _steps_since_end(terminals) % max_episode_steps == max_episode_steps - 1
        cuts &= ~terminals
    elif "next_observations" in table:
        cuts = np.zeros_like(terminals)
    else:
        raise DataError(
            f"data set {name!r}: episodes cannot be separated, as it has neither timeouts nor "
            "next_observations and its environment has no known step limit; set dataset.env to "
            "an environment with max_episode_steps"
        )
    cuts[-1] = not terminals[-1]
    return cuts


def _steps_since_end(ends: np.ndarray) -> np.ndarray:
    """Count the rows since the last marked one (or the start), ``(N,)``, from 0."""
    rows = np.arange(len(ends))
    starts = np.concatenate([[True], ends[:-1]])
    return rows - np.maximum.accumulate(np.where(starts, rows, 0))


def _transitions(table: dict[str, np.ndarray], cuts: np.ndarray) -> Transitions:
    """Return every row with its recorded successor; else rows that a next row follows.

    Without recorded successors cut rows are dropped. A terminal's successor is never used, so it
    gets its own observation. The row before a dropped one becomes its episode's last and is
    truncated.
    """
    terminals, truncated, obs_next = table["terminals"], cuts, table.get("next_observations")
    rows: slice | np.ndarray = slice(None)
    if obs_next is None:
        rows = np.flatnonzero(~cuts)
        truncated = np.roll(cuts, -1)[rows] & ~terminals[rows]
        obs_next = table["observations"][np.where(terminals[rows], rows, rows + 1)]
    return Transitions(
        obs=table["observations"][rows],
        act=table["actions"][rows],
        rew=table["rewards"][rows],
        terminated=terminals[rows],
        truncated=truncated,
        obs_next=obs_next,
    )
