"""What the values of a table's columns become: numbers, one-hot vectors, actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from bcq_exp.data.checks import widened
from bcq_exp.data.spaces import ActionSpace
from bcq_exp.data.table_files import Kind, Rows
from bcq_exp.data.transitions import DataError

MOST_CATEGORIES = 1000  # of a column, or different actions
Value = float | int | bool | str


@dataclass(frozen=True)
class Feature:
    """A column of observations.

    Args:
        categories: of a category, in the order of its one-hot numbers.
    """

    name: str
    kind: Kind
    categories: tuple[Value, ...] = ()

    @property
    def size(self) -> int:
        """Numbers in an observation."""
        return len(self.categories) if self.kind == Kind.CATEGORY else 1

    def vectors(self, rows: Rows) -> np.ndarray:
        """``(N, size)`` float32."""
        if self.kind != Kind.CATEGORY:
            return rows.numbers(self.name).astype(np.float32)[:, None]
        return np.eye(self.size, dtype=np.float32)[codes(rows, self.name, self.categories)]

    def facts(self) -> dict[str, Any]:
        """In plain values, for the record."""
        facts: dict[str, Any] = {"name": self.name, "kind": self.kind.value}
        return facts | ({"categories": [*self.categories]} if self.categories else {})


@dataclass(frozen=True)
class Actions:
    """The columns of actions.

    Args:
        names: of the columns.
        space: of what they become.
        values: of discrete ones, each action as the columns have it, in the order of the indices.
        is_asked_for: whether the values, or the bounds, were given and not taken from the data.
    """

    names: tuple[str, ...]
    space: ActionSpace
    values: tuple[tuple[Value, ...], ...] = ()
    is_asked_for: bool = False
    clips: bool = False

    def vectors(self, rows: Rows, steps: np.ndarray, data: str) -> np.ndarray:
        """The actions of the rows that have one, ``steps`` (N,) bool, as ``(n, A)`` float32.

        Raises:
            DataError: naming the first that is not in the space.
        """
        if isinstance(self.space, Box):
            values = np.stack([rows.numbers(name) for name in self.names], 1)[steps]
            return self._bounded(rows, values, np.flatnonzero(steps), data)
        columns = [*zip(*self.values, strict=True)]
        known = [tuple(sorted(set(column))) for column in columns]
        stride = np.cumprod([1, *(len(values) for values in known)])[:-1]
        found = [codes(rows, *column)[steps] for column in zip(self.names, known, strict=True)]
        combined = np.where(np.any([c < 0 for c in found], 0), -1, np.dot(stride, found))
        of_each = np.array(
            [
                sum(s * k.index(v) for s, k, v in zip(stride, known, value, strict=True))
                for value in self.values
            ]
        )
        order = np.argsort(of_each)
        place = np.searchsorted(of_each[order], combined).clip(max=len(order) - 1)
        if (wrong := of_each[order][place] != combined).any():
            row = np.flatnonzero(steps)[np.argmax(wrong)]
            values = [rows.arrays[name][int(row)].as_py() for name in self.names]
            raise DataError(
                f"data set {data!r}: column {', '.join(self.names)!r} is {shown(values)} in "
                f"{rows.place(row)}, which is none of the allowed actions "
                f"{', '.join(shown(value) for value in self.values[:12])}"
            )
        return order[place].astype(np.float32)[:, None]

    def _bounded(self, rows: Rows, act: np.ndarray, steps: np.ndarray, data: str) -> np.ndarray:
        assert isinstance(self.space, Box)
        if self.clips:
            return np.clip(act, self.space.low, self.space.high).astype(np.float32)
        low, high = widened(self.space)
        if ((act < low) | (act > high)).any():
            row, column = np.argwhere((act < low) | (act > high))[0]
            raise DataError(
                f"data set {data!r}: column {self.names[column]!r} is {act[row, column]:.6g} in "
                f"{rows.place(steps[row])}; dataset.action_bounds allows "
                f"[{self.space.low[column]:g}, {self.space.high[column]:g}]; correct the value, or "
                "clip it: dataset.clip_actions=true"
            )
        return act.astype(np.float32)

    def facts(self) -> list[dict[str, Any]]:
        """Each column in plain values, for the record."""
        if isinstance(self.space, Discrete):
            columns = zip(self.names, zip(*self.values, strict=True), strict=True)
            return [
                {"name": n, "kind": "category", "categories": sorted(set(v))} for n, v in columns
            ]
        bounds = zip(self.names, self.space.low.tolist(), self.space.high.tolist(), strict=True)
        return [{"name": n, "kind": "number", "low": a, "high": b} for n, a, b in bounds]


def codes(rows: Rows, name: str, known: Sequence[Value]) -> np.ndarray:
    """The place of each value ``(N,)`` among some that are sorted; -1 where it is none of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(known[0], str):
        found = pc.index_in(rows.arrays[name], value_set=pa.array(known, pa.string()))
        return found.fill_null(-1).to_numpy(zero_copy_only=False)
    values, numbers = rows.numbers(name), np.asarray(known, np.float64)
    place = np.searchsorted(numbers, values).clip(max=len(numbers) - 1)
    return np.where(numbers[place] == values, place, -1)


def distinct(rows: Rows, name: str) -> set[Value]:
    """The different values of a column, whole numbers as integers; none may be missing."""
    import pyarrow.compute as pc

    return {plain(value) for value in pc.unique(rows.arrays[name]).to_pylist()}


def plain(value: Any) -> Any:
    """A whole number as an integer; anything else as it is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and float(value).is_integer() else value


def shown(values: Sequence[Any]) -> str:
    """An action for people: the value of its column, or those of several."""
    words = [str(plain(value)) for value in values]
    return words[0] if len(words) == 1 else f"({', '.join(words)})"
