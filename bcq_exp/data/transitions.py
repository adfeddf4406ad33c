"""Transitions: the form of offline data in the rest of the program."""

import hashlib
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Self

import numpy as np

from bcq_exp.errors import UserError

LARGE = 2**29  # bytes; larger sets are not copied for training


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
        act: actions ``(N, A)`` taken, in the units of the source.
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

    @property
    def is_large(self) -> bool:
        """Whether the arrays are too large to be copied for training."""
        return sum(array.nbytes for array in self.arrays().values()) > LARGE

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, rows: slice | np.ndarray) -> Self:
        """Select rows by a slice (views), an index array or a boolean mask (copies)."""
        return type(self)(**{name: array[rows] for name, array in self.arrays().items()})

    def sample(self, size: int, rng: np.random.Generator | None = None) -> Self:
        """``size`` rows drawn uniformly with replacement.

        Raises:
            ValueError: there are no rows to draw from.
        """
        rng = rng if rng is not None else np.random.default_rng()
        return self[rng.integers(len(self), size=size)]

    def replace(self, **arrays: np.ndarray) -> Self:
        """Copy with the named arrays replaced; the others are shared."""
        return type(self)(**{**self.arrays(), **arrays})

    def __reduce__(self) -> tuple[Any, ...]:
        # Use the constructor, because a pickled array is no longer read-only.
        return partial(type(self), **self.arrays()), ()


def _as_float(values: Any) -> np.ndarray:
    array = np.asarray(values)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written through; the caller's own array keeps its flag."""
    view = array.view()
    view.flags.writeable = False
    return view


def content_hash(transitions: Transitions, meaning: str = "") -> str:
    """sha256 (hex) over names, dtypes, shapes and bytes of the six arrays.

    Args:
        meaning: the meaning of the numbers, such as categories, if it may vary.
    """
    digest = hashlib.sha256(meaning.encode())
    for name, array in transitions.arrays().items():
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
