"""Posts: tables of them in memory, in files and on the wire, and the settled histories that predictions use."""

from meshcast.columns import history_range, pack_floats, pack_positions, share_ranges, unpack_floats
from meshcast.posts.files import read_posts, write_posts
from meshcast.posts.history import POSTS_MAX, POSTS_MIN, SETTLE_S, settled_history
from meshcast.posts.rows import IGNORED_COLUMNS, KNOWN_COLUMNS, table_from_columns
from meshcast.posts.rules import Problem, bad_values, problems, row_violations
from meshcast.posts.table import COUNTS, PLAN_COLUMNS, POST_COLUMNS, HistoryIndex, Planned, PostTable, engagement
from meshcast.posts.wire import (
    PackedPosts,
    join_posts,
    pack_planned,
    pack_posts,
    planned_from_columns,
    planned_from_message,
    posts_from_columns,
    posts_from_messages,
)

__all__ = [
    # the table
    "PostTable",
    "Planned",
    "HistoryIndex",
    "engagement",
    "COUNTS",
    "PLAN_COLUMNS",
    "POST_COLUMNS",
    "table_from_columns",
    # histories
    "settled_history",
    "share_ranges",
    "POSTS_MAX",
    "POSTS_MIN",
    "SETTLE_S",
    # files
    "read_posts",
    "write_posts",
    "KNOWN_COLUMNS",
    "IGNORED_COLUMNS",
    # rules
    "Problem",
    "bad_values",
    "problems",
    "row_violations",
    # the wire
    "PackedPosts",
    "join_posts",
    "pack_floats",
    "pack_planned",
    "pack_positions",
    "pack_posts",
    "planned_from_columns",
    "planned_from_message",
    "posts_from_columns",
    "posts_from_messages",
    "history_range",
    "unpack_floats",
]
