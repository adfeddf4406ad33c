"""Which columns of a table are observations, actions, reward and so on: as asked, else guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from bcq_exp.data.table_files import Column, Kind
from bcq_exp.data.transitions import DataError

Wanted = str | Sequence[str] | None  # a column, a pattern, or several

_SHOWN = 12  # names in a message
_SINGLE: Mapping[str, tuple[str, ...]] = {  # names that are guessed, the likeliest first
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
_ACTIONS = (("action*",), ("act", "act_*", "act[0-9]*", "act[[]*"))
_OBSERVATIONS = (("obs*",), ("state*",))
_NEXT = "next[_.]*"  # of the step after: never guessed
_NUMERIC = (Kind.NUMBER, Kind.BOOLEAN)


@dataclass(frozen=True)
class Columns:
    """The columns of a table, by what they are.

    Args:
        terminated: True where every episode ends by itself, in its last row.
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
    guessed: tuple[str, ...]

    @property
    def flags(self) -> dict[str, str]:
        """The columns of flags, by what they are."""
        flags = {"terminated": self.terminated, "truncated": self.truncated}
        return {name: column for name, column in flags.items() if isinstance(column, str)}

    @property
    def all(self) -> tuple[str, ...]:
        """Every column that is read."""
        singles = (self.episode, self.time, self.reward, self.behaviour_prob, *self.flags.values())
        return (*self.observations, *self.actions, *(name for name in singles if name is not None))

    def in_words(self) -> str:
        """Each key and its columns."""
        parts = [
            f"{key}={_list(getattr(self, key))}{'?' if key in self.guessed else ''}"
            for key in (*_KEYS, "behaviour_prob")
            if key != "behaviour_prob" or self.behaviour_prob is not None
        ]
        note = "; with a ? by its name, dataset.KEY=... changes it" if self.guessed else ""
        return f"{', '.join(parts)}{note}"


_KEYS = ("episode", "time", "observations", "actions", "reward", "terminated", "truncated")


def choose(columns: Mapping[str, Column], categorical: Sequence[str], **wanted: Any) -> Columns:
    """The columns to read.

    Args:
        columns: all there are, in order.
        categorical: those that are read as categories whatever they hold.
        wanted: by key, as the configuration has them; None is guessed.

    Raises:
        DataError: a column that does not exist or has two uses, or a guess that finds none.
    """
    for name in categorical:
        _named("categorical", name, columns)
    given = {key: value for key, value in wanted.items() if value is not None}
    taken: dict[str, str] = {}
    found: dict[str, Any] = {}
    for key in _SINGLE:
        if key in given:
            found[key] = _single(key, given[key], columns)
            _take(taken, key, [found[key]])
    several = {key: given[key] for key in ("actions", "observations") if key in given}
    for key, value in several.items():
        found[key] = _several(key, value, columns)
        _take(taken, key, found[key])
    for key, names in _SINGLE.items():
        if key not in found:
            found[key] = _guess_single(names, columns, taken)
            _take(taken, key, [found[key]])
    if found["reward"] is None:
        raise _none("reward", columns)
    if "actions" not in found:
        found["actions"] = _first(_matching(p, columns, taken) for p in _ACTIONS)
        _take(taken, "actions", found["actions"])
    if "observations" not in found:
        rest = [
            name
            for name, column in columns.items()
            if name not in taken
            and (column.kind in _NUMERIC or name in categorical)
            and not fnmatchcase(name.lower(), _NEXT)
        ]
        found["observations"] = _first(_matching(p, columns, taken) for p in _OBSERVATIONS) or rest
    for key in ("actions", "observations"):
        if not found[key]:
            raise _none(key, columns)
        found[key] = tuple(found[key])
    guessed = tuple(key for key in found if key not in given and found[key] is not None)
    chosen = Columns(**found, guessed=guessed)
    for key in ("observations", "actions"):
        for name in getattr(chosen, key):
            _check_kind(key, columns[name], is_category=name in categorical)
    for key in ("reward", "behaviour_prob", "terminated", "truncated"):
        if isinstance(name := getattr(chosen, key), str):
            _check_numbers(key, columns[name])
    if chosen.time is not None and columns[chosen.time].kind not in (Kind.NUMBER, Kind.TIME):
        raise _wrong_kind("time", columns[chosen.time], "numbers or times (ISO 8601)")
    return chosen


def _check_kind(key: str, column: Column, *, is_category: bool) -> None:
    """Refuse what is neither numbers nor categories."""
    if column.kind not in (*_NUMERIC, Kind.CATEGORY):
        raise _wrong_kind(key, column, "numbers, booleans or text")
    if column.is_mixed and not is_category:
        raise DataError(
            f"dataset.{key}={column.name}: has text among numbers, {column.odd}; correct the "
            f"value, or read all as categories: dataset.categorical=[{column.name}]"
        )


def _check_numbers(key: str, column: Column) -> None:
    """Refuse text where numbers are needed."""
    if column.kind not in _NUMERIC:
        raise _wrong_kind(key, column, "numbers")


def _wrong_kind(key: str, column: Column, needed: str) -> DataError:
    found = f"text, {column.odd}" if column.odd else f"values of kind {column.kind.value}"
    return DataError(f"dataset.{key}={column.name}: has {found}; {needed} are needed")


def _single(key: str, value: Any, columns: Mapping[str, Column]) -> Any:
    """The one column that a key names."""
    if key == "terminated" and isinstance(value, bool):
        return value
    if not isinstance(value, str):
        if not isinstance(value, Sequence) or len(value) != 1:
            raise DataError(f"dataset.{key}={value}: must be the name of one column")
        value = value[0]
    return _named(key, value, columns)


def _named(key: str, name: Any, columns: Mapping[str, Column]) -> str:
    if name in columns:
        return str(name)
    near = get_close_matches(str(name), columns, n=1)
    meant = f"did you mean {near[0]}?" if near else f"there are {_list([*columns])}"
    raise DataError(f"dataset.{key}={name}: the table has no such column; {meant}")


def _several(key: str, value: Any, columns: Mapping[str, Column]) -> list[str]:
    """The columns that names, patterns and prefixes stand for, each once."""
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
                    f"dataset.{key}={entry}: no column matches; there are {_list([*columns])}"
                )
        else:
            part = re.compile(re.escape(entry) + r"[_.\-\[\d]")
            matching = [name for name in columns if part.match(name)]
            if not matching:
                _named(key, entry, columns)
        found |= dict.fromkeys(matching)
    return [*found]


def _take(taken: dict[str, str], key: str, names: Iterable[Any]) -> None:
    """Note which key has the columns; each has one use."""
    for name in names:
        if not isinstance(name, str):
            continue
        if name in taken and {key, taken[name]} != {"time", "observations"}:
            raise DataError(
                f"dataset.{key}={name}: is also dataset.{taken[name]}; a column has one use"
            )
        taken[name] = key


def _guess_single(
    names: Iterable[str], columns: Mapping[str, Column], taken: Mapping[str, str]
) -> str | None:
    lower = {name.lower(): name for name in columns if name not in taken}
    return next((lower[name] for name in names if name in lower), None)


def _matching(
    patterns: Iterable[str], columns: Mapping[str, Column], taken: Mapping[str, str]
) -> list[str]:
    return [
        name
        for name in columns
        if name not in taken and any(fnmatchcase(name.lower(), pattern) for pattern in patterns)
    ]


def _first(groups: Iterable[list[str]]) -> list[str]:
    return next((group for group in groups if group), [])


def _none(key: str, columns: Mapping[str, Column]) -> DataError:
    return DataError(
        f"dataset.{key}=null: no column has a name that says so; give dataset.{key}, there are "
        f"{_list([*columns])}"
    )


def _list(names: Any) -> str:
    """Columns in brackets, one alone without; ``true`` and ``none`` as such."""
    if names is None or isinstance(names, bool):
        return "true" if names else "none"
    if isinstance(names, str):
        return names
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    text = " ".join(names[:_SHOWN])
    return f"[{text}{more}]" if len(names) > 1 or more else text
