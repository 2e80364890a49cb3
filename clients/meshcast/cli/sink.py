"""Predictions on disk: columns to CSV, JSON Lines or Parquet, block by block; a file appears only when it is whole."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from meshcast.cli.problem import Problem
from meshcast.columns import load_pyarrow
from meshcast.sinks import csv_head, csv_lines, json_lines, plain_values

__all__ = ["Sink", "open_sink"]

Columns = Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]


class _Writer(Protocol):
    def write(self, columns: Columns) -> None: ...

    def close(self) -> None: ...


class Sink:
    """Takes blocks of columns, each block with the same names; a context manager.

    The rows go to a file beside the one asked for, which is replaced when the block ends well and left alone otherwise.

    Args:
        path: .csv, .jsonl or .parquet.

    Raises:
        Problem: the suffix is none of these, or the folder is missing.
        Precondition: Parquet needs the extra `parquet`.
    """

    def __init__(self, path: Path) -> None:
        kinds: dict[str, Callable[[Path], _Writer]] = {".csv": _Csv, ".jsonl": _JsonLines, ".parquet": _Parquet}
        kind = kinds.get(path.suffix.lower())
        if kind is None:
            raise Problem(f"--out {path}: unknown kind of file", way_out=f"end its name with one of {', '.join(kinds)}")
        if not path.parent.is_dir():
            raise Problem(f"--out {path}: there is no folder {path.parent}")
        if kind is _Parquet:
            load_pyarrow()  # that it is missing is said before anything is asked
        self.path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._kind = kind
        self._writer: _Writer | None = None

    def __enter__(self) -> Self:
        self._writer = self._kind(self._partial)  # not before: what ends a command earlier must leave no file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writer is not None
        self._writer.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def write(self, columns: Columns) -> None:
        """Appends a block of rows; NaN is written as missing."""
        assert self._writer is not None, "a sink is used as `with sink:`"
        self._writer.write(columns)


def open_sink(path: Path | None) -> Sink | None:
    """A sink for `path`; None where there is none to write."""
    return None if path is None else Sink(path)


class _Csv:
    def __init__(self, path: Path) -> None:
        self._file = open(path, "w", encoding="utf-8", newline="")  # closed by close()
        self._has_head = False

    def write(self, columns: Columns) -> None:
        if not self._has_head:
            self._file.write(csv_head(columns))
            self._has_head = True
        self._file.write(csv_lines(columns))

    def close(self) -> None:
        self._file.close()


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._file = open(path, "w", encoding="utf-8")  # closed by close()

    def write(self, columns: Columns) -> None:
        self._file.write(json_lines(columns))

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._pyarrow, self._parquet = load_pyarrow()
        self._path = path
        self._writer: Any = None

    def write(self, columns: Columns) -> None:
        table = self._pyarrow.table({name: plain_values(column, missing=None) for name, column in columns.items()})
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
