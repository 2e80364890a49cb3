"""What tests of sinks share: made-up blocks, sinks of every kind, and a disk that stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from meshcast.sinks import Column, Columns, Disk, FileSink, ParquetSink, Sink, SqliteSink


class Stopped(Exception):
    """The process was killed here."""


class StoppingDisk(Disk):
    """A disk whose process is killed after so many steps; the step at which it dies may write a part of its bytes.

    Args:
        steps: steps that it lives through.
        share: of the bytes that a write at which it dies still puts there, 0 to 1.
    """

    def __init__(self, steps: int, share: float) -> None:
        self._steps = steps
        self._share = share

    def write(self, file: IO[bytes], data: bytes) -> None:
        if self._is_dead():
            super().write(file, data[: round(len(data) * self._share)])
            raise Stopped
        super().write(file, data)

    def sync(self, file: IO[bytes]) -> None:
        if self._is_dead():
            raise Stopped

    def replace(self, new: Path, path: Path) -> None:
        if self._is_dead():
            raise Stopped
        super().replace(new, path)

    def sync_folder(self, folder: Path) -> None:
        if self._is_dead():
            raise Stopped

    def _is_dead(self) -> bool:
        self._steps -= 1
        return self._steps < 0


def block(first: int, rows: int) -> dict[str, Column]:
    """Rows from a number on, of every kind of column, with missing values and awkward texts."""
    number = np.arange(first, first + rows, dtype=np.int64)
    value = (number / 7).astype(np.float32)
    value[number % 5 == 3] = np.nan
    return {
        "row": number,
        "value": value,
        "exact": number / 7,
        "is_even": number % 2 == 0,
        "name": np.array([f"r{one}" for one in number.tolist()], dtype=np.str_),
        "error": ['it is "odd",\nline 2; ü' if one % 2 else "" for one in number.tolist()],
    }


def same(found: Columns, wanted: Columns) -> None:
    """Checks that columns read back are those that were given, to the bit."""
    assert list(found) == list(wanted)
    for name, column in wanted.items():
        if isinstance(column, np.ndarray) and column.dtype.kind != "U":
            given = found[name]
            assert isinstance(given, np.ndarray) and given.dtype == column.dtype, name
            np.testing.assert_array_equal(given, column)
        else:
            assert list(found[name]) == list(column), name


def read_whole(sink: Sink, rows_max: int = 7) -> dict[str, Column]:
    """Everything that stands in an open sink."""
    parts = list(sink.read(rows_max))
    joined: dict[str, Column] = {}
    for name in parts[0] if parts else ():
        columns = [part[name] for part in parts]
        arrays = [column for column in columns if isinstance(column, np.ndarray)]
        joined[name] = np.concatenate(arrays) if arrays else [value for column in columns for value in column]
    return joined


Make = Callable[..., Sink]

MAKERS: dict[str, Make] = {
    "csv": lambda folder, **rest: FileSink(folder / "rows.csv", **rest),
    "jsonl": lambda folder, **rest: FileSink(folder / "rows.jsonl", **rest),
    "parquet": lambda folder, **rest: ParquetSink(folder / "rows.parquet", **rest),
    "sqlite": lambda folder, **rest: SqliteSink(folder / "rows.sqlite", table="rows", **rest),
}


@dataclass(frozen=True)
class Kit:
    """The names of this file: modules cannot import it."""

    block: Callable[[int, int], dict[str, Column]] = block
    same: Callable[[Columns, Columns], None] = same
    read_whole: Callable[..., dict[str, Column]] = read_whole
    disk: type[StoppingDisk] = StoppingDisk
    stopped: type[Stopped] = Stopped


@pytest.fixture(scope="session")
def kit() -> Kit:
    """Blocks, comparisons and the disk that stops."""
    return Kit()


@pytest.fixture(params=list(MAKERS))
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a sink of one kind in a folder."""
    return MAKERS[request.param]


@pytest.fixture(scope="session", params=[kind for kind in MAKERS if kind != "sqlite"])
def make_on_disk(request: pytest.FixtureRequest) -> Make:
    """Makes a sink that takes a disk."""
    return MAKERS[request.param]
