"""What `meshcast drift` is given: two files of rows and words about their columns, every fault with its way out."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np

from meshcast.cli.analyze_input import as_input
from meshcast.cli.problem import Problem
from meshcast.observations import Choices, ObservationFile, Observations, open_observations
from meshcast.rpc import InvalidInput, MeshError

__all__ = ["SAMPLE_ROWS", "Columns", "DriftFiles", "Rows", "WindowSize", "importances_of", "opened", "window_size"]

SAMPLE_ROWS = 50_000
"""Rows of a file that pictures are drawn from, spread over it evenly."""
_SORTED_ROWS_MAX = 5_000_000  # that are put into the order of their times, in memory
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(min|[smhdw])", re.ASCII)
_UNIT_S = {"s": 1, "min": 60, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What is said of the columns on the command line."""

    only: Sequence[str] = ()
    ignore: Sequence[str] = ()
    numbers: Sequence[str] = ()
    categories: Sequence[str] = ()
    outputs: Sequence[str] = ()
    importance: Sequence[str] = ()
    time: str | None = None


@dataclass(frozen=True, kw_only=True)
class WindowSize:
    """How long a window is: so many rows, or such a time."""

    rows: int | None = None
    duration: timedelta | None = None

    def __str__(self) -> str:
        if self.duration is None:
            return f"{self.rows:,} rows"
        return _duration_text(self.duration.total_seconds())


@dataclass(frozen=True, kw_only=True)
class DriftFiles:
    """The two files, whose columns are read alike."""

    reference: ObservationFile
    window: ObservationFile

    def notes(self) -> list[str]:
        """Which columns are not looked at, and why."""
        notes = [f"column {name!r} is not looked at: it {why}" for name, why in self.reference.left_out.items()]
        strange = [name for name in self.window.left_out if name not in self.reference.names]
        if strange:
            shown = ", ".join(map(repr, strange[:8])) + (f" and {len(strange) - 8} more" if len(strange) > 8 else "")
            notes.append(f"columns of {self.window.source} that the reference does not have: {shown}")
        return notes


def opened(reference: Path, window: Path, columns: Columns) -> DriftFiles:
    """Both files, the window's columns read as the reference's.

    Raises:
        Problem: a file or a word about its columns is wrong; its place and the way out are named.
    """
    try:
        ignored = (*columns.ignore, *([columns.time] if columns.time else ()))
        found = open_observations(
            reference,
            Choices(numeric=columns.numbers, categorical=columns.categories, only=columns.only, ignore=ignored),
        )
        _check_named(found, columns)
        other = open_observations(window, Choices(time=columns.time), kinds=found.kinds)
        _check_ignored(columns.ignore, (*found.names, *other.names))
    except MeshError as error:
        raise with_ways(error) from error
    return DriftFiles(reference=found, window=other)


@dataclass
class Rows:
    """Rows of a file as they are needed: all of them where they are few, and a sample of them for pictures.

    Args:
        file: the file.
        progress: told while it is read.
        sample_rows: rows that are kept of many, at most twice as many.

    Attributes:
        rows: how many have been read.
        sample: some of them, spread evenly; None before anything was read.
    """

    file: ObservationFile
    progress: Progress | None = None
    sample_rows: int = SAMPLE_ROWS
    rows: int = 0
    sample: Observations | None = None
    _stride: int = field(default=1, init=False)

    def held(self, bytes_max: int) -> Observations | None:
        """All rows, where they are of at most so many bytes; None where they are more.

        Raises:
            Problem: a value is not of its column's kind.
        """
        self._begin()
        parts: list[Observations] = []
        size = 0
        for part in self.chunks():
            parts.append(part)
            size += _size(part)
            if size > bytes_max:
                return None
        return Observations.concat(parts)

    def in_order(self) -> Observations:
        """All rows, sorted by their times.

        Raises:
            Problem: a value is not of its column's kind, or there are too many rows to be sorted.
        """
        self._begin()
        parts: list[Observations] = []
        for part in self.chunks():
            if self.rows > _SORTED_ROWS_MAX:
                raise Problem(
                    f"{self.file.source}: more than {_SORTED_ROWS_MAX:,} rows are not put into order here",
                    way_out="give a part of them, or observe them from Python",
                )
            parts.append(part)
        table = Observations.concat(parts)
        if table.unix_us is None or bool((np.diff(table.unix_us) >= 0).all()):
            return table
        return table.take(np.argsort(table.unix_us, kind="stable"))

    def chunks(self) -> "Chunks":
        """The rows chunk by chunk, from the beginning; memory holds one."""
        self._begin()
        return Chunks(self)

    def _begin(self) -> None:
        self.rows, self.sample, self._stride = 0, None, 1

    def saw(self, part: Observations) -> None:
        """Counts a chunk, and keeps every so-manieth row of it."""
        picked = np.arange(-self.rows % self._stride, part.rows, self._stride)
        self.rows += part.rows
        kept = part.take(picked)
        self.sample = kept if self.sample is None else Observations.concat([self.sample, kept])
        while self.sample.rows > 2 * self.sample_rows:
            self.sample = self.sample[::2]
            self._stride *= 2


class Chunks:
    """The chunks of a file, each seen by its `Rows`."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._chunks = rows.file.chunks(progress=rows.progress)

    def __iter__(self) -> "Chunks":
        return self

    def __next__(self) -> Observations:
        try:
            part = next(self._chunks)
        except StopIteration:
            if self._rows.progress is not None:
                self._rows.progress(self._rows.rows, self._rows.rows)  # a file that is read has an end
            raise
        except MeshError as error:
            raise with_ways(error) from error
        self._rows.saw(part)
        return part


def window_size(text: str | None) -> WindowSize:
    """How long a window is, of a word of the command line; nothing is the service's own setting.

    >>> str(window_size("500")), str(window_size("1.5d")), str(window_size("6h"))
    ('500 rows', '36 hours', '6 hours')

    Raises:
        Problem: it is neither a number of rows nor a time.
    """
    if text is None:
        return WindowSize()
    plain = text.strip().lower().replace("_", "")
    if plain.isascii() and plain.isdecimal() and 1 <= int(plain) <= 1_000_000:
        return WindowSize(rows=int(plain))
    found = _DURATION.fullmatch(plain)
    seconds = float(found[1]) * _UNIT_S[found[2]] if found is not None else 0.0
    if not 1 <= seconds <= 10 * 366 * 86_400:
        raise Problem(
            f"--window {text}: is neither a number of rows nor a time",
            way_out="--window 1000 for rows (1 to 1,000,000), or --window 12h, 1d, 2w for times",
        )
    return WindowSize(duration=timedelta(seconds=seconds))


def importances_of(words: Sequence[str]) -> dict[str, float]:
    """Weights by column, of words as NAME=3.

    Raises:
        Problem: a word is none such.
    """
    found: dict[str, float] = {}
    for word in words:
        name, sign, value = word.rpartition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = -1.0
        if not (sign and name and 0 <= weight <= 1_000):
            raise Problem(f"--importance {word}: a column and its weight are needed, 0 to 1,000", way_out="NAME=3")
        found[name] = weight
    return found


def with_ways(error: MeshError) -> Problem:
    """A fault of a file as bad input, with the options that lead out of it."""
    problem = as_input(error)
    if "byte" in error.facts:
        problem.way_out = "`iconv -f latin1 -t utf-8 FILE` writes a Latin-1 file as UTF-8"
    if isinstance(error, InvalidInput) and "column" in error.facts and not problem.way_out:
        name = _quoted(error.facts["column"])
        text = error.message
        if "column of the reference is missing" in text:
            problem.way_out = f"--ignore {name} compares without it"
        elif "say what the column is" in text or "read the column as categories" in text:
            problem.way_out = f"--category {name} or --ignore {name}"
        elif "leave the column out" in text:
            problem.way_out = f"--ignore {name}"
    return problem


def _check_named(file: ObservationFile, columns: Columns) -> None:
    """Refuses weights and roles of columns that are not looked at."""
    weights = importances_of(columns.importance)
    for option, names in (("--importance", list(weights)), ("--output", list(columns.outputs))):
        for name in names:
            if name not in file.kinds:
                why = file.left_out.get(name)
                told = f"is not looked at: it {why}" if why else "is none of its columns"
                raise Problem(
                    f"{option} {name}: {told}",
                    way_out=f"{file.source} has {', '.join(map(repr, list(file.kinds)[:12]))}",
                )


def _check_ignored(ignored: Sequence[str], names: Sequence[str]) -> None:
    """Refuses columns to leave out that neither file has."""
    for name in ignored:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            found = ", ".join(map(repr, dict.fromkeys(names[:12])))
            raise Problem(
                f"--ignore {name}: neither file has such a column",
                way_out=f"did you mean {near[0]!r}?" if near else f"found are {found}",
            )


def _size(part: Observations) -> int:
    """About the bytes that rows take in a message."""
    return sum(values.nbytes for values in part.numeric.values()) + 2 * part.rows * len(part.categorical)


def _quoted(name: str) -> str:
    return f"'{name}'" if re.search(r"[^\w.-]", name) else name


def _duration_text(seconds: float) -> str:
    for unit, size in (("week", 604_800), ("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"{count} {unit}{'s' * (count != 1)}"
    return f"{seconds:g} seconds"
