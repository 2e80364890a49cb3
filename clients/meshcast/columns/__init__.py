"""Columns: what tables of any kind need to be packed for the wire, cut into shared ranges, and kept in files."""

from meshcast.columns.csv_blocks import CsvBlock, csv_blocks, csv_place, is_number, numbers_of
from meshcast.columns.csv_rows import not_csv, row_place
from meshcast.columns.files import FileKind, decoded, kind_of, load_pyarrow, open_text, read_bytes, written_whole
from meshcast.columns.packing import (
    column_bytes,
    history_range,
    pack_floats,
    pack_positions,
    unpack_column,
    unpack_floats,
    wrong_length,
)
from meshcast.columns.ranges import share_ranges
from meshcast.columns.tables import TABLE_FORMS, TABLE_WAYS, RawTable, read_table
from meshcast.columns.values import ColumnReader, Place, Raw, clock_of, is_gap, short_text, show

__all__ = [
    # packing
    "column_bytes",
    "pack_floats",
    "unpack_floats",
    "pack_positions",
    "unpack_column",
    "history_range",
    "wrong_length",
    # ranges
    "share_ranges",
    # files
    "FileKind",
    "kind_of",
    "read_bytes",
    "decoded",
    "open_text",
    "written_whole",
    "load_pyarrow",
    "row_place",
    "not_csv",
    # tables of posts as files have them
    "RawTable",
    "read_table",
    "TABLE_FORMS",
    "TABLE_WAYS",
    # CSV of any size
    "CsvBlock",
    "csv_blocks",
    "csv_place",
    "is_number",
    "numbers_of",
    # values
    "ColumnReader",
    "Place",
    "Raw",
    "clock_of",
    "is_gap",
    "short_text",
    "show",
]
