"""Contents: posts as their readers see them (text, title, media, hour), in memory, in files and on the wire."""

from meshcast.contents.files import read_contents, rows_from_columns
from meshcast.contents.names import KNOWN_COLUMNS
from meshcast.contents.rows import UNKNOWN_DAY, UNKNOWN_TIME, ContentRows
from meshcast.contents.rules import (
    BYTES_MAX,
    LENGTH_MAX,
    OUTCOME_MAX,
    ROWS_MAX,
    Violations,
    content_violations,
    size_fault,
    surrogate_fault,
)
from meshcast.contents.table import UNKNOWN_HOUR, Contents, blank_rows
from meshcast.contents.wire import content_message, contents_from_columns, contents_from_messages, pack_contents

__all__ = [
    # the table
    "Contents",
    "blank_rows",
    "ContentRows",
    "UNKNOWN_DAY",
    "UNKNOWN_HOUR",
    "UNKNOWN_TIME",
    # files
    "read_contents",
    "rows_from_columns",
    "KNOWN_COLUMNS",
    # rules
    "BYTES_MAX",
    "LENGTH_MAX",
    "OUTCOME_MAX",
    "ROWS_MAX",
    "Violations",
    "content_violations",
    "size_fault",
    "surrogate_fault",
    # the wire
    "content_message",
    "contents_from_columns",
    "contents_from_messages",
    "pack_contents",
]
