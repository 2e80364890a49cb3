"""Posts files: CSV, JSON Lines and Parquet, read into a checked table and written from one."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.posts.rows import check_names, table_from_columns
from meshcast.posts.table import COUNTS, PostTable
from meshcast.rpc.errors import InvalidInput, NotFound, Precondition

__all__ = ["read_posts", "write_posts"]

_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
}
_FIELD_MAX = (
    16 * 1024 * 1024
)  # characters of one CSV field; the csv module's own 131,072 is below long posts with markup
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
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1] if suffixes and suffixes[-1] in _UNPACK else ""
    kind = suffixes[-2] if packed and len(suffixes) > 1 else (suffixes[-1] if suffixes else "")
    name = path.name
    if kind == ".parquet" and not packed:
        return _read_parquet(path, name)
    if kind not in (".csv", ".jsonl", ".ndjson"):
        raise InvalidInput(f"{name}: the kind of posts file is not known by its name; {_WAYS}", file=name)
    data = _bytes(path, name)
    if packed:
        try:
            data = _UNPACK[packed](data)
        except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
            text = f"{name}: is cut off or not a {packed} file ({error}); pack it again, or give it unpacked"
            raise InvalidInput(text, file=name) from error
    text = _text(data, name)
    if not text.strip():
        raise InvalidInput(f"{name}: the file is empty; give a header and at least one post", file=name)
    return _read_csv(text, name) if kind == ".csv" else _read_json_lines(text, name)


def write_posts(path: str | os.PathLike[str], posts: PostTable) -> None:
    """Writes a table as a posts file that `read_posts` reads back to an equal table; the kind follows from the name.

    The file appears under its name only when it is whole. Unknown counts are written as gaps.

    Raises:
        InvalidInput: the name is of no known kind.
        Precondition: Parquet needs the extra `parquet`.
    """
    path = Path(path)
    columns = _plain_columns(posts)
    kind = path.suffix.lower()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if kind == ".parquet":
            arrow, parquet = _pyarrow()
            parquet.write_table(arrow.table(columns), part)
        elif kind == ".csv":
            with part.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(zip(*columns.values(), strict=True))
        elif kind in (".jsonl", ".ndjson"):
            with part.open("w", encoding="utf-8") as file:
                for row in zip(*columns.values(), strict=True):
                    known = {name: value for name, value in zip(columns, row, strict=True) if value is not None}
                    file.write(json.dumps(known, ensure_ascii=False) + "\n")
        else:
            raise InvalidInput(f"{path.name}: the kind of posts file is not known by its name; {_WAYS}", file=path.name)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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


def _bytes(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{path}: there is no such file", file=name) from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}", file=name) from error


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise InvalidInput(
            f"{name}, line {line}, byte {column}: is not UTF-8; save the file as UTF-8",
            violations=[(f"line {line}", f"byte 0x{data[error.start]:02x} is not UTF-8")],
            file=name,
            line=line,
        ) from error


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
        place, fields = _csv_place(text, name)(index), len(body[index])
        cut = fields < width and index == len(body) - 1
        hint = "the file seems cut off: fetch or export it again" if cut else "quote fields that hold commas"
        raise InvalidInput(
            f"{name}, {place}: has {fields} fields, the header {width}; {hint}",
            violations=[(f"rows[{index + 1}]", f"has {fields} fields, the header {width}")],
            file=name,
            row=index + 1,
        )
    columns = dict(zip(header, zip(*body, strict=True), strict=True))
    return table_from_columns(columns, source=name, place=_csv_place(text, name), nan_is_unknown=False)


def _csv_rows(text: str, name: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from reader
    except csv.Error as error:
        line = reader.line_num
        hint = "a quote is never closed: the file seems cut off" if "end of data" in str(error) else "correct the line"
        raise InvalidInput(
            f"{name}, line {line}: is not CSV ({error}); {hint}",
            violations=[(f"line {line}", str(error))],
            file=name,
            line=line,
        ) from error


def _csv_place(text: str, name: str) -> Callable[[int], str]:
    """Names a row with its line, since texts may hold line breaks; reads the file again, so for errors only."""

    def place(row: int) -> str:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        next(reader)
        before, seen = reader.line_num, -1
        for fields in reader:
            seen += bool(fields)
            if seen == row:
                return f"row {row + 1} (line {before + 1})"
            before = reader.line_num
        return f"row {row + 1}"

    return place


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
    arrow, parquet = _pyarrow()
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError, OSError) as error:
        first = str(error).splitlines()[0]
        text = f"{name}: is cut off or not a Parquet file ({first}); fetch or export it again"
        raise InvalidInput(text, file=name) from error
    check_names(table.column_names, name)
    columns: dict[str, Sequence[Any]] = {column: table.column(column).to_pylist() for column in table.column_names}
    return table_from_columns(columns, source=name, nan_is_unknown=False)


def _pyarrow() -> tuple[Any, Any]:
    """pyarrow and its Parquet module, imported only here, since they are an extra."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        command = "pip install 'meshcast[parquet]'"
        raise Precondition(
            f"Parquet files need an optional part of Meshcast: {command}",
            reason=error_reason_pb2.ERROR_REASON_EXTRA_MISSING,
            extra="parquet",
            command=command,
        ) from error
    return pyarrow, pyarrow.parquet
