"""Convert columns of actions: to numbers within bounds, or to indices of discrete actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from bcq_exp.data.resolution import Resolution
from bcq_exp.data.spaces import ActionSpace, bounded
from bcq_exp.data.table.column_statistics import ColumnStatistics
from bcq_exp.data.table.column_types import ColumnType
from bcq_exp.data.table.rows import Rows, Value, places, plain, shown
from bcq_exp.data.transitions import DataError
from bcq_exp.data.validation import check_clippable, widened

MOST_ACTIONS = 1000  # different actions that are counted
MOST_DISCRETE = 100  # different integers that are taken as discrete actions by default


@dataclass(frozen=True, kw_only=True)
class ActionOptions:
    """The user's options for actions.

    Args:
        type: ``discrete``, ``continuous``, or None to decide by the values.
        allowed: the allowed discrete actions; None for those in the table.
        bounds: lowest and highest action, one pair for all or one for each; None for those in the
            table.
        clips: whether actions beyond their bounds are clipped, not refused.
        of_env: the action space of the evaluation environment.
    """

    type: str | None = None
    allowed: tuple[Any, ...] | None = None
    bounds: tuple[Any, ...] | None = None
    clips: bool = False
    of_env: ActionSpace | None = None


@dataclass(frozen=True)
class Actions:
    """The columns of actions.

    Args:
        names: the names of the columns.
        space: the action space.
        values: each discrete action as in the columns, in the order of the indices.
        is_asked_for: whether the user gave the values or the bounds.
        notes: sentences on columns whose changes float32 loses.
    """

    names: tuple[str, ...]
    space: ActionSpace
    values: tuple[tuple[Value, ...], ...] = ()
    is_asked_for: bool = False
    clips: bool = False
    notes: tuple[str, ...] = ()

    def vectors(self, rows: Rows, steps: np.ndarray) -> np.ndarray:
        """Return the actions of rows as ``(N, A)`` float32; ``steps`` (N,) are rows with one.

        Raises:
            DataError: naming the first action that is not in the space.
        """
        if isinstance(self.space, Box):
            return self._bounded(rows, steps, self.space)
        columns = [tuple(sorted(set(column))) for column in zip(*self.values, strict=True)]
        stride = np.cumprod([1, *map(len, columns)])[:-1]
        found = np.stack([rows.codes(*column) for column in zip(self.names, columns, strict=True)])
        known = np.array([[*map(tuple.index, columns, value)] for value in self.values]) @ stride
        order = np.argsort(known)
        index = places(np.where((found < 0).any(0), -1, stride @ found), known[order])
        if (wrong := steps & (index < 0)).any():
            row = int(np.argmax(wrong))
            values = [rows.arrays[name][row].as_py() for name in self.names]
            raise DataError(
                f"data set {rows.data!r}: column {', '.join(self.names)!r} is {shown(values)} in "
                f"{rows.place(row)}, which is none of the allowed actions "
                f"{', '.join(map(shown, self.values[:12]))}"
            )
        return order[index].astype(np.float32)[:, None]

    def _bounded(self, rows: Rows, steps: np.ndarray, space: Box) -> np.ndarray:
        act = np.stack([rows.numbers(name) for name in self.names], 1)
        if self.clips:
            return np.clip(act, space.low, space.high).astype(np.float32)
        least, most = widened(space)
        wrong = ((act < least) | (act > most)) & steps[:, None]
        for name, low, high, beyond in zip(self.names, space.low, space.high, wrong.T, strict=True):
            remedy = (
                f"; dataset.action_bounds allows [{low:g}, {high:g}]; correct the value, or clip "
                "it: dataset.clip_actions=true"
            )
            rows.refuse(beyond, name, "is {}", remedy)
        return act.astype(np.float32)

    def facts(self) -> list[dict[str, Any]]:
        """Describe each column in plain values, for the record."""
        if isinstance(self.space, Discrete):
            columns = zip(self.names, zip(*self.values, strict=True), strict=True)
            return [
                {"name": n, "kind": "category", "categories": sorted(set(v))} for n, v in columns
            ]
        bounds = zip(self.names, self.space.low.tolist(), self.space.high.tolist(), strict=True)
        return [{"name": n, "kind": "number", "low": a, "high": b} for n, a, b in bounds]


class TakenActions:
    """Collects the actions of a table and decides their kind.

    Args:
        data: the data set's name, for messages.
        path: the table's, for messages.
        kinds: the types of the columns, by name.
        is_text: which columns are not numbers.
    """

    def __init__(
        self, data: str, path: str, kinds: Mapping[str, ColumnType], is_text: Mapping[str, bool]
    ) -> None:
        self._names = tuple(kinds)
        self._listed = ", ".join(kinds)
        self._data, self._path, self._start = data, path, f"data set {data!r}: "
        self._is_text = [is_text[name] for name in kinds]
        self._is_category = any(kind == ColumnType.CATEGORY for kind in kinds.values())
        self.statistics = ColumnStatistics([name for name in kinds if not is_text[name]])
        self._resolution = Resolution()
        self.counts: dict[tuple[Value, ...], int] = {}
        self._are_counted = self._are_whole = True

    def see(self, rows: Rows, has_action: np.ndarray) -> None:
        """Check and count the actions of the next rows."""
        import pyarrow as pa

        if names := self.statistics.names:
            values = rows.finite(names, has_action)[has_action]
            self.statistics.see(values)
            self._resolution.see(dict(zip(names, values.T, strict=True)))
            self._are_whole = self._are_whole and bool(np.all(values == np.floor(values)))
        self._are_counted = self._are_counted and (self._are_whole or self._is_category)
        if not self._are_counted:
            return
        mask = pa.array(has_action)
        taken = pa.table([rows.arrays[n].filter(mask) for n in self._names], names=[*self._names])
        grouped = taken.group_by([*self._names]).aggregate([([], "count_all")])
        for *values, count in zip(*(c.to_pylist() for c in grouped.columns), strict=True):
            key = tuple(map(plain, values))
            self.counts[key] = self.counts.get(key, 0) + count
        self._are_counted = len(self.counts) <= MOST_ACTIONS

    def actions(self, asked: ActionOptions) -> Actions:
        """Return the columns of actions.

        Raises:
            DataError: actions of two types, too many categories, only one action, allowed actions
                that never occur, or discrete ones that are to be clipped.
        """
        actions = self._decided(asked)
        if asked.clips:
            check_clippable(self._data, actions.space)
        return actions

    def _decided(self, asked: ActionOptions) -> Actions:
        names = self._names
        if isinstance(asked.of_env, Discrete) and len(names) == 1 and self._are_whole:
            first = int(asked.of_env.start)
            numbers = range(first, first + int(asked.of_env.n))
            return Actions(names, asked.of_env, tuple((n,) for n in numbers), True)
        if not self._are_discrete(asked):
            if self._is_category:
                raise DataError(
                    f"{self._start}actions {self._listed} are numbers and categories; all must be "
                    "one or the other (dataset.action_type, dataset.categorical)"
                )
            return replace(self._continuous(asked), notes=self._resolution.notes())
        if not self._are_counted:
            raise DataError(
                f"{self._start}actions {self._listed} are to be discrete and have more than "
                f"{MOST_ACTIONS} different values; group them, or set "
                "dataset.action_type=continuous"
            )
        values = self._allowed(asked.allowed) or tuple(sorted(self.counts))
        if len(values) < 2:
            only = shown(values[0]) if values else "none"
            raise DataError(
                f"{self._start}column {self._listed!r} has one action only, {only}; two are needed"
            )
        lowest, start = values[0][0], 0
        if isinstance(lowest, int) and values == tuple((lowest + i,) for i in range(len(values))):
            start = int(lowest)
        space = Discrete(len(values), start=start)
        return Actions(names, space, values, asked.allowed is not None)

    def _are_discrete(self, asked: ActionOptions) -> bool:
        if asked.type is not None:
            return asked.type == "discrete"
        if asked.allowed is not None:
            return True
        if asked.bounds is not None or isinstance(asked.of_env, Box):
            return False
        return self._are_whole and (self._is_category or len(self.counts) <= MOST_DISCRETE)

    def _allowed(self, given: Sequence[Any] | None) -> tuple[tuple[Value, ...], ...]:
        """Return the allowed actions as the columns have them; empty if none are given."""
        if given is None:
            return ()
        start, values = f"dataset.allowed_actions={[*given]}:", []
        for value in given:
            parts = (
                tuple(value) if isinstance(value, Sequence) and len(self._names) > 1 else (value,)
            )
            is_plain = all(isinstance(part, Value) for part in parts)
            if not is_plain or len(parts) != len(self._names):
                raise DataError(f"{start} {value} must have a value for each of {self._listed}")
            pairs = zip(parts, self._is_text, strict=True)
            values.append(tuple(str(part) if text else plain(part) for part, text in pairs))
        if len(set(values)) < len(values):
            raise DataError(f"{start} names an action twice")
        if never := [shown(value) for value in values if value not in self.counts]:
            raise DataError(
                f"{start} {', '.join(never)} is in no row of column {self._listed!r} of "
                f"{self._path}; nothing can be learned about it; leave it out"
            )
        return tuple(values)

    def _continuous(self, asked: ActionOptions) -> Actions:
        names, clips = self._names, asked.clips
        if isinstance(asked.of_env, Box):
            return Actions(names, asked.of_env, is_asked_for=True, clips=clips)
        if asked.bounds is not None:
            space = bounded(self._data, [*asked.bounds], len(names))
            return Actions(names, space, is_asked_for=True, clips=clips)
        low, high = (
            ends.astype(np.float32) for ends in (self.statistics.low, self.statistics.high)
        )
        if (low >= high).any():
            column = int(np.argmax(low >= high))
            least, most = self.statistics.low[column], self.statistics.high[column]
            if least < most:
                raise DataError(
                    f"{self._start}column {names[column]!r} is between {least:.12g} and "
                    f"{most:.12g} in {self._path}, which are one number in float32; record it "
                    "relative to an origin, and do so in the environment too"
                )
            raise DataError(
                f"{self._start}column {names[column]!r} is {least:g} in every row of "
                f"{self._path}; leave it out of dataset.actions, or give dataset.action_bounds"
            )
        return Actions(names, Box(low, high), clips=clips)
