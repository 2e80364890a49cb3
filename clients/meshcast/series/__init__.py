"""Series: daily values of many series in memory, in files and on the wire, and the rules that they keep."""

from meshcast.columns import history_range
from meshcast.series.dates import EARLIEST, day_of, day_texts, days_of, days_of_texts, values_of
from meshcast.series.files import ROWS_MAX, read_series, write_series
from meshcast.series.rules import (
    DAYS_MAX,
    KNOWN_MIN,
    NAME_CHARACTERS_MAX,
    RECENT_DAYS,
    VALUE_MAX,
    VALUE_MIN,
    series_violations,
)
from meshcast.series.table import SeriesIndex, SeriesRange, SeriesTable
from meshcast.series.wire import (
    PackedSeries,
    days_from_columns,
    days_from_messages,
    join_series,
    messages_from_days,
    pack_days,
)

__all__ = [
    # the table
    "SeriesTable",
    "SeriesIndex",
    "SeriesRange",
    # files
    "read_series",
    "write_series",
    "ROWS_MAX",
    # rules
    "series_violations",
    "DAYS_MAX",
    "KNOWN_MIN",
    "NAME_CHARACTERS_MAX",
    "RECENT_DAYS",
    "VALUE_MAX",
    "VALUE_MIN",
    # dates
    "EARLIEST",
    "day_of",
    "day_texts",
    "days_of",
    "days_of_texts",
    "values_of",
    # the wire
    "PackedSeries",
    "join_series",
    "pack_days",
    "days_from_columns",
    "days_from_messages",
    "messages_from_days",
    "history_range",
]
