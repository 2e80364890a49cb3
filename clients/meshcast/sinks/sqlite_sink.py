"""SQLite sink: a table that grows, and a table of streams beside it, changed in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import cast, get_args

import numpy as np

from meshcast.rpc.errors import AlreadyExists, Conflict, CorruptData, InvalidInput, NotFound
from meshcast.sinks.sink import Column, Columns, Kind, fitted, kinds_of, rows_of, taken

__all__ = ["SqliteSink"]

_TYPES: dict[Kind, str] = {"int": "INTEGER", "float32": "REAL", "float64": "REAL", "bool": "INTEGER", "text": "TEXT"}
_STREAMS = "meshcast_streams"


class SqliteSink:
    """A table of an SQLite database; other tables of it are left alone.

    Rows and token are written in one transaction, with the rows numbered by `rowid` from 1. The database is in WAL
    mode, so that others may read it meanwhile.

    Args:
        path: of the database, which is made where it is missing; its folder is there.
        table: its name; None: it is named after the stream.
        block_rows: rows that are worth a commit.
        block_s: seconds after which fewer are committed too.

    Raises:
        InvalidInput: the table's name is not one.
        NotFound: there is no such folder.
    """

    def __init__(
        self, path: Path | str, *, table: str | None = None, block_rows: int = 8_192, block_s: float = 1.0
    ) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise NotFound(f"{self.path}: there is no folder {self.path.parent}")
        self.rows = 0
        self.block_rows = block_rows
        self.block_s = block_s
        self._given = None if table is None else _checked(table)
        self.table = self._given or ""
        self.name = str(self.path)
        self._token = ""
        self._kinds: dict[str, Kind] = {}
        self._database: sqlite3.Connection | None = None

    def open(self, stream_id: str | None) -> str:
        """As `Sink.open`.

        Raises:
            InvalidInput: neither a table nor a stream was named.
        """
        self.close()
        if self._given is None and not stream_id:
            raise InvalidInput(f"{self.path}: name the table, or the stream that it is named after", field="table")
        self.table = self._given or _checked(stream_id or "")
        self.name = f"{self.path} (table {self.table})"
        try:
            # One thread at a time: the client commits in threads, which may not be the one that opened it.
            database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30.0)
        except sqlite3.OperationalError as error:
            raise InvalidInput(f"{self.path}: cannot be opened ({error})", field="path") from error
        try:
            database.execute("PRAGMA journal_mode = WAL")
            # In WAL mode a loss of power may cost the last transactions, rows and token together: they are asked again.
            database.execute("PRAGMA synchronous = NORMAL")
            self._token, self.rows, self._kinds = self._standing(database)
        except sqlite3.DatabaseError as error:
            database.close()
            raise AlreadyExists(f"{self.path}: cannot be used ({error}); give another name", name=self.name) from error
        except BaseException:
            database.close()
            raise
        self._database = database
        return self._token

    def commit(self, columns: Columns, token: str) -> None:
        """As `Sink.commit`.

        Raises:
            Conflict: another process has gone on with the stream.
        """
        assert self._database is not None, "the sink is not open"
        rows = rows_of(columns)
        if self._kinds:
            fitted(self.name, self._kinds, columns)
        kinds = self._kinds or kinds_of(columns)
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            changed = database.execute(
                f"UPDATE {_STREAMS} SET token = ?, rows = ? WHERE name = ? AND token = ? AND rows = ?",
                (token, self.rows + rows, self.table, self._token, self.rows),
            )
            if changed.rowcount != 1:
                raise Conflict(f"{self.name} is being written by another process; wait for it, or name another table")
            if not self._kinds:
                self._create(database, kinds)
            places = ", ".join("?" * (len(kinds) + 1))
            names = ", ".join(["rowid", *map(_quoted, kinds)])
            values = (column.tolist() if isinstance(column, np.ndarray) else column for column in columns.values())
            database.executemany(
                f"INSERT INTO {_quoted(self.table)} ({names}) VALUES ({places})",
                zip(count(self.rows + 1), *values, strict=False),
            )
            database.execute("COMMIT")
        except BaseException as error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise OSError(f"{self.name}: {error}") from error
            raise
        self._kinds, self._token, self.rows = kinds, token, self.rows + rows

    def read(self, rows_max: int = 65_536) -> Iterator[dict[str, Column]]:
        """As `Sink.read`."""
        assert self._database is not None, "the sink is not open"
        if not self._kinds:
            return
        names = ", ".join(map(_quoted, self._kinds))
        found = self._database.execute(f"SELECT {names} FROM {_quoted(self.table)} ORDER BY rowid")
        while block := found.fetchmany(rows_max):
            columns = zip(*block, strict=True)
            yield {name: taken(kind, column) for (name, kind), column in zip(self._kinds.items(), columns, strict=True)}

    def close(self) -> None:
        """As `Sink.close`."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _standing(self, database: sqlite3.Connection) -> tuple[str, int, dict[str, Kind]]:
        database.execute("BEGIN IMMEDIATE")
        try:
            database.execute(
                f"CREATE TABLE IF NOT EXISTS {_STREAMS} "
                "(name TEXT PRIMARY KEY, token TEXT NOT NULL, rows INTEGER NOT NULL, kinds TEXT NOT NULL) WITHOUT ROWID"
            )
            found = database.execute(
                f"SELECT token, rows, kinds FROM {_STREAMS} WHERE name = ?", (self.table,)
            ).fetchone()
            if found is None:
                if database.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (self.table,)).fetchone():
                    raise AlreadyExists(
                        f"{self.path} has a table {self.table} that no stream has written; name another table",
                        name=self.name,
                    )
                database.execute(f"INSERT INTO {_STREAMS} VALUES (?, '', 0, '')", (self.table,))
                found = ("", 0, "")
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        token, rows, kinds = found
        names = [row[1] for row in database.execute(f"PRAGMA table_info({_quoted(self.table)})")]
        if rows and not names:  # whoever dropped the table wants it made anew
            database.execute(f"UPDATE {_STREAMS} SET token = '', rows = 0, kinds = '' WHERE name = ?", (self.table,))
            token, rows, kinds = "", 0, ""
        if len(names) != len(kinds.split()):
            raise CorruptData(
                f"{self.path}: the table {self.table} has {len(names)} columns, the stream gave it "
                f"{len(kinds.split())}: something else has changed it; drop the table to begin anew"
            )
        stand = database.execute(f"SELECT count(*) FROM {_quoted(self.table)}").fetchone()[0] if names else 0
        if stand != rows:
            raise CorruptData(
                f"{self.name}: the table {_STREAMS} beside it vouches for {rows:,} rows, {stand:,} stand there: "
                "something else has changed it; drop the table to begin anew"
            )
        return token, rows, {name: _kind(kind) for name, kind in zip(names, kinds.split(), strict=True)}

    def _create(self, database: sqlite3.Connection, kinds: dict[str, Kind]) -> None:
        columns = ", ".join(f"{_quoted(name)} {_TYPES[kind]}" for name, kind in kinds.items())
        database.execute(f"CREATE TABLE {_quoted(self.table)} ({columns})")
        database.execute(f"UPDATE {_STREAMS} SET kinds = ? WHERE name = ?", (" ".join(kinds.values()), self.table))


def _kind(text: str) -> Kind:
    assert text in get_args(Kind)
    return cast(Kind, text)


def _checked(table: str) -> str:
    is_taken = table == _STREAMS or table.lower().startswith("sqlite_")
    if not table.strip() or is_taken or "\0" in table or len(table) > 128:
        raise InvalidInput(
            f"{table!r} cannot be the name of a table; give another of 1 to 128 characters", field="table"
        )
    return table


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
