"""Series on the wire: days and values to and from the packed columns and the messages of the contract."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.columns import column_bytes
from meshcast.rpc.errors import InvalidInput
from meshcast.series.dates import day_texts, days_of_texts

__all__ = ["PackedSeries", "days_from_columns", "days_from_messages", "join_series", "messages_from_days", "pack_days"]

Days = NDArray[np.int64]
Floats = NDArray[np.float64]

_DAY = np.dtype("<i4")
_VALUE = np.dtype("<f8")
_VIOLATIONS_MAX = 50


class PackedSeries:
    """Days and values as the bytes that go over the wire, of which ranges are cut without numpy.

    Args:
        day: shape (n,), int64, days since 1970-01-01.
        value: shape (n,), float64, NaN = unknown.

    Raises:
        InvalidInput: a day does not fit the contract's 32 bits.

    Attributes:
        days: number of days.
        day: the days' bytes.
        value: the values' bytes.
    """

    __slots__ = ("day", "days", "value")

    def __init__(self, day: Days, value: Floats) -> None:
        if len(day) and (day.min() < -(2**31) or day.max() >= 2**31):
            raise InvalidInput("a day does not fit 32 bits; give days since 1970-01-01", field="day")
        self.days = len(day)
        self.day = column_bytes(day, _DAY)
        self.value = column_bytes(value, _VALUE)

    def message(self, start: int, stop: int) -> pb.DayColumns:
        """The days of a range as a message."""
        return join_series([(self, start, stop)])


def join_series(ranges: Sequence[tuple[PackedSeries, int, int]]) -> pb.DayColumns:
    """Ranges of packed series, end to end, as one message."""
    return pb.DayColumns(
        days=sum([stop - start for _, start, stop in ranges]),
        day=b"".join([packed.day[4 * start : 4 * stop] for packed, start, stop in ranges]),
        value=b"".join([packed.value[8 * start : 8 * stop] for packed, start, stop in ranges]),
    )


def pack_days(day: Days, value: Floats) -> pb.DayColumns:
    """Days and values as a message; arguments as `PackedSeries`.

    >>> message = pack_days(np.array([16952]), np.array([7.0]))
    >>> days_from_columns(message)
    (array([16952]), array([7.]))
    """
    return PackedSeries(day, value).message(0, len(day))


def days_from_columns(columns: pb.DayColumns, field: str = "history") -> tuple[Days, Floats]:
    """Days (int64) and values (float64) of packed columns, each of shape (n,); `series_violations` checks them.

    Args:
        columns: the message.
        field: its path in the request, for errors.

    Raises:
        InvalidInput: a column is not of `days` values; every such column is named.
    """
    n, wrong = columns.days, []
    if n < 0:
        wrong.append((f"{field}.days", f"must be a number of days of 0 or more, is {n}"))
    else:
        for name, data, kind in (("day", columns.day, _DAY), ("value", columns.value, _VALUE)):
            if len(data) != kind.itemsize * n:
                text = f"must be {kind.itemsize * n} bytes for {n} days, is {len(data)} bytes"
                wrong.append((f"{field}.{name}", text))
    if wrong:
        raise InvalidInput(f"{wrong[0][0]} {wrong[0][1]}", violations=wrong)
    return (
        np.frombuffer(columns.day, dtype=_DAY).astype(np.int64),
        np.frombuffer(columns.value, dtype=_VALUE).astype(np.float64, copy=False),
    )


def days_from_messages(days: Sequence[pb.DayValue], field: str = "history") -> tuple[Days, Floats]:
    """Days (int64) and values (float64, NaN where unset) of messages, in their order; `series_violations` checks them.

    Args:
        days: the messages.
        field: their path in the request, for errors.

    Raises:
        InvalidInput: a date is none, or a value is NaN; up to 50 of them are named.
    """
    texts = [one.date for one in days]
    day, is_date = days_of_texts(texts)
    wrong = [
        (f"{field}[{at}].date", f"must be a date as in 2016-05-31, is {_quoted(texts[at])}")
        for at in np.flatnonzero(~is_date)[:_VIOLATIONS_MAX].tolist()
    ]
    nan = float("nan")
    value = np.array([one.value if one.HasField("value") else nan for one in days], dtype=np.float64)
    wrong += [
        (f"{field}[{at}].value", "is NaN; leave the value out where it is unknown")
        for at in np.flatnonzero(np.isnan(value)).tolist()
        if days[at].HasField("value")
    ][: _VIOLATIONS_MAX - len(wrong)]
    if wrong:
        raise InvalidInput(f"{wrong[0][0]} {wrong[0][1]}", violations=wrong)
    return day, value


def messages_from_days(day: Days, value: Floats) -> list[pb.DayValue]:
    """Days and values as messages; an unknown value (NaN) is left unset.

    >>> [message.date for message in messages_from_days(np.array([16952]), np.array([7.0]))]
    ['2016-05-31']
    """
    return [
        pb.DayValue(date=text, value=None if number != number else number)
        for text, number in zip(day_texts(day), value.tolist(), strict=True)
    ]


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
