"""The table of observations: one array a column, rows in the order in which they came."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput

__all__ = ["CategoryColumn", "Floats", "Observations"]

Floats = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class CategoryColumn:
    """A column of categories.

    Attributes:
        codes: shape (rows,), int32, position of each row's category in `names`; -1 is a null.
        names: the categories, each once; some may be those of no row.
    """

    codes: NDArray[np.int32]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """Rows as columns; every column is of `rows` values, and no name stands for two columns.

    Attributes:
        rows: number of rows.
        numeric: columns of numbers by name, each of shape (rows,), float32 or float64; NaN is a null, an
            infinity is a value.
        categorical: columns of categories by name.
        unix_us: shape (rows,), int64, when each row happened, in microseconds since 1970 UTC; None where nobody said.
    """

    rows: int
    numeric: Mapping[str, Floats]
    categorical: Mapping[str, CategoryColumn]
    unix_us: NDArray[np.int64] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns: those of numbers first, then those of categories."""
        return (*self.numeric, *self.categorical)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice) -> "Observations":
        """Rows of the table, as views of its arrays; categories keep their codes."""
        return Observations(
            rows=len(range(self.rows)[rows]),
            numeric={name: values[rows] for name, values in self.numeric.items()},
            categorical={
                name: CategoryColumn(column.codes[rows], column.names) for name, column in self.categorical.items()
            },
            unix_us=None if self.unix_us is None else self.unix_us[rows],
        )

    def take(self, rows: NDArray[np.int64]) -> "Observations":
        """Rows by their positions, in that order; one may be taken more than once.

        Args:
            rows: shape (n,), int64, each from 0 to `self.rows` - 1.
        """
        return Observations(
            rows=len(rows),
            numeric={name: values[rows] for name, values in self.numeric.items()},
            categorical={
                name: CategoryColumn(column.codes[rows], column.names) for name, column in self.categorical.items()
            },
            unix_us=None if self.unix_us is None else self.unix_us[rows],
        )

    @staticmethod
    def concat(parts: Sequence["Observations"]) -> "Observations":
        """Tables of the same columns, end to end.

        Args:
            parts: one or more; the order of their columns and of their categories may differ. Float32 with
                float64 gives float64. The whole has times where every part has them.

        Raises:
            InvalidInput: there is no part, or one has other columns than the first.
        """
        if not parts:
            raise InvalidInput("there are no observations to join", field="observations")
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        for at, part in enumerate(parts):
            if part.numeric.keys() != first.numeric.keys() or part.categorical.keys() != first.categorical.keys():
                odd = sorted(
                    (part.numeric.keys() ^ first.numeric.keys()) | (part.categorical.keys() ^ first.categorical.keys())
                )
                raise InvalidInput(f"part {at} of the observations has other columns than the first: {odd[:10]}")
        times = [part.unix_us for part in parts if part.unix_us is not None]
        return Observations(
            rows=sum(part.rows for part in parts),
            numeric={name: np.concatenate([part.numeric[name] for part in parts]) for name in first.numeric},
            categorical={name: _joined([part.categorical[name] for part in parts]) for name in first.categorical},
            unix_us=np.concatenate(times) if len(times) == len(parts) else None,
        )


def _joined(columns: Sequence[CategoryColumn]) -> CategoryColumn:
    """Columns of categories, end to end, under the categories of all of them in the order of their first mention."""
    names = columns[0].names
    if all(column.names == names for column in columns):
        return CategoryColumn(np.concatenate([column.codes for column in columns]), names)
    codes: dict[str, int] = {}
    for column in columns:
        for name in column.names:
            codes.setdefault(name, len(codes))
    # One more place at the end, which -1 finds.
    maps = [np.array([*(codes[name] for name in column.names), -1], dtype=np.int32) for column in columns]
    return CategoryColumn(
        np.concatenate([to[column.codes] for to, column in zip(maps, columns, strict=True)]), tuple(codes)
    )
