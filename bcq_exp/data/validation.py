"""Validation of data; errors name in one line what is wrong, where, and what is allowed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from bcq_exp.data.spaces import ActionSpace, act_size
from bcq_exp.data.transitions import DataError, Transitions
from bcq_exp.errors import first_line

TOLERANCE = 1e-5  # of a bound's range (or size): tolerance for float32 storage
_FOLD = 64  # rows reduced together, so that a reduction runs at the speed of memory


# Errors of h5py, json, Minari and NumPy on corrupt files.
_DAMAGE = (
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    AssertionError,
)


@contextmanager
def readable(
    source: str, path: Path, what: str = "cannot be read", remedy: str = ""
) -> Iterator[None]:
    """Report errors of a reader on a damaged file in one line.

    Args:
        what: what is said of the file.
        remedy: advice, which begins with its punctuation.

    Raises:
        DataError: for an error of the block that a damaged file causes, or for want of memory.
    """
    try:
        yield
    except MemoryError as error:
        raise DataError(
            f"data set {source!r}: {path} does not fit into memory ({first_line(error)})"
        ) from error
    except _DAMAGE as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"data set {source!r}: {path} {what} ({found[:200]}){remedy}") from error


def validated(
    source: str,
    transitions: Transitions,
    observation_space: Box,
    action_space: ActionSpace,
    lengths: np.ndarray,
    remedy: str,
    *,
    clips_actions: bool = False,
) -> Transitions:
    """Return valid data, with clipped actions if asked for; refuse other data.

    Args:
        source: the data set's name, for the message.
        transitions: the rows of all episodes, one episode after the other.
        observation_space: bounds ``(O,)``, infinite ones included.
        action_space: bounds ``(A,)``, in the units of ``transitions.act``; or Discrete.
        lengths: rows of each episode ``(E,)``, to locate errors in messages.
        remedy: advice if values are outside of a space.
        clips_actions: clip actions to their space, as an environment or robot does.

    Raises:
        DataError: no rows, a space of another size, NaN or infinity anywhere, an observation or
            action outside its bounds by more than rounding, or no bounds to clip to.
    """
    if clips_actions:
        check_clippable(source, action_space)
    check_not_empty(source, len(transitions))
    bounds = {"obs": observation_space, "obs_next": observation_space}
    check_width(source, "act", transitions.act.shape[1], act_size(action_space))
    if isinstance(action_space, Box):
        bounds["act"] = action_space
    for name, space in bounds.items():
        check_width(source, name, getattr(transitions, name).shape[1], space.shape[0])
    for name in ("obs", "act", "rew", "obs_next"):
        values = getattr(transitions, name)
        lowest, highest = check_finite(source, name, values, lengths)
        if name == "act" and clips_actions:
            clipped = np.clip(values, bounds[name].low, bounds[name].high).astype(values.dtype)
            transitions = transitions.replace(act=clipped)
        elif name in bounds:
            low, high = widened(bounds[name])
            if not (np.all(lowest >= low) and np.all(highest <= high)):
                row, column = np.argwhere((values < low) | (values > high))[0]
                clip = ", or clip them: dataset.clip_actions=true" if name == "act" else ""
                raise DataError(
                    f"data set {source!r}: {name}[{column}] is {values[row, column]:.6g} at "
                    f"{place(row, lengths)}; its space allows [{bounds[name].low[column]:g}, "
                    f"{bounds[name].high[column]:g}]; {remedy}{clip}"
                )
    if isinstance(action_space, Discrete):
        _check_indices(source, transitions.act[:, 0], action_space, lengths, remedy)
    return transitions


def _check_indices(
    source: str, act: np.ndarray, space: Discrete, lengths: np.ndarray, remedy: str
) -> None:
    """Raise DataError where an index ``(N,)`` is no whole number from 0 to n - 1."""
    wrong = (act < 0) | (act >= space.n) | (act != np.floor(act))
    if wrong.any():
        row = int(np.argmax(wrong))
        first = int(space.start)
        raise DataError(
            f"data set {source!r}: act is {act[row] + first:.6g} at {place(row, lengths)}; its "
            f"space allows the integers {first} to {first + space.n - 1}; {remedy}"
        )


def check_clippable(source: str, space: ActionSpace) -> None:
    """Raise DataError where actions are to be clipped and have no bounds."""
    if isinstance(space, Discrete):
        raise DataError(
            f"data set {source!r}: dataset.clip_actions=true: its action space is {space}, which "
            "has no bounds to clip to; use null"
        )


def check_finite(
    source: str, name: str, values: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and greatest ``(D,)`` of each column of ``values (N, D)`` or ``(N,)``.

    Raises:
        DataError: naming the first NaN or infinity.
    """
    columns = values.reshape(len(values), -1)
    extremes = _extremes(columns)
    if not np.isfinite(extremes).all():
        row, column = np.argwhere(~np.isfinite(columns))[0]
        raise DataError(
            f"data set {source!r}: {name} is {columns[row, column]} at {place(row, lengths)}; "
            "every value must be finite (in float32)"
        )
    return extremes


def check_not_empty(source: str, count: int) -> None:
    """Raise DataError if there are no transitions."""
    if count == 0:
        raise DataError(f"data set {source!r} holds no transitions; at least one is needed")


def check_width(source: str, name: str, width: int, expected: int, where: str = "") -> None:
    """Raise DataError where vectors do not have their space's size; ``where`` as an ending."""
    if width != expected:
        raise DataError(
            f"data set {source!r}{where}: {name} has {width} numbers a step, "
            f"its space has {expected}"
        )


def check_same_length(source: str, lengths: dict[str, int], where: str = "") -> None:
    """Raise DataError where arrays that go together differ in length; ``where`` as an ending."""
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"data set {source!r}{where}: lengths differ ({found}); they must be equal")


def check_numbers(source: str, name: str, values: Any, where: str = "") -> None:
    """Raise DataError where an array holds no real numbers: text (even of digits), complex ones."""
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"data set {source!r}{where}: {name} holds values of type {values.dtype}; real numbers "
            "are needed"
        )


def as_flags(source: str, name: str, values: np.ndarray, place: Callable[[int], str]) -> np.ndarray:
    """Values ``(N,)`` as bool.

    Args:
        source, name: the data set and array, for messages.
        values: booleans, or numbers that are 0 or 1.
        place: describes the place of a row.

    Raises:
        DataError: values that are no numbers, or neither 0 nor 1.
    """
    check_numbers(source, name, values)
    # A corrupt boolean is a byte other than 0 or 1, which NumPy accepts.
    numbers = values.view(np.uint8) if values.dtype == bool else values
    odd = np.flatnonzero((numbers != 0) & (numbers != 1))
    if len(odd):
        raise DataError(
            f"data set {source!r}: {name} is {numbers[odd[0]]} at {place(int(odd[0]))}; it must be "
            "false or true (0 or 1)"
        )
    return values.astype(bool, copy=False)


def check_ends(source: str, flags: dict[str, np.ndarray], lengths: np.ndarray) -> None:
    """Refuse an episode that continues after its end: the order of its rows is unknown.

    Args:
        source: the data set's name, for messages.
        flags: name -> ``(N,)`` bool over the rows of all episodes.
        lengths: rows of each episode ``(E,)``.

    Raises:
        DataError: naming the first row, before its episode's last, where a flag is set.
    """
    last = np.cumsum(lengths[lengths > 0]) - 1
    for name, values in flags.items():
        early = values.copy()
        early[last] = False
        if early.any():
            row = int(np.argmax(early))
            raise DataError(
                f"data set {source!r}: {name} is true at {place(row, lengths)}, which is not its "
                "episode's last; split the episode there"
            )


def place(row: int | np.integer, lengths: np.ndarray) -> str:
    """``episode e, step t`` of a row, given how many rows each episode has."""
    ends = np.cumsum(lengths)
    episode = int(np.searchsorted(ends, row, side="right"))
    return f"episode {episode}, step {int(row) - int(ends[episode] - lengths[episode])}"


def _extremes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest ``(D,)`` of each column of ``values (N, D)``; NaN where one is NaN."""
    size = values.shape[1]
    whole = len(values) // _FOLD * _FOLD
    parts = [values[whole:]]
    if whole:
        folded = values[:whole].reshape(-1, _FOLD * size)
        parts += [folded.min(0).reshape(_FOLD, size), folded.max(0).reshape(_FOLD, size)]
    few = np.concatenate(parts)
    return few.min(0), few.max(0)


def widened(space: Box) -> tuple[np.ndarray, np.ndarray]:
    """Widen a space's bounds ``(D,)``, in float64, by rounding errors; infinite ones stay."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    sizes = [np.where(np.isfinite(bound), np.abs(bound), 0.0) for bound in (low, high)]
    size = np.maximum(*sizes)
    with np.errstate(over="ignore"):  # bounds at the limits of float64
        extent = high - low
        scale = np.where(np.isfinite(extent), extent, np.maximum(1.0, size))
        room = TOLERANCE * scale + np.finfo(np.float32).eps * size
        return low - room, high + room
