"""Convert columns of observations: to numbers, and to one-hot vectors of categories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bcq_exp.data.resolution import Resolution
from bcq_exp.data.table.column_statistics import ColumnStatistics
from bcq_exp.data.table.column_types import ColumnType
from bcq_exp.data.table.rows import Rows, Value
from bcq_exp.data.transitions import DataError

MOST_CATEGORIES = 1000  # categories of a column
_SAMPLED = 1000  # rows of a batch whose resolution is checked


@dataclass(frozen=True)
class Feature:
    """A column of observations.

    Args:
        categories: the categories of a column, in the order of its one-hot numbers.
    """

    name: str
    kind: ColumnType
    categories: tuple[Value, ...] = ()

    @property
    def size(self) -> int:
        """The numbers that the column has in an observation."""
        return len(self.categories) if self.kind == ColumnType.CATEGORY else 1

    def vectors(self, rows: Rows) -> np.ndarray:
        """Convert rows to ``(N, size)`` float32."""
        if self.kind != ColumnType.CATEGORY:
            return rows.numbers(self.name).astype(np.float32)[:, None]
        return np.eye(self.size, dtype=np.float32)[rows.codes(self.name, self.categories)]

    def facts(self) -> dict[str, Any]:
        """Describe the column in plain values, for the record."""
        facts: dict[str, Any] = {"name": self.name, "kind": self.kind.value}
        return facts | ({"categories": [*self.categories]} if self.categories else {})


class Observations:
    """Collects categories and statistics of a table's observations.

    Args:
        kinds: the types of the columns, by name.
    """

    def __init__(self, kinds: Mapping[str, ColumnType]) -> None:
        self._kinds = kinds
        self._categories: dict[str, set[Value]] = {
            name: set() for name, kind in kinds.items() if kind == ColumnType.CATEGORY
        }
        self.statistics = ColumnStatistics([name for name in kinds if name not in self._categories])
        self._resolution = Resolution()

    def see(self, rows: Rows, follows: np.ndarray) -> None:
        """Check the next rows; ``follows`` (N,) are rows that are not an episode's first."""
        if names := self.statistics.names:
            values = rows.finite(names)
            self.statistics.see(values)
            before = np.flatnonzero(follows[1:])
            self._resolution.see(dict(zip(names, values.T, strict=True)), before, _SAMPLED)
        for name, found in self._categories.items():
            rows.check_present(name)
            found |= rows.distinct(name)
            if len(found) > MOST_CATEGORIES:
                raise DataError(
                    f"data set {rows.data!r}: column {name!r} has more than {MOST_CATEGORIES} "
                    f"categories up to {rows.place(len(rows) - 1)}; leave it out of "
                    "dataset.observations"
                )

    def features(self) -> tuple[Feature, ...]:
        """Return the columns."""
        return tuple(
            Feature(name, kind, tuple(sorted(self._categories.get(name, ()))))
            for name, kind in self._kinds.items()
        )

    def notes(self) -> tuple[str, ...]:
        """Return notes on columns whose changes float32 loses."""
        return self._resolution.notes()
