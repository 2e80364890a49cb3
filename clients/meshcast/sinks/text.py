"""Rows as text: columns to the lines of CSV and JSON Lines, and back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.sinks.sink import Column, Kind, taken

__all__ = ["csv_head", "csv_lines", "json_lines", "plain_values", "read_csv", "read_json"]

Written = Mapping[str, Sequence[Any] | NDArray[Any]]


def csv_head(names: Iterable[str]) -> str:
    """The first line of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(names)
    return text.getvalue()


def csv_lines(columns: Written) -> str:
    """A block of rows as lines of CSV, without the header; NaN and None are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(zip(*(plain_values(column, missing="") for column in columns.values()), strict=True))
    return text.getvalue()


def json_lines(columns: Written) -> str:
    """A block of rows as an object a line; NaN is null."""
    rows = zip(*(plain_values(column, missing=None) for column in columns.values()), strict=True)
    return "".join([json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in rows])


def plain_values(column: Sequence[Any] | NDArray[Any], *, missing: Any) -> list[Any]:
    """A column as Python values, with float32 as the shortest text that reads back as the same float32."""
    if isinstance(column, list | tuple):  # not as an array: one long text would make all of them as long
        return [missing if value != value else value for value in column]
    values = np.asarray(column)
    if values.dtype.kind != "f":
        return list(values.tolist())
    if values.dtype == np.float32:
        return [missing if value != value else value for value in map(float, values.astype("U").tolist())]
    return [missing if value != value else value for value in values.tolist()]


def read_csv(file: io.TextIOBase, kinds: Mapping[str, Kind], rows_max: int) -> Iterator[dict[str, Column]]:
    """The rows of a CSV file that `csv_lines` has written, in blocks."""
    reader = csv.reader(file)
    next(reader, None)
    while block := list(islice(reader, rows_max)):
        texts = zip(*block, strict=True)
        yield {name: taken(kind, values) for (name, kind), values in zip(kinds.items(), texts, strict=True)}


def read_json(file: io.TextIOBase, kinds: Mapping[str, Kind], rows_max: int) -> Iterator[dict[str, Column]]:
    """The rows of a file that `json_lines` has written, in blocks."""
    while block := [json.loads(line) for line in islice(file, rows_max)]:
        yield {name: taken(kind, [row[name] for row in block]) for name, kind in kinds.items()}
