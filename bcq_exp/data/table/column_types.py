"""The type of a column's values: by its Arrow type, of text by its content."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from bcq_exp.data.table.rows import Rows
from bcq_exp.data.transitions import DataError

_NUMBER = r"(?i)^[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity|nan)$"
_BOOLEAN = r"(?i)^(true|false)$"


class ColumnType(Enum):
    """The type of a column's values."""

    NUMBER = "number"
    BOOLEAN = "boolean"
    CATEGORY = "category"  # text
    TIME = "time"
    LIST = "list"
    OTHER = "other"  # bytes, structures, null


@dataclass(frozen=True)
class Column:
    """A column, or a position of a column of lists.

    Args:
        source: its name in the files.
        position: the position in lists of ``width`` values.
        is_text: whether numbers, booleans and times are parsed from text.
        odd: the first text that is no number, and its place.
        is_mixed: whether most of the text is numbers.
        is_whole: whether the text is integers, which float64 may round.
    """

    name: str
    source: str
    kind: ColumnType
    position: int | None = None
    width: int = 0
    is_text: bool = False
    odd: str | None = None
    is_mixed: bool = False
    is_whole: bool = False

    def values(self, rows: Rows, *, as_written: bool = False) -> Any:
        """Return the column's values in some rows, converted to its type.

        Args:
            as_written: leave text and decimals as they are, but for NaN, which becomes null.

        Raises:
            DataError: lists of different lengths.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        array = rows.arrays[self.source]
        if self.position is not None:
            lengths = pc.list_value_length(array)
            wrong = pc.index(pc.not_equal(lengths, self.width), True).as_py()
            if wrong >= 0:
                raise DataError(
                    f"column {self.source!r} has {lengths[wrong]} values in {rows.place(wrong)}, "
                    f"others have {self.width}; every list needs as many"
                )
            return pc.list_element(array, self.position)
        if not self.is_text:
            is_decimal = pa.types.is_decimal(array.type) and not as_written
            return array.cast(pa.float64()) if is_decimal else array
        if as_written and self.kind == ColumnType.NUMBER:
            return pc.if_else(pc.is_nan(array.cast(pa.float64())), None, array)
        if self.kind == ColumnType.BOOLEAN:
            return pc.equal(pc.utf8_lower(array), "true")
        if self.kind == ColumnType.TIME:
            return array.cast(pa.timestamp("us"))
        return array.cast(pa.int64() if self.is_whole else pa.float64())


class TextColumn:
    """Finds the type of a column of text from its values."""

    def __init__(self) -> None:
        self._seen = self._numbers = 0
        self._may_be_boolean = self._may_be_time = self._may_be_whole = True
        self._odd: str | None = None

    def see(self, rows: Rows, name: str) -> None:
        """Update with the values of some rows."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = rows.arrays[name].drop_null()
        if not len(values):
            return
        self._seen += len(values)
        self._may_be_whole = self._may_be_whole and _is_all(values, pa.int64())
        if _is_all(values, pa.float64()):  # many times faster than patterns
            self._numbers += len(values)
            self._may_be_boolean = self._may_be_time = False
            return
        if self._may_be_boolean:
            self._may_be_boolean = pc.all(pc.match_substring_regex(values, _BOOLEAN)).as_py()
        self._may_be_time = self._may_be_time and _is_all(values, pa.timestamp("us"))
        is_number = pc.match_substring_regex(values, _NUMBER)
        self._numbers += pc.sum(is_number).as_py()
        if self._odd is None and (first := pc.index(is_number, False).as_py()) >= 0:
            odd = values[first].as_py()
            row = pc.index(rows.arrays[name], odd).as_py()
            self._odd = f"{odd!r} in {rows.place(row)}"

    @property
    def is_settled(self) -> bool:
        """Whether the column is certainly text: no value so far is a number, boolean or time."""
        is_other = self._may_be_boolean or self._may_be_time or self._numbers
        return self._seen > 0 and not is_other

    def column(self, name: str) -> Column:
        """Return the column; a column without values counts as numbers."""
        is_whole = self._may_be_whole and self._seen > 0
        if self._numbers == self._seen:
            kind = ColumnType.NUMBER
        elif self._may_be_boolean or self._may_be_time:
            kind = ColumnType.BOOLEAN if self._may_be_boolean else ColumnType.TIME
        else:
            is_mixed = self._seen / 2 < self._numbers
            return Column(name, name, ColumnType.CATEGORY, odd=self._odd, is_mixed=is_mixed)
        return Column(name, name, kind, is_text=True, is_whole=is_whole)


def _is_all(values: Any, kind: Any) -> bool:
    """Whether all texts can be parsed as an Arrow type."""
    import pyarrow as pa

    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def without_spaces(array: Any) -> Any:
    """Decode and strip text; empty text becomes null. Other arrays are unchanged."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if column_type(array.type) != ColumnType.CATEGORY:
        return array
    array = pc.utf8_trim_whitespace(array.cast(pa.string()))
    return pc.if_else(pc.equal(array, ""), None, array)


def column_type(kind: Any) -> ColumnType:
    """Return the type of an Arrow type's values."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return column_type(kind.value_type)
    tests = {
        ColumnType.BOOLEAN: (pa.types.is_boolean,),
        ColumnType.NUMBER: (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
        ColumnType.TIME: (pa.types.is_timestamp, pa.types.is_date, pa.types.is_time),
        ColumnType.CATEGORY: (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
        ),
        ColumnType.LIST: (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
    }
    return next(
        (k for k, are in tests.items() if any(is_it(kind) for is_it in are)), ColumnType.OTHER
    )
