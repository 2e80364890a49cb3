"""Columns in memory: arrays, lists, dates and gaps of every kind that callers hold become one checked table."""

import tomllib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from meshcast.client import Post, post_table
from meshcast.posts import KNOWN_COLUMNS, table_from_columns
from meshcast.rpc import InvalidInput

WHEN = np.array(["2016-05-10T18:30:00", "2016-05-11T09:00:00"], dtype="datetime64[ns]")


def test_numpy_dates_give_time_hour_and_weekday() -> None:
    table = table_from_columns({"published_at": WHEN, "reactions": np.array([1.0, np.nan])})
    assert table.published_unix_s.tolist() == [1_462_905_000, 1_462_957_200]
    assert table.hour_of_day.tolist() == [18, 9]
    assert table.day_of_week.tolist() == [1, 2]
    np.testing.assert_array_equal(table.reactions, [1, np.nan])


def test_numpy_scalars_are_values_and_pandas_gaps_are_gaps() -> None:
    columns = {
        "published_at": [pd.Timestamp("2016-05-10T18:30:00Z"), np.str_("2016-05-11T09:00:00Z")],
        "channel": [np.str_("a"), pd.NA],
        "content_length": [np.int64(9), np.float32(8)],
        "reactions": [np.float64(3), pd.NA],
        "replies": [np.int64(0), np.float64("nan")],
    }
    table = table_from_columns(columns)
    assert table.channel.tolist() == ["", "a"]
    assert table.content_length.tolist() == [8, 9]
    np.testing.assert_array_equal(table.reactions, [np.nan, 3])
    np.testing.assert_array_equal(table.replies, [np.nan, 0])
    for gap in (pd.NaT, pd.NA, float("nan"), None, ""):
        with pytest.raises(InvalidInput, match="row 1, column 'published_at': is required"):
            table_from_columns({"published_at": [gap]})


def test_a_missing_date_is_refused_as_missing() -> None:
    with pytest.raises(InvalidInput, match="row 2, column 'published_at': is required"):
        table_from_columns({"published_at": np.array(["2016-05-10", "NaT"], dtype="datetime64[s]")})


def test_nan_is_unknown_in_memory_and_only_in_counts() -> None:
    with pytest.raises(InvalidInput, match="row 1, column 'views': must be a count of 0 or more"):
        table_from_columns({"published_at": WHEN, "views": np.array([-1.0, np.nan])})
    clock = {"published_unix_s": np.array([5, 6]), "day_of_week": np.array([0, 0])}
    with pytest.raises(InvalidInput, match="row 2, column 'hour_of_day': is required"):
        table_from_columns({**clock, "hour_of_day": np.array([1.0, np.nan])})


def test_a_data_frame_is_taken_as_it_is() -> None:
    frame = pd.DataFrame(
        {
            "channel": ["b", "a"],
            "published_at": pd.to_datetime(["2016-05-10T23:30:00-05:00", "2016-05-11T01:00:00-05:00"]),
            "text": ["four", None],
            "has_media": [True, False],
            "reactions": pd.array([3, None], dtype="Int64"),
            "replies": [1.0, np.nan],
        }
    )
    table = post_table(frame)
    assert table.channel.tolist() == ["a", "b"]
    assert table.hour_of_day.tolist() == [1, 23]
    assert table.content_length.tolist() == [0, 4]
    assert table.has_media.tolist() == [0, 1]
    np.testing.assert_array_equal(table.reactions, [np.nan, 3])
    np.testing.assert_array_equal(table.replies, [np.nan, 1])


def test_rows_may_be_posts_and_mappings_together() -> None:
    table = post_table(
        [
            Post(published_at=datetime(2016, 5, 10, 8, tzinfo=timezone(timedelta(hours=2))), channel="a", reactions=5),
            {"published_at": "2016-05-09", "channel": "a", "views": 7, "post_id": "x"},
        ]
    )
    assert table.published_unix_s.tolist() == [1_462_752_000, 1_462_860_000]
    assert table.hour_of_day.tolist() == [0, 8]
    np.testing.assert_array_equal(table.views, [7, np.nan])


def test_words_for_media_are_understood() -> None:
    words = ["true", "No", "1", "", None, True, 0, "Y"]
    dates = [datetime(2016, 5, 1 + n, tzinfo=UTC) for n in range(len(words))]
    table = table_from_columns({"published_at": dates, "has_media": words})
    assert table.has_media.tolist() == [1, 0, 1, 0, 0, 1, 0, 1]


def test_two_times_that_disagree_are_refused() -> None:
    with pytest.raises(InvalidInput, match="row 2, column 'published_unix_s': is not the time of published_at"):
        table_from_columns({"published_at": WHEN, "published_unix_s": [1_462_905_000, 1_462_957_201]})


def test_milliseconds_are_refused_as_seconds() -> None:
    with pytest.raises(InvalidInput, match="milliseconds are not taken"):
        table_from_columns({"published_unix_s": [1_462_905_000_000], "hour_of_day": [1], "day_of_week": [1]})


@pytest.mark.parametrize(
    ("posts", "words"),
    [
        ([], "there are no posts"),
        ([3], "a row must be a Post or a mapping, is int"),
        ({"published_at": []}, "has no posts"),
        ({"published_at": ["2016-05-10"], "views": [1, 2]}, "has 2 rows, published_at has 1"),
    ],
)
def test_what_is_no_table_of_posts_is_refused(posts: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        post_table(posts)  # type: ignore[arg-type]  # wrong on purpose


def test_every_known_column_is_taken() -> None:
    row = dict.fromkeys(KNOWN_COLUMNS, "1") | {"published_at": "1970-01-01T00:00:01Z"}
    assert len(post_table([row])) == 1


def test_pyarrow_is_an_extra_and_not_a_dependency() -> None:
    root = Path(__file__).parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert not any("pyarrow" in need for need in project["dependencies"])
    assert any("pyarrow" in need for need in project["optional-dependencies"]["parquet"])
