"""Observations in files, CSV or Parquet: what their columns are, and their rows as tables, chunk by chunk."""

import difflib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import Place
from meshcast.observations.kinds import Fault, Kind, Verdict, categories, infer, numbers, times
from meshcast.observations.raw_file import RawBlock, RawColumn, RawFile, raw_file
from meshcast.observations.table import CategoryColumn, Floats, Observations
from meshcast.rpc.errors import InvalidInput

__all__ = ["CHUNK_ROWS", "Choices", "ObservationFile", "Progress", "open_observations", "read_observations"]

CHUNK_ROWS = 16_384
"""Rows of a chunk when none are asked for."""

_SAMPLE_ROWS = 50_000  # that tell what a column is
_BLOCK_ROWS = 4_096  # small enough that the texts in hand stay in the cache
_FAULTS_MAX = 50

Progress = Callable[[int, int | None], None]
"""Told after each chunk: rows read so far, and rows in all (None while that is not known)."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is said of a file's columns; all else is inferred.

    Attributes:
        numeric: columns of numbers.
        categorical: columns of categories, as codes that are written as numbers.
        only: columns that are read; empty: all that are not in `ignore`.
        ignore: columns that are not read, whether they are there or not.
        time: column of the rows' times: ISO 8601, or seconds, milliseconds or microseconds since 1970. None: there is
            none.
    """

    numeric: Collection[str] = ()
    categorical: Collection[str] = ()
    only: Collection[str] = ()
    ignore: Collection[str] = ()
    time: str | None = None


_NOTHING = Choices()


@dataclass(frozen=True, kw_only=True)
class ObservationFile:
    """A file of observations whose columns are known.

    Attributes:
        source: the file's name.
        names: all its columns, in the file's order.
        kinds: columns that are read, in the file's order, and their kinds.
        left_out: columns that are not, and why; those that were chosen by hand to be left out are not named.
        time_columns: columns that hold times, of which none is a feature.
        time: column of the rows' times; None: there is none.
        rows: how many there are; None where only reading it all would tell.
    """

    source: str
    names: tuple[str, ...]
    kinds: Mapping[str, Kind]
    left_out: Mapping[str, str]
    time_columns: tuple[str, ...]
    time: str | None
    rows: int | None
    raw: RawFile = field(repr=False)

    def chunks(self, rows_max: int = CHUNK_ROWS, *, progress: Progress | None = None) -> Iterator[Observations]:
        """The rows in their order, at most so many at a time; memory holds one chunk.

        Args:
            rows_max: rows of a chunk at most.
            progress: told after each chunk.

        Raises:
            InvalidInput: a value is not of its column's kind; row and column are named.
        """
        parts: list[Observations] = []
        held = done = 0
        for block in self.raw.blocks(min(_BLOCK_ROWS, rows_max)):
            part = self._read(block)
            if parts and held + part.rows > rows_max:
                yield Observations.concat(parts)
                parts, held = [], 0
            parts.append(part)
            held += part.rows
            done += part.rows
            if progress is not None:
                progress(done, self.rows)
        if parts:
            yield Observations.concat(parts)

    def read(self, *, rows_max: int | None = None, progress: Progress | None = None) -> Observations:
        """All rows as one table.

        Args:
            rows_max: refuse a file of more rows; None: take any.
            progress: told after each chunk.

        Raises:
            InvalidInput: as `chunks`; or there are too many rows.
        """
        parts: list[Observations] = []
        held = 0
        for part in self.chunks(progress=progress):
            held += part.rows
            if rows_max is not None and held > rows_max:
                text = f"has more than {rows_max:,} rows; give a part of it"
                raise InvalidInput(f"{self.source}: {text}", violations=[("file", text)], file=self.source)
            parts.append(part)
        return Observations.concat(parts)

    def _read(self, block: RawBlock) -> Observations:
        numeric: dict[str, Floats] = {}
        categorical: dict[str, CategoryColumn] = {}
        unix_us: NDArray[np.int64] | None = None
        faults: list[tuple[int, str, str]] = []
        for name, kind in self.kinds.items():
            wrong: list[Fault]
            if kind in ("number", "double"):
                numeric[name], wrong = numbers(block.columns[name], kind)
                way = "; read the column as categories, or leave it out"
            else:
                categorical[name], wrong = categories(block.columns[name], kind)
                way = "; leave the column out"
            faults += [(block.first + row, name, why + way) for row, why in wrong]
        if self.time is not None:
            unix_us, wrong = times(block.columns[self.time])
            faults += [(block.first + row, self.time, why) for row, why in wrong]
        if faults:
            raise _refusal(self.source, self.raw.place, faults)
        return Observations(len(next(iter(block.columns.values()))), numeric, categorical, unix_us)


def open_observations(
    path: str | os.PathLike[str], choices: Choices = _NOTHING, *, kinds: Mapping[str, Kind] | None = None
) -> ObservationFile:
    """Finds out what the columns of a file are, by its first 50,000 rows.

    Numbers and texts with few different values become features. Left out are times and dates, texts that differ in
    most rows, whole numbers that count or name the rows, and columns without any value. Blank fields and `NA`, `N/A`,
    `NaN`, `null`, `None`, `-` and `?` are nulls, in lower or upper case; `inf` is a value.

    Args:
        path: .csv, packed (.gz, .bz2, .xz) or not, in UTF-8, or .parquet.
        choices: what is known of the columns.
        kinds: of another file, as that of the reference: its columns are read here as there, whatever they look like.

    Raises:
        NotFound: there is no such file.
        InvalidInput: the file is empty, cut off or of no known kind; a column is missing or of no certain kind, or none
            is left; file, row, column and the way out are named.
        Precondition: Parquet needs the extra `parquet`.
    """
    file = raw_file(Path(path))
    sample = _sample(file)
    names = [*sample, *file.unreadable]
    _check_chosen(file, names, choices, kinds)
    verdicts = {name: infer(column) for name, column in sample.items()}
    time_columns = tuple(name for name, verdict in verdicts.items() if verdict.is_time)
    left_out: dict[str, str] = {}
    found: dict[str, Kind] = {}
    if kinds is not None:
        found = dict(kinds)
        left_out = {name: "is not in the reference" for name in names if name not in kinds and name != choices.time}
    else:
        for name in names:
            if name in choices.ignore or (choices.only and name not in choices.only) or name == choices.time:
                continue
            if name in file.unreadable:
                left_out[name] = f"holds {file.unreadable[name]}"
            elif not name:
                left_out[name] = "has no name"
            elif kind := _kind(file, name, verdicts[name], choices):
                found[name] = kind
            else:
                left_out[name] = verdicts[name].left_out
    if not found:
        told = "; ".join(f"{name!r} {why}" for name, why in left_out.items())
        raise InvalidInput(
            f"{file.source}: no column is left to look at: {told or 'all are ignored'}", file=file.source
        )
    return ObservationFile(
        source=file.source,
        names=tuple(names),
        kinds=found,
        left_out=left_out,
        time_columns=time_columns,
        time=choices.time,
        rows=file.rows,
        raw=file,
    )


def read_observations(
    path: str | os.PathLike[str],
    choices: Choices = _NOTHING,
    *,
    kinds: Mapping[str, Kind] | None = None,
    progress: Progress | None = None,
) -> Observations:
    """Reads a file whole; see `open_observations` for what becomes of its columns, and for files too large for memory.

    Of two files that are to be compared, read the second with the kinds of the first: a column may look otherwise in
    it, as codes of digits alone.

    >>> reference = open_observations("last_year.csv")  # doctest: +SKIP
    >>> rows = read_observations("today.csv", Choices(time="applied_at"), kinds=reference.kinds)  # doctest: +SKIP

    Raises:
        NotFound: there is no such file.
        InvalidInput: as `open_observations` and `ObservationFile.chunks`.
        Precondition: Parquet needs the extra `parquet`.
    """
    return open_observations(path, choices, kinds=kinds).read(progress=progress)


def _sample(file: RawFile) -> dict[str, RawColumn]:
    """The columns of the first rows."""
    parts: list[RawBlock] = []
    for block in file.blocks(_BLOCK_ROWS):
        parts.append(block)
        if block.first + _BLOCK_ROWS >= _SAMPLE_ROWS:
            break
    return {name: _end_to_end([part.columns[name] for part in parts]) for name in parts[0].columns}


def _end_to_end(parts: list[RawColumn]) -> RawColumn:
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    return np.concatenate(arrays) if arrays else [text for part in parts for text in part]


def _kind(file: RawFile, name: str, verdict: Verdict, choices: Choices) -> Kind | None:
    if name in choices.categorical:
        return "category"
    if name in choices.numeric:
        return "double" if verdict.kind == "double" else "number"
    if verdict.fault is not None:
        row, why = verdict.fault
        raise _refusal(file.source, file.place, [(row, name, f"{why}; say what the column is, or leave it out")])
    if verdict.kind is None and name in choices.only:
        raise InvalidInput(f"{file.source}, column {name!r}: cannot be read: {verdict.left_out}", file=file.source)
    return verdict.kind


def _check_chosen(file: RawFile, names: list[str], choices: Choices, kinds: Mapping[str, Kind] | None) -> None:
    """Refuses columns that were named and are not there, and those that were named for two things."""
    wanted = dict.fromkeys((*choices.numeric, *choices.categorical, *choices.only), "there is no such column")
    needed = dict.fromkeys(kinds or (), "the column of the reference is missing")
    if choices.time is not None:
        needed[choices.time] = "there is no such column"
    readable = [name for name in names if name not in file.unreadable]
    wrong = [(name, why) for name, why in wanted.items() if name not in names]
    wrong += [(name, why) for name, why in needed.items() if name not in readable]
    hint = _hint(wrong[0][0], readable) if wrong else ""
    twice = set(choices.numeric) & set(choices.categorical)
    wrong += [(name, "is named as numbers and as categories") for name in sorted(twice)]
    if wrong:
        column, why = wrong[0]
        more = f" ({len(wrong) - 1} more columns)" if len(wrong) > 1 else ""
        text = f"{file.source}, column {column!r}: {why}{hint}{more}"
        raise InvalidInput(text, violations=wrong[:_FAULTS_MAX], file=file.source, column=column)


def _hint(name: str, names: list[str]) -> str:
    """What may have been meant."""
    near = difflib.get_close_matches(name, names, n=1)
    shown = ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"; did you mean {near[0]!r}?" if near else f"; found are {shown}"


def _refusal(source: str, place: Place, faults: list[tuple[int, str, str]]) -> InvalidInput:
    """What is wrong with rows, the first of them in the message; faults are (0-based row, column, why)."""
    faults.sort(key=lambda fault: fault[0])
    row, column, text = faults[0]
    more = "" if len(faults) == 1 else f" ({len(faults) - 1:,} more faults nearby)"
    return InvalidInput(
        f"{source}, {place(row)}, column {column!r}: {text}{more}",
        violations=[(f"row {r + 1}, column {c!r}", t) for r, c, t in faults[:_FAULTS_MAX]],
        file=source,
        row=row + 1,
        column=column,
    )
