"""Check that float32, in which training computes, still distinguishes recorded numbers."""

from collections.abc import Mapping

import numpy as np

_SAMPLED = 256  # approximate number of steps of an episode that are checked


class Resolution:
    """The largest change from one step to the next in each column of recorded arrays."""

    def __init__(self) -> None:
        self._changes: dict[str, np.ndarray] = {}

    def see(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Update with steps of an episode: recorded numbers ``(T,)`` or ``(T, D)`` by name."""
        for name, values in arrays.items():
            if len(values) > 1 and values.dtype.kind in "iuf" and values.dtype.itemsize >= 4:
                rows = np.arange(0, len(values) - 1, max(1, len(values) // _SAMPLED))
                self.compare(name, values[rows], values[rows + 1])

    def compare(self, name: str, before: np.ndarray, after: np.ndarray) -> None:
        """Update with steps ``(N,)`` or ``(N, D)`` and their successors."""
        if not len(before):
            return
        with np.errstate(invalid="ignore", over="ignore"):  # infinite numbers are refused later
            change = np.abs(after.astype(np.float64) - before).reshape(len(before), -1).max(0)
        self._changes[name] = np.fmax(self._changes.get(name, change), change)

    def notes(self, arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """A sentence for each column whose every change float32 loses.

        Args:
            arrays: the same numbers, as float32 ``(N,)`` or ``(N, D)``.
        """
        found = []
        for name, change in self._changes.items():
            columns = arrays[name].reshape(len(arrays[name]), -1)
            size = np.maximum(np.abs(columns.min(0)), np.abs(columns.max(0))).astype(np.float64)
            lost = (change > 0) & (change < np.finfo(np.float32).eps * size)
            is_wide = arrays[name].ndim > 1
            found += [
                f"{name}{f'[{column}]' * is_wide} changes by at most {change[column]:.3g} per "
                f"step, which float32 cannot represent at {size[column]:.6g}, so most of them are "
                "lost; record it relative to an origin, such as seconds since the start of the "
                "episode, and do so in the environment too"
                for column in np.flatnonzero(lost)
            ]
        return tuple(found)
