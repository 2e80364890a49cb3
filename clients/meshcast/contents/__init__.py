"""Contents: posts as their readers see them (text, title, media, hour), in memory, in files and on the wire."""

from meshcast.contents.rows import UNKNOWN_DAY, UNKNOWN_TIME, ContentRows
from meshcast.contents.rules import BYTES_MAX, ROWS_MAX, Violations, content_violations
from meshcast.contents.table import UNKNOWN_HOUR, Contents
from meshcast.contents.wire import content_message, contents_from_columns, contents_from_messages, pack_contents

__all__ = [
    # the table
    "Contents",
    "ContentRows",
    "UNKNOWN_DAY",
    "UNKNOWN_HOUR",
    "UNKNOWN_TIME",
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
