"""The table of series: days of many series end to end, as columns."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput
from meshcast.series.dates import day_texts, days_of, values_of

__all__ = ["SeriesIndex", "SeriesRange", "SeriesTable"]

_NAMES_SHOWN = 12

Days = NDArray[np.int64]
Floats = NDArray[np.float64]


class SeriesRange(NamedTuple):
    """Where a series stands in its table."""

    name: str
    """Its name; empty where there is but one."""
    start: int
    """Its first day, a position."""
    stop: int
    """Its end (exclusive)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesIndex:
    """Rows of a question: where each row's history stands in its table; each of shape (m,).

    Ranges may overlap, as those of rolling origins of one series do; what they share is sent once.

    Attributes:
        start: int64, first day of its history.
        stop: int64, end of its history (exclusive); the day after the last one is the first to be forecast.
    """

    start: Days
    stop: Days

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class SeriesTable:
    """Daily values of series, sorted by name and day; a day that is missing is not there.

    A slice (of step 1) is a view; it remembers where it was cut from, so that histories cut from one table travel over
    the wire once. A name gives the part of that series.

    >>> table = SeriesTable.of(["2016-05-31", "2016-05-30"], [7, 5], series=["a", "a"])
    >>> table.day.tolist(), table["a"].value.tolist(), list(table.ranges())
    ([16951, 16952], [5.0, 7.0], [SeriesRange(name='a', start=0, stop=2)])

    Attributes:
        names: shape (k,), str, names of the series, ascending.
        bounds: shape (k + 1,), int64: series i has the days from `bounds[i]` to `bounds[i + 1]`.
        day: shape (n,), int64, days since 1970-01-01, ascending within a series.
        value: shape (n,), float64, in the unit of the series; NaN = unknown.
    """

    names: NDArray[np.str_]
    bounds: Days
    day: Days
    value: Floats
    origin: "SeriesTable | None" = field(default=None, repr=False)
    """The table that this one is a slice of; None when it is none."""
    offset: int = field(default=0, repr=False)
    """Position of the first day in `origin`."""

    @classmethod
    def of(cls, day: Any, value: Any, series: Any = None) -> "SeriesTable":
        """A table from columns in any order, sorted by series and day.

        Args:
            day: shape (n,), dates in any form: ISO 8601 texts, `date`, `datetime64`, or days since 1970-01-01.
            value: shape (n,), numbers; NaN or None where unknown.
            series: shape (n,), names; None: all days are of one series without a name.

        Raises:
            InvalidInput: the lengths differ, a date is none, a value is no number or infinite, or a series has a day
                twice.
        """
        days, values = days_of(day), values_of(value)
        n = len(days)
        names = np.zeros(n, dtype="<U1") if series is None else np.asarray(series).astype(np.str_)
        for column, given in (("value", values), ("series", names)):
            if given.shape != (n,):
                raise InvalidInput(f"{column} has shape {given.shape}, day ({n},)", field=column)
        if np.isinf(values).any():
            row = int(np.flatnonzero(np.isinf(values))[0])
            raise InvalidInput(f"value[{row}] is infinite; give NaN where it is unknown", field=f"value[{row}]")
        unique, codes = np.unique(names, return_inverse=True)
        table, order = cls.from_codes(unique, codes.astype(np.int64), days, values)
        twice = table.first_repeat()
        if twice is not None:
            row = order[twice]
            text = f"{day_texts(table.day[twice : twice + 1])[0]} is there twice{_of(table.name_at(twice))}"
            raise InvalidInput(f"day[{row}]: {text}; each day comes once", field=f"day[{row}]")
        return table

    @classmethod
    def from_codes(
        cls, names: NDArray[np.str_], codes: Days, day: Days, value: Floats
    ) -> tuple["SeriesTable", "Days | range"]:
        """A table from codes of series, and from which row each of its days came; that a day comes once is not checked.

        Args:
            names: shape (k,), names by code, each once; one that no day has is left out.
            codes: shape (n,), each day's series.
            day: shape (n,), days since 1970-01-01.
            value: shape (n,).
        """
        by_name = np.argsort(names, kind="stable")
        rank = np.empty(len(names), dtype=np.int64)
        rank[by_name] = np.arange(len(names))
        order: Days | range = range(len(day))
        codes = rank[codes] if len(names) > 1 else np.zeros(len(day), dtype=np.int64)
        if len(day) > 1 and not _is_sorted(codes, day):
            order = np.lexsort((day, codes))
            codes, day, value = codes[order], day[order], value[order]
        counts = np.bincount(codes, minlength=len(names))
        there = counts > 0
        bounds = np.concatenate([[0], np.cumsum(counts[there])]).astype(np.int64)
        return cls(names=names[by_name][there], bounds=bounds, day=day, value=value), order

    def __len__(self) -> int:
        return len(self.day)

    def __getitem__(self, part: "slice | str") -> "SeriesTable":
        """The days of a slice of step 1, or the series of a name, without a copy.

        Raises:
            KeyError: no series has the name; lists those that there are.
        """
        if isinstance(part, str):
            at = int(np.searchsorted(self.names, part))
            if at == len(self.names) or self.names[at] != part:
                raise KeyError(f"no series is named {part!r}; {_held(self.names)}")
            part = slice(int(self.bounds[at]), int(self.bounds[at + 1]))
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise IndexError("a table of series is sorted: only slices of step 1 can be taken")
        stop = max(start, stop)
        first = int(np.searchsorted(self.bounds, start, side="right")) - 1
        last = max(first, int(np.searchsorted(self.bounds, stop, side="left")))
        if start == stop:
            first = last = 0
        return SeriesTable(
            names=self.names[first:last],
            bounds=np.clip(self.bounds[first : last + 1], start, stop) - start,
            day=self.day[start:stop],
            value=self.value[start:stop],
            origin=self if self.origin is None else self.origin,
            offset=self.offset + start,
        )

    def ranges(self) -> Iterator[SeriesRange]:
        """Every series with its range, in the table's order."""
        bounds = self.bounds.tolist()
        for name, start, stop in zip(self.names.tolist(), bounds, bounds[1:], strict=False):
            yield SeriesRange(name, start, stop)

    def whole(self) -> SeriesIndex:
        """One row a series, each with all of its days."""
        return SeriesIndex(start=self.bounds[:-1], stop=self.bounds[1:])

    def name_at(self, position: int) -> str:
        """Name of the series that a day belongs to."""
        return str(self.names[int(np.searchsorted(self.bounds, position, side="right")) - 1])

    def row_names(self) -> NDArray[np.str_]:
        """The name of each day's series; shape (n,)."""
        return np.repeat(self.names, np.diff(self.bounds))

    def first_repeat(self) -> int | None:
        """Position of the first day that its series has twice; None when there is none."""
        same = np.flatnonzero(self.day[1:] == self.day[:-1]) + 1
        if len(same):
            same = same[~np.isin(same, self.bounds)]
        return int(same[0]) if len(same) else None


def _is_sorted(codes: Days, day: Days) -> bool:
    step = np.diff(codes)
    return bool(((step > 0) | ((step == 0) & (np.diff(day) >= 0))).all())


def _held(names: NDArray[np.str_]) -> str:
    """Which names there are, the first ones of many."""
    if not names.any():
        return "the only one has no name" if len(names) else "there is none"
    more = f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else ""
    return f"there are {', '.join(map(repr, names[:_NAMES_SHOWN].tolist()))}{more}"


def _of(name: str) -> str:
    return f" in the series {name!r}" if name else ""
