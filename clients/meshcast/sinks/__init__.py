"""Sinks: where the rows of a stream are stored together with the place at which it goes on, each row once."""

from meshcast.sinks.disk import Disk
from meshcast.sinks.file_sink import FileSink, journal_of
from meshcast.sinks.opening import SUFFIXES, open_sink
from meshcast.sinks.parquet_sink import ParquetSink
from meshcast.sinks.sink import Column, Columns, Kind, Sink, rows_of
from meshcast.sinks.sqlite_sink import SqliteSink
from meshcast.sinks.text import csv_head, csv_lines, json_lines, plain_values

__all__ = [
    # sinks
    "Sink",
    "FileSink",
    "journal_of",
    "ParquetSink",
    "SqliteSink",
    "open_sink",
    "SUFFIXES",
    "Disk",
    # columns
    "Column",
    "Columns",
    "Kind",
    "rows_of",
    "plain_values",
    "csv_head",
    "csv_lines",
    "json_lines",
]
