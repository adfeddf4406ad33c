"""Choose the columns of observations, actions, reward and so on: as given, else by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from bcq_exp.data.table.column_types import Column, ColumnType
from bcq_exp.data.transitions import DataError
from bcq_exp.formatting import listed

_SHOWN = 12  # names in a message
SINGLE: Mapping[str, tuple[str, ...]] = {  # guessed names, the likeliest first
    "episode": (
        "episode", "episode_id", "episode_index", "ep", "trajectory", "trajectory_id", "traj",
        "traj_id", "icustay_id", "icustayid", "stay_id", "encounter_id", "session", "session_id",
        "hadm_id", "admission_id", "patient", "patient_id", "subject_id", "user_id", "run_id",
    ),
    "time": (
        "time", "t", "step", "time_step", "timestep", "step_index", "frame_index", "timestamp",
        "datetime", "charttime", "date", "hour", "day", "bloc",
    ),
    "terminated": (
        "terminated", "terminal", "terminals", "termination", "terminations", "is_terminal",
        "done", "dones", "next.done",
    ),
    "truncated": ("truncated", "truncation", "truncations", "timeout", "timeouts"),
    "reward": ("reward", "rewards", "rew", "r", "next.reward"),
    "behaviour_prob": (
        "behaviour_prob", "behavior_prob", "behaviour_probability", "behavior_probability",
        "action_prob", "action_probability", "propensity", "propensity_score", "pscore",
    ),
}  # fmt: skip
_SEVERAL: Mapping[str, tuple[tuple[str, ...], ...]] = {  # patterns, the likeliest first
    "actions": (("action*",), ("act", "act_*", "act[0-9]*", "act[[]*")),
    "observations": (("obs*",), ("state*",)),
}
_NEXT = "next[_.]*"  # columns of the next step: never guessed
_NUMERIC = (ColumnType.NUMBER, ColumnType.BOOLEAN)


@dataclass(frozen=True)
class Columns:
    """The columns of a table by role.

    Args:
        terminated: True if every episode terminates in its last row.
        categorical: columns that are read as categories, whatever their type.
        guessed: the keys that were not given.
    """

    episode: str | None
    time: str | None
    observations: tuple[str, ...]
    actions: tuple[str, ...]
    reward: str
    terminated: str | bool | None
    truncated: str | None
    behaviour_prob: str | None
    categorical: tuple[str, ...]
    guessed: tuple[str, ...]

    @property
    def flags(self) -> dict[str, str]:
        """Return the columns of flags by role."""
        flags = {"terminated": self.terminated, "truncated": self.truncated}
        return {name: column for name, column in flags.items() if isinstance(column, str)}

    @property
    def all(self) -> tuple[str, ...]:
        """Return every column that is read."""
        singles = (self.episode, self.time, self.reward, self.behaviour_prob, *self.flags.values())
        return (*self.observations, *self.actions, *(name for name in singles if name is not None))

    def in_words(self) -> str:
        """Describe each key and its columns."""
        parts = [
            f"{key}={_list(getattr(self, key))}{'?' if key in self.guessed else ''}"
            for key in (*_KEYS, "behaviour_prob")
            if key != "behaviour_prob" or self.behaviour_prob is not None
        ]
        note = "; with a ? by its name, dataset.KEY=... changes it" if self.guessed else ""
        return f"{', '.join(parts)}{note}"


_KEYS = ("episode", "time", "observations", "actions", "reward", "terminated", "truncated")


def choose(
    file: str, columns: Mapping[str, Column], categorical: tuple[str, ...], **wanted: Any
) -> Columns:
    """Choose the columns to read.

    Args:
        file: the file's name, for messages.
        columns: all columns, in order.
        categorical: columns that are read as categories, whatever their type.
        wanted: columns by key of the configuration; None is guessed.

    Raises:
        DataError: a column that does not exist or has two roles, or a guess without result.
    """
    for name in categorical:
        _named("categorical", name, file, columns)
    given = {key: value for key, value in wanted.items() if value is not None}
    numeric = {n for n, column in columns.items() if column.kind in _NUMERIC} | {*categorical}
    found: dict[str, Any] = {}
    taken: dict[str, str] = {}
    for key in sorted((*SINGLE, *_SEVERAL), key=lambda key: (key not in given, key in _SEVERAL)):
        if key not in given:
            found[key] = _guess(key, [name for name in columns if name not in taken], numeric)
        elif key in SINGLE:
            found[key] = _single(key, given[key], file, columns)
        else:
            found[key] = _several(key, given[key], file, columns)
        if not found[key] and key in ("reward", *_SEVERAL):
            raise DataError(
                f"dataset.{key}=null: no column of {file} has a usual name for it; give "
                f"dataset.{key}, there are {_list([*columns])}"
            )
        _take(taken, key, found[key])
    guessed = tuple(key for key in found if key not in given and found[key] is not None)
    chosen = Columns(**found, categorical=categorical, guessed=guessed)
    for key in ("observations", "actions"):
        for name in getattr(chosen, key):
            _check(
                key, columns[name], (*_NUMERIC, ColumnType.CATEGORY), "numbers, booleans or text"
            )
            if columns[name].is_mixed and name not in categorical:
                raise DataError(
                    f"dataset.{key}={name}: has text among numbers, {columns[name].odd}; correct "
                    f"the value, or read all as categories: dataset.categorical=[{name}]"
                )
    for key in ("reward", "behaviour_prob", "terminated", "truncated"):
        if isinstance(name := getattr(chosen, key), str):
            _check(key, columns[name], _NUMERIC, "numbers")
    if chosen.time is not None:
        times = "numbers or times (ISO 8601)"
        _check("time", columns[chosen.time], (ColumnType.NUMBER, ColumnType.TIME), times)
    return chosen


def _check(key: str, column: Column, kinds: Sequence[ColumnType], needed: str) -> None:
    """Refuse columns of other types."""
    if column.kind not in kinds:
        found = f"text, {column.odd}" if column.odd else f"values of kind {column.kind.value}"
        raise DataError(f"dataset.{key}={column.name}: has {found}; {needed} are needed")


def _single(key: str, value: Any, file: str, columns: Mapping[str, Column]) -> Any:
    """Return the one column that a key names."""
    if key == "terminated" and isinstance(value, bool):
        return value
    names = [value] if isinstance(value, str) else value
    if not (isinstance(names, Sequence) and len(names) == 1 and isinstance(names[0], str)):
        raise DataError(f"dataset.{key}={value}: must be the name of one column")
    return _named(key, names[0], file, columns)


def _named(key: str, name: str, file: str, columns: Mapping[str, Column]) -> str:
    if name in columns:
        return name
    near = get_close_matches(name, columns, n=1)
    meant = f"did you mean {near[0]}?" if near else f"there are {_list([*columns])}"
    raise DataError(f"dataset.{key}={name}: {file} has no such column; {meant}")


def _several(key: str, value: Any, file: str, columns: Mapping[str, Column]) -> tuple[str, ...]:
    """Return the columns that names, patterns and prefixes match, each once."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, Sequence) or not all(isinstance(e, str) for e in entries):
        raise DataError(f"dataset.{key}={value}: must be a column, a pattern, or a list of them")
    found: dict[str, None] = {}
    for entry in entries:
        if entry in columns:
            matching = [entry]
        elif any(sign in entry for sign in "*?"):
            matching = [name for name in columns if fnmatchcase(name, entry)]
            if not matching:
                raise DataError(
                    f"dataset.{key}={entry}: no column of {file} matches; there are "
                    f"{_list([*columns])}"
                )
        else:
            part = re.compile(re.escape(entry) + r"[_.\-\[\d]")
            matching = [name for name in columns if part.match(name)]
            if not matching:
                _named(key, entry, file, columns)
        found |= dict.fromkeys(matching)
    return tuple(found)


def _take(taken: dict[str, str], key: str, names: Any) -> None:
    """Assign columns to a key; each column has one role."""
    for name in names if isinstance(names, tuple) else (names,):
        if not isinstance(name, str):
            continue
        if name in taken and {key, taken[name]} != {"time", "observations"}:
            raise DataError(
                f"dataset.{key}={name}: is also dataset.{taken[name]}; a column has one use"
            )
        taken[name] = key


def _guess(key: str, names: Sequence[str], numeric: Collection[str]) -> Any:
    """Guess a key's columns by name; for observations else all numeric columns."""
    if key in SINGLE:
        lower = {name.lower(): name for name in reversed(names)}
        return next((lower[name] for name in SINGLE[key] if name in lower), None)
    groups = [
        tuple(name for name in names if any(fnmatchcase(name.lower(), p) for p in patterns))
        for patterns in _SEVERAL[key]
    ]
    if key == "observations":
        groups.append(tuple(n for n in names if n in numeric and not fnmatchcase(n.lower(), _NEXT)))
    return next(filter(None, groups), ())


def _list(names: Any) -> str:
    """Format several columns in brackets, a single one without; also ``true`` and ``none``."""
    if names is None or isinstance(names, bool):
        return "true" if names else "none"
    if isinstance(names, str):
        return names
    text = listed(names, _SHOWN, " ")
    return f"[{text}]" if len(names) > 1 else text
