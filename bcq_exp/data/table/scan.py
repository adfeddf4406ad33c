"""The first pass over a table: every value is checked, and a byte of each row is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bcq_exp.data.resolution import Resolution
from bcq_exp.data.table.action_columns import TakenActions
from bcq_exp.data.table.column_choice import Columns
from bcq_exp.data.table.column_types import ColumnType
from bcq_exp.data.table.observation_columns import Observations
from bcq_exp.data.table.rows import Rows, place, plain
from bcq_exp.data.table.sources import TableFiles
from bcq_exp.data.transitions import DataError
from bcq_exp.data.validation import as_flags

# bits of a row: begins an episode, has an action, has a reward, has one that is not 0, terminated,
# truncated
START, STEP, REWARDED, NONZERO, TERMINATED, TRUNCATED = (np.uint8(1 << bit) for bit in range(6))


class Scan:
    """The facts of a table after the first pass over its rows.

    Args:
        empty_reward: the reward of rows without one.

    Attributes:
        states: the bits of every row ``(N,)``, uint8.

    Raises:
        DataError: one line that names column, row and file.
    """

    def __init__(self, files: TableFiles, columns: Columns, empty_reward: float | None) -> None:
        self.columns, self.empty_reward, self._data = columns, empty_reward, files.data
        kinds = {
            name: ColumnType.CATEGORY if name in columns.categorical else files.columns[name].kind
            for name in (*columns.observations, *columns.actions)
        }
        self.observations = Observations({name: kinds[name] for name in columns.observations})
        self.taken = TakenActions(
            files.data,
            files.path,
            {name: kinds[name] for name in columns.actions},
            {name: files.columns[name].kind == ColumnType.CATEGORY for name in columns.actions},
        )
        self._rewards = Resolution()
        self._states: list[np.ndarray] = []
        self._ids: list[Any] = []  # of episodes, where they begin
        self._first_rows: dict[Path, int] = {}
        self._before: Rows | None = None  # the row before the present batch
        num_rows = 0
        for rows in files.rows(columns.all, id=columns.episode):
            is_new_file = rows.path not in self._first_rows
            self._first_rows.setdefault(rows.path, num_rows)
            self._see(rows, is_new_file)
            num_rows += len(rows)
        self.states = np.concatenate([np.zeros(0, np.uint8), *self._states])
        self._check_interleaved()

    def has(self, bit: np.uint8) -> np.ndarray:
        """Return which rows have a bit ``(N,)``."""
        return self.states & bit > 0

    def place(self, row: int | np.integer) -> str:
        """Describe the place of a row of the whole table."""
        path, first = max(
            ((path, first) for path, first in self._first_rows.items() if first <= row),
            key=lambda pair: pair[1],
        )
        return place(path, int(row) - first)

    def notes(self) -> tuple[str, ...]:
        """Return notes on observations and rewards whose changes float32 loses."""
        return (*self.observations.notes(), *self._rewards.notes())

    def error(self, words: str) -> DataError:
        return DataError(f"data set {self._data!r}: {words}")

    def _see(self, rows: Rows, is_new_file: bool) -> None:
        columns = self.columns
        has_action = self._has_action(rows)
        is_rewarded = ~rows.is_empty(columns.reward)
        (reward,) = rows.finite([columns.reward], is_rewarded).T
        self._rewards.see({columns.reward: reward[is_rewarded]})
        states = has_action * STEP | is_rewarded * REWARDED
        states |= (is_rewarded & (reward != 0)) * NONZERO
        for key, bit in (("terminated", TERMINATED), ("truncated", TRUNCATED)):
            if column := columns.flags.get(key):
                rows.check_present(column)
                values = rows.numbers(column)
                flags = as_flags(rows.data, f"column {column!r}", values, rows.place)
                states |= flags * bit
        starts = self._starts(rows, states, is_new_file)
        self._check_times(rows, ~starts)
        self.observations.see(rows, ~starts)
        self.taken.see(rows, has_action)
        if columns.behaviour_prob is not None:
            (prob,) = rows.finite([columns.behaviour_prob], has_action).T
            remedy = "; the probability of the action that was taken is above 0"
            rows.refuse(has_action & ~(prob > 0), columns.behaviour_prob, "is {}", remedy)
        self._states.append(states | starts * START)
        self._before = rows.last()

    def _has_action(self, rows: Rows) -> np.ndarray:
        empty = np.stack([rows.is_empty(name) for name in self.columns.actions])
        for name, own in zip(self.columns.actions, empty, strict=True):
            partly = own & ~empty.all(0)
            rows.refuse(partly, name, "is empty", ", other actions are not; fill it")
        return ~empty[0]

    def _starts(self, rows: Rows, states: np.ndarray, is_new_file: bool) -> np.ndarray:
        """Return which rows begin episodes ``(N,)``."""
        import pyarrow.compute as pc

        column, before = self.columns.episode, self._before
        if column is None:
            last = self._states[-1][-1:] if self._states else np.zeros(1, np.uint8)
            earlier = np.concatenate([last, states[:-1]])
            ended = earlier & (TERMINATED | TRUNCATED) > 0
            starts = (ended & (states & STEP > 0)) | (earlier & STEP == 0)
            starts[0] |= is_new_file
            return starts
        rows.check_present(column)
        ids, starts = rows.arrays[column], np.ones(len(rows), bool)
        starts[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
        if before is not None:
            starts[0] = ids[0].as_py() != before.arrays[column][0].as_py()
        self._ids.append(ids.filter(starts))
        return starts

    def _check_times(self, rows: Rows, follows: np.ndarray) -> None:
        column, before = self.columns.time, self._before
        if column is None:
            return
        rows.check_present(column)
        times = rows.times(column)
        first = times[:1] if before is None else before.times(column)
        earlier = np.concatenate([first, times[:-1]])
        wrong = follows & ~(times > earlier)
        row = np.argmax(wrong)
        how = "twice" if times[row] == earlier[row] else "less than in the row before"
        remedy = f", {how} in one episode; sort the rows by episode and time, each time once"
        rows.refuse(wrong, column, "is {}", remedy)

    def _check_interleaved(self) -> None:
        import pyarrow as pa

        if not self._ids:
            return
        ids = pa.chunked_array(self._ids).combine_chunks()
        codes = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
        first = np.unique(codes, return_index=True)[1]
        if len(first) < len(codes):
            again = np.setdiff1d(np.arange(len(codes)), first)[0]
            starts = np.flatnonzero(self.has(START))
            began = starts[np.flatnonzero(codes == codes[again])[0]]
            raise self.error(
                f"column {self.columns.episode!r} is {plain(ids[int(again)].as_py())} again in "
                f"{self.place(starts[again])}, after other episodes; it began in "
                f"{self.place(began)}: sort the rows by episode and time"
            )
