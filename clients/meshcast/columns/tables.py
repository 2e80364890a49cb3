"""Tables of posts in files, CSV, JSON Lines or Parquet, read whole into columns as the file has them."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from meshcast.columns.csv_rows import not_csv, row_place
from meshcast.columns.files import decoded, kind_of, load_pyarrow, read_bytes
from meshcast.columns.values import Place, Raw
from meshcast.rpc.errors import InvalidInput, NotFound

__all__ = ["TABLE_FORMS", "TABLE_WAYS", "RawTable", "read_table"]

TABLE_FORMS = (".csv", ".jsonl", ".ndjson", ".parquet")
"""Endings of the names of files of tables."""
TABLE_WAYS = "give .csv, .jsonl (or .ndjson) or .parquet"
"""Said where a file is of none of these kinds."""

_FIELD_MAX = (
    16 * 1024 * 1024
)  # characters of one CSV field; the csv module's own 131,072 is below long posts with markup


class RawTable(NamedTuple):
    """A table as its file has it."""

    columns: Mapping[str, Raw]
    """By name, as in the file: texts, numbers, gaps."""
    place: Place | None
    """Names a 0-based row; reads the file again, so for errors only."""


def read_table(
    path: Path,
    check_names: Callable[[Sequence[str], str], None],
    *,
    encoding: str = "utf-8-sig",
    replace_invalid: bool = False,
) -> RawTable:
    """The columns of a file; its kind follows from its name, and CSV and JSON Lines may be packed (.gz, .bz2, .xz).

    Args:
        path: the file.
        check_names: refuses columns by their names, as they stand in the file; told the file's name for errors.
        encoding: of the bytes; Parquet has its own.
        replace_invalid: take bytes that are none of the encoding as U+FFFD.

    Raises:
        NotFound: there is no such file.
        InvalidInput: the file is empty, cut off, not in that encoding or of no known kind; file and row are named.
        Precondition: Parquet needs the extra `parquet`.
    """
    name = path.name
    form, packing = kind_of(path, TABLE_FORMS, TABLE_WAYS)
    if form == ".parquet":
        return _read_parquet(path, name, check_names, replace_invalid)
    text = decoded(read_bytes(path, packing), name, encoding=encoding, replace_invalid=replace_invalid)
    if not text.strip():
        raise InvalidInput(f"{name}: the file is empty; give a header and at least one post", file=name)
    return _read_csv(text, name, check_names) if form == ".csv" else _read_json_lines(text, name, check_names)


def _read_csv(text: str, name: str, check_names: Callable[[Sequence[str], str], None]) -> RawTable:
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
    return RawTable(dict(zip(header, zip(*body, strict=True), strict=True)), _csv_place(text))


def _csv_rows(text: str, name: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise not_csv(name, reader.line_num, error) from error


def _csv_place(text: str) -> Place:
    """Names a row with its line; reads the file again, so for errors only."""

    def place(row: int) -> str:
        limit = csv.field_size_limit(_FIELD_MAX)
        try:
            return row_place(csv.reader(io.StringIO(text, newline=""), strict=True), row)
        finally:
            csv.field_size_limit(limit)

    return place


def _read_json_lines(text: str, name: str, check_names: Callable[[Sequence[str], str], None]) -> RawTable:
    posts: list[dict[str, Any]] = []
    lines: list[int] = []
    raw = text.split("\n")
    for number, line in enumerate(raw, start=1):
        if not line.strip():
            continue
        try:
            post = json.loads(line)
        except RecursionError as error:
            raise _bad_line(name, number, "has objects within objects too deep to read") from error
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
    check_names(list(names), name)
    columns = {column: [post.get(column) for post in posts] for column in names}
    return RawTable(columns, lambda row: f"row {row + 1} (line {lines[row]})")


def _bad_line(name: str, line: int, text: str) -> InvalidInput:
    return InvalidInput(f"{name}, line {line}: {text}", violations=[(f"line {line}", text)], file=name, line=line)


def _read_parquet(
    path: Path, name: str, check_names: Callable[[Sequence[str], str], None], replace_invalid: bool
) -> RawTable:
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
    columns = {}
    for column in table.column_names:
        try:
            columns[column] = table.column(column).to_pylist()
        except UnicodeDecodeError as error:  # pyarrow reads texts without looking at them
            if replace_invalid:
                data = table.column(column).cast("binary").to_pylist()
                columns[column] = [None if one is None else one.decode("utf-8", "replace") for one in data]
                continue
            text = f"column {column!r}: holds bytes that are not UTF-8; write the column as UTF-8"
            raise InvalidInput(f"{name}, {text}", violations=[(column, text)], file=name, column=column) from error
    return RawTable(columns, None)
