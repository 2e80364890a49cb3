"""Posts files: CSV, JSON Lines and Parquet, read into a checked table and written from one."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import TABLE_FORMS, TABLE_WAYS, kind_of, load_pyarrow, read_table, written_whole
from meshcast.posts.rows import check_names, table_from_columns
from meshcast.posts.table import COUNTS, PostTable
from meshcast.rpc.errors import InvalidInput

__all__ = ["read_posts", "write_posts"]


def read_posts(path: str | os.PathLike[str]) -> PostTable:
    """Reads a posts file into a checked table, sorted by channel and time.

    Columns: `published_at` (ISO 8601; without a zone it is taken as UTC) or `published_unix_s`; `channel` where the
    file has several; `hour_of_day` and `day_of_week`, else taken from `published_at`'s own clock; `content_length`,
    else taken from `text`; `has_media`; `views`, `forwards`, `replies`, `reactions`, empty where unknown; `text`,
    `title` and `post_id` are let be. The kind of file follows from its name; CSV and JSON Lines may be packed (.gz,
    .bz2, .xz).

    >>> posts = read_posts("posts.csv")  # doctest: +SKIP

    Raises:
        NotFound: there is no such file.
        InvalidInput: the file is empty, cut off, not UTF-8 or of no known kind, or a column or value is wrong; file,
            row, column and the way out are named.
        Precondition: Parquet needs the extra `parquet`.
    """
    path = Path(path)
    columns, place = read_table(path, check_names)
    return table_from_columns(columns, source=path.name, place=place, nan_is_unknown=False)


def write_posts(path: str | os.PathLike[str], posts: PostTable) -> None:
    """Writes a table as a posts file that `read_posts` reads back to an equal table; the kind follows from the name.

    The file appears under its name only when it is whole. Unknown counts are written as gaps.

    Raises:
        InvalidInput: the name is of no known kind.
        Precondition: Parquet needs the extra `parquet`.
    """
    path = Path(path)
    columns = _plain_columns(posts)
    form, packing = kind_of(path, TABLE_FORMS, TABLE_WAYS)
    if packing:
        raise InvalidInput(f"{path.name}: posts are not written packed; {TABLE_WAYS}", file=path.name)
    with written_whole(path) as part:
        if form == ".parquet":
            arrow, parquet = load_pyarrow()
            parquet.write_table(arrow.table(columns), part)
        elif form == ".csv":
            with part.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(zip(*columns.values(), strict=True))
        else:
            with part.open("w", encoding="utf-8") as file:
                for row in zip(*columns.values(), strict=True):
                    known = {name: value for name, value in zip(columns, row, strict=True) if value is not None}
                    file.write(json.dumps(known, ensure_ascii=False) + "\n")


def _plain_columns(posts: PostTable) -> dict[str, list[Any]]:
    times = np.datetime_as_string(posts.published_unix_s.astype("datetime64[s]"))
    columns: dict[str, list[Any]] = {
        "channel": posts.channel.tolist(),
        "published_at": [f"{time}Z" for time in times.tolist()],
    }
    for name in ("hour_of_day", "day_of_week", "content_length", "has_media"):
        columns[name] = _plain(getattr(posts, name))
    for name in COUNTS:
        values = getattr(posts, name)
        if not np.isnan(values).all():
            columns[name] = _plain(values)
    return columns


def _plain(values: NDArray[np.float32]) -> list[int | float | None]:
    """Whole numbers as int, NaN as None, so that files hold 12 and a gap, not 12.0 and nan."""
    missing = np.isnan(values)
    if (np.floor(values[~missing]) == values[~missing]).all():
        whole = np.where(missing, 0, values).astype(np.int64).tolist()
        return [None if gap else value for value, gap in zip(whole, missing.tolist(), strict=True)]
    return [None if gap else value for value, gap in zip(values.tolist(), missing.tolist(), strict=True)]
