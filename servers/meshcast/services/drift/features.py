"""Features of rows for the autoencoder: columns and categories go in, one matrix of numbers comes out.

Nothing is scaled here; that is inside the graph. Training and serving call the one function here (`matrix`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import CategoryColumn, Observations
from meshcast.rpc.errors import InvalidInput
from meshcast.services.drift.signature import COLUMNS_MAX

__all__ = ["HELD_OUT_SHARE", "LEARN_ROWS_MAX", "Encoding", "learn_and_held_out", "matrix"]

LEARN_ROWS_MAX = 20_000
"""Most rows that an autoencoder is trained on."""

HELD_OUT_SHARE = 0.3
"""Share of a reference's rows that are not trained on: what the errors and codes of windows are compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How rows become numbers.

    Attributes:
        columns: of the matrix, in its order: the reference's, at most the first `COLUMNS_MAX`.
        shares: of those that are categorical, each category's share of the reference's rows that are not null.
    """

    columns: tuple[str, ...]
    shares: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, reference: Observations) -> "Encoding":
        """The encoding that a reference gives."""
        columns = reference.names[:COLUMNS_MAX]
        return cls(
            columns=columns,
            shares={name: _shares(reference.categorical[name]) for name in columns if name in reference.categorical},
        )

    def to_json(self) -> str:
        """The encoding as a text."""
        return json.dumps({"columns": self.columns, "shares": self.shares}, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Encoding":
        """The encoding that `to_json` wrote."""
        values = json.loads(text)
        return cls(
            columns=tuple(map(str, values["columns"])),
            shares={
                str(column): {str(name): float(share) for name, share in shares.items()}
                for column, shares in values["shares"].items()
            },
        )


def matrix(observations: Observations, encoding: Encoding) -> NDArray[np.float32]:
    """Rows as the autoencoder takes them.

    Args:
        observations: the rows; further columns than the encoding's are not looked at.
        encoding: of the reference.

    Returns:
        Shape (rows, n), float32: a number as it is, a category as its share of the reference's rows; null is NaN, a
        category that the reference has not is 0, a number beyond float32 an infinity.

    Raises:
        InvalidInput: a column is missing, or is not of its kind.
    """
    found = np.empty((observations.rows, len(encoding.columns)), dtype=np.float32)
    for at, name in enumerate(encoding.columns):
        kind, columns = (
            ("categorical", observations.categorical) if name in encoding.shares else ("numeric", observations.numeric)
        )
        if name not in columns:
            raise InvalidInput(f"the {kind} column {name!r} of the reference is missing", field=name)
        if name in encoding.shares:
            found[:, at] = _encoded(observations.categorical[name], encoding.shares[name])
        else:
            with np.errstate(over="ignore"):
                found[:, at] = observations.numeric[name]
    return found


def learn_and_held_out(rows: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the rows of a reference that are trained on, and of those that never are; each ascending.

    Args:
        rows: of the reference.
        seed: the same gives the same.
    """
    order = np.random.default_rng(seed).permutation(rows)
    held = int(np.ceil(rows * HELD_OUT_SHARE))
    return np.sort(order[held : held + LEARN_ROWS_MAX]), np.sort(order[:held])


def _shares(column: CategoryColumn) -> dict[str, float]:
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.names))
    shares = counts / max(1, counts.sum())
    return {name: float(share) for name, share in zip(column.names, shares, strict=True) if share > 0}


def _encoded(column: CategoryColumn, shares: Mapping[str, float]) -> NDArray[np.float32]:
    # The last place stands for null, which is code -1.
    values = np.array([*(shares.get(name, 0.0) for name in column.names), np.nan], dtype=np.float32)
    encoded: NDArray[np.float32] = values[column.codes]
    return encoded
