"""Questions to the drift service: rows as callers hold them, and what is wanted of their features."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.client.questions import Columns
from meshcast.client.stream import Chunk
from meshcast.columns import is_gap
from meshcast.observations import CategoryColumn, Floats, Observations, pack_observations
from meshcast.rpc import InvalidInput

RowsLike = Observations | Mapping[str, Any] | Columns
"""Rows: a table, columns by name, a DataFrame or an Arrow table. Columns of numbers are features as such, NaN and None
are nulls; truths and texts are categories."""

LossDetector = Literal["shiryaev_roberts", "adwin", "page_hinkley", "ddm"]
"""A way to watch losses."""

DETECTORS: Mapping[LossDetector, pb.LossDetector.ValueType] = {
    "shiryaev_roberts": pb.LOSS_DETECTOR_SHIRYAEV_ROBERTS,
    "adwin": pb.LOSS_DETECTOR_ADWIN,
    "page_hinkley": pb.LOSS_DETECTOR_PAGE_HINKLEY,
    "ddm": pb.LOSS_DETECTOR_DDM,
}

REQUEST_BYTES = 3_900_000
"""Bytes of rows in a call that is no stream: 4 MiB is the largest, and some of it goes to what is around them."""
CHUNK_ROWS = 16_384
"""Rows of a chunk when none are asked for."""
CHUNK_ROWS_MAX = 65_536
"""Most rows of a chunk, of the contract."""
_CHUNK_BYTES = 8 * 1024 * 1024  # half of the largest message: four chunks in flight are 32 MiB
_WANTED = "give a mapping of names to columns, a DataFrame, an Arrow table, or what read_observations returns"
_CODE_BYTES = 2  # of a category's code, as a rule


def observations_of(rows: RowsLike, field: str = "observations") -> Observations:
    """Rows as a table.

    Args:
        rows: as callers hold them.
        field: what to call them in errors.

    Raises:
        InvalidInput: these are no columns, there is none, or columns are of several lengths or hold neither numbers
            nor categories.
    """
    if isinstance(rows, Observations):
        return rows
    names = _names(rows, field)
    numeric: dict[str, Floats] = {}
    categorical: dict[str, CategoryColumn] = {}
    sizes: dict[str, int] = {}
    for name in names:
        raw = rows[name]
        values = np.asarray(raw)
        if values.dtype.kind == "U" and not isinstance(raw, np.ndarray):
            values = np.asarray(raw, dtype=object)  # numbers beside texts stay numbers, to be refused
        column = _column(values, f"{field}.{name}")
        if isinstance(column, CategoryColumn):
            categorical[str(name)], sizes[str(name)] = column, len(column.codes)
        else:
            numeric[str(name)], sizes[str(name)] = column, len(column)
    if len(set(sizes.values())) != 1:
        told = ", ".join(f"{name!r} has {size:,}" for name, size in list(sizes.items())[:5]) or "there is none"
        raise InvalidInput(f"{field}: columns of the same number of rows are needed: {told}", field=field)
    return Observations(next(iter(sizes.values())), numeric, categorical)


def _names(rows: RowsLike, field: str) -> list[Any]:
    """Names of the columns; an Arrow table has them under a name of their own."""
    if isinstance(rows, Mapping):
        if rows and all(isinstance(value, str | int | float | np.generic | None) for value in rows.values()):
            raise InvalidInput(f"{field} is one row, as in a list of rows; {_WANTED}", field=field)
        return list(rows)
    names = getattr(rows, "column_names", getattr(rows, "columns", None))
    if names is None:
        raise InvalidInput(f"{field} must be columns with names, is of {type(rows).__name__}; {_WANTED}", field=field)
    return list(names)


def feature_options(importances: Mapping[str, float] | None, outputs: Collection[str] = ()) -> list[pb.FeatureOptions]:
    """What is wanted of single features, as messages.

    Raises:
        InvalidInput: an importance is no number from 0 to 1,000.
    """
    importances = importances or {}
    for name, value in importances.items():
        if not 0 <= value <= 1_000:
            raise InvalidInput(f"the importance of {name!r} must be from 0 to 1,000, is {value:g}", field="importances")
    if isinstance(outputs, str):
        raise InvalidInput("outputs must be several names, is one text; put it into a list", field="outputs")
    return [
        pb.FeatureOptions(
            name=name,
            importance=importances.get(name),
            role=pb.FEATURE_ROLE_OUTPUT if name in outputs else pb.FEATURE_ROLE_UNSPECIFIED,
        )
        for name in dict.fromkeys((*importances, *outputs))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftOptions:
    """How a subject is watched; what is None is the server's setting.

    Attributes:
        false_alarms_a_year: expected false alarms a year of everything that is tested on the subject together.
        window_rows: rows of a window.
        window_duration: a window also closes when its rows span this time.
        trains_autoencoder: False for no autoencoder.
    """

    false_alarms_a_year: float | None = None
    window_rows: int | None = None
    window_duration: timedelta | None = None
    trains_autoencoder: bool | None = None

    def message(self) -> pb.DriftOptions:
        """The options as a message."""
        duration = None
        if self.window_duration is not None:
            duration = Duration()
            duration.FromTimedelta(self.window_duration)
        return pb.DriftOptions(
            false_alarms_a_year=self.false_alarms_a_year,
            window_rows=self.window_rows or 0,
            window_duration=duration,
            trains_autoencoder=self.trains_autoencoder,
        )


def time_range(start: datetime | None, end: datetime | None) -> pb.TimeRange:
    """A span of time as a message; times without a zone are taken as UTC."""
    return pb.TimeRange(start_time=_timestamp(start), end_time=_timestamp(end))


def packed(rows: RowsLike, field: str, *, left: int = REQUEST_BYTES) -> pb.Observations:
    """Rows as a message of a call that is no stream.

    Args:
        rows: as callers hold them.
        field: what to call them in errors.
        left: bytes that the call has room for.

    Raises:
        InvalidInput: they do not fit; the ways out are named.
    """
    message = pack_observations(observations_of(rows, field))
    size = message.ByteSize()
    if size > left:
        raise InvalidInput(
            f"{field}: {message.rows:,} rows are {size:,} bytes, {max(0, left):,} fit this call; "
            "give fewer rows, or set_reference and observe, which send any number of them in chunks",
            field=field,
        )
    return message


class ObservationChunks:
    """Builds the chunks of a stream of rows.

    Args:
        subject: name of the subject or draft.
        chunk_rows: rows of a chunk at most; a chunk also ends where it would make too large a message.
        prefix: of the chunks' request ids.
        rest: further fields of the messages.
    """

    def __init__(self, subject: str, chunk_rows: int, *, prefix: str, **rest: Any) -> None:
        self._subject = subject
        self._chunk_rows = chunk_rows
        self._prefix = prefix
        self._rest = rest
        self._sequence = 0
        self._row = 0

    def of(self, rows: RowsLike) -> Iterator[Chunk]:
        """The chunks of some rows, in their order."""
        table = observations_of(rows)
        width = sum(values.itemsize for values in table.numeric.values()) + _CODE_BYTES * len(table.categorical)
        step = max(1, min(self._chunk_rows, _CHUNK_BYTES // max(1, width)))
        for first in range(0, table.rows, step):
            yield from self._fitting(table[first : first + step])

    def _fitting(self, table: Observations) -> Iterator[Chunk]:
        message = pack_observations(table)
        if message.ByteSize() > _CHUNK_BYTES and table.rows > 1:
            half = table.rows // 2
            yield from self._fitting(table[:half])
            yield from self._fitting(table[half:])
            return
        request = pb.ObserveStreamRequest(
            sequence=self._sequence,
            request_id=f"{self._prefix}/{self._sequence}",
            subject=self._subject,
            observations=message,
            **self._rest,
        )
        rows = np.arange(self._row, self._row + table.rows, dtype=np.int64)
        self._sequence += 1
        self._row += table.rows
        yield Chunk(request=request, rows=rows)


def losses_f32(losses: Sequence[float] | NDArray[Any]) -> bytes:
    """Losses as bytes.

    Raises:
        InvalidInput: they are no one-dimensional row of numbers.
    """
    try:
        values = np.asarray(losses, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InvalidInput("losses must be numbers", field="losses") from error
    if values.ndim != 1:
        raise InvalidInput(f"losses must be a row of numbers, is of shape {values.shape}", field="losses")
    return values.astype("<f4").tobytes()


def check_subject(subject: str) -> None:
    """Refuses a subject without a name.

    Raises:
        InvalidInput: it has none.
    """
    if not subject:
        raise InvalidInput("subject must be a name of 1 to 64 letters, digits, '.', '_' and '-'", field="subject")


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    found = Timestamp()
    found.FromDatetime(moment if moment.tzinfo is None else moment.astimezone(UTC))
    return found


def _column(values: NDArray[Any], field: str) -> Floats | CategoryColumn:
    if values.ndim != 1:
        raise InvalidInput(f"{field} must be one value a row, is of shape {values.shape}", field=field)
    if values.dtype.kind == "f" and values.dtype.itemsize <= 4:
        return values.astype(np.float32, copy=False)
    if values.dtype.kind in "iuf":
        return values.astype(np.float64, copy=False)
    if values.dtype.kind not in "bOUT":
        raise InvalidInput(f"{field} must be numbers, truths or texts, is {values.dtype}", field=field)
    items = values.tolist()
    gaps = [not isinstance(item, str) and is_gap(item) for item in items]  # an empty text is a category
    known = [item for item, gap in zip(items, gaps, strict=True) if not gap]
    if known and all(isinstance(item, int | float | np.number) and not isinstance(item, bool) for item in known):
        return np.array([math.nan if gap else item for item, gap in zip(items, gaps, strict=True)], dtype=np.float64)
    if not all(isinstance(item, str | bool) for item in known):
        odd = next(item for item in known if not isinstance(item, str | bool))
        raise InvalidInput(f"{field} must be numbers, truths or texts, holds {type(odd).__name__}", field=field)
    codes: dict[str, int] = {}
    found = [
        -1 if gap else codes.setdefault(item if isinstance(item, str) else str(item).lower(), len(codes))
        for item, gap in zip(items, gaps, strict=True)
    ]
    return CategoryColumn(np.array(found, dtype=np.int32), tuple(codes))
