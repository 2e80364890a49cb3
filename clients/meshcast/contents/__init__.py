"""Contents: posts as their readers see them (text, title, media, hour), in memory, in files and on the wire."""

from meshcast.contents.rules import BYTES_MAX, ROWS_MAX, Violations, content_violations
from meshcast.contents.table import UNKNOWN_HOUR, Contents
from meshcast.contents.wire import content_message, contents_from_columns, contents_from_messages, pack_contents

__all__ = [
    # the table
    "Contents",
    "UNKNOWN_HOUR",
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
