"""Files of observations as they are: CSV or Parquet, read block by block, columns as texts, numbers or times."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import Place, csv_blocks, csv_place, kind_of, load_pyarrow, short_text
from meshcast.observations.wire import NAME_CHARACTERS_MAX
from meshcast.rpc.errors import InvalidInput, NotFound

__all__ = ["RawBlock", "RawColumn", "RawFile", "raw_file"]

RawColumn = Sequence[str] | NDArray[Any]
"""Texts; or float64, NaN where there is none; or datetime64[us], NaT where there is none."""

_FORMS = (".csv", ".parquet")
_WAYS = "give .csv (or .csv.gz, .csv.xz) or .parquet"


class RawBlock(NamedTuple):
    """Some rows of a file.

    Attributes:
        first: 0-based number of the first row.
        columns: by name.
    """

    first: int
    columns: Mapping[str, RawColumn]


class RawFile(Protocol):
    """A file of rows.

    Attributes:
        source: its name, for errors.
        rows: how many there are; None where only reading it all would tell.
        unreadable: columns that hold neither texts nor numbers nor times, and what they hold.
        place: names a 0-based row in errors.
    """

    source: str
    rows: int | None
    unreadable: Mapping[str, str]
    place: Place

    def blocks(self, rows_max: int) -> Iterator[RawBlock]:
        """The rows in their order, at most so many at a time.

        Raises:
            NotFound: there is no such file.
            InvalidInput: it cannot be read; the place is named.
        """
        ...


def raw_file(path: Path) -> RawFile:
    """A file of rows; its kind follows from its name.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is of no known kind, or no Parquet file.
        Precondition: Parquet needs the extra `parquet`.
    """
    form, packing = kind_of(path, _FORMS, _WAYS)
    return _ParquetFile(path) if form == ".parquet" else _CsvFile(path, packing)


class _CsvFile:
    """A CSV file, packed or not."""

    def __init__(self, path: Path, packing: str) -> None:
        self.source = path.name
        self.rows: int | None = None
        self.unreadable: Mapping[str, str] = {}
        self.place = csv_place(path, packing)
        self._path = path
        self._packing = packing

    def blocks(self, rows_max: int) -> Iterator[RawBlock]:
        header: list[str] = []

        def check(names: Sequence[str], source: str) -> None:
            _check_names(names, source)
            header.extend(names)

        for first, columns in csv_blocks(self._path, self._packing, rows_max, check):
            yield RawBlock(first, dict(zip(header, columns, strict=True)))


class _ParquetFile:
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self.source = path.name
        self.place: Place = lambda row: f"row {row + 1}"
        self._path = path
        if not path.exists():
            raise NotFound(f"{path}: there is no such file", file=path.name)
        self._arrow, self._parquet = load_pyarrow()
        with self._opened() as file:
            schema = file.schema_arrow
            self.rows: int | None = file.metadata.num_rows
            _check_names(schema.names, self.source)
            kinds = {name: self._kind(schema.field(name).type) for name in schema.names}
            self.unreadable: Mapping[str, str] = {
                name: str(schema.field(name).type) for name, kind in kinds.items() if kind is None
            }
            self._kinds = {name: kind for name, kind in kinds.items() if kind is not None}
        if not self.rows:
            raise InvalidInput(f"{self.source}: has no rows; give at least one", file=self.source)

    def blocks(self, rows_max: int) -> Iterator[RawBlock]:
        first = 0
        with self._opened() as file:
            batches = file.iter_batches(batch_size=rows_max, columns=list(self._kinds))
            while True:
                try:
                    batch = next(batches, None)
                except (self._arrow.ArrowInvalid, OSError) as error:
                    raise self._refusal(error) from error
                if batch is None:
                    return
                yield RawBlock(first, {name: self._column(name, batch.column(name)) for name in self._kinds})
                first += batch.num_rows

    def _opened(self) -> Any:
        try:
            return self._parquet.ParquetFile(self._path)
        except (self._arrow.ArrowInvalid, self._arrow.ArrowNotImplementedError, OSError) as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> InvalidInput:
        first = (str(error).splitlines() or ["unreadable"])[0]
        text = f"{self.source}: is cut off or not a Parquet file ({first}); fetch or export it again"
        return InvalidInput(text, file=self.source)

    def _kind(self, kind: Any) -> str | None:
        """How a column of an Arrow type is read; None: not at all."""
        types = self._arrow.types
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind):
            return "numbers"
        if types.is_timestamp(kind) or types.is_date(kind):
            return "times"
        if types.is_boolean(kind):
            return "truths"
        is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        return "texts" if is_text else None

    def _column(self, name: str, column: Any) -> RawColumn:
        arrow, kind = self._arrow, self._kinds[name]
        if arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if kind == "numbers":
            values = column.cast(arrow.float64(), safe=False)
            return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
        if kind == "times":
            moments = column.cast(arrow.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False)
            return np.asarray(moments.to_numpy(zero_copy_only=False)).astype("datetime64[us]")
        if kind == "truths":
            return ["" if one is None else "true" if one else "false" for one in column.to_pylist()]
        try:
            return ["" if one is None else one for one in column.to_pylist()]
        except UnicodeDecodeError as error:  # pyarrow reads texts without looking at them
            text = f"column {name!r}: holds bytes that are not UTF-8; write the column as UTF-8"
            raise InvalidInput(f"{self.source}, {text}", violations=[(name, text)], file=self.source) from error


def _check_names(names: Sequence[str], source: str) -> None:
    """Refuses names of columns that are none, or are there twice; one without a name is let be: an exported index."""
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        text = f"has one column, {short_text(names[0])}; separate the columns with commas"
        raise InvalidInput(f"{source}: {text}", violations=[("header", text)], file=source)
    wrong = [
        (name, f"the column is there {names.count(name)} times: leave all but one out")
        for name in sorted(set(names))
        if names.count(name) > 1
    ]
    wrong += [
        (short_text(name), f"the name has {len(name)} characters, at most {NAME_CHARACTERS_MAX} are taken")
        for name in names
        if len(name) > NAME_CHARACTERS_MAX
    ]
    if wrong:
        column, text = wrong[0]
        raise InvalidInput(f"{source}, column {column!r}: {text}", violations=wrong, file=source, column=column)
