"""CSV rows: where a row stands in its file, and what is said of a file that is not CSV."""

import csv
from typing import TYPE_CHECKING

from meshcast.rpc.errors import InvalidInput

if TYPE_CHECKING:
    import _csv

__all__ = ["not_csv", "row_place"]


def row_place(reader: "_csv.Reader", row: int) -> str:
    """Names a 0-based row with its line, since texts may hold line breaks and blank lines may stand between.

    Args:
        reader: at the file's beginning, the header still before it; it is read up to the row, so for errors only.
        row: number of the row below the header.
    """
    next(reader)
    before, seen = reader.line_num, -1
    for fields in reader:
        seen += bool(fields)
        if seen == row:
            return f"row {row + 1} (line {before + 1})"
        before = reader.line_num
    return f"row {row + 1}"


def not_csv(source: str, line: int, error: csv.Error) -> InvalidInput:
    """The error of a file that breaks CSV's own rules.

    Args:
        source: the file, as the caller knows it.
        line: 1-based line at which reading failed.
        error: of the reader.
    """
    hint = "a quote is never closed: the file seems cut off" if "end of data" in str(error) else "correct the line"
    return InvalidInput(
        f"{source}, line {line}: is not CSV ({error}); {hint}",
        violations=[(f"line {line}", str(error))],
        file=source,
        line=line,
    )
