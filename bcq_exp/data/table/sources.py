"""Tables of logged data in Parquet and CSV files, read a batch of rows at a time.

All files of a table have the same columns. A column of lists, as robots' logs have, counts as one
column for each position: ``obs`` as ``obs[0]``, ``obs[1]`` and so on. Text that is numbers
throughout, as everything in a CSV file is, is read as numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any

from bcq_exp.data.table.column_types import (
    Column,
    ColumnType,
    TextColumn,
    column_type,
    without_spaces,
)
from bcq_exp.data.table.rows import Rows
from bcq_exp.data.transitions import DataError
from bcq_exp.errors import first_line

_MAGIC, _GZIP = b"PAR1", b"\x1f\x8b"  # first bytes of a Parquet and of a compressed file
_BUFFER = 2**20  # bytes of a Parquet column that are read at once
_BLOCK = 2**22  # bytes of a CSV file
_MOST_ROWS, _VALUES = 2**16, 2**21  # rows, and values, of a batch


class TableFiles:
    """The files of a table.

    Args:
        data: the data set's name, for messages.
        path: as the user gave it, for messages.
        paths: the files that :func:`find` found.

    Raises:
        DataError: a file that cannot be read, or whose columns differ from the first's.
    """

    def __init__(self, data: str, path: str, paths: Sequence[Path]) -> None:
        self.data, self.path, self.paths = data, path, paths
        self._is_parquet = {file: _is_parquet(file) for file in self.paths}
        sources = self._sources(self.paths[0])
        for file in self.paths[1:]:
            self._check_same(file, sources)
        self.columns: dict[str, Column] = {
            column.name: column
            for name, kind in sources.items()
            for column in self._columns(name, kind)
        }
        self._settle_text()

    def _check_same(self, file: Path, sources: Mapping[str, Any]) -> None:
        """Refuse a file whose columns, names and Arrow types, differ from the first's."""
        own, first = self._sources(file), self.paths[0].name
        start = f"dataset.path={self.path}: {file.name} has"
        for name, kind in sources.items():
            if name not in own:
                raise DataError(
                    f"{start} no column {name!r}, which {first} has; all files need the same ones"
                )
            is_same = own[name] == kind or ColumnType.TIME != column_type(kind) == column_type(
                own[name]
            )
            if not is_same:
                raise DataError(
                    f"{start} column {name!r} as {own[name]}, {first} has {kind}; write both alike"
                )

    def _sources(self, file: Path) -> dict[str, Any]:
        """Return the columns of a file: name and Arrow type."""
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
        spaced = next((name for name in names if name != name.strip()), None)
        if spaced is not None and not self._is_parquet[file]:
            raise DataError(f"{file}: the column name {spaced!r} has spaces around it; remove them")
        return dict(zip(names, schema.types, strict=True))

    def _columns(self, source: str, kind: Any) -> Iterator[Column]:
        """Yield the columns of a source: one for each position of lists, else one."""
        import pyarrow.compute as pc

        own = column_type(kind)
        if own != ColumnType.LIST:
            yield Column(source, source, own, is_text=own == ColumnType.CATEGORY)
            return
        lengths = (pc.list_value_length(rows.arrays[source]) for rows in self._arrays([source]))
        width = next(filter(None, (pc.max(length).as_py() for length in lengths)), 0)
        element = column_type(kind.value_type)
        for position in range(width):
            yield Column(f"{source}[{position}]", source, element, position, width)

    def _settle_text(self) -> None:
        """Read all text once, to find columns of numbers, booleans or times."""
        texts = {name: TextColumn() for name, column in self.columns.items() if column.is_text}
        for rows in self._arrays(texts):
            unsettled = {name: text for name, text in texts.items() if not text.is_settled}
            if not unsettled:
                break
            for name, text in unsettled.items():
                text.see(rows, name)
        self.columns |= {name: text.column(name) for name, text in texts.items()}

    def rows(self, names: Iterable[str], id: str | None = None) -> Iterator[Rows]:
        """Yield the rows of the table with these columns, converted to their types.

        Args:
            id: a column that stays as written: different ids may be one number in float64.

        Raises:
            DataError: a file that is damaged, or lists of different lengths.
        """
        columns = [self.columns[name] for name in dict.fromkeys(names)]
        for rows in self._arrays(dict.fromkeys(column.source for column in columns)):
            arrays = {c.name: c.values(rows, as_written=c.name == id) for c in columns}
            yield replace(rows, arrays=arrays)

    def _arrays(self, sources: Iterable[str]) -> Iterator[Rows]:
        """Yield rows with columns as the files have them."""
        sources = list(sources)
        if not sources:
            return
        size = max(1, min(_MOST_ROWS, _VALUES // len(sources)))
        for file in self.paths:
            first = 0
            with _readable(file):
                for batch in self._batches(file, sources, size):
                    arrays = {name: without_spaces(batch.column(name)) for name in sources}
                    if batch.num_rows:
                        yield Rows(self.data, file, first, arrays)
                    first += batch.num_rows

    def _batches(self, file: Path, sources: Sequence[str], size: int) -> Iterator[Any]:
        if self._is_parquet[file]:
            import pyarrow.parquet as pq

            # Read page by page: a row group, which may be the whole file, may not fit in memory.
            with pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as parquet:
                yield from parquet.iter_batches(size, columns=list(sources))
        else:
            with _open_csv(file, sources) as reader:
                for batch in reader:
                    for start in range(0, batch.num_rows, size):
                        yield batch.slice(start, size)


def find(path: str) -> list[Path]:
    """Find the files of a path, or of a pattern such as ``logs/*.parquet``, sorted by name.

    Raises:
        DataError: if there is no file.
    """
    expanded = Path(os.path.expanduser(path))  # unlike Path's method, it keeps an unknown ~user
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
    """Whether a file is Parquet, by its first bytes; the name alone does not count.

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
    """Open a reader of CSV columns as text, separated by comma, semicolon or tab."""
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
    """Report Arrow's errors on a damaged file in one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        words = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{file}: cannot be read ({words})") from error
