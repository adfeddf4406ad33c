"""Neighbouring rows of a table, and one-line errors about the first invalid one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bcq_exp.data.transitions import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_LARGEST = float(np.finfo(np.float32).max)
Value = float | int | bool | str


@dataclass(frozen=True)
class Rows:
    """Neighbouring rows of one file.

    Args:
        data: the data set's name.
        path: the file.
        first: the number of the first row in its file, from 0.
        arrays: the values of some columns, by name.
    """

    data: str
    path: Path
    first: int
    arrays: Mapping[str, pa.Array]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def last(self) -> Rows:
        """Return the last row alone."""
        end = len(self) - 1
        arrays = {name: array.slice(end, 1) for name, array in self.arrays.items()}
        return Rows(self.data, self.path, self.first + end, arrays)

    def place(self, row: int | np.integer) -> str:
        """Describe a row's place in messages: rows count from 1, without the header."""
        return place(self.path, self.first + int(row))

    def refuse(self, wrong: np.ndarray, column: str, words: str, remedy: str) -> None:
        """Raise DataError about the first wrong row, if there are any among ``(N,)``.

        Args:
            words: a sentence about the column; ``{}`` is its value there.
            remedy: advice, which begins with its punctuation.
        """
        if wrong.any():
            row = int(np.argmax(wrong))
            found = words.format(_shown_value(self.arrays[column][row].as_py()))
            where = self.place(row)
            raise DataError(f"data set {self.data!r}: column {column!r} {found} in {where}{remedy}")

    def is_empty(self, name: str) -> np.ndarray:
        """Which values are missing ``(N,)``: empty or NaN."""
        return self.arrays[name].is_null(nan_is_null=True).to_numpy(zero_copy_only=False)

    def check_present(self, name: str) -> None:
        """Refuse missing values."""
        self.refuse(self.is_empty(name), name, "is empty", "; every row needs a value")

    def numbers(self, name: str) -> np.ndarray:
        """Numbers or booleans as float64 ``(N,)``, NaN where they are missing."""
        import pyarrow as pa

        array = self.arrays[name]
        if pa.types.is_boolean(array.type):
            array = array.cast(pa.uint8())
        return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)

    def finite(self, names: Sequence[str], wanted: Any = True) -> np.ndarray:
        """Return numbers of columns ``(N, C)``, finite in float32 in the wanted rows.

        Raises:
            DataError: naming the first that is not.
        """
        values = np.stack([self.numbers(name) for name in names], 1)
        remedy = "; every value must be a finite number (in float32): fill it, or leave the row out"
        for name, own in zip(names, values.T, strict=True):
            self.refuse(wanted & ~(np.abs(own) <= _LARGEST), name, "is {}", remedy)
        return values

    def times(self, name: str) -> np.ndarray:
        """Times or numbers ``(N,)`` in an order-preserving number type; none may be missing."""
        import pyarrow as pa

        array = self.arrays[name]
        if pa.types.is_floating(array.type):
            return self.numbers(name)
        if pa.types.is_date32(array.type) or pa.types.is_time32(array.type):
            array = array.cast(pa.int32())
        return array.cast(pa.int64()).to_numpy(zero_copy_only=False)

    def distinct(self, name: str) -> set[Value]:
        """Return the distinct values of a column, whole numbers as integers; none may be null."""
        import pyarrow.compute as pc

        return {plain(value) for value in pc.unique(self.arrays[name]).to_pylist()}

    def codes(self, name: str, known: Sequence[Value]) -> np.ndarray:
        """Return the index of each value ``(N,)`` in sorted values; -1 if it is missing there."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not isinstance(known[0], str):
            array = self.arrays[name]
            if pa.types.is_integer(array.type) and all(isinstance(value, int) for value in known):
                whole = array.fill_null(0).to_numpy(zero_copy_only=False)  # float64 may round it
                return np.where(self.is_empty(name), -1, places(whole, np.asarray(known)))
            return places(self.numbers(name), np.asarray(known, np.float64))
        found = pc.index_in(self.arrays[name], value_set=pa.array(known, pa.string()))
        return found.fill_null(-1).to_numpy(zero_copy_only=False)


def place(path: Path, row: int) -> str:
    """``row R of FILE`` for a row's number from 0."""
    return f"row {row + 1:,} of {path.name}"


def places(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the index of each number ``(N,)`` in sorted numbers; -1 if it is missing there."""
    found = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[found] == values, found, -1)


def plain(value: Any) -> Any:
    """Convert a whole number to an integer; leave other values unchanged."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and float(value).is_integer() else value


def shown(values: Sequence[Any]) -> str:
    """Format an action: the value of its column, or those of several."""
    words = [str(plain(value)) for value in values]
    return words[0] if len(words) == 1 else f"({', '.join(words)})"


def _shown_value(value: Any) -> str:
    if value is None or value != value:
        return "empty (NaN)"
    is_rounded = isinstance(value, float) and not (value.is_integer() and abs(value) < 2**53)
    return f"{value:.6g}" if is_rounded else str(plain(value))
