"""Bad series to real processes: each gets a clear answer that names the row, or a right one, at the forecaster and
through the gateway, and the mesh goes on serving."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.api.oip.v2 import grpc_service_pb2 as oip
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import InvalidInput, MeshError, NotFound, Overloaded, from_item, mesh_errors
from meshcast.runtime import find_example
from meshcast.services.forecaster import SERVICE

FORECASTER = "meshcast.api.forecaster.v1.ForecasterService"
FIRST = date(2019, 9, 1)
DAYS = 120
TOO_MANY = 10_000_000
NAN, INF = float("nan"), float("inf")

Day = tuple[str, float | None]


@pytest.fixture(scope="module")
def doors(mesh_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of one forecaster, asked directly and through a gateway."""
    folder = tmp_path_factory.mktemp("mesh")
    with (
        mesh_of.forecaster(folder) as server,
        mesh_of.gateway(folder, forecasters=[server.address]) as gateway,
    ):
        yield {"direct": server.address, "gateway": gateway.address}


@pytest.fixture(params=["direct", "gateway"])
async def door(request: pytest.FixtureRequest, doors: dict[str, str], mesh_of: Any) -> AsyncIterator[Any]:
    """A client of either address; afterwards, both still answer."""
    async with mesh_of.peer(doors[request.param], message_bytes_max=256 * 2**20) as asked:
        yield asked
    await mesh_of.still_forecasts(*doors.values())


async def refused(kind: type[MeshError], call: Any) -> Any:
    """The error of this class that a call ends with."""
    with pytest.raises(kind) as caught, mesh_errors():
        await call
    assert type(caught.value) is kind
    return caught.value


def fields_of(error: MeshError) -> list[str]:
    return [violation.field for violation in error.violations]


def good_days(days: int = DAYS) -> list[Day]:
    """A daily series with a week's season."""
    return [((FIRST + timedelta(days=at)).isoformat(), 100.0 + 10 * (at % 7)) for at in range(days)]


def messages(days: list[Day]) -> list[pb.DayValue]:
    return [pb.DayValue(date=day, value=value) for day, value in days]


def columns(day: Any, value: Any, days: int | None = None) -> pb.DayColumns:
    return pb.DayColumns(
        days=len(day) if days is None else days,
        day=np.asarray(day, dtype="<i4").tobytes(),
        value=np.asarray(value, dtype="<f8").tobytes(),
    )


def columns_of(days: list[Day]) -> pb.DayColumns:
    return columns(
        [(date.fromisoformat(day) - date(1970, 1, 1)).days for day, _ in days],
        [NAN if value is None else value for _, value in days],
    )


def edited(at: int, *, day: str | None = None, value: float | None = None) -> list[Day]:
    """The good series with one day changed."""
    days = good_days()
    days[at] = (days[at][0] if day is None else day, days[at][1] if value is None else value)
    return days


def today_plus(days: int) -> str:
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


def swapped(at: int) -> list[Day]:
    days = good_days()
    days[at], days[at + 1] = days[at + 1], days[at]
    return days


def every(step: int, values: int) -> list[Day]:
    return [((FIRST + timedelta(days=step * at)).isoformat(), 100.0 + at % 5) for at in range(values)]


def monthly_then_daily() -> list[Day]:
    """A year of months, then four months of days: two frequencies in one series."""
    months: list[Day] = [(date(2018, month, 1).isoformat(), 3_000.0 + month) for month in range(1, 13)]
    return months + [((date(2018, 12, 2) + timedelta(days=at)).isoformat(), 100.0 + at % 7) for at in range(DAYS)]


@dataclass(frozen=True)
class Bad:
    """A request that must be refused: what is in it, the field that is named first, and words of the reason."""

    request: Callable[[], pb.ForecastGrowthRequest]
    field: str
    words: tuple[str, ...] = ()


def of(days: Callable[[], list[Day]], field: str, *words: str, **fields: Any) -> Bad:
    return Bad(lambda: pb.ForecastGrowthRequest(history=messages(days()), **fields), field, words)


def asks(field: str, *words: str, **fields: Any) -> Bad:
    return of(good_days, field, *words, **fields)


BAD: dict[str, Bad] = {
    # values
    "NaN": of(lambda: edited(3, value=NAN), "history[3].value"),
    "infinity": of(lambda: edited(3, value=INF), "history[3].value", "infinite"),
    "negative infinity": of(lambda: edited(3, value=-INF), "history[3].value", "infinite"),
    "too large": of(lambda: edited(3, value=1e31), "history[3].value", "1e+30"),
    "negative where it cannot be": of(lambda: edited(5, value=-3), "history[5].value", "-3", nonnegative=True),
    # how many
    "nothing": Bad(pb.ForecastGrowthRequest, "history"),
    "one value": of(lambda: good_days(1), "history", "14"),
    "13 values": of(lambda: good_days(13), "history", "14", "13"),
    "values long ago": of(lambda: good_days() + [(day, None) for day, _ in good_days(240)[120:]], "history", "112"),
    "no value known": of(lambda: [(day, None) for day, _ in good_days()], "history", "14", "0"),
    "10,001 days": of(
        lambda: [((date(1990, 1, 1) + timedelta(days=at)).isoformat(), 1.0 + at % 7) for at in range(10_001)],
        "history",
        "10000",
    ),
    # dates
    "a day twice": of(lambda: edited(8, day=good_days()[7][0]), "history[8].date", "twice"),
    "unsorted": of(lambda: swapped(20), "history[21].date", "sort"),
    "the future": of(lambda: [*good_days(), (today_plus(2), 1.0)], f"history[{DAYS}].date", "future"),
    "far in the future": of(lambda: [*good_days(), ("9999-12-31", 1.0)], f"history[{DAYS}].date", "future"),
    "1,000 years ago": of(lambda: edited(0, day="1026-05-01"), "history[0].date", "1900-01-01"),
    "year zero": of(lambda: edited(0, day="0000-01-01"), "history[0].date"),
    "no such day": of(lambda: edited(4, day="2019-02-30"), "history[4].date", "2019-02-30"),
    "no date": of(lambda: edited(4, day=""), "history[4].date"),
    "German": of(lambda: edited(4, day="05.09.2019"), "history[4].date", "2016-05-31"),
    "a time": of(lambda: edited(4, day="2019-09-05T00:00:00Z"), "history[4].date"),
    "other digits": of(lambda: edited(4, day="\uff12\uff10\uff11\uff19-09-05"), "history[4].date"),
    # frequencies
    "weekly": of(lambda: every(7, 60), "history[1].date", "every 7 days"),
    "monthly": of(lambda: every(30, 60), "history[1].date", "month"),
    "monthly, then daily": of(monthly_then_daily, "history[1].date", "month", "daily"),
    # what is asked
    "horizon 91": asks("horizon_days", "91", "90", horizon_days=91),
    "horizon -1": asks("horizon_days", "-1", horizon_days=-1),
    "horizon 2^31 - 1": asks("horizon_days", horizon_days=2**31 - 1),
    "level 0": asks("levels[1]", "0.0", levels=[0.8, 0.0]),
    "level 1": asks("levels[0]", "1.0", levels=[1.0]),
    "level NaN": asks("levels[0]", "nan", levels=[NAN]),
    "level -inf": asks("levels[0]", "inf", levels=[-INF]),
    "17 levels": asks("levels", "17", "16", levels=[at / 20 for at in range(1, 18)]),
    "quantile 0": asks("quantiles[0]", quantiles=[0.0]),
    "quantile 1": asks("quantiles[1]", quantiles=[0.5, 1.0]),
    "quantile NaN": asks("quantiles[0]", "nan", quantiles=[NAN]),
    "33 quantiles": asks("quantiles", "33", "32", quantiles=[at / 40 for at in range(1, 34)]),
    "a long request id": asks("request_id", "128", request_id="x" * 129),
    "a long name": asks("series", "256", series="x" * 257),
    # columns
    "both forms": Bad(
        lambda: pb.ForecastGrowthRequest(history=messages(good_days()), history_columns=columns_of(good_days())),
        "history",
        ("both",),
    ),
    "a short column": Bad(
        lambda: pb.ForecastGrowthRequest(history_columns=columns(range(60), range(59))),
        "history_columns.value",
        ("480", "472"),
    ),
    "a cut column": Bad(
        lambda: pb.ForecastGrowthRequest(history_columns=pb.DayColumns(days=1, day=b"123", value=b"12345678")),
        "history_columns.day",
    ),
    "more days than stated": Bad(
        lambda: pb.ForecastGrowthRequest(history_columns=columns(range(60), range(60), days=59)), "history_columns.day"
    ),
    "fewer than no days": Bad(
        lambda: pb.ForecastGrowthRequest(history_columns=columns([], [], days=-1)), "history_columns.days"
    ),
    "empty columns": Bad(lambda: pb.ForecastGrowthRequest(history_columns=pb.DayColumns()), "history_columns"),
    "the first day there is": Bad(
        lambda: pb.ForecastGrowthRequest(history_columns=columns([-(2**31), *range(60)], range(61))),
        "history_columns.day[0]",
    ),
    "the last day there is": Bad(
        lambda: pb.ForecastGrowthRequest(history_columns=columns([*range(60), 2**31 - 1], range(61))),
        "history_columns.day[60]",
        ("future",),
    ),
    "infinity in a column": Bad(
        lambda: pb.ForecastGrowthRequest(history_columns=columns(range(60), [*range(59), INF])),
        "history_columns.value[59]",
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_question_is_refused_by_field_and_the_check_says_the_same(door: Any, case: str) -> None:
    bad = BAD[case]
    request = bad.request()
    error = await refused(InvalidInput, door.growth.ForecastGrowth(request, timeout=20))
    assert error.reason == ErrorReason.ERROR_REASON_FIELD_INVALID
    assert fields_of(error)[0] == bad.field
    reason = error.violations[0].description
    for words in bad.words:
        assert words in reason, reason
    with mesh_errors():
        checked = await door.growth.ValidateSeries(pb.ValidateSeriesRequest(request=request), timeout=20)
    assert not checked.valid
    assert next(violation.field for violation in checked.violations) == bad.field


async def test_an_unknown_version_is_named(door: Any, mesh_of: Any) -> None:
    error = await refused(NotFound, door.growth.ForecastGrowth(mesh_of.growth_question(model_version=999), timeout=10))
    assert error.reason == ErrorReason.ERROR_REASON_VERSION_UNKNOWN
    assert (error.facts["model"], error.facts["version"]) == ("forecaster", "999")


# Unusual series that have a right answer


async def answered(door: Any, days: list[Day], **fields: Any) -> pb.ForecastGrowthResponse:
    """The answer to a question, whose numbers are finite and in order."""
    with mesh_errors():
        answer: pb.ForecastGrowthResponse = await door.growth.ForecastGrowth(
            pb.ForecastGrowthRequest(history=messages(days), **fields), timeout=20
        )
    found = answer.forecast
    median = np.array(found.median)
    assert np.isfinite(median).all()
    last = date.fromisoformat(days[-1][0])
    assert found.first_date == (last + timedelta(days=1)).isoformat()
    inner_lower, inner_upper = median, median
    for interval in found.intervals:  # ascending by level, so each holds the one before
        lower, upper = np.array(interval.lower), np.array(interval.upper)
        assert len(lower) == len(upper) == len(median)
        assert np.isfinite(lower).all() and np.isfinite(upper).all()
        assert (lower <= inner_lower).all() and (inner_upper <= upper).all()
        inner_lower, inner_upper = lower, upper
    return answer


@pytest.mark.parametrize("nonnegative", [False, True])
async def test_a_series_of_zeros_is_forecast_as_zeros(door: Any, nonnegative: bool) -> None:
    days: list[Day] = [(day, 0.0) for day, _ in good_days()]
    answer = await answered(door, days, nonnegative=nonnegative)
    assert list(answer.forecast.median) == pytest.approx([0.0] * 30, abs=1e-4)
    for interval in answer.forecast.intervals:
        assert max(interval.lower) <= 0 <= min(interval.upper)
        assert not nonnegative or min(interval.lower) >= 0
    with mesh_errors():
        request = pb.ForecastGrowthRequest(history=messages(days))
        checked = await door.growth.ValidateSeries(pb.ValidateSeriesRequest(request=request), timeout=10)
    assert checked.valid and checked.remarks  # legal but unusual


@pytest.mark.parametrize("level", [1.0, -250.0, 1e-20, 1e30, -1e30])
async def test_a_series_that_never_varies_goes_on_whatever_its_size(door: Any, level: float) -> None:
    answer = await answered(door, [(day, level) for day, _ in good_days()])
    assert list(answer.forecast.median) == pytest.approx([level] * 30, rel=0.02)


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e3, 1e25])
async def test_the_unit_of_a_series_does_not_matter(door: Any, scale: float) -> None:
    plain = await answered(door, good_days())
    scaled = await answered(door, [(day, (value or 0) * scale) for day, value in good_days()])
    expected = np.array(plain.forecast.median) * scale
    assert np.array(scaled.forecast.median) == pytest.approx(expected, rel=1e-3)


async def test_negative_values_are_taken_where_the_series_may_have_them(door: Any) -> None:
    days: list[Day] = [(day, (value or 0) - 130.0) for day, value in good_days()]
    assert min((await answered(door, days)).forecast.median) < 0
    declared = await answered(door, good_days(), nonnegative=True, levels=[0.99])
    assert min(declared.forecast.intervals[0].lower) >= 0


async def test_days_that_are_missing_or_unknown_are_not_zero(door: Any) -> None:
    left_out = [pair for at, pair in enumerate(good_days()) if at % 3]
    unknown: list[Day] = [(day, value if at % 3 else None) for at, (day, value) in enumerate(good_days())]
    gaps = await answered(door, left_out)
    unset = await answered(door, unknown)
    assert min(gaps.forecast.median) > 50
    assert list(gaps.forecast.median) == pytest.approx(list(unset.forecast.median), rel=1e-5)


async def test_tomorrow_and_1900_are_days_and_fourteen_values_are_enough(door: Any) -> None:
    latest = datetime.now(UTC).date() + timedelta(days=1)
    recent: list[Day] = [((latest - timedelta(days=13 - at)).isoformat(), 10.0 + at % 7) for at in range(14)]
    await answered(door, recent)
    oldest: list[Day] = [((date(1900, 1, 1) + timedelta(days=at)).isoformat(), 10.0 + at % 7) for at in range(60)]
    await answered(door, oldest)


async def test_an_unset_horizon_is_thirty_days_and_the_longest_is_ninety(door: Any) -> None:
    assert len((await answered(door, good_days(), horizon_days=0)).forecast.median) == 30
    assert len((await answered(door, good_days(), horizon_days=1)).forecast.median) == 1
    assert len((await answered(door, good_days(), horizon_days=90)).forecast.median) == 90


async def test_a_spike_a_step_and_a_silence_are_answered(door: Any) -> None:
    unusual: list[list[Day]] = [
        edited(DAYS - 1, value=1e12),
        [(day, 1e-6 if at < 60 else 1e9) for at, (day, _) in enumerate(good_days())],
        [(day, value if at < 60 else 0.0) for at, (day, value) in enumerate(good_days())],
        [(day, float(at == 40)) for at, (day, _) in enumerate(good_days())],
    ]
    for days in unusual:
        answer = await answered(door, days, nonnegative=True)
        assert min(answer.forecast.median) >= 0


# Sizes


def long_columns(days: int) -> pb.DayColumns:
    day = np.arange(days, dtype="<i4")
    return pb.DayColumns(days=days, day=day.tobytes(), value=np.ones(days, dtype="<f8").tobytes())


async def test_ten_million_days_in_one_call_are_told_the_limit_and_its_setting(door: Any) -> None:
    request = pb.ForecastGrowthRequest(history_columns=long_columns(TOO_MANY))
    error = await refused(Overloaded, door.growth.ForecastGrowth(request, timeout=30))
    assert error.reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE
    assert error.facts["setting"] in ("rpc.control_message_bytes_max", "rpc.message_bytes_max")


async def test_ten_million_days_in_one_chunk_are_told_the_limit_and_its_setting(door: Any) -> None:
    request = pb.ForecastGrowthStreamRequest(history=long_columns(TOO_MANY))
    call = door.growth.ForecastGrowthStream(iter([request]), timeout=30)
    with pytest.raises(Overloaded) as caught, mesh_errors(call):
        assert [answer async for answer in call] == []
    assert caught.value.reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE
    assert caught.value.facts["setting"] == "rpc.message_bytes_max"


async def test_ten_million_days_in_chunks_are_answered_chunk_by_chunk(door: Any) -> None:
    """1,000 histories of 10,000 days, 100 a chunk; the server holds a chunk at a time."""
    days, rows, chunks = 10_000, 100, 10
    start = np.arange(rows, dtype="<i4") * days
    day = np.tile(np.arange(days, dtype="<i4"), rows)
    value = np.tile(10.0 + np.arange(days) % 7, rows)
    history = pb.DayColumns(days=days * rows, day=day.tobytes(), value=value.astype("<f8").tobytes())
    requests = (
        pb.ForecastGrowthStreamRequest(
            sequence=at,
            history=history,
            history_start=start.tobytes(),
            history_stop=(start + days).astype("<i4").tobytes(),
            horizon_days=7,
        )
        for at in range(chunks)
    )
    call = door.growth.ForecastGrowthStream(requests, timeout=100)
    with mesh_errors(call):
        answers = [answer async for answer in call]
    assert [answer.sequence for answer in answers] == [*range(chunks)]
    assert not [answer for answer in answers if answer.failed or answer.status.code]
    assert np.isfinite(np.frombuffer(answers[-1].median, dtype="<f4")).all()


# Chunks


def chunk(sequence: int = 0, rows: int = 3, **fields: Any) -> pb.ForecastGrowthStreamRequest:
    """A chunk of good rows, from origins a day apart."""
    stop = np.arange(DAYS - rows + 1, DAYS + 1, dtype="<i4")
    return pb.ForecastGrowthStreamRequest(
        **{
            "sequence": sequence,
            "history": columns_of(good_days()),
            "history_start": np.zeros(rows, dtype="<i4").tobytes(),
            "history_stop": stop.tobytes(),
            "horizon_days": 5,
            **fields,
        }
    )


def positions(*values: int) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


BAD_CHUNKS: dict[str, tuple[dict[str, Any], str]] = {
    "no rows": ({"history_start": b"", "history_stop": b""}, "history_start"),
    "more ends than starts": ({"history_stop": positions(1, 2, 3, 4)}, "history_stop"),
    "a cut column of positions": ({"history_start": b"123456789"}, "history_start"),
    "a short column": ({"history": columns(range(60), range(59))}, "history.value"),
    "names for some": ({"series": ["a"]}, "series"),
    "signs for some": ({"nonnegative": [True, False]}, "nonnegative"),
    "ids for some": ({"row_request_ids": ["a", "b"]}, "row_request_ids"),
    "horizon 91": ({"horizon_days": 91}, "horizon_days"),
    "level 1": ({"levels": [1.0]}, "levels[0]"),
    "quantile NaN": ({"quantiles": [NAN]}, "quantiles[0]"),
}


@pytest.mark.parametrize("case", BAD_CHUNKS)
async def test_a_bad_chunk_is_answered_in_its_place_and_the_stream_goes_on(door: Any, case: str) -> None:
    spoilt, field = BAD_CHUNKS[case]
    call = door.growth.ForecastGrowthStream(iter([chunk(1), chunk(2, **spoilt), chunk(3)]), timeout=20)
    with mesh_errors(call):
        first, bad, last = [answer async for answer in call]
    assert [first.sequence, bad.sequence, last.sequence] == [1, 2, 3]
    error = from_item(bad.status)
    assert isinstance(error, InvalidInput) and fields_of(error)[0] == field
    assert not bad.median and not first.status.code
    before, after = (np.frombuffer(answer.median, dtype="<f4") for answer in (first, last))
    assert len(before) == 15 and np.allclose(before, after, rtol=1e-5)


async def test_bad_rows_of_a_chunk_fail_alone_each_with_its_reason(door: Any) -> None:
    day = (date(2019, 9, 1) - date(1970, 1, 1)).days + np.arange(DAYS)
    value = 100.0 + 10 * (np.arange(DAYS) % 7)
    value[70], value[90] = INF, -5.0
    request = chunk(
        history=columns(day, value),
        history_start=positions(0, 0, 0, 60, 100, -1, 0, 50),
        history_stop=positions(60, 80, 60, 60, 105, 60, DAYS + 1, 40),
        nonnegative=[False],
    )
    signed = chunk(
        history=columns(day, np.where(np.isinf(value), 1.0, value)),
        history_start=positions(0, 0),
        history_stop=positions(80, DAYS),
        nonnegative=[True],
    )
    call = door.growth.ForecastGrowthStream(iter([request, signed]), timeout=20)
    with mesh_errors(call):
        answer, declared = [answer async for answer in call]
    reasons = {failed.row: from_item(failed.status) for failed in answer.failed}
    assert [*reasons] == [1, 3, 4, 5, 6, 7]
    assert all(isinstance(error, InvalidInput) and error.violations for error in reasons.values())
    assert fields_of(reasons[1])[0] == "history.value[70]"
    median = np.frombuffer(answer.median, dtype="<f4").reshape(8, 5)
    first_day = np.frombuffer(answer.first_day, dtype="<i4")
    for row in range(8):
        assert np.isnan(median[row]).all() == (row in reasons)
        assert (first_day[row] == 0) == (row in reasons)
    assert np.allclose(median[0], median[2], rtol=1e-5)
    (failed,) = declared.failed
    assert failed.row == 1 and fields_of(from_item(failed.status)) == ["history.value[90]"]


# The other rpcs


BAD_ACTUALS: dict[str, tuple[Callable[[], pb.RecordActualsRequest], str]] = {
    "no series": (lambda: pb.RecordActualsRequest(actuals=messages(good_days(3))), "series"),
    "no days": (lambda: pb.RecordActualsRequest(series="a"), "actuals"),
    "a value that is not there": (
        lambda: pb.RecordActualsRequest(series="a", actuals=[pb.DayValue(date="2019-01-01")]),
        "actuals[0].value",
    ),
    "NaN": (lambda: pb.RecordActualsRequest(series="a", actuals=messages([("2019-01-01", NAN)])), "actuals[0].value"),
    "infinity": (
        lambda: pb.RecordActualsRequest(series="a", actual_columns=columns([1, 2], [1.0, INF])),
        "actual_columns.value[1]",
    ),
    "a day twice": (
        lambda: pb.RecordActualsRequest(series="a", actuals=messages([("2019-01-01", 1.0)] * 2)),
        "actuals[1].date",
    ),
    "unsorted": (
        lambda: pb.RecordActualsRequest(series="a", actuals=messages([("2019-01-02", 1.0), ("2019-01-01", 1.0)])),
        "actuals[1].date",
    ),
    "the future": (
        lambda: pb.RecordActualsRequest(series="a", actuals=messages([(today_plus(3), 1.0)])),
        "actuals[0].date",
    ),
    "1,000 years ago": (
        lambda: pb.RecordActualsRequest(series="a", actuals=messages([("1026-01-01", 1.0)])),
        "actuals[0].date",
    ),
    "10,001 days": (
        lambda: pb.RecordActualsRequest(series="a", actual_columns=columns(range(10_001), range(10_001))),
        "actual_columns",
    ),
    "a long name": (lambda: pb.RecordActualsRequest(series="x" * 257, actuals=messages(good_days(3))), "series"),
}


@pytest.mark.parametrize("case", BAD_ACTUALS)
async def test_bad_actual_values_are_refused_by_field(door: Any, case: str) -> None:
    request, field = BAD_ACTUALS[case]
    error = await refused(InvalidInput, door.growth.RecordActuals(request(), timeout=20))
    assert fields_of(error)[0] == field


@pytest.mark.parametrize("case", [name for name in BAD if BAD[name].field.startswith("history")])
async def test_patterns_of_a_bad_series_are_refused_as_its_forecast_is(door: Any, case: str) -> None:
    bad, asked = BAD[case], BAD[case].request()
    request = pb.AnalyzeGrowthPatternsRequest(history=asked.history, nonnegative=asked.nonnegative)
    if asked.HasField("history_columns"):
        request.history_columns.CopyFrom(asked.history_columns)
    error = await refused(InvalidInput, door.growth.AnalyzeGrowthPatterns(request, timeout=20))
    assert fields_of(error)[0] == bad.field


@pytest.mark.parametrize("level", [0.0, 7.0, 1e30])
async def test_a_series_that_never_varies_has_no_patterns(door: Any, level: float) -> None:
    request = pb.AnalyzeGrowthPatternsRequest(history=messages([(day, level) for day, _ in good_days()]))
    with mesh_errors():
        found = await door.growth.AnalyzeGrowthPatterns(request, timeout=20)
    assert found.trend.direction == pb.DIRECTION_FLAT
    assert not found.change_points and not found.anomalies and not found.weekly.present
    assert len(found.phases) == 1
    assert all(math.isfinite(value) for value in (found.trend.slope, found.trend.strength, found.trend.probability))


async def test_bytes_that_are_no_message_are_refused_as_such(door: Any) -> None:
    unary = door.channel.unary_unary(f"/{FORECASTER}/ForecastGrowth")
    error = await refused(InvalidInput, unary(b"\xff\xff\xff", timeout=10))
    assert "no request message" in error.message


@pytest.mark.parametrize("value", [NAN, INF])
async def test_a_tensor_with_a_nan_and_one_of_the_wrong_shape_are_refused_by_name(door: Any, value: float) -> None:
    example = find_example(SERVICE).single
    arrays: dict[str, NDArray[np.float32]] = dict(example.tensors(example.request(1, 3)))

    def infer(arrays: dict[str, NDArray[np.float32]]) -> oip.ModelInferRequest:
        request = oip.ModelInferRequest(model_name="forecaster")
        for name, array in arrays.items():
            request.inputs.add(name=name, datatype="FP32", shape=array.shape)
            request.raw_input_contents.append(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return request

    first = next(iter(arrays))
    spoilt = {**arrays, first: arrays[first].copy()}
    spoilt[first].reshape(-1)[0] = value
    error = await refused(InvalidInput, door.oip.ModelInfer(infer(spoilt), timeout=10))
    assert error.facts["tensor"] == first
    cut = {**arrays, first: arrays[first][:, :-1].copy()}
    error = await refused(InvalidInput, door.oip.ModelInfer(infer(cut), timeout=10))
    assert error.reason == ErrorReason.ERROR_REASON_TENSOR_MISMATCH


# Files


def command(*words: str, folder: Path, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Runs `meshcast WORDS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "meshcast.cli", *words],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=folder,
        check=False,
        env=os.environ | {"MESHCAST_RUNTIME_STATE_DIR": str(folder)},
    )


def file_of(path: Path, rows: list[list[Any]], header: tuple[str, ...] = ("date", "value")) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def cells(at: int | None = None, *, day: str | None = None, value: str | None = None) -> list[list[Any]]:
    rows: list[list[Any]] = [[day, value] for day, value in good_days()]
    if at is not None:
        rows[at] = [rows[at][0] if day is None else day, rows[at][1] if value is None else value]
    return rows


BAD_FILES: dict[str, tuple[list[list[Any]], tuple[str, ...]]] = {
    "NaN as a word": (cells(6, value="oops"), ("row 7", "value", "oops")),
    "infinity": (cells(6, value="inf"), ("row 7", "value")),
    "no date": (cells(6, day="31.05.2016"), ("row 7", "date", "31.05.2016")),
    "a day twice": (cells(6, day=good_days()[5][0]), ("twice",)),
    "the future": ([*cells(), [today_plus(9), 1]], ("future",)),
    "1,000 years ago": (cells(0, day="1026-05-01"), ("1900-01-01",)),
    "weekly": ([list(pair) for pair in every(7, 60)], ("every 7 days",)),
    "nothing but a header": ([], ()),
}


@pytest.mark.parametrize("case", BAD_FILES)
async def test_a_bad_file_is_refused_with_its_row_and_no_traceback(
    doors: dict[str, str], mesh_of: Any, tmp_path: Path, case: str
) -> None:
    rows, wanted = BAD_FILES[case]
    file_of(tmp_path / "series.csv", rows)
    done = command("forecast", "series.csv", "--target", doors["gateway"], folder=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "series.csv" in done.stderr
    for words in wanted:
        assert words in done.stderr
    await mesh_of.still_forecasts(*doors.values())


async def test_a_file_whose_only_series_is_too_short_is_refused_by_the_mesh(
    doors: dict[str, str], tmp_path: Path
) -> None:
    file_of(tmp_path / "series.csv", cells()[:1])
    done = command("forecast", "series.csv", "--target", doors["gateway"], folder=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert "needs a value on 14 of its last 112 days, has 1" in done.stderr and "Traceback" not in done.stderr


async def test_negative_values_in_a_file_of_counts_are_named(doors: dict[str, str], tmp_path: Path) -> None:
    file_of(tmp_path / "series.csv", cells(6, value="-3"))
    done = command("forecast", "series.csv", "--nonnegative", "--target", doors["gateway"], folder=tmp_path)
    assert done.returncode == 2 and "-3" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
async def test_a_file_of_ten_million_rows_is_refused_or_answered_in_time(
    doors: dict[str, str], mesh_of: Any, tmp_path: Path
) -> None:
    """One series of 10 million points cannot be daily data of any time: the dates say so before anything is sent."""
    block = "".join(f"{day},{value}\n" for day, value in good_days(1_000))
    (tmp_path / "series.csv").write_text("date,value\n" + block * (TOO_MANY // 1_000), "utf-8")
    done = command("forecast", "series.csv", "--target", doors["gateway"], folder=tmp_path, timeout_s=110)
    assert done.returncode == 2, done.stdout[-2_000:] + done.stderr[-2_000:]
    assert "Traceback" not in done.stderr and len(done.stderr) < 5_000
    await mesh_of.still_forecasts(*doors.values())
