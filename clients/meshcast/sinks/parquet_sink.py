"""Parquet sink: a folder of part files, one a block, each with the token of what follows it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

from meshcast.columns import load_pyarrow
from meshcast.rpc.errors import AlreadyExists, CorruptData, NotFound
from meshcast.sinks.disk import Disk, lock, replace_file
from meshcast.sinks.sink import Column, Columns, Kind, fitted, kinds_of, rows_of, taken

__all__ = ["ParquetSink"]

_TOKEN, _FIRST, _KINDS = b"meshcast.token", b"meshcast.first_row", b"meshcast.kinds"
_ROWS = b"meshcast.rows"  # parts of earlier releases do not say it


class ParquetSink:
    """A folder of Parquet files that pyarrow, pandas and DuckDB (`folder/*.parquet`) read as one table, in its order.

    A block is one part file: written under a hidden name, synced, renamed. Its metadata hold the token, so that rows
    and token come with one rename.

    Args:
        path: of the folder, which is made where it is missing, but not the one above it.
        block_rows: rows that are worth a part file.
        block_s: seconds after which one with fewer rows is written too.
        disk: the steps of a commit.

    Raises:
        NotFound: the folder above is missing.
        Precondition: the extra `parquet` is not installed.
    """

    def __init__(
        self, path: Path | str, *, block_rows: int = 65_536, block_s: float = 10.0, disk: Disk | None = None
    ) -> None:
        self.path = Path(path)
        self._pyarrow, self._parquet = load_pyarrow()
        if not self.path.parent.is_dir():
            raise NotFound(f"{self.path}: there is no folder {self.path.parent}")
        self.name = str(self.path)
        self.rows = 0
        self.block_rows = block_rows
        self.block_s = block_s
        self._disk = disk or Disk()
        self._token = ""
        self._kinds: dict[str, Kind] = {}
        self._lock: int | None = None

    def open(self, stream_id: str | None) -> str:
        """As `Sink.open`."""
        self.close()
        if self.path.exists() and not self.path.is_dir():
            raise AlreadyExists(
                f"{self.name} is a file, and this sink is a folder; give another name, or remove it", name=self.name
            )
        self.path.mkdir(exist_ok=True)
        self._disk.sync_folder(self.path.parent)
        handle = os.open(self.path, os.O_RDONLY) if os.name != "nt" else None
        try:
            if handle is not None:
                lock(handle, self.name)
            for left in self.path.glob(".part-*.parquet.part"):
                left.unlink()
            self._token, self.rows, self._kinds = self._standing()
        except BaseException:
            if handle is not None:
                os.close(handle)
            raise
        self._lock = handle
        return self._token

    def commit(self, columns: Columns, token: str) -> None:
        """As `Sink.commit`."""
        rows = rows_of(columns)
        if self._kinds:
            fitted(self.name, self._kinds, columns)
        kinds = self._kinds or kinds_of(columns)
        told = {
            _TOKEN: token.encode(),
            _FIRST: str(self.rows).encode(),
            _ROWS: str(rows).encode(),
            _KINDS: " ".join(kinds.values()).encode(),
        }
        data = io.BytesIO()
        self._parquet.write_table(self._table(columns, kinds).replace_schema_metadata(told), data)
        replace_file(self._disk, self.path / f"part-{self.rows:012d}.parquet", data.getvalue())
        self._kinds, self._token, self.rows = kinds, token, self.rows + rows

    def read(self, rows_max: int = 65_536) -> Iterator[dict[str, Column]]:
        """As `Sink.read`."""
        for path in self._parts():
            for batch in self._parquet.ParquetFile(path).iter_batches(rows_max):
                columns = batch.to_pydict()
                yield {name: taken(kind, columns[name]) for name, kind in self._kinds.items()}

    def close(self) -> None:
        """As `Sink.close`."""
        handle, self._lock = self._lock, None
        if handle is not None:
            os.close(handle)

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("part-*.parquet"))

    def _standing(self) -> tuple[str, int, dict[str, Kind]]:
        token, rows, kinds = "", 0, ""
        names: list[str] = []
        parts = self._parts()
        others = [path.name for path in self.path.iterdir() if path not in parts]
        if others and not parts:
            raise AlreadyExists(
                f"{self.name} holds other files ({', '.join(sorted(others)[:3])}); give another name", name=self.name
            )
        for path in parts:
            try:
                facts = self._parquet.read_metadata(path)
                told = facts.metadata or {}
                first, token, kinds = int(told[_FIRST]), told[_TOKEN].decode(), told[_KINDS].decode()
                vouched = int(told.get(_ROWS, facts.num_rows))
            except (OSError, KeyError, ValueError, self._pyarrow.ArrowException) as error:
                raise CorruptData(
                    f"{path} is no part that a stream has written; remove {self.name} to begin anew"
                ) from error
            if first != rows:
                raise CorruptData(
                    f"{self.name} has {rows:,} rows before {path.name}, which begins at row {first:,}: a part is "
                    "missing or too many; remove the folder to begin anew"
                )
            if vouched != facts.num_rows:
                raise CorruptData(
                    f"{path} vouches for {vouched:,} rows, {facts.num_rows:,} stand there: something else has changed "
                    f"it; remove {self.name} to begin anew"
                )
            rows += facts.num_rows
            names = facts.schema.to_arrow_schema().names
        return token, rows, dict(zip(names, map(_kind, kinds.split()), strict=True))

    def _table(self, columns: Columns, kinds: dict[str, Kind]) -> Any:
        arrow = self._pyarrow
        types = {
            "int": arrow.int64(),
            "float32": arrow.float32(),
            "float64": arrow.float64(),
            "bool": arrow.bool_(),
            "text": arrow.string(),
        }
        arrays = [
            # NaN becomes null, as no reader takes NaN for a missing value by itself.
            arrow.array(column, types[kinds[name]], from_pandas=True)
            for name, column in columns.items()
        ]
        return arrow.table(arrays, names=list(columns))


def _kind(text: str) -> Kind:
    assert text in get_args(Kind)
    return cast(Kind, text)
