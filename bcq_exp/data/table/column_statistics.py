"""Statistics of a table's columns, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ColumnStatistics:
    """Count, mean, standard deviation, least and greatest of some columns, a batch at a time."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.count = 0
        self.mean, self._squares = np.zeros((2, len(names)))
        self.low, self.high = (np.full(len(names), end) for end in (np.inf, -np.inf))

    def see(self, values: np.ndarray) -> None:
        """Update with values ``(n, C)``, merged as by Chan, Golub and LeVeque (1979)."""
        if not len(values) or not self.names:
            return
        n, total = len(values), self.count + len(values)
        mean = values.mean(0)
        delta = mean - self.mean
        self._squares += ((values - mean) ** 2).sum(0) + delta**2 * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total
        self.low, self.high = (
            np.minimum(self.low, values.min(0)),
            np.maximum(self.high, values.max(0)),
        )

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self._squares / max(self.count, 1))
