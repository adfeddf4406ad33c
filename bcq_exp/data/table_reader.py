"""Reading a table of logged data into a :class:`Contents`, in two passes over its files.

A row is a step: an observation, the action that was taken, its reward. The next observation is the
next row's of the same episode. The first pass checks every value and finds the episodes, the
categories and the statistics; it keeps a byte a row. The second writes the transitions. Neither
holds more than a batch of the table in memory, and the arrays of a large set are files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from bcq_exp.data.checks import as_flags, check_not_empty
from bcq_exp.data.contents import Contents, episode_sums
from bcq_exp.data.d4rl_files import bounded
from bcq_exp.data.resolution import Resolution
from bcq_exp.data.spaces import ActionSpace, Leaf, act_size
from bcq_exp.data.table_columns import Columns
from bcq_exp.data.table_files import Kind, Rows, TableFiles, place
from bcq_exp.data.table_summary import ColumnStatistics, summarize
from bcq_exp.data.table_values import (
    MOST_CATEGORIES,
    Actions,
    Feature,
    Value,
    distinct,
    plain,
    shown,
)
from bcq_exp.data.transitions import LARGE, DataError, Transitions, content_hash

MOST_DISCRETE = 100  # different actions in whole numbers that are taken for discrete ones, unasked
_LARGEST = float(np.finfo(np.float32).max)
_START, _STEP, _REWARDED, _TERMINATED, _TRUNCATED = (np.uint8(1 << bit) for bit in range(5))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a table is read.

    Args:
        columns: what its columns are.
        categorical: columns that are read as categories, whatever they hold.
        action_type: ``discrete``, ``continuous``, or None to decide by the values.
        allowed_actions: the discrete actions there are; None for those that were taken.
        action_bounds: lowest and highest action, one pair for all or one for each; None for the
            least and greatest that were taken.
        empty_reward: the reward where none is given.
        clips_actions: whether actions beyond their bounds are clipped, not refused.
        env_actions: the actions of the environment to evaluate in.
    """

    columns: Columns
    categorical: tuple[str, ...] = ()
    action_type: str | None = None
    allowed_actions: tuple[Any, ...] | None = None
    action_bounds: tuple[Any, ...] | None = None
    empty_reward: float | None = None
    clips_actions: bool = False
    env_actions: ActionSpace | None = None


def read_table(name: str, files: TableFiles, reading: Reading, scratch: Path) -> Contents:
    """Everything in a table's files, validated.

    Args:
        name: the data set's, for messages.
        scratch: a folder for the arrays of a large set, which are mapped from there.

    Raises:
        DataError: one line that names column, row and file.
    """
    columns = reading.columns
    if columns.episode is None and not columns.flags and len(files.paths) == 1:
        raise DataError(
            "dataset.episode=null: no column has a name that says which episode a row is of; give "
            "dataset.episode, dataset.terminated or dataset.truncated, or a file for each episode"
        )
    scan = _Scan(name, files, reading)
    for rows in files.rows(columns.all):
        scan.see(rows)
    check_not_empty(name, len(scan.state))
    features, actions = scan.features(), scan.actions()
    steps = _Steps.of(scan)
    arrays = _fill(name, files, reading, steps, features, actions, scratch)
    behaviour_prob = arrays.pop("behaviour_prob", None)
    dropped = arrays.pop("dropped")
    transitions = Transitions(
        **arrays, terminated=steps.terminated[steps.kept], truncated=steps.truncated[steps.kept]
    )
    returns = np.zeros(len(steps.lengths))
    has_rows = steps.rows > 0  # no sum is taken over none
    returns[has_rows] = episode_sums(transitions.rew, steps.rows[has_rows])
    returns[steps.lengths > steps.rows] += dropped
    size = sum(feature.size for feature in features)
    return Contents(
        transitions=transitions,
        observation_space=Box(-np.inf, np.inf, (size,), np.float32),
        action_space=actions.space,
        leaves=(Leaf((), size),),
        episode_lengths=steps.lengths,
        episode_rows=steps.rows,
        episode_returns=returns,
        env_spec=None,
        reference_scores=None,
        content_hash=content_hash(transitions),
        notes=(*steps.notes, *scan.resolution_notes()),
        behaviour_prob=behaviour_prob,
        columns=_facts(reading.columns, features, actions),
        summary=summarize(
            columns=columns.in_words(),
            path=files.path,
            num_files=len(files.paths),
            num_rows=len(scan.state),
            lengths=steps.lengths,
            returns=returns,
            num_cut=steps.num_cut,
            actions=actions,
            counts=scan.action_counts,
            observations=scan.observations,
            moves=scan.moves,
        ),
    )


class _Scan:
    """The first pass: what is known of a table once all its rows have been seen."""

    def __init__(self, name: str, files: TableFiles, reading: Reading) -> None:
        self._name, self._files, self.reading = name, files, reading
        self._columns = columns = reading.columns
        kinds = {
            column: Kind.CATEGORY if column in reading.categorical else files.columns[column].kind
            for column in (*columns.observations, *columns.actions)
        }
        self._kinds = kinds
        self._numeric = [n for n in columns.observations if kinds[n] != Kind.CATEGORY]
        self._categories: dict[str, set[Value]] = {
            n: set() for n in columns.observations if kinds[n] == Kind.CATEGORY
        }
        self._is_category = [kinds[n] == Kind.CATEGORY for n in columns.actions]
        self.observations = ColumnStatistics(self._numeric)
        self.moves = ColumnStatistics(
            [n for n in columns.actions if files.columns[n].kind != Kind.CATEGORY]
        )
        self._resolution = Resolution()
        self.action_counts: dict[tuple[Value, ...], int] = {}
        self._are_counted = self._are_whole = True
        self._states: list[np.ndarray] = []
        self._ids: list[Any] = []
        self._seen = 0
        self._files_began: dict[Path, int] = {}
        self._before: Rows | None = None  # the row before the present ones
        self.lone_rewards = [(np.zeros(0, np.int64), np.zeros(0))]  # of rows without an action
        self._joined: np.ndarray | None = None

    def see(self, rows: Rows) -> None:
        """Check and take in the next rows."""
        columns = self._columns
        is_new_file = rows.path not in self._files_began
        self._files_began.setdefault(rows.path, self._seen)
        has_action = self._has_action(rows)
        flags = {key: self._flags(rows, column) for key, column in columns.flags.items()}
        state = has_action * _STEP
        for key, bit in (("terminated", _TERMINATED), ("truncated", _TRUNCATED)):
            if key in flags:
                state |= flags[key] * bit
        rewarded = ~rows.is_empty(columns.reward)
        self._check_finite(rows, [columns.reward], rows.numbers(columns.reward)[:, None], rewarded)
        state |= rewarded * _REWARDED
        if (alone := rewarded & ~has_action).any():
            found = np.flatnonzero(alone)
            self.lone_rewards.append((self._seen + found, rows.numbers(columns.reward)[found]))
        state |= self._starts(rows, state, is_new_file=is_new_file) * _START
        follows = (state & _START) == 0
        self._check_times(rows, follows)
        self._see_observations(rows, follows)
        self._see_actions(rows, has_action)
        self._see_probabilities(rows, has_action)
        self._states.append(state)
        self._seen += len(rows)
        self._before = _last(rows)

    @property
    def state(self) -> np.ndarray:
        """The bits of every row ``(N,)``."""
        if self._joined is None:
            self._joined = np.concatenate([np.zeros(0, np.uint8), *self._states])
            self._states = []
            self._check_interleaved(np.flatnonzero(self._joined & _START))
        return self._joined

    def place(self, row: int | np.integer) -> str:
        """Where a row of the whole table is."""
        path, first = max(
            ((p, f) for p, f in self._files_began.items() if f <= row), key=lambda pair: pair[1]
        )
        return place(path, int(row) - first)

    def error(self, words: str) -> DataError:
        return DataError(f"data set {self._name!r}: {words}")

    def _has_action(self, rows: Rows) -> np.ndarray:
        empty = np.stack([rows.is_empty(name) for name in self._columns.actions])
        partly = empty.any(0) & ~empty.all(0)
        if partly.any():
            row = np.argmax(partly)
            name = self._columns.actions[int(np.argmax(empty[:, row]))]
            raise self.error(
                f"column {name!r} is empty in {rows.place(row)}, other actions are not; fill it"
            )
        return ~empty[0]

    def _flags(self, rows: Rows, column: str) -> np.ndarray:
        self._check_present(rows, column)
        numbers = rows.numbers(column)
        return as_flags(self._name, f"column {column!r}", numbers, rows.place)

    def _starts(self, rows: Rows, state: np.ndarray, *, is_new_file: bool) -> np.ndarray:
        """The rows with which episodes begin ``(N,)``."""
        import pyarrow.compute as pc

        column, before = self._columns.episode, self._before
        starts = np.ones(len(rows), bool)
        if column is None:
            last = self._states[-1][-1:] if self._states else np.zeros(1, np.uint8)
            earlier = np.concatenate([last, state[:-1]])
            is_step, was_step = (values & _STEP > 0 for values in (state, earlier))
            ended = (earlier & (_TERMINATED | _TRUNCATED) > 0) & is_step
            return ended | ~was_step | (is_new_file & (np.arange(len(rows)) == 0))
        self._check_present(rows, column)
        ids = rows.arrays[column]
        starts[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
        if before is not None:
            starts[0] = ids[0].as_py() != before.arrays[column][0].as_py()
        self._ids.append(ids.filter(starts))
        return starts

    def _check_present(self, rows: Rows, column: str) -> None:
        if (empty := rows.is_empty(column)).any():
            where = rows.place(np.argmax(empty))
            raise self.error(f"column {column!r} is empty in {where}; every row needs a value")

    def _check_finite(
        self, rows: Rows, names: Sequence[str], values: np.ndarray, wanted: np.ndarray
    ) -> None:
        """Refuse what float32 cannot hold in the wanted rows of values ``(N, C)``."""
        wrong = ~(np.abs(values) <= _LARGEST) & wanted[:, None]
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            value = values[row, column]
            raise self.error(
                f"column {names[column]!r} is {'empty (NaN)' if np.isnan(value) else value} in "
                f"{rows.place(row)}; every value must be a finite number (in float32): fill it, or "
                "leave the row out"
            )

    def _check_times(self, rows: Rows, follows: np.ndarray) -> None:
        column = self._columns.time
        if column is None:
            return
        self._check_present(rows, column)
        times, before = rows.times(column), self._before
        first = times[:1] if before is None else before.times(column)
        earlier = np.concatenate([first, times[:-1]])
        if (wrong := follows & ~(times > earlier)).any():
            row = int(np.argmax(wrong))
            value = rows.arrays[column][row].as_py()
            how = "twice" if times[row] == earlier[row] else "less than in the row before"
            raise self.error(
                f"column {column!r} is {plain(value)} in {rows.place(row)}, {how} in one episode; "
                "sort the rows by episode and time, each time once"
            )

    def _see_observations(self, rows: Rows, follows: np.ndarray) -> None:
        if self._numeric:
            values = np.stack([rows.numbers(name) for name in self._numeric], 1)
            self._check_finite(rows, self._numeric, values, np.ones(len(rows), bool))
            self.observations.see(values)
            after = np.flatnonzero(follows[1:]) + 1
            after = after[:: 1 + len(after) // 1000]
            self._resolution.compare("obs", values[after - 1], values[after])
        for name, found in self._categories.items():
            self._check_present(rows, name)
            found |= distinct(rows, name)
            if len(found) > MOST_CATEGORIES:
                raise self.error(
                    f"column {name!r} has more than {MOST_CATEGORIES} categories up to "
                    f"{rows.place(len(rows) - 1)}; leave it out of dataset.observations"
                )

    def _see_actions(self, rows: Rows, has_action: np.ndarray) -> None:
        import pyarrow as pa

        names = self._columns.actions
        if self.moves.names:
            values = np.stack([rows.numbers(name) for name in self.moves.names], 1)
            self._check_finite(rows, self.moves.names, values, has_action)
            values = values[has_action]
            self.moves.see(values)
            self._are_whole = self._are_whole and bool(np.all(values == np.floor(values)))
        self._are_counted = self._are_counted and (self._are_whole or any(self._is_category))
        if not self._are_counted:
            return
        mask = pa.array(has_action)
        taken = pa.table([rows.arrays[name].filter(mask) for name in names], names=[*names])
        *columns, counts = (
            taken.group_by([*names]).aggregate([([], "count_all")]).to_pydict().items()
        )
        found = dict(columns)
        keys = zip(*(map(plain, found[name]) for name in names), strict=True)
        for key, count in zip(keys, counts[1], strict=True):
            self.action_counts[key] = self.action_counts.get(key, 0) + count
        self._are_counted = len(self.action_counts) <= MOST_CATEGORIES

    def _see_probabilities(self, rows: Rows, has_action: np.ndarray) -> None:
        column = self._columns.behaviour_prob
        if column is None:
            return
        values = rows.numbers(column)
        self._check_finite(rows, [column], values[:, None], has_action)
        if (wrong := has_action & ~(values > 0)).any():
            row = np.argmax(wrong)
            raise self.error(
                f"column {column!r} is {values[row]:.6g} in {rows.place(row)}; the probability of "
                "the action that was taken is above 0"
            )

    def _check_interleaved(self, starts: np.ndarray) -> None:
        import pyarrow as pa

        if not self._ids:
            return
        ids = pa.chunked_array(self._ids).combine_chunks()
        codes = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
        first = np.unique(codes, return_index=True)[1]
        if len(first) < len(codes):
            again = np.setdiff1d(np.arange(len(codes)), first)[0]
            began = starts[np.flatnonzero(codes == codes[again])[0]]
            raise self.error(
                f"column {self._columns.episode!r} is {plain(ids[int(again)].as_py())} again in "
                f"{self.place(starts[again])}, after other episodes; it began in "
                f"{self.place(began)}: sort the rows by episode and time"
            )

    def features(self) -> tuple[Feature, ...]:
        """The columns of observations."""
        return tuple(
            Feature(name, self._kinds[name], tuple(sorted(self._categories.get(name, ()))))
            for name in self._columns.observations
        )

    def actions(self) -> Actions:
        """The columns of actions.

        Raises:
            DataError: actions of two types, too many categories, one action only, or any that are
                allowed and never taken.
        """
        reading, names = self.reading, self._columns.actions
        listed = ", ".join(names)
        if isinstance(reading.env_actions, Discrete) and len(names) == 1 and self._are_whole:
            first = int(reading.env_actions.start)
            numbers = range(first, first + int(reading.env_actions.n))
            return Actions(names, reading.env_actions, tuple((n,) for n in numbers), True)
        if not self._is_discrete():
            if any(self._is_category):
                raise self.error(
                    f"actions {listed} are numbers and categories; all must be one or the other "
                    "(dataset.action_type, dataset.categorical)"
                )
            return self._continuous()
        if not self._are_counted:
            raise self.error(
                f"actions {listed} are to be discrete and have more than {MOST_CATEGORIES} "
                "different values; group them, or set dataset.action_type=continuous"
            )
        values = self._allowed() or tuple(sorted(self.action_counts))
        if len(values) < 2:
            only = shown(values[0]) if values else "none"
            raise self.error(f"column {listed!r} has one action only, {only}; two are needed")
        start, lowest = 0, values[0][0]
        if len(names) == 1 and isinstance(lowest, int):
            is_range = values == tuple((lowest + i,) for i in range(len(values)))
            start = int(lowest) if is_range else 0
        space = Discrete(len(values), start=start)
        return Actions(names, space, values, reading.allowed_actions is not None)

    def _is_discrete(self) -> bool:
        reading = self.reading
        if reading.action_type is not None:
            return reading.action_type == "discrete"
        if reading.allowed_actions is not None:
            return True
        if reading.action_bounds is not None or isinstance(reading.env_actions, Box):
            return False
        if any(self._is_category) or not self._are_counted:
            return self._are_whole and any(self._is_category)
        return self._are_whole and len(self.action_counts) <= MOST_DISCRETE

    def _allowed(self) -> tuple[tuple[Value, ...], ...]:
        """The allowed actions as the columns have them; none where they are not given."""
        given = self.reading.allowed_actions
        if given is None:
            return ()
        names, taken = self._columns.actions, self.action_counts
        is_text = [self._files.columns[name].kind == Kind.CATEGORY for name in names]
        values = []
        for value in given:
            parts = tuple(value) if isinstance(value, Sequence) and len(names) > 1 else (value,)
            if len(parts) != len(names):
                raise DataError(
                    f"dataset.allowed_actions={[*given]}: {value} must have a value for each of "
                    f"{', '.join(names)}"
                )
            values.append(
                tuple(str(p) if text else plain(p) for p, text in zip(parts, is_text, strict=True))
            )
        if len(set(values)) < len(values):
            raise DataError(f"dataset.allowed_actions={[*given]}: names an action twice")
        if never := [shown(value) for value in values if value not in taken]:
            raise DataError(
                f"dataset.allowed_actions={[*given]}: {', '.join(never)} is in no row of column "
                f"{', '.join(names)!r} of {self._files.path}; nothing can be learned of it: leave "
                "it out"
            )
        return tuple(values)

    def _continuous(self) -> Actions:
        reading, names = self.reading, self._columns.actions
        clips = reading.clips_actions
        if isinstance(reading.env_actions, Box):
            return Actions(names, reading.env_actions, is_asked_for=True, clips=clips)
        if reading.action_bounds is not None:
            space = bounded(self._name, [*reading.action_bounds], len(names))
            return Actions(names, space, is_asked_for=True, clips=clips)
        low, high = (ends.astype(np.float32) for ends in (self.moves.low, self.moves.high))
        if (low >= high).any():
            column = int(np.argmax(low >= high))
            raise self.error(
                f"column {names[column]!r} is {low[column]:g} in every row of {self._files.path}; "
                "leave it out of dataset.actions, or give dataset.action_bounds"
            )
        return Actions(names, Box(low, high), clips=clips)

    def resolution_notes(self) -> tuple[str, ...]:
        """What float32 loses."""
        if not self._numeric:
            return ()
        ends = np.stack([self.observations.low, self.observations.high])
        return self._resolution.notes({"obs": ends})


@dataclass(frozen=True, kw_only=True, eq=False)
class _Steps:
    """What the rows are, once the episodes are known; arrays ``(N,)`` over the rows.

    Args:
        has_action: the row is a step, not only the observation after the last.
        kept: it becomes a transition.
        has_next: the next row is of the same episode.
        terminated, truncated: of transitions.
        rewards: those that stand in another row than their step: the steps' rows, and the values.
        only_last: each episode has its reward in the last row alone.
        lengths: steps of each episode ``(E,)``, at least one.
        rows: transitions of each episode ``(E,)``.
        num_cut: episodes that were truncated.
    """

    has_action: np.ndarray
    kept: np.ndarray
    has_next: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    rewards: tuple[np.ndarray, np.ndarray]
    only_last: bool
    lengths: np.ndarray
    rows: np.ndarray
    num_cut: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, scan: _Scan) -> _Steps:
        """The steps of a table all of whose rows have been seen.

        Raises:
            DataError: rows that cannot be put in order, or rewards that are missing.
        """
        state, columns = scan.state, scan.reading.columns
        has_action = state & _STEP > 0
        starts = np.flatnonzero(state & _START)
        last = np.append(starts[1:], len(state)) - 1
        has_next = np.ones(len(state), bool)
        has_next[last] = False
        if (gap := ~has_action & has_next).any():
            raise scan.error(
                f"column {columns.actions[0]!r} is empty in {scan.place(np.argmax(gap))}; only the "
                "last row of an episode may have no action: it is the observation after the last "
                "step"
            )
        is_only_seen = ~has_action[last]
        lengths = last - starts + 1 - is_only_seen
        last, final = (rows[lengths > 0] for rows in (last, last - is_only_seen))
        lengths = lengths[lengths > 0]
        flags = {}
        for key, bit in (("terminated", _TERMINATED), ("truncated", _TRUNCATED)):
            values = state & bit > 0
            values[final] |= values[last]
            values &= has_action
            early = values.copy()
            early[final] = False
            if early.any():
                raise scan.error(
                    f"column {columns.flags[key]!r} is true in {scan.place(np.argmax(early))}, "
                    "which is not its episode's last row; split the episode there, or correct it"
                )
            flags[key] = values
        if columns.terminated is True:
            flags["terminated"][final] |= ~flags["truncated"][final]
        only_last, rewards = _late_rewards(scan, has_action, last, final)
        kept = has_action & (has_next | flags["terminated"])
        if not kept.any():
            raise scan.error(
                f"every episode is cut after one row, the first in {scan.place(0)}, so none has a "
                "next observation; give dataset.episode or dataset.terminated"
            )
        cut = final[~flags["terminated"][final]]
        # A dropped row leaves its episode cut one step earlier.
        dropped = cut[~kept[cut] & (cut > 0)]
        flags["truncated"][dropped[has_next[dropped - 1]] - 1] = True
        flags["truncated"][cut] = True
        rows = lengths - ~kept[final]
        notes = []
        if empty := int(np.count_nonzero(rows == 0)):
            notes.append(
                f"{empty} of {len(rows)} episodes are cut after one row, the first in "
                f"{scan.place(final[np.argmax(rows == 0)])}, and give no transition"
            )
        return cls(
            has_action=has_action,
            kept=kept,
            has_next=has_next,
            **flags,
            rewards=rewards,
            only_last=only_last,
            lengths=lengths,
            rows=rows,
            num_cut=len(cut),
            notes=tuple(notes),
        )


def _late_rewards(
    scan: _Scan, has_action: np.ndarray, last: np.ndarray, final: np.ndarray
) -> tuple[bool, tuple[np.ndarray, np.ndarray]]:
    """Whether each episode has its reward in the last row alone; rewards in rows without an action.

    Args:
        last, final: rows of each episode's last row and last step ``(E,)``.

    Returns:
        That, and of the second kind the rows of the steps and the values.

    Raises:
        DataError: rewards that are missing elsewhere, or have no action.
    """
    column = scan.reading.columns.reward
    rewarded = scan.state & _REWARDED > 0
    missing = has_action & ~rewarded
    rows, values = (np.concatenate(parts) for parts in zip(*scan.lone_rewards, strict=True))
    if missing.any() and np.count_nonzero(rewarded) == len(last) and rewarded[last].all():
        return True, (final[np.searchsorted(last, rows)], values)
    if values.any():
        raise scan.error(
            f"column {column!r} has a reward in {scan.place(rows[np.argmax(values != 0)])}, which "
            "has no action; move it to the row of the action that earned it"
        )
    if missing.any() and scan.reading.empty_reward is None:
        raise scan.error(
            f"column {column!r} is empty (NaN) in {scan.place(np.argmax(missing))}; fill it, or "
            "count every empty reward as 0: dataset.empty_reward=0"
        )
    return False, (rows[:0], values[:0])


class _Sink:
    """An array that is written from its first row to its last: in memory, or in a file."""

    def __init__(self, path: Path | None, shape: tuple[int, ...]) -> None:
        self._done, self._file, self._path = 0, None, path
        if path is None:
            self._array = np.empty(shape, np.float32)
        else:
            self._file = path.open("wb")
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: np.ndarray) -> None:
        """Write the next rows."""
        if self._file is not None:
            np.ascontiguousarray(values, "<f4").tofile(self._file)
        else:
            self._array[self._done : self._done + len(values)] = values
        self._done += len(values)

    def array(self) -> np.ndarray:
        """All that was written; of a file, mapped."""
        if self._file is None or self._path is None:
            return self._array
        self._file.close()
        return np.load(self._path, "r")


def _fill(
    name: str,
    files: TableFiles,
    reading: Reading,
    steps: _Steps,
    features: Sequence[Feature],
    actions: Actions,
    scratch: Path,
) -> dict[str, np.ndarray]:
    """The second pass: the arrays of the transitions, and the rewards of dropped rows.

    Raises:
        DataError: an action that is not in its space.
    """
    columns = reading.columns
    count = int(np.count_nonzero(steps.kept))
    sizes = [sum(feature.size for feature in features), act_size(actions.space)]
    shapes = {
        "obs": (count, sizes[0]),
        "obs_next": (count, sizes[0]),
        "act": (count, sizes[1]),
        "rew": (count,),
        **({} if columns.behaviour_prob is None else {"behaviour_prob": (count,)}),
    }
    is_large = 4 * sum(int(np.prod(shape)) for shape in shapes.values()) > LARGE
    sinks = {
        key: _Sink(scratch / f"{key}.npy" if is_large else None, shape)
        for key, shape in shapes.items()
    }
    dropped, start = [], 0
    for rows in files.rows(columns.all):
        part = slice(start, start + len(rows))
        has_action, kept = steps.has_action[part], steps.kept[part]
        obs = np.concatenate([feature.vectors(rows) for feature in features], 1)
        sinks["obs"].append(obs[kept])
        # A row is the next of the one before, and its own where nothing follows a terminated one.
        before = slice(start - 1, part.stop - 1) if start else slice(0, part.stop - 1)
        is_next = steps.kept[before] & steps.has_next[before]
        is_next = is_next if start else np.concatenate([[False], is_next])
        times = is_next + (kept & ~steps.has_next[part]).astype(np.int64)
        sinks["obs_next"].append(np.repeat(obs, times, axis=0))
        sinks["act"].append(actions.vectors(rows, has_action, name)[kept[has_action]])
        rew = np.nan_to_num(rows.numbers(columns.reward), nan=reading.empty_reward or 0.0)
        moved = (steps.rewards[0] >= part.start) & (steps.rewards[0] < part.stop)
        rew[steps.rewards[0][moved] - start] = steps.rewards[1][moved]
        sinks["rew"].append(rew[kept])
        dropped.append(rew[has_action & ~kept])
        if columns.behaviour_prob is not None:
            _check_probabilities(name, rows, columns.behaviour_prob, actions, has_action)
            sinks["behaviour_prob"].append(rows.numbers(columns.behaviour_prob)[kept])
        if steps.only_last and (lost := rew * (has_action & ~kept)).any():
            raise DataError(
                f"data set {name!r}: column {columns.reward!r} has a value only in the last row of "
                f"each episode, and the episode of {rows.place(np.argmax(lost != 0))} is cut "
                "there: that row has no next observation and is dropped, its reward too; give "
                "dataset.terminated, a column or true"
            )
        start = part.stop
    arrays = {key: sink.array() for key, sink in sinks.items()}
    return arrays | {"dropped": np.concatenate(dropped).astype(np.float32)}


def _check_probabilities(
    name: str, rows: Rows, column: str, actions: Actions, has_action: np.ndarray
) -> None:
    """Refuse probabilities above 1; densities of continuous actions may be."""
    wrong = has_action & (rows.numbers(column) > 1)
    if isinstance(actions.space, Discrete) and wrong.any():
        row = np.argmax(wrong)
        raise DataError(
            f"data set {name!r}: column {column!r} is {rows.numbers(column)[row]:.6g} in "
            f"{rows.place(row)}; a probability is at most 1"
        )


def _last(rows: Rows) -> Rows:
    """The last of them alone."""
    end = len(rows) - 1
    arrays = {name: array.slice(end, 1) for name, array in rows.arrays.items()}
    return Rows(rows.path, rows.first + end, arrays)


def _facts(columns: Columns, features: Sequence[Feature], actions: Actions) -> dict[str, Any]:
    """What became of the columns, in plain values."""
    values = [[*value] if len(value) > 1 else value[0] for value in actions.values]
    return {
        "observations": [feature.facts() for feature in features],
        "actions": actions.facts(),
        "action_values": values or None,
        **{
            key: getattr(columns, key)
            for key in ("episode", "time", "reward", "terminated", "truncated", "behaviour_prob")
        },
    }
