"""Opening: the sink that a name asks for, and what is there already."""

from __future__ import annotations

from pathlib import Path

from meshcast.rpc.errors import InvalidInput
from meshcast.sinks.file_sink import FileSink
from meshcast.sinks.parquet_sink import ParquetSink
from meshcast.sinks.sink import Sink
from meshcast.sinks.sqlite_sink import SqliteSink

__all__ = ["SUFFIXES", "open_sink"]

SUFFIXES = (".csv", ".jsonl", ".parquet", ".sqlite", ".db")
"""Ends of names that stand for a sink."""


def open_sink(path: Path | str, *, table: str = "predictions") -> Sink:
    """The sink that a name asks for: .csv and .jsonl a file, .parquet a folder, .sqlite and .db a database.

    Args:
        path: its name. The sink is not opened yet.
        table: of a database.

    Raises:
        InvalidInput: the name ends with none of these.
        NotFound: its folder is missing.
        Precondition: Parquet needs the extra `parquet`.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".csv" | ".jsonl":
            return FileSink(path)
        case ".parquet":
            return ParquetSink(path)
        case ".sqlite" | ".db":
            return SqliteSink(path, table=table)
    raise InvalidInput(f"{path}: unknown kind of sink; end its name with one of {', '.join(SUFFIXES)}", field="path")
