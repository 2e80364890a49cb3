"""Contents: posts as their readers see them (text, title, media, hour), in memory, in files and on the wire."""

from meshcast.contents.files import read_contents, rows_from_columns
from meshcast.contents.names import KNOWN_COLUMNS, unused_names
from meshcast.contents.rows import UNKNOWN_DAY, UNKNOWN_TIME, ContentRows
from meshcast.contents.rules import BYTES_MAX, ROWS_MAX, Violations, content_violations
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
    "unused_names",
    # rules
    "BYTES_MAX",
    "ROWS_MAX",
    "Violations",
    "content_violations",
    # the wire
    "content_message",
    "contents_from_columns",
    "contents_from_messages",
    "pack_contents",
]
