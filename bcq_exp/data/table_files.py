"""Tables of logged data in Parquet and CSV files, read a batch of rows at a time.

All files of a table have the same columns. A column of lists, as robots' logs have, counts as one
column for each position: ``obs`` as ``obs[0]``, ``obs[1]`` and so on. Text that is numbers
throughout, as everything in a CSV file is, is read as numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bcq_exp.data.transitions import DataError
from bcq_exp.errors import first_line

if TYPE_CHECKING:
    import pyarrow as pa

_MAGIC, _GZIP = b"PAR1", b"\x1f\x8b"  # with which a Parquet and a compressed file begin
_BUFFER = 2**20  # bytes of a column of a Parquet file that are read at once
_BLOCK = 2**22  # bytes of a CSV file
_MOST_ROWS, _VALUES = 2**16, 2**21  # rows and values of a batch
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_NOT_FINITE = r"(?i)^[+-]?(inf|infinity|nan)$"
_BOOLEAN = r"(?i)^(true|false)$"


class Kind(Enum):
    """What the values of a column are."""

    NUMBER = "number"
    BOOLEAN = "boolean"
    CATEGORY = "category"  # text
    TIME = "time"
    OTHER = "other"  # nested values, bytes, nothing at all


@dataclass(frozen=True)
class Column:
    """A column, or a position of a column of lists.

    Args:
        source: its name in the files.
        position: in the lists, of ``width`` values each.
        is_text: whether numbers, booleans and times are to be read from text.
        odd: of text, the first that is no number, and where it is.
        is_mixed: whether most of the text is numbers.
    """

    name: str
    source: str
    kind: Kind
    position: int | None = None
    width: int = 0
    is_text: bool = False
    odd: str | None = None
    is_mixed: bool = False


@dataclass(frozen=True)
class Rows:
    """Neighbouring rows of one file.

    Args:
        path: the file.
        first: number of the first row in its file, from 0.
        arrays: the values of some columns, by name.
    """

    path: Path
    first: int
    arrays: Mapping[str, pa.Array]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def place(self, row: int | np.integer) -> str:
        """Where one of the rows is, for messages: rows count from 1, without the header."""
        return place(self.path, self.first + int(row))

    def is_empty(self, name: str) -> np.ndarray:
        """Which values are missing ``(N,)``: empty or NaN."""
        return self.arrays[name].is_null(nan_is_null=True).to_numpy(zero_copy_only=False)

    def numbers(self, name: str) -> np.ndarray:
        """Numbers or booleans as float64 ``(N,)``, NaN where they are missing."""
        import pyarrow as pa

        array = self.arrays[name]
        if pa.types.is_boolean(array.type):
            array = array.cast(pa.uint8())
        return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)

    def times(self, name: str) -> np.ndarray:
        """Times or numbers ``(N,)`` in an order-preserving number type; none may be missing."""
        import pyarrow as pa

        array = self.arrays[name]
        if pa.types.is_floating(array.type):
            return self.numbers(name)
        if pa.types.is_date32(array.type) or pa.types.is_time32(array.type):
            array = array.cast(pa.int32())
        return array.cast(pa.int64()).to_numpy(zero_copy_only=False)


def place(path: Path, row: int) -> str:
    """``row R of FILE`` for a row's number from 0."""
    return f"row {row + 1:,} of {path.name}"


class TableFiles:
    """The files of a table.

    Args:
        path: as the user gave it, for messages.
        paths: what :func:`find` made of it.

    Raises:
        DataError: a file that cannot be read, or has other columns than the first.
    """

    def __init__(self, path: str, paths: Sequence[Path]) -> None:
        self.path, self.paths = path, paths
        self._is_parquet = {file: _is_parquet(file) for file in self.paths}
        sources = self._sources(self.paths[0])
        for file in self.paths[1:]:
            if missing := sources.keys() - self._sources(file).keys():
                raise DataError(
                    f"dataset.path={path}: {file.name} has no column {min(missing)!r}, which "
                    f"{self.paths[0].name} has; all files need the same columns"
                )
        self.columns: dict[str, Column] = {
            column.name: column
            for name, kind in sources.items()
            for column in self._columns(name, kind)
        }
        self._settle_text()

    def _sources(self, file: Path) -> dict[str, Any]:
        """The columns of a file as it has them: name and Arrow type."""
        with _readable(file):
            if self._is_parquet[file]:
                import pyarrow.parquet as pq

                schema = pq.read_schema(file)
            else:
                with _open_csv(file) as reader:
                    schema = reader.schema
        names = [str(name) for name in schema.names]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{file}: two columns have the name {twice!r}; rename one")
        return dict(zip(names, schema.types, strict=True))

    def _columns(self, source: str, kind: Any) -> Iterator[Column]:
        """One for each position of lists, else one."""
        import pyarrow.compute as pc

        if not _is_list(kind):
            yield Column(source, source, _kind(kind), is_text=_is_text(kind))
            return
        width: int | None = None
        for rows in self._arrays([source]):
            found = pc.min_max(pc.list_value_length(rows.arrays[source]))["max"].as_py()
            if (width := found) is not None:
                break
        element = _kind(kind.value_type)
        for position in range(width or 0):
            yield Column(f"{source}[{position}]", source, element, position, width or 0)

    def _settle_text(self) -> None:
        """Look once through all text, whether it is numbers, booleans or times."""
        texts = {name: _Text() for name, column in self.columns.items() if column.is_text}
        for rows in self._arrays(texts):
            unsettled = {name: text for name, text in texts.items() if not text.is_settled}
            if not unsettled:
                break
            for name, text in unsettled.items():
                text.see(rows, name)
        for name, text in texts.items():
            is_text = text.kind == Kind.CATEGORY
            self.columns[name] = Column(
                name,
                name,
                text.kind,
                is_text=not is_text,
                odd=text.odd if is_text else None,
                is_mixed=is_text and text.is_mixed,
            )

    def rows(self, names: Iterable[str]) -> Iterator[Rows]:
        """The table from its first row to its last, with these columns, in their kinds.

        Raises:
            DataError: a file that is damaged, or lists of different lengths.
        """
        columns = [self.columns[name] for name in dict.fromkeys(names)]
        for rows in self._arrays(dict.fromkeys(column.source for column in columns)):
            arrays = {column.name: _values(rows, column) for column in columns}
            yield Rows(rows.path, rows.first, arrays)

    def _arrays(self, sources: Iterable[str]) -> Iterator[Rows]:
        """The same with columns as the files have them."""
        sources = list(sources)
        if not sources:
            return
        size = max(1, min(_MOST_ROWS, _VALUES // len(sources)))
        for file in self.paths:
            first = 0
            with _readable(file):
                for batch in self._batches(file, sources, size):
                    arrays = {name: _plain(batch.column(name)) for name in sources}
                    if batch.num_rows:
                        yield Rows(file, first, arrays)
                    first += batch.num_rows

    def _batches(self, file: Path, sources: Sequence[str], size: int) -> Iterator[Any]:
        if self._is_parquet[file]:
            import pyarrow.parquet as pq

            # Page by page: a group of rows, which may be the whole file, is not held in memory.
            with pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as parquet:
                yield from parquet.iter_batches(size, columns=list(sources))
        else:
            with _open_csv(file, sources) as reader:
                for batch in reader:
                    for start in range(0, batch.num_rows, size):
                        yield batch.slice(start, size)


class _Text:
    """The kind of a column of text, from what has been seen of it."""

    def __init__(self) -> None:
        self._seen = self._numbers = 0
        self._could_be = dict.fromkeys((_BOOLEAN, "time"), True)
        self.odd: str | None = None

    def see(self, rows: Rows, name: str) -> None:
        """Look at some values."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = rows.arrays[name].drop_null()
        if not len(values):
            return
        try:
            pc.cast(values, pa.float64())  # many times faster than patterns
            self._seen, self._numbers = self._seen + len(values), self._numbers + len(values)
            self._could_be = dict.fromkeys(self._could_be, False)
            return
        except pa.ArrowInvalid:
            pass
        if self._could_be[_BOOLEAN]:
            self._could_be[_BOOLEAN] = _all(pc.match_substring_regex(values, _BOOLEAN))
        if self._could_be["time"]:
            try:
                pc.cast(values, pa.timestamp("us"))
            except pa.ArrowInvalid:
                self._could_be["time"] = False
        is_number = pc.or_(
            pc.match_substring_regex(values, _NUMBER),
            pc.match_substring_regex(values, _NOT_FINITE),
        )
        self._seen += len(values)
        self._numbers += pc.sum(is_number).as_py() or 0
        if self.odd is None and not _all(is_number):
            odd = values[pc.index(is_number, False).as_py()].as_py()
            row = pc.index(rows.arrays[name], odd).as_py()
            self.odd = f"{odd!r} in {rows.place(row)}"

    @property
    def is_settled(self) -> bool:
        """Whether it is text, and not for want of some numbers."""
        return self._seen > 0 and not any(self._could_be.values()) and not self._numbers

    @property
    def kind(self) -> Kind:
        if not self._seen:
            return Kind.NUMBER  # all are missing: which says so where they are needed
        if self._numbers == self._seen:
            return Kind.NUMBER
        if self._could_be[_BOOLEAN]:
            return Kind.BOOLEAN
        return Kind.TIME if self._could_be["time"] else Kind.CATEGORY

    @property
    def is_mixed(self) -> bool:
        """Whether most are numbers, but not all."""
        return self._seen / 2 < self._numbers < self._seen


def _values(rows: Rows, column: Column) -> Any:
    """The values of a column, in the type of its kind."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = rows.arrays[column.source]
    if column.position is not None:
        lengths = pc.list_value_length(array)
        wrong = pc.index(pc.not_equal(lengths, column.width), True).as_py()
        if wrong >= 0:
            raise DataError(
                f"column {column.source!r} has {lengths[wrong]} values in {rows.place(wrong)}, "
                f"others have {column.width}; every list needs as many"
            )
        return pc.list_element(array, column.position)
    if not column.is_text:
        return array.cast(pa.float64()) if pa.types.is_decimal(array.type) else array
    if column.kind == Kind.BOOLEAN:
        return pc.equal(pc.utf8_lower(array), "true")
    return array.cast(pa.timestamp("us") if column.kind == Kind.TIME else pa.float64())


def _plain(array: Any) -> Any:
    """Text without dictionary and surrounding spaces; empty text is missing. The rest unchanged."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not _is_text(array.type):
        return array
    array = pc.utf8_trim_whitespace(array.cast(pa.string()))
    return pc.if_else(pc.equal(array, ""), None, array)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list or pa.types.is_fixed_size_list(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view"


def _kind(kind: Any) -> Kind:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    tests = {
        Kind.BOOLEAN: (pa.types.is_boolean,),
        Kind.NUMBER: (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
        Kind.TIME: (pa.types.is_timestamp, pa.types.is_date, pa.types.is_time),
        Kind.CATEGORY: (_is_text,),
    }
    return next((k for k, are in tests.items() if any(is_it(kind) for is_it in are)), Kind.OTHER)


def _all(flags: Any) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(flags).as_py())


def find(path: str) -> list[Path]:
    """The files of a path, or of a pattern such as ``logs/*.parquet`` in order of name.

    Raises:
        DataError: if there are none.
    """
    expanded = Path(path).expanduser()
    if expanded.is_dir():
        raise DataError(f"dataset.path={path}: is a folder; write {path.rstrip('/')}/*.parquet")
    if expanded.is_file():
        return [expanded]
    found = [Path(name) for name in sorted(glob(str(expanded), recursive=True))]
    files = [file for file in found if file.is_file()]
    if not files:
        what = "no file matches" if any(sign in path for sign in "*?[") else "there is no such file"
        raise DataError(f"dataset.path={path}: {what}; give a Parquet or CSV file, or a pattern")
    return files


def _is_parquet(file: Path) -> bool:
    """Whether a file is Parquet, by what it begins with; one that only says so by name is none.

    Raises:
        DataError: an empty file, or one that is neither.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_MAGIC))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    if not start:
        raise DataError(f"{file}: is empty; a table needs a row of column names and rows of data")
    if start == _MAGIC:
        return True
    if file.suffix in (".parquet", ".pq"):
        raise DataError(f"{file}: is no Parquet file; write it again, or name it .csv if it is one")
    if b"\0" in start and not start.startswith(_GZIP):
        raise DataError(f"{file}: is neither a Parquet nor a CSV file")
    return False


@contextmanager
def _open_csv(file: Path, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """A reader of a CSV file's columns as text, with a comma, semicolon or tab between them."""
    import pyarrow as pa
    from pyarrow import csv

    bad: list[Any] = []

    def refuse(row: Any) -> str:
        bad.append(row)
        return "error"

    with pa.input_stream(str(file)) as stream:
        header = stream.read(_BUFFER).partition(b"\n")[0]
    delimiter = max(b",;\t", key=lambda sign: header.count(bytes([sign])))
    parsing = csv.ParseOptions(delimiter=chr(delimiter), invalid_row_handler=refuse)
    reading = csv.ReadOptions(block_size=_BLOCK, use_threads=False)
    try:
        with csv.open_csv(file, read_options=reading, parse_options=parsing) as reader:
            names = reader.schema.names
        converting = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=columns,
            strings_can_be_null=True,
        )
        with csv.open_csv(file, reading, parsing, converting) as reader:
            yield reader
    except pa.ArrowInvalid as error:
        if not bad:
            raise
        number = "" if bad[0].number is None else f" in row {bad[0].number - 1:,}"
        raise DataError(
            f"{file}: has {bad[0].actual_columns} values{number} ({bad[0].text[:40]!r}), its "
            f"header {bad[0].expected_columns} names; every row needs one value for each"
        ) from error


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn what a damaged file makes Arrow raise into one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        with suppress(AttributeError):
            if error.errno is not None:  # type: ignore[union-attr]
                raise DataError(f"{file}: cannot be read ({error.strerror})") from error  # type: ignore[union-attr]
        raise DataError(f"{file}: cannot be read ({first_line(error)})") from error
