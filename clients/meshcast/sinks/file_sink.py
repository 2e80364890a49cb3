"""File sink: CSV or JSON Lines that grows at its end, and a journal beside it that says how much of it counts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from meshcast.rpc.errors import AlreadyExists, CorruptData, InvalidInput, NotFound
from meshcast.sinks.disk import Disk, lock, part_of, replace_file
from meshcast.sinks.sink import Column, Columns, Kind, fitted, kinds_of, rows_of
from meshcast.sinks.text import csv_head, csv_lines, json_lines, read_csv, read_json

__all__ = ["FileSink", "journal_of"]

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class _Journal:
    """What a journal vouches for: so many bytes of the file, so many rows in them, and where the stream goes on."""

    format: int = _FORMAT
    token: str = ""
    bytes: int = 0
    rows: int = 0
    kinds: Mapping[str, Kind] = field(default_factory=dict)


class FileSink:
    """A CSV or JSON Lines file, by the end of its name.

    A block is appended and synced, then the journal `.<name>.journal` is replaced in one step by one that vouches for
    it. On opening, the file is cut back to what the journal vouches for.

    Args:
        path: .csv or .jsonl; its folder is there.
        block_rows: rows that are worth a commit.
        block_s: seconds after which fewer are committed too.
        disk: the steps of a commit.

    Raises:
        InvalidInput: the name ends with neither.
        NotFound: there is no such folder.
    """

    def __init__(
        self, path: Path | str, *, block_rows: int = 8_192, block_s: float = 1.0, disk: Disk | None = None
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in (".csv", ".jsonl"):
            raise InvalidInput(f"{self.path}: a file sink ends with .csv or .jsonl", field="path")
        if not self.path.parent.is_dir():
            raise NotFound(f"{self.path}: there is no folder {self.path.parent}")
        self.name = str(self.path)
        self.rows = 0
        self.block_rows = block_rows
        self.block_s = block_s
        self._is_csv = self.path.suffix.lower() == ".csv"
        self._disk = disk or Disk()
        self._journal_path = journal_of(self.path)
        self._journal = _Journal()
        self._file: IO[bytes] | None = None

    def open(self, stream_id: str | None) -> str:
        """As `Sink.open`."""
        self.close()
        is_removed = not self.path.exists()
        file = self.path.open("ab", buffering=0)
        try:
            lock(file, self.name)
            if is_removed and not file.tell():
                self._journal_path.unlink(missing_ok=True)  # whoever removed the file wants it made anew
            self._journal = self._standing(file.tell())
            file.truncate(self._journal.bytes)
        except BaseException:
            file.close()
            raise
        self._file = file
        self.rows = self._journal.rows
        return self._journal.token

    def commit(self, columns: Columns, token: str) -> None:
        """As `Sink.commit`."""
        assert self._file is not None, "the sink is not open"
        rows = rows_of(columns)
        before = self._journal
        if before.kinds:
            fitted(self.name, before.kinds, columns)
        kinds = before.kinds or kinds_of(columns)
        text = csv_lines(columns) if self._is_csv else json_lines(columns)
        if self._is_csv and not before.bytes:
            text = csv_head(kinds) + text
        data = text.encode()
        self._file.truncate(before.bytes)  # a commit that failed may have left some of its bytes
        self._disk.write(self._file, data)
        self._disk.sync(self._file)
        after = _Journal(token=token, bytes=before.bytes + len(data), rows=before.rows + rows, kinds=kinds)
        self._vouch(after)
        self._journal, self.rows = after, after.rows

    def read(self, rows_max: int = 65_536) -> Iterator[dict[str, Column]]:
        """As `Sink.read`."""
        assert self._file is not None, "the sink is not open"
        if not self.rows:
            return
        reading = read_csv if self._is_csv else read_json
        with self.path.open("rb") as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8", newline="" if self._is_csv else "\n")
            yield from reading(text, self._journal.kinds, rows_max)

    def close(self) -> None:
        """As `Sink.close`."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _standing(self, size: int) -> _Journal:
        """The journal that stands, or a first one, for a file of so many bytes."""
        part_of(self._journal_path).unlink(missing_ok=True)
        try:
            data = self._journal_path.read_bytes()
        except FileNotFoundError:
            if size:
                raise AlreadyExists(
                    f"{self.name} has {size:,} bytes and no journal beside it, so that nothing says of which stream it "
                    "is; give another name, or remove it",
                    name=self.name,
                ) from None
            first = _Journal()
            self._vouch(first)  # before the first byte of data, so that such bytes are known to be ours
            return first
        try:
            journal = _Journal(**json.loads(data))
            if not (
                isinstance(journal.bytes, int) and isinstance(journal.rows, int) and isinstance(journal.token, str)
            ):
                raise ValueError("it holds other values than a journal")
        except (ValueError, TypeError) as error:
            raise CorruptData(
                f"{self._journal_path} cannot be read; remove it and {self.name} to begin anew"
            ) from error
        if journal.format != _FORMAT:
            text = (
                f"{self._journal_path} is of another release (format {journal.format}); finish the stream with that one"
            )
            raise CorruptData(text)
        if size < journal.bytes:
            raise CorruptData(
                f"{self.name} has {size:,} bytes, its journal vouches for {journal.bytes:,}: something else has "
                f"changed it; remove it and {self._journal_path} to begin anew"
            )
        return journal

    def _vouch(self, journal: _Journal) -> None:
        replace_file(self._disk, self._journal_path, json.dumps(asdict(journal)).encode())


def journal_of(path: Path) -> Path:
    """The journal of a file sink's file."""
    return path.with_name(f".{path.name}.journal")
