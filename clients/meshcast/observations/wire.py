"""Observations on the wire: tables to and from the messages of the contract, every broken rule named by its path."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.observations.table import CategoryColumn, Floats, Observations

__all__ = [
    "CATEGORIES_MAX",
    "CATEGORY_CHARACTERS_MAX",
    "NAME_CHARACTERS_MAX",
    "pack_observations",
    "unpack_observations",
]

CATEGORIES_MAX = 65_536
"""Most categories of a column of one message, of the contract."""
CATEGORY_CHARACTERS_MAX = 256
"""Most characters of a category, of the contract."""
NAME_CHARACTERS_MAX = 128
"""Most characters of a column's name, of the contract."""

_F32: np.dtype[np.float32] = np.dtype("<f4")
_F64: np.dtype[np.float64] = np.dtype("<f8")
_SHOWN_MAX = 40


def pack_observations(observations: Observations) -> pb.Observations:
    """A table as a message; float32 columns travel as such, all others as float64.

    Of a column with more categories than rows, only those that a row has are sent.

    >>> table = Observations(2, {"age": np.array([30.0, 41.0])}, {"town": CategoryColumn(np.array([0, -1]), ("Oslo",))})
    >>> message = pack_observations(table)
    >>> message.rows, len(message.numeric[0].f64), list(message.categorical[0].codes)
    (2, 16, [0, -1])
    """
    return pb.Observations(
        rows=observations.rows,
        numeric=[
            pb.NumericColumn(name=name, f32=values.astype(_F32, copy=False).tobytes())
            if values.dtype == np.float32
            else pb.NumericColumn(name=name, f64=values.astype(_F64, copy=False).tobytes())
            for name, values in observations.numeric.items()
        ],
        categorical=[
            pb.CategoricalColumn(name=name, categories=sent.names, codes=sent.codes.tolist())
            for name, column in observations.categorical.items()
            for sent in (_compact(column),)
        ],
        unix_us=() if observations.unix_us is None else observations.unix_us.tolist(),
    )


def unpack_observations(message: pb.Observations, violations: dict[str, str], path: str) -> Observations:
    """A table from a message; columns that break a rule are noted and left out.

    Args:
        message: the message. Columns of bytes are read where they lie, so they are not writable.
        violations: gets what is broken: by path, as in `observations.numeric[3].f32`, the rule.
        path: of the message in its request, as in `observations`.

    Returns:
        The columns that break no rule; whole only where nothing was noted.
    """
    return _Reading(message, violations, path).table()


@dataclass(slots=True)
class _Reading:
    """One reading of a message.

    Attributes:
        first: path of the column that had a name first, by name.
    """

    message: pb.Observations
    violations: dict[str, str]
    path: str
    first: dict[str, str] = field(default_factory=dict)

    def table(self) -> Observations:
        n = self.message.rows
        if n < 0:
            self.violations[f"{self.path}.rows"] = f"must be a number of rows of 0 or more, is {n}"
            return Observations(0, {}, {})
        numeric: dict[str, Floats] = {}
        for at, column in enumerate(self.message.numeric):
            path = f"{self.path}.numeric[{at}]"
            values = self._numbers(column, n, path)
            if self._is_named(column.name, path) and values is not None:
                numeric[column.name] = values
        categorical: dict[str, CategoryColumn] = {}
        for at, categories in enumerate(self.message.categorical):
            path = f"{self.path}.categorical[{at}]"
            codes = self._codes(categories, n, path)
            if self._is_named(categories.name, path) and codes is not None:
                categorical[categories.name] = codes
        return Observations(n, numeric, categorical, self._times(n))

    def _is_named(self, name: str, path: str) -> bool:
        if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
            rule = f"must be a name of 1 to {NAME_CHARACTERS_MAX} characters, has {len(name)}"
        elif name in self.first:
            rule = f"{_quoted(name)} is the name of {self.first[name]} too; give every column a name of its own"
        else:
            self.first[name] = path
            return True
        self.violations[f"{path}.name"] = rule
        return False

    def _numbers(self, column: pb.NumericColumn, n: int, path: str) -> Floats | None:
        given = [form for form in ("values", "f32", "f64") if len(getattr(column, form))]
        if len(given) != 1:
            if not given and n == 0:
                return np.zeros(0)
            shown = " and ".join(given) or "none of them"
            self.violations[path] = f"must have exactly one of values, f32 and f64, has {shown}"
            return None
        form = given[0]
        if form == "values":
            if len(column.values) == n:
                return np.array(column.values, dtype=np.float64)
            self.violations[f"{path}.values"] = f"must be {n} values, one a row, is {len(column.values)}"
            return None
        data, size = (column.f32, 4 * n) if form == "f32" else (column.f64, 8 * n)
        if len(data) != size:
            self.violations[f"{path}.{form}"] = f"must be {size} bytes for {n} rows, is {len(data)} bytes"
            return None
        return np.frombuffer(data, dtype=_F32) if form == "f32" else np.frombuffer(data, dtype=_F64)

    def _codes(self, column: pb.CategoricalColumn, n: int, path: str) -> CategoryColumn | None:
        names = tuple(column.categories)
        fault = _names_fault(names)
        if fault is not None:
            place, rule = fault
            self.violations[f"{path}.categories{place}"] = rule
            return None
        if len(column.codes) != n:
            self.violations[f"{path}.codes"] = f"must be {n} codes, one a row, is {len(column.codes)}"
            return None
        codes = np.array(column.codes, dtype=np.int32)
        if n and (codes.min() < -1 or codes.max() >= len(names)):
            row = int(np.flatnonzero((codes < -1) | (codes >= len(names)))[0])
            rule = f"must be a position in the {len(names)} categories or -1 for a null, is {codes[row]}"
            self.violations[f"{path}.codes[{row}]"] = rule
            return None
        return CategoryColumn(codes, names)

    def _times(self, n: int) -> NDArray[np.int64] | None:
        times = self.message.unix_us
        if len(times) not in (0, n):
            self.violations[f"{self.path}.unix_us"] = f"must be {n} times, one a row, or none, is {len(times)}"
            return None
        return np.array(times, dtype=np.int64) if len(times) else None


def _compact(column: CategoryColumn) -> CategoryColumn:
    """The column without categories of no row, where it has more of them than rows."""
    if len(column.names) <= len(column.codes):
        return column
    used, codes = np.unique(column.codes, return_inverse=True)
    nulls = int(bool(len(used)) and used[0] < 0)
    return CategoryColumn(
        (codes - nulls).astype(np.int32), tuple([column.names[code] for code in used[nulls:].tolist()])
    )


def _names_fault(names: Sequence[str]) -> tuple[str, str] | None:
    """The first broken rule of categories: where, and which."""
    if len(names) > CATEGORIES_MAX:
        return "", f"must be at most {CATEGORIES_MAX} categories, is {len(names)}"
    if names and max(map(len, names)) > CATEGORY_CHARACTERS_MAX:
        at = next(at for at, name in enumerate(names) if len(name) > CATEGORY_CHARACTERS_MAX)
        return f"[{at}]", f"must be at most {CATEGORY_CHARACTERS_MAX} characters, has {len(names[at])}"
    if len(set(names)) != len(names):
        seen: set[str] = set()
        for at, name in enumerate(names):
            if name in seen:
                return f"[{at}]", f"{_quoted(name)} is there twice; give each category once"
            seen.add(name)
    return None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "...")
