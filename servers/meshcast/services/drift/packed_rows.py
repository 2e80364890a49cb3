"""Packed rows: observations as bytes, for what a subject keeps of its rows and for drafts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import CategoryColumn, Floats, Observations
from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.packing import pack, unpack

__all__ = ["rows_from_bytes", "rows_to_bytes", "small_copy"]

_KIND = b"DRW1"


def rows_to_bytes(rows: Observations) -> bytes:
    """Rows as bytes: numbers keep their type; only the categories of these rows are kept."""
    arrays: dict[str, NDArray[Any]] = {f"n{at}": values for at, values in enumerate(rows.numeric.values())}
    categories = []
    for at, (name, column) in enumerate(rows.categorical.items()):
        own = _own(column)
        categories.append((name, own.names))
        arrays[f"c{at}"] = own.codes
    if rows.unix_us is not None:
        arrays["t"] = rows.unix_us
    return pack(_KIND, {"rows": rows.rows, "numeric": list(rows.numeric), "categorical": categories}, arrays)


def rows_from_bytes(data: bytes) -> Observations:
    """The rows that `rows_to_bytes` packed.

    Raises:
        CorruptData: that is not what these bytes are.
    """
    head, arrays = unpack(_KIND, data)
    try:
        return Observations(
            rows=int(head["rows"]),
            numeric={name: arrays[f"n{at}"] for at, name in enumerate(head["numeric"])},
            categorical={
                name: CategoryColumn(arrays[f"c{at}"], tuple(names))
                for at, (name, names) in enumerate(head["categorical"])
            },
            unix_us=arrays.get("t"),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptData(f"Rows that were kept cannot be read: {error}.") from error


def small_copy(rows: Observations) -> Observations:
    """A copy of rows that holds on to nothing else: numbers as float32, and only the categories of these rows."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is beyond every number of it
        numeric: dict[str, Floats] = {name: np.array(values, np.float32) for name, values in rows.numeric.items()}
    categorical = {name: _own(column) for name, column in rows.categorical.items()}
    return Observations(rows.rows, numeric, categorical, None if rows.unix_us is None else rows.unix_us.copy())


def _own(column: CategoryColumn) -> CategoryColumn:
    """The column under the categories of its own rows."""
    used, codes = np.unique(column.codes, return_inverse=True)
    nulls = int(len(used) > 0 and used[0] < 0)
    return CategoryColumn((codes - nulls).astype(np.int32), tuple(column.names[code] for code in used[nulls:].tolist()))
