"""Transitions: the one shape in which offline data reaches the rest of the program."""

import hashlib
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from gymnasium.spaces import Box

from bcq_exp.errors import UserError

ACTION_TOLERANCE = 1e-5  # of an action's range: what float32 storage may add at the edge


class DataError(UserError):
    """A data set, or the environment it names, that cannot be used as asked."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Transitions:
    """``N`` steps ``(s, a, r, s', ends)``, one row each, as read-only arrays.

    Rows of one episode are neighbours and in order, and no row crosses two episodes. The last row
    of an episode is ``terminated`` or ``truncated``; only ``terminated`` says that no reward can
    follow ``obs_next``.

    Args:
        obs: observations ``(N, O)``, flat vectors, float32 (float64 is kept where given).
        act: actions ``(N, A)`` taken, in the units the maker states.
        rew: rewards ``(N,)``.
        terminated: ``(N,)`` bool, the step ended the task.
        truncated: ``(N,)`` bool, the recording of the episode ended here, the task did not.
        obs_next: observations after the step ``(N, O)``.

    Raises:
        ValueError: an array of another rank, or lengths or observation sizes that differ.
    """

    obs: np.ndarray
    act: np.ndarray
    rew: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    obs_next: np.ndarray

    def __post_init__(self) -> None:
        for name in ("obs", "act", "rew", "obs_next"):
            object.__setattr__(self, name, _read_only(_as_float(getattr(self, name))))
        for name in ("terminated", "truncated"):
            object.__setattr__(self, name, _read_only(np.asarray(getattr(self, name), dtype=bool)))
        self._check_shapes()

    def _check_shapes(self) -> None:
        for name, array in self.arrays().items():
            rank = 2 if name in ("obs", "act", "obs_next") else 1
            if array.ndim != rank:
                raise ValueError(f"{name} must have rank {rank}, its shape is {array.shape}")
            if len(array) != len(self.obs):
                raise ValueError(f"{name} has {len(array)} rows, obs has {len(self.obs)}")
        if self.obs.shape != self.obs_next.shape:
            raise ValueError(f"obs_next has shape {self.obs_next.shape}, obs has {self.obs.shape}")

    def arrays(self) -> dict[str, np.ndarray]:
        """The six arrays by name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, rows: slice | np.ndarray) -> Self:
        """The chosen rows: a slice (views), an index array or a boolean mask (copies)."""
        return type(self)(**{name: array[rows] for name, array in self.arrays().items()})

    def sample(self, size: int, rng: np.random.Generator | None = None) -> Self:
        """``size`` rows drawn uniformly with replacement.

        Raises:
            ValueError: there are no rows to draw from.
        """
        rng = rng if rng is not None else np.random.default_rng()
        return self[rng.integers(len(self), size=size)]

    def replace(self, **arrays: np.ndarray) -> Self:
        """A copy with the named arrays exchanged; the others are shared."""
        return type(self)(**{**self.arrays(), **arrays})

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, because a pickled array forgets that it was read-only.
        return _rebuild, (type(self), self.arrays())


def _rebuild(cls: type[Transitions], arrays: dict[str, np.ndarray]) -> Transitions:
    return cls(**arrays)


def _as_float(values: Any) -> np.ndarray:
    array = np.asarray(values)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written through; the caller's own array keeps its flag."""
    view = array.view()
    view.flags.writeable = False
    return view


def content_hash(transitions: Transitions) -> str:
    """sha256 (hex) over names, dtypes, shapes and bytes of the six arrays."""
    digest = hashlib.sha256()
    for name, array in transitions.arrays().items():
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def check_transitions(
    source: str, transitions: Transitions, action_space: Box, lengths: np.ndarray
) -> None:
    """Refuse data no agent should learn from.

    Args:
        source: the data set's name, for the message.
        transitions: the rows of all episodes, one episode after the other.
        action_space: bounds ``(A,)`` every action must keep, in the units of ``transitions.act``.
        lengths: rows of each episode ``(E,)``, to say where a fault lies.

    Raises:
        DataError: no rows, NaN or infinity anywhere, or an action outside its bounds.
    """
    check_not_empty(source, len(transitions))
    check_finite(source, transitions, lengths)
    check_actions(source, transitions.act, action_space, lengths)


def check_not_empty(source: str, count: int) -> None:
    """Raise DataError where there is not one transition."""
    if count == 0:
        raise DataError(f"data set {source!r} holds no transitions; at least one is needed")


def check_finite(source: str, transitions: Transitions, lengths: np.ndarray) -> None:
    """Raise DataError naming the first NaN or infinity of an array."""
    for name in ("obs", "act", "rew", "obs_next"):
        array = getattr(transitions, name)
        # min and max carry NaN and infinity through, without a temporary of the array's size.
        if array.size == 0 or (np.isfinite(array.min()) and np.isfinite(array.max())):
            continue
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        bad = np.atleast_1d(array[row])
        raise DataError(
            f"data set {source!r}: {name} is {bad[~np.isfinite(bad)][0]} at "
            f"{_place(row, lengths)}; every value must be finite (in float32)"
        )


def check_actions(source: str, act: np.ndarray, action_space: Box, lengths: np.ndarray) -> None:
    """Raise DataError naming the first action outside ``action_space``."""
    check_width(source, "act", act.shape[1], action_space.low.size)
    low, high = action_space.low.astype(np.float64), action_space.high.astype(np.float64)
    slack = ACTION_TOLERANCE * (high - low)
    if np.all(act.min(axis=0) >= low - slack) and np.all(act.max(axis=0) <= high + slack):
        return
    row, dim = (int(i) for i in np.argwhere((act < low - slack) | (act > high + slack))[0])
    raise DataError(
        f"data set {source!r}: act[{dim}] is {act[row, dim]:.6g} at {_place(row, lengths)}; "
        f"the action space allows [{low[dim]:g}, {high[dim]:g}]"
    )


def check_width(source: str, name: str, width: int, expected: int, where: str = "") -> None:
    """Raise DataError where vectors do not have their space's size; ``where`` as an ending."""
    if width != expected:
        raise DataError(
            f"data set {source!r}{where}: {name} has {width} numbers a step, "
            f"its space has {expected}"
        )


def check_same_length(source: str, lengths: dict[str, int], where: str = "") -> None:
    """Raise DataError where arrays that go together differ in length; ``where`` as an ending."""
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"data set {source!r}{where}: lengths differ ({found}); they must be equal")


def _place(row: int, lengths: np.ndarray) -> str:
    """``episode e, step t`` of a row, given how many rows each episode has."""
    ends = np.cumsum(lengths)
    episode = int(np.searchsorted(ends, row, side="right"))
    return f"episode {episode}, step {row - int(ends[episode] - lengths[episode])}"
