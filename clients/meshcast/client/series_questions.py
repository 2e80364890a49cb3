"""Questions to the forecaster: series as callers hold them, packed into the contract's messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.client.priority import PRIORITIES, Priority
from meshcast.rpc import InvalidInput
from meshcast.series import SeriesTable, days_of, pack_days, values_of


class IndexedValues(Protocol):
    """Values by day, as a pandas Series has them: `index` holds the days."""

    @property
    def index(self) -> Any:
        """The days."""

    def to_numpy(self) -> NDArray[Any]:
        """The values."""


SeriesLike = SeriesTable | IndexedValues | Mapping[Any, Any] | tuple[Any, Any]
"""One series in any shape: a table or slice of one series, values by day (a mapping, a pandas Series), or a pair of
columns, days and values. Days are ISO 8601 texts, `date`, `datetime64`, or integers, days since 1970-01-01; NaN or None
is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthQuestion:
    """What the forecaster is to be asked beside the other services; see `MeshClient.forecast_growth`.

    Args:
        history: the series.
        series: its name; None takes the table's.
        horizon_days: 1 to 90 days; 0 means 30.
        levels: levels of the intervals; empty for 0.8 and 0.95.
        quantiles: quantiles, each from 0.005 to 0.995.
        nonnegative: whether the series cannot be negative.
        request_id: unique to the question. None: it follows from the composite question's.
    """

    history: SeriesLike
    series: str | None = None
    horizon_days: int = 0
    levels: Sequence[float] = ()
    quantiles: Sequence[float] = ()
    nonnegative: bool = False
    request_id: str | None = None

    def message(self, *, version: int = 0, priority: Priority = "normal") -> pb.ForecastGrowthRequest:
        """The question as a message.

        Raises:
            InvalidInput: the history is of several series, or a day or value cannot be read.
        """
        name, columns = packed_history(self.history)
        return pb.ForecastGrowthRequest(
            request_id=self.request_id or "",
            series=name if self.series is None else self.series,
            history_columns=columns,
            horizon_days=self.horizon_days,
            levels=self.levels,
            quantiles=self.quantiles,
            nonnegative=self.nonnegative,
            model_version=version,
            priority=PRIORITIES[priority],
        )


def packed_history(history: SeriesLike) -> tuple[str, pb.DayColumns]:
    """The name of one series (empty where it has none), and its days as a message, in the order in which they come.

    Raises:
        InvalidInput: it holds several series, or a day or value cannot be read.
    """
    name, day, value = days_and_values(history)
    return name, pack_days(day, value)


def days_and_values(history: SeriesLike) -> tuple[str, NDArray[np.int64], NDArray[np.float64]]:
    """The name, days and values of one series in any shape, in the order in which they come.

    >>> days_and_values({"2016-05-30": 5, "2016-05-31": None})
    ('', array([16951, 16952]), array([ 5., nan]))

    Raises:
        InvalidInput: it holds several series, or a day or value cannot be read.
    """
    if isinstance(history, SeriesTable):
        if len(history.names) > 1:
            first = str(history.names[0])
            text = f"the history holds {len(history.names)} series; give one of them, as in table[{first!r}]"
            raise InvalidInput(text, field="history")
        return (str(history.names[0]) if len(history.names) else ""), history.day, history.value
    if isinstance(history, Mapping):
        pair: tuple[Any, Any] = (list(history), list(history.values()))
    elif isinstance(history, tuple) and len(history) == 2:
        pair = history
    elif hasattr(history, "index") and hasattr(history, "to_numpy"):
        pair = (np.asarray(history.index), history.to_numpy())
    else:
        text = f"a history must be a table, values by day, or days and values, is {type(history).__name__}"
        raise InvalidInput(text, field="history")
    day, value = days_of(pair[0]), values_of(pair[1])
    if value.shape != day.shape:
        raise InvalidInput(f"there are {len(day)} days and values of shape {value.shape}", field="history")
    return "", day, value
