"""Posts files: CSV, JSON Lines and Parquet, read into a checked table and written from one."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import kind_of, load_pyarrow, not_csv, read_whole, row_place, written_whole
from meshcast.posts.rows import check_names, table_from_columns
from meshcast.posts.table import COUNTS, PostTable
from meshcast.rpc.errors import InvalidInput, NotFound

__all__ = ["read_posts", "write_posts"]

_FIELD_MAX = (
    16 * 1024 * 1024
)  # characters of one CSV field; the csv module's own 131,072 is below long posts with markup
_FORMS = (".csv", ".jsonl", ".ndjson", ".parquet")
_WAYS = "give .csv, .jsonl (or .ndjson) or .parquet"


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
    name = path.name
    form, packing = kind_of(path, _FORMS, _WAYS)
    if form == ".parquet":
        return _read_parquet(path, name)
    text = read_whole(path, packing)
    if not text.strip():
        raise InvalidInput(f"{name}: the file is empty; give a header and at least one post", file=name)
    return _read_csv(text, name) if form == ".csv" else _read_json_lines(text, name)


def write_posts(path: str | os.PathLike[str], posts: PostTable) -> None:
    """Writes a table as a posts file that `read_posts` reads back to an equal table; the kind follows from the name.

    The file appears under its name only when it is whole. Unknown counts are written as gaps.

    Raises:
        InvalidInput: the name is of no known kind.
        Precondition: Parquet needs the extra `parquet`.
    """
    path = Path(path)
    columns = _plain_columns(posts)
    form, packing = kind_of(path, _FORMS, _WAYS)
    if packing:
        raise InvalidInput(f"{path.name}: posts are not written packed; {_WAYS}", file=path.name)
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


def _read_csv(text: str, name: str) -> PostTable:
    limit = csv.field_size_limit(_FIELD_MAX)
    try:
        rows = list(_csv_rows(text, name))
    finally:
        csv.field_size_limit(limit)
    header = [column.strip() for column in rows[0]]
    check_names(header, name)
    body = [row for row in rows[1:] if row]
    if not body:
        raise InvalidInput(f"{name}: has a header and no posts; give at least one row", file=name)
    width = len(header)
    if set(map(len, body)) != {width}:
        index = next(i for i, row in enumerate(body) if len(row) != width)
        place, fields = _csv_place(text)(index), len(body[index])
        cut = fields < width and index == len(body) - 1
        hint = "the file seems cut off: fetch or export it again" if cut else "quote fields that hold commas"
        raise InvalidInput(
            f"{name}, {place}: has {fields} fields, the header {width}; {hint}",
            violations=[(f"rows[{index + 1}]", f"has {fields} fields, the header {width}")],
            file=name,
            row=index + 1,
        )
    columns = dict(zip(header, zip(*body, strict=True), strict=True))
    return table_from_columns(columns, source=name, place=_csv_place(text), nan_is_unknown=False)


def _csv_rows(text: str, name: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise not_csv(name, reader.line_num, error) from error


def _csv_place(text: str) -> Callable[[int], str]:
    """Names a row with its line; reads the file again, so for errors only."""
    return lambda row: row_place(csv.reader(io.StringIO(text, newline=""), strict=True), row)


def _read_json_lines(text: str, name: str) -> PostTable:
    posts: list[dict[str, Any]] = []
    lines: list[int] = []
    raw = text.split("\n")
    for number, line in enumerate(raw, start=1):
        if not line.strip():
            continue
        try:
            post = json.loads(line)
        except ValueError as error:
            last = not any(rest.strip() for rest in raw[number:])
            hint = "the file seems cut off: fetch or export it again" if last else "give one JSON object a line"
            raise _bad_line(name, number, f"is not JSON ({error}); {hint}") from error
        if not isinstance(post, dict):
            raise _bad_line(name, number, "is not a JSON object; give one object with the post's fields a line")
        posts.append(post)
        lines.append(number)
    names: dict[str, None] = {}
    for post in posts:
        names.update(dict.fromkeys(post))
    columns = {column: [post.get(column) for post in posts] for column in names}
    return table_from_columns(
        columns, source=name, place=lambda row: f"row {row + 1} (line {lines[row]})", nan_is_unknown=False
    )


def _bad_line(name: str, line: int, text: str) -> InvalidInput:
    return InvalidInput(f"{name}, line {line}: {text}", violations=[(f"line {line}", text)], file=name, line=line)


def _read_parquet(path: Path, name: str) -> PostTable:
    if not path.exists():
        raise NotFound(f"{path}: there is no such file", file=name)
    if path.stat().st_size == 0:
        raise InvalidInput(f"{name}: the file is empty; give at least one post", file=name)
    arrow, parquet = load_pyarrow()
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError, OSError) as error:
        first = str(error).splitlines()[0]
        text = f"{name}: is cut off or not a Parquet file ({first}); fetch or export it again"
        raise InvalidInput(text, file=name) from error
    check_names(table.column_names, name)
    columns: dict[str, Sequence[Any]] = {column: table.column(column).to_pylist() for column in table.column_names}
    return table_from_columns(columns, source=name, nan_is_unknown=False)
