"""The rules of contents: what a text and each column beside it may hold, and which rows break them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BYTES_MAX",
    "LENGTH_MAX",
    "OUTCOME_MAX",
    "ROWS_MAX",
    "Violations",
    "bad_values",
    "content_violations",
    "describe_value",
    "is_blank",
    "size_fault",
    "surrogate_fault",
]

BYTES_MAX = 1024 * 1024
"""Most bytes of UTF-8 of a text and its title together, of the contract."""
ROWS_MAX = 1024
"""Most texts of a chunk, of the contract; so of EmbedTexts and ClassifyTexts."""

LENGTH_MAX = 2**24
"""Most characters of a whole text, of the contract: up to there every whole number is a float32."""
OUTCOME_MAX = 1e15
"""Largest size of an outcome, of the contract: squares and sums of many such are finite."""

Floats = NDArray[np.float32] | NDArray[np.float64]
Violations = dict[int, list[tuple[str, str]]]
"""By 0-based row, the violations as (field, description)."""

RULES = {
    "content_length": f"must be a whole number of characters from 0 to {LENGTH_MAX:,}",
    "has_media": "must be 0 or 1",
    "hour_of_day": "must be a whole number from 0 to 23",
}


def bad_values(column: str, values: Floats) -> NDArray[np.bool_]:
    """Where values break their column's rule; NaN (unknown) is allowed in all but `has_media`.

    Args:
        column: `content_length`, `has_media` or `hour_of_day`.
        values: shape (n,).
    """
    if column == "has_media":
        good = (values == 0) | (values == 1)
    else:
        last = 23 if column == "hour_of_day" else LENGTH_MAX
        good = ((values >= 0) & (values <= last) & (np.floor(values) == values)) | np.isnan(values)
    bad: NDArray[np.bool_] = ~good
    return bad


def describe_value(column: str, value: float) -> str:
    """Why a value is refused."""
    return f"{RULES[column]}, is {value:.15g}"


def content_violations(
    text: Sequence[str],
    title: Sequence[str],
    columns: dict[str, Floats],
    field: Callable[[int, str], str],
) -> Violations:
    """Rows of contents that break the contract, with the fields at fault; good rows are not named.

    Args:
        text: n texts.
        title: n titles.
        columns: raw values by name, each of shape (n,); NaN = unknown. A column that is left out is not checked.
        field: names the field of a row's column in the caller's message.

    Returns:
        By 0-based row, the violations; at most one a column and row.
    """
    found: Violations = {}
    for row, (body, head) in enumerate(zip(text, title, strict=True)):
        fault = "is empty: a text or a title is required" if is_blank(body, head) else size_fault(body, head)
        if fault is not None:
            found[row] = [(field(row, "text"), fault)]
    for name, values in columns.items():
        for row in np.flatnonzero(bad_values(name, values)).tolist():
            found.setdefault(row, []).append((field(row, name), describe_value(name, float(values[row]))))
    return found


def is_blank(text: str, title: str) -> bool:
    """Whether a text and its title are nothing but white space, which is no content."""
    return (not text or text.isspace()) and (not title or title.isspace())


def size_fault(text: str, title: str = "") -> str | None:
    """Why a text and its title are too long; None when they are not."""
    if 4 * (len(text) + len(title)) > BYTES_MAX:  # no code point takes more than 4 bytes
        size = len(text.encode("utf-8", "surrogatepass")) + len(title.encode("utf-8", "surrogatepass"))
        if size > BYTES_MAX:
            with_title = " with its title" if title else ""
            return f"has {size} bytes of UTF-8{with_title}, at most {BYTES_MAX} are taken; give the beginning"
    return None


def surrogate_fault(text: str) -> str | None:
    """Why a text cannot be written as UTF-8; None when it can."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            return f"character {error.start} is a lone surrogate (U+{code:04X}), which UTF-8 has no bytes for"
    return None
