"""Sink: what takes the rows of a stream and the place at which it goes on, both or neither."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput

__all__ = ["Column", "Columns", "Kind", "Sink", "fitted", "kinds_of", "rows_of", "taken"]

Column: TypeAlias = "NDArray[Any] | Sequence[str]"
Columns: TypeAlias = "Mapping[str, Column]"
"""A block of rows: columns of one length by name; arrays of numbers or truths, and texts. NaN stands for no value."""

Kind = Literal["int", "float32", "float64", "bool", "text"]
"""What a column holds; a sink takes the same columns of the same kinds in every block."""


class Sink(Protocol):
    """Takes the rows of one stream and its token, and says after a crash what stands: as many rows as the token says.

    A sink is opened, given blocks, and closed; a closed one can be opened again. It belongs to one writer at a time.

    Attributes:
        name: how errors call it.
        rows: rows that stand; known once it is open.
        block_rows: rows that are worth a commit.
        block_s: seconds after which fewer are committed too.
    """

    name: str
    rows: int
    block_rows: int
    block_s: float

    def open(self, stream_id: str | None) -> str:
        """Takes away what a crash left half done; gives the token that stands, empty when there is none.

        Args:
            stream_id: of the stream that is to be stored; None where the sink is to tell by its token.

        Raises:
            AlreadyExists: something else stands there, which no stream has written.
            Conflict: another process writes to it.
            CorruptData: it was changed by something else.
        """
        ...

    def commit(self, columns: Columns, token: str) -> None:
        """Stores a block of rows and the token of what follows them: after a crash either both stand, or neither.

        Raises:
            InvalidInput: the block has other columns than the first one.
            OSError: the disk is full or gone. Nothing of the block stands then; open the sink again.
        """
        ...

    def read(self, rows_max: int = 65_536) -> Iterator[dict[str, Column]]:
        """What stands, in its order, in blocks of at most so many rows; of an open sink."""
        ...

    def close(self) -> None:
        """Lets go of it. What was committed stays; harmless when it is not open."""
        ...


def rows_of(columns: Columns) -> int:
    """Rows of a block.

    Raises:
        InvalidInput: the columns differ in length, or there is none.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise InvalidInput(f"the columns of a block must be of one length, are {lengths}")
    return next(iter(lengths.values()))


def kinds_of(columns: Columns) -> dict[str, Kind]:
    """What the columns of a block hold.

    Raises:
        InvalidInput: a column is of none of the kinds.
    """
    return {name: _kind(name, column) for name, column in columns.items()}


def _kind(name: str, column: Column) -> Kind:
    if not isinstance(column, np.ndarray):
        return "text"
    match column.dtype.kind:
        case "i" | "u":
            return "int"
        case "b":
            return "bool"
        case "f":
            return "float32" if column.dtype == np.float32 else "float64"
        case "U":
            return "text"
    raise InvalidInput(f"the column {name} holds {column.dtype}, which no sink stores", field=name)


def fitted(sink: str, kinds: Mapping[str, Kind], columns: Columns) -> None:
    """Checks that a block has the columns that a sink has.

    Raises:
        InvalidInput: it has others; they are named.
    """
    given = kinds_of(columns)
    if given == dict(kinds) and list(given) == list(kinds):
        return
    missing = [name for name in kinds if name not in given]
    new = [name for name in given if name not in kinds]
    changed = [
        f"{name} ({kinds[name]}, now {given[name]})" for name in given if kinds.get(name, given[name]) != given[name]
    ]
    told = [
        f"{what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("new", new), ("changed", changed))
        if names
    ]
    what = "; ".join(told) or "they are in another order"
    raise InvalidInput(f"{sink} holds other columns than this block ({what}); give the stream a sink of its own")


def taken(kind: Kind, values: Sequence[Any]) -> Column:
    """Values that were read back as a column; None and the empty text stand for no value."""
    if kind == "text":
        return ["" if value is None else str(value) for value in values]
    if kind == "int":
        return np.array([int(value) for value in values], dtype=np.int64)
    if kind == "bool":
        return np.array([value in (True, 1, "true", "True") for value in values], dtype=np.bool_)
    filled = ["nan" if value is None or value == "" else value for value in values]
    return np.array(filled, dtype=np.float64).astype(np.float32 if kind == "float32" else np.float64)
