"""Forecasts and actual values: what was forecast, what came, and how the intervals of each series adapt to it. SQLite.

Forecasts are written behind their answers. Actual values are on disk when they are acknowledged, together with all
that follows from them: in one transaction the new days are compared with the stored forecasts that cover them, and the
tracker of the series takes the outcome. A day is compared when it is first recorded and never again, whoever records it
and how often, so a retry changes nothing.

A day is compared with each origin once: of several forecasts from the same first day the latest that covers the day
counts. That is at most 90 comparisons a day, one for each number of days ahead.
"""

import asyncio
import json
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from meshcast.rpc import MeshError
from meshcast.runtime import WriteBehind
from meshcast.runtime.write_behind import BYTES_MAX, Seldom, owned
from meshcast.services.forecaster.features import HORIZON
from meshcast.services.forecaster.intervals import Evidence, IntervalTracker
from meshcast.services.forecaster.signature import LEVELS

__all__ = ["Actuals", "ForecastStore", "Forecasts", "Recorded", "StoredForecast"]

log = structlog.get_logger()

Floats = NDArray[np.float32]

BUSY_S = 15.0
"""Seconds that a write waits for another: 10,000 days against 90 forecasts each, the most of a call, take 7."""

FRESH_S = 0.5
"""Seconds after which what other processes of the host recorded is looked up again."""

WAIT_S = 0.05
"""Seconds that an answer waits for trackers: a file that is well takes one or two milliseconds."""

WAIT_S_A_SERIES = 0.001
"""Seconds more for each series that memory does not hold; reading one takes a twentieth of that."""

TRACKERS_MAX = 8192
"""Series kept in memory, those without a tracker included; one takes 4 KB at most."""

_ROW_BITS = 16  # of a key, below the number of the call
_DAYS_AT_ONCE = 256  # new days that are compared in one step: bounds the memory, to about 20 MB
_WIDTH = len(LEVELS)

_TABLES = """
CREATE TABLE IF NOT EXISTS calls (
    call INTEGER PRIMARY KEY,
    prediction_id TEXT NOT NULL UNIQUE,
    rows INTEGER NOT NULL,
    model TEXT NOT NULL,
    model_version INTEGER NOT NULL,
    backend TEXT NOT NULL,
    predicted_unix_us INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS forecasts (
    key INTEGER PRIMARY KEY,
    model TEXT NOT NULL,
    series TEXT NOT NULL,
    first_day INTEGER NOT NULL,
    days INTEGER NOT NULL,
    nonnegative INTEGER NOT NULL,
    quantiles BLOB NOT NULL,
    answered BLOB
);
CREATE INDEX IF NOT EXISTS forecasts_of_series ON forecasts (series, model, first_day, days) WHERE series <> '';
CREATE TABLE IF NOT EXISTS forecast_aliases (
    prediction_id TEXT PRIMARY KEY,
    key INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS actuals (
    series TEXT NOT NULL,
    day INTEGER NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (series, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trackers (
    series TEXT NOT NULL,
    model TEXT NOT NULL,
    changed INTEGER NOT NULL,
    snapshot TEXT NOT NULL,
    PRIMARY KEY (series, model)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS trackers_changed ON trackers (changed);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecasts:
    """Forecasts of one call or one chunk.

    Attributes:
        prediction_id: id of a single forecast, or the common part of a chunk's row ids.
        row_ids: ids of the rows' own; empty, or one a row, "" for a row that has none.
        model: its name.
        model_version: version that forecast.
        backend: that computed.
        predicted_unix_us: when, microseconds since 1970.
        series: names of the rows' series; empty, or one a row, "" for a row that has none.
        first_day: shape (rows,), int64, first day of each forecast, days since 1970-01-01.
        nonnegative: shape (rows,), True where the series cannot be negative.
        quantiles: shape (rows, days, 9), float32, what the model said. A row with a NaN has failed and is not stored.
        answered: shape (rows, days, 9), float32, what was answered; None where it is the same in all rows.
    """

    prediction_id: str
    row_ids: Sequence[str] = ()
    model: str
    model_version: int
    backend: str
    predicted_unix_us: int
    series: Sequence[str] = ()
    first_day: NDArray[np.int64]
    nonnegative: NDArray[np.bool_]
    quantiles: Floats
    answered: Floats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredForecast:
    """One forecast as it was answered.

    Attributes:
        series: name that the caller gave; may be empty.
        model: its name.
        model_version: version that forecast.
        backend: that computed.
        predicted_unix_us: when, microseconds since 1970.
        first_day: days since 1970-01-01.
        nonnegative: True when the series cannot be negative.
        quantiles: shape (days, 9), float32, as answered.
    """

    series: str
    model: str
    model_version: int
    backend: str
    predicted_unix_us: int
    first_day: int
    nonnegative: bool
    quantiles: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Actuals:
    """Actual values: `day` (n,), int64, days since 1970-01-01, rising; `value` (n,), float64."""

    day: NDArray[np.int64]
    value: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What recording actual values did.

    Attributes:
        recorded: days that were new.
        unchanged: days that were known with the same value.
        corrected: days that were known with another value, which is replaced; their comparisons stand.
        compared: forecast values that the new days were compared with.
        evidence: how the intervals of the series hold now, ascending by level.
    """

    recorded: int
    unchanged: int
    corrected: int
    compared: int
    evidence: tuple[Evidence, ...]


class ForecastStore:
    """Forecasts, actual values and trackers in a SQLite file that the host's processes share; use as `async with`.

    An id that exists is left as it is, so a retry is stored once. Leaving writes everything that was put.

    Args:
        path: the file; its folder is made.
        records_max: calls and chunks that may wait to be written; then `put` waits too.
        trackers_max: series kept in memory.
        bytes_max: memory of what may wait, about; then `put` waits too.
        busy_s: how long a write waits for another process that is writing.
        wait_s: how long an answer waits for the trackers of series that memory does not hold.
        registry: gets the store's metrics; None: nobody does.
        clock: seconds that only rise; when to look after what other processes recorded.

    Raises:
        Precondition: on entering; the file cannot be made, or is something else.
    """

    def __init__(
        self,
        path: Path,
        *,
        records_max: int = 4096,
        bytes_max: int = BYTES_MAX,
        trackers_max: int = TRACKERS_MAX,
        busy_s: float = BUSY_S,
        wait_s: float = WAIT_S,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = WriteBehind[Forecasts](
            path,
            tables=_TABLES,
            insert=_insert,
            what="forecast store",
            bytes_of=_bytes_of,
            items_max=records_max,
            bytes_max=bytes_max,
            busy_s=busy_s,
            registry=registry,
        )
        self._memory = _Memory(trackers_max)
        self._clock, self._wait_s = clock, wait_s
        self._looked_s = 0.0  # when changes were last looked up
        self._reading: set[asyncio.Task[dict[str, IntervalTracker | None]]] = set()
        self._is_late = False  # the file did not answer in time: until it has, answers are given from memory
        self._seldom = Seldom()

    async def __aenter__(self) -> Self:
        await self._file.__aenter__()
        try:
            self._memory.seen = await self._file.read(_last_change)
        except BaseException:
            await self._file.__aexit__()
            raise
        self._looked_s = self._clock()
        return self

    async def __aexit__(self, *exception: object) -> None:
        for reading in self._reading:
            reading.cancel()
        if self._reading:
            await asyncio.wait(self._reading)
        await self._file.__aexit__(*exception)

    @property
    def failed(self) -> int:
        """Calls and chunks that could not be written."""
        return self._file.failed

    async def put(self, forecasts: Forecasts) -> None:
        """Takes forecasts to be written behind the answer; waits only while the queue is full."""
        # A row of a batch, or the first days of 90, would keep the whole of it in memory while it waits.
        answered = None if forecasts.answered is None else owned(forecasts.answered)
        await self._file.put(replace(forecasts, quantiles=owned(forecasts.quantiles), answered=answered))

    async def flush(self) -> None:
        """Waits until everything that was put is on file.

        Raises:
            NotReady: another process was writing for too long.
        """
        await self._file.flush()

    async def read(self, forecast_id: str) -> StoredForecast | None:
        """The forecast of this id: a single one, `<chunk's id>.<row>`, or a row's own id; None when there is none.

        Of a single one and a row of the same id it is the one that was stored first, as if the other were a retry.

        Raises:
            NotReady: the file was held for too long.
            CorruptData: the file is damaged.
            Precondition: it cannot be read.
        """
        return await self._file.find(lambda connection: _find(connection, forecast_id))

    async def actuals(self, series: str, first_day: int, last_day: int) -> Actuals:
        """Values recorded for a series from `first_day` to `last_day`, both included.

        Raises:
            NotReady: the file was held for too long.
            CorruptData: the file is damaged.
            Precondition: it cannot be read.
        """

        def look(connection: sqlite3.Connection) -> list[tuple[int, float]]:
            return connection.execute(
                "SELECT day, value FROM actuals WHERE series = ? AND day BETWEEN ? AND ? ORDER BY day",
                (series, first_day, last_day),
            ).fetchall()

        found = await self._file.read(look)
        return Actuals(
            day=np.array([day for day, _ in found], dtype=np.int64),
            value=np.array([value for _, value in found], dtype=np.float64),
        )

    async def trackers(self, series: Sequence[str], model: str) -> list[IntervalTracker | None]:
        """The tracker of each series; None where nothing was ever recorded. They are shared: read them, never update.

        What this process recorded is seen at once, what others recorded within half a second. A series that was asked
        for before is answered from memory, one that has no tracker likewise. Where the file cannot be read, or not
        within 50 ms and a millisecond a series, the answer is what memory has, and reading goes on behind it.
        """
        names = list(dict.fromkeys(series))
        found, missing = self._memory.trackers(names, model)
        is_stale = self._clock() - self._looked_s >= FRESH_S
        if (is_stale or (missing and self._memory.seen)) and not self._is_late:
            reading = asyncio.create_task(self._refreshed(names, model), name="read trackers")
            self._reading.add(reading)
            reading.add_done_callback(self._has_read)
            done, _ = await asyncio.wait({reading}, timeout=self._wait_s + WAIT_S_A_SERIES * len(missing))
            if done:
                found = reading.result()
            else:
                self._is_late = True
                self._warn("the file did not answer in time")
                found, _ = self._memory.trackers(names, model)
        return [found.get(name) for name in series]

    async def record_actuals(
        self,
        series: str,
        model: str,
        day: NDArray[np.int64],
        value: NDArray[np.float64],
        *,
        within_s: float | None = None,
    ) -> Recorded:
        """Records what a series really did and compares it with its forecasts; on disk when this returns.

        Forecasts that this process answered before are compared, even when they wait to be written. Those that another
        process of the host answered within the last tenth of a second may be missed.

        Args:
            series: its name.
            model: whose forecasts are compared.
            day: shape (n,), days since 1970-01-01, rising.
            value: shape (n,), finite.
            within_s: how long it may take until the recording begins; None or more than `busy_s`: that. What has begun
                is done, even when the caller goes away.

        Raises:
            NotReady: it could not begin in time, since others were writing; nothing was recorded.
            CorruptData: the file is damaged; nothing was recorded.
            Precondition: the file cannot be written; nothing was recorded.
        """
        began_s = time.monotonic()
        await self._file.flush(within_s=within_s)
        recorded, changed, tracker = await self._file.change(
            lambda connection: _record(connection, series, model, day, value),
            within_s=None if within_s is None else max(0.0, within_s - (time.monotonic() - began_s)),
        )
        self._memory.put(series, model, changed, tracker)
        return recorded

    async def _refreshed(self, names: Sequence[str], model: str) -> dict[str, IntervalTracker | None]:
        """The trackers of these series, by way of the file; memory has what was read when this returns."""
        try:
            if self._clock() - self._looked_s >= FRESH_S:  # what any process recorded since the last look
                self._looked_s = self._clock()
                since = self._memory.seen
                self._memory.changed(await self._file.read(lambda connection: _changed(connection, since)))
            found, missing = self._memory.trackers(names, model)
            if missing and self._memory.seen:  # else nobody has recorded anything
                seen = self._memory.seen
                loaded = await self._file.read(lambda connection: _load_all(connection, missing, model))
                found.update((name, tracker) for name, (_, tracker) in loaded.items())
                if seen == self._memory.seen:  # else what was read may be of before a change that is known by now
                    for name, (changed, tracker) in loaded.items():
                        self._memory.put(name, model, changed, tracker)
        except MeshError as error:
            self._warn(error.message)
            found, _ = self._memory.trackers(names, model)
        return found

    def _has_read(self, reading: asyncio.Task[dict[str, IntervalTracker | None]]) -> None:
        self._reading.discard(reading)
        if not self._reading:
            self._is_late = False
        if not reading.cancelled() and (error := reading.exception()) is not None:
            log.error("a bug in reading trackers", exc_info=error)

    def _warn(self, why: str) -> None:
        if self._seldom.is_due():
            log.warning("trackers could not be read, intervals are what memory has or the model's", why=why)


class _Memory:
    """Trackers of the series asked for last, by series and model, each with the number of its last change."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: OrderedDict[tuple[str, str], tuple[int, IntervalTracker | None]] = OrderedDict()
        self.seen = 0  # highest number of a change that is known; 0: there is none

    def trackers(self, series: Iterable[str], model: str) -> tuple[dict[str, IntervalTracker | None], list[str]]:
        """The trackers that are held, None for a series that is known to have none; and the names that are not held."""
        found: dict[str, IntervalTracker | None] = {}
        missing = []
        for name in series:
            held = self._held.get((name, model))
            if held is not None:
                self._held.move_to_end((name, model))
                found[name] = held[1]
            elif name:
                missing.append(name)
        return found, missing

    def put(self, series: str, model: str, changed: int, tracker: IntervalTracker | None) -> None:
        held = self._held.get((series, model))
        if held is not None and held[0] > changed:  # read before the change, put after it
            return
        self._held[series, model] = changed, tracker
        self._held.move_to_end((series, model))
        if not self.seen:  # nothing was held so far, so there is nothing that an earlier change could make stale
            self.seen = changed
        while len(self._held) > self._size:
            self._held.popitem(last=False)

    def changed(self, changes: Iterable[tuple[str, str, int]]) -> None:
        """Forgets what has changed since."""
        for series, model, changed in changes:
            held = self._held.get((series, model))
            if held is not None and held[0] < changed:
                del self._held[series, model]
            self.seen = max(self.seen, changed)


def _bytes_of(call: Forecasts) -> int:
    arrays = call.quantiles.nbytes + (0 if call.answered is None else call.answered.nbytes)
    return 1024 + arrays + 32 * len(call.quantiles) + 128 * len(call.row_ids) + sum(map(len, call.series))


def _insert(connection: sqlite3.Connection, calls: Sequence[Forecasts]) -> None:
    for call in calls:
        cursor = connection.execute(
            "INSERT OR IGNORE INTO calls VALUES (NULL, ?, ?, ?, ?, ?, ?)",
            (
                call.prediction_id,
                len(call.quantiles),
                call.model,
                call.model_version,
                call.backend,
                call.predicted_unix_us,
            ),
        )
        if cursor.rowcount:  # else a retry
            assert cursor.lastrowid is not None
            _insert_rows(connection, call, cursor.lastrowid << _ROW_BITS)


def _insert_rows(connection: sqlite3.Connection, call: Forecasts, first_key: int) -> None:
    quantiles = np.ascontiguousarray(call.quantiles, dtype="<f4")
    answered = None if call.answered is None else np.ascontiguousarray(call.answered, dtype="<f4")
    sound = np.flatnonzero(~np.isnan(quantiles).any(axis=(1, 2))).tolist()
    days = quantiles.shape[1]

    def values() -> Iterator[tuple[object, ...]]:
        for row in sound:
            own = None if answered is None or np.array_equal(answered[row], quantiles[row]) else answered[row].tobytes()
            name = call.series[row] if call.series else ""
            first, flag = int(call.first_day[row]), int(call.nonnegative[row])
            yield first_key + row, call.model, name, first, days, flag, quantiles[row].tobytes(), own

    connection.executemany("INSERT INTO forecasts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values())
    aliases = [(call.row_ids[row], first_key + row) for row in sound if call.row_ids and call.row_ids[row]]
    if aliases:
        connection.executemany("INSERT OR IGNORE INTO forecast_aliases VALUES (?, ?)", aliases)


def _find(connection: sqlite3.Connection, forecast_id: str) -> StoredForecast | None:
    base, _, tail = forecast_id.partition(".")
    if tail:
        if not (tail.isascii() and tail.isdigit() and len(tail) < 10):
            return None
        call = connection.execute("SELECT call, rows FROM calls WHERE prediction_id = ?", (base,)).fetchone()
        return None if call is None or int(tail) >= call[1] else _stored(connection, (call[0] << _ROW_BITS) + int(tail))
    keys = connection.execute(  # a chunk is not one forecast
        "SELECT call << ? FROM calls WHERE prediction_id = ? AND rows = 1 "
        "UNION ALL SELECT key FROM forecast_aliases WHERE prediction_id = ?",
        (_ROW_BITS, base, base),
    ).fetchall()
    return _stored(connection, min(keys)[0]) if keys else None  # keys rise, so that is the one stored first


def _stored(connection: sqlite3.Connection, key: int) -> StoredForecast | None:
    found = connection.execute(
        "SELECT series, first_day, nonnegative, coalesce(answered, quantiles) FROM forecasts WHERE key = ?", (key,)
    ).fetchone()
    if found is None:  # the row failed
        return None
    series, first_day, nonnegative, quantiles = found
    model, version, backend, predicted = connection.execute(
        "SELECT model, model_version, backend, predicted_unix_us FROM calls WHERE call = ?", (key >> _ROW_BITS,)
    ).fetchone()
    return StoredForecast(
        series=series,
        model=model,
        model_version=version,
        backend=backend,
        predicted_unix_us=predicted,
        first_day=first_day,
        nonnegative=bool(nonnegative),
        quantiles=_fan(quantiles),
    )


def _last_change(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(changed), 0) FROM trackers").fetchone()[0])


def _changed(connection: sqlite3.Connection, since: int) -> list[tuple[str, str, int]]:
    return connection.execute("SELECT series, model, changed FROM trackers WHERE changed > ?", (since,)).fetchall()


def _load_all(
    connection: sqlite3.Connection, series: Sequence[str], model: str
) -> dict[str, tuple[int, IntervalTracker | None]]:
    return {name: _load(connection, name, model) for name in series}


def _load(connection: sqlite3.Connection, series: str, model: str) -> tuple[int, IntervalTracker | None]:
    """A series' tracker and the number of its last change; 0 and None where it has none."""
    found = connection.execute(
        "SELECT changed, snapshot FROM trackers WHERE series = ? AND model = ?", (series, model)
    ).fetchone()
    if found is None:
        return 0, None
    try:
        return found[0], IntervalTracker.restore(json.loads(found[1]))
    except ValueError as error:
        log.warning("a tracker starts anew, its stored state does not fit", series=series, why=str(error))
        return found[0], IntervalTracker()


def _record(
    connection: sqlite3.Connection, series: str, model: str, day: NDArray[np.int64], value: NDArray[np.float64]
) -> tuple[Recorded, int, IntervalTracker | None]:
    """Inside the transaction that holds the write lock: what was recorded, and the tracker with its change's number."""
    changed, tracker = _load(connection, series, model)
    if not len(day):
        return Recorded(recorded=0, unchanged=0, corrected=0, compared=0, evidence=_evidence(tracker)), changed, tracker
    known: dict[int, float] = dict(
        connection.execute(
            "SELECT day, value FROM actuals WHERE series = ? AND day BETWEEN ? AND ?",
            (series, int(day.min()), int(day.max())),
        )
    )
    given = list(zip(day.tolist(), value.tolist(), strict=True))
    new = np.array([one not in known for one, _ in given])
    corrected = sum(one in known and known[one] != now for one, now in given)
    connection.executemany(
        "INSERT OR REPLACE INTO actuals VALUES (?, ?, ?)",
        ((series, one, now) for one, now in given if known.get(one) != now),
    )
    compared, new_days, new_values = 0, day[new], value[new]
    if len(new_days):
        tracker = tracker or IntervalTracker()
        for start in range(0, len(new_days), _DAYS_AT_ONCE):
            part = slice(start, start + _DAYS_AT_ONCE)
            compared += _compare(connection, series, model, tracker, new_days[part], new_values[part])
        changed = connection.execute("SELECT coalesce(max(changed), 0) + 1 FROM trackers").fetchone()[0]
        connection.execute(
            "INSERT OR REPLACE INTO trackers VALUES (?, ?, ?, ?)",
            (series, model, changed, json.dumps(tracker.snapshot(), allow_nan=False)),
        )
    recorded = Recorded(
        recorded=len(new_days),
        unchanged=len(day) - len(new_days) - corrected,
        corrected=corrected,
        compared=compared,
        evidence=_evidence(tracker),
    )
    return recorded, changed, tracker


def _compare(
    connection: sqlite3.Connection,
    series: str,
    model: str,
    tracker: IntervalTracker,
    day: NDArray[np.int64],
    value: NDArray[np.float64],
) -> int:
    """Gives the tracker what new days say about the forecasts that cover them; how many forecast values that were."""
    origins = connection.execute(
        "SELECT first_day, days, max(key) AS latest FROM forecasts WHERE series = ? AND series <> '' AND model = ? "
        "AND first_day BETWEEN ? AND ? GROUP BY first_day, days ORDER BY first_day, latest",
        (series, model, int(day[0]) - HORIZON + 1, int(day[-1])),
    ).fetchall()
    latest: dict[tuple[int, int], int] = {}  # by position in `day` and first day of the forecast
    for first_day, days, key in origins:
        start, stop = np.searchsorted(day, (first_day, first_day + days)).tolist()
        latest.update(((at, first_day), key) for at in range(start, stop))
    if not latest:
        return 0
    fans = {
        key: connection.execute("SELECT quantiles, answered FROM forecasts WHERE key = ?", (key,)).fetchone()
        for key in set(latest.values())
    }
    said = {key: _fan(quantiles) for key, (quantiles, _) in fans.items()}
    answered = {key: said[key] if own is None else _fan(own) for key, (_, own) in fans.items()}
    rows = sorted(latest, key=lambda row: (row[0], -row[1]))  # by day, then by days ahead
    at = np.array([position for position, _ in rows])
    ahead = day[at] - np.array([first_day for _, first_day in rows]) + 1
    keys = [latest[row] for row in rows]
    tracker.update(
        day[at],
        ahead,
        value[at],
        np.array([said[key][days - 1] for key, days in zip(keys, ahead.tolist(), strict=True)]),
        np.array([answered[key][days - 1] for key, days in zip(keys, ahead.tolist(), strict=True)]),
    )
    return len(rows)


def _evidence(tracker: IntervalTracker | None) -> tuple[Evidence, ...]:
    return () if tracker is None else tracker.evidence()


def _fan(blob: bytes) -> Floats:
    return np.frombuffer(blob, dtype="<f4").reshape(-1, _WIDTH).astype(np.float32, copy=False)
