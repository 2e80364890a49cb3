"""Questions to the drift service: rows of any kind become tables, and chunks fit their messages."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.client.drift_questions import (
    DriftOptions,
    ObservationChunks,
    feature_options,
    losses_f32,
    observations_of,
    time_range,
)
from meshcast.client.drift_reports import DriftReport, severity_of
from meshcast.observations import CategoryColumn, Observations, unpack_observations
from meshcast.rpc import InvalidInput

NULLABLE: dict[str, list[Any]] = {"Int64": [1, None], "boolean": [True, None], "string": ["", None]}


def test_columns_of_any_kind_become_a_table() -> None:
    found = observations_of(
        {
            "single": np.array([1, 2], dtype=np.float32),
            "whole": np.array([1, 2], dtype=np.int8),
            "gaps": [1, None],
            "text": ["a", None],
            "truth": np.array([True, False]),
            "texts": np.array(["x", "y"]),
            "nothing": [None, float("nan")],
        }
    )
    assert {name: values.dtype.itemsize for name, values in found.numeric.items()} == {
        "single": 4,
        "whole": 8,
        "gaps": 8,
    }
    np.testing.assert_array_equal(found.numeric["gaps"], [1, np.nan])
    assert {name: (one.codes.tolist(), one.names) for name, one in found.categorical.items()} == {
        "text": ([0, -1], ("a",)),
        "truth": ([0, 1], ("true", "false")),
        "texts": ([0, 1], ("x", "y")),
        "nothing": ([-1, -1], ()),
    }


def test_a_frame_is_taken_by_its_columns() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1.5, None], "t": ["a", None], "k": pandas.Categorical(["u", "v"])})
    found = observations_of(frame)
    assert found.names == ("x", "t", "k")
    assert found.categorical["t"].codes.tolist() == [0, -1]
    assert found.categorical["k"].names == ("u", "v")
    nullable = {kind: pandas.Series(values, dtype=kind) for kind, values in NULLABLE.items()}
    found = observations_of(pandas.DataFrame(nullable))
    np.testing.assert_array_equal(found.numeric["Int64"], [1, np.nan])
    assert {name: one.codes.tolist() for name, one in found.categorical.items()} == {
        "boolean": [0, -1],
        "string": [0, -1],
    }


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({}, "there is none"),
        ({"x": [1], "y": [1, 2]}, "'x' has 1, 'y' has 2"),
        ({"x": [[1], [2]]}, r"one value a row, is of shape \(2, 1\)"),
        ({"x": [1, "a"]}, "numbers, truths or texts, holds"),
        ({"x": np.array(["2015-07-01"], dtype="M8[D]")}, "must be numbers, truths or texts"),
    ],
)
def test_rows_that_are_none_are_refused(rows: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        observations_of(rows)


def test_chunks_are_cut_by_rows_and_by_size() -> None:
    rows = Observations(1_000, {"x": np.arange(1_000, dtype=np.float32)}, {})
    chunks = list(ObservationChunks("s", 300, prefix="p").of(rows))
    assert [len(chunk.rows) for chunk in chunks] == [300, 300, 300, 100]
    assert [chunk.request.sequence for chunk in chunks] == [0, 1, 2, 3]
    assert chunks[3].request.request_id == "p/3" and chunks[3].rows.tolist() == [*range(900, 1_000)]
    long = tuple("x" * 250 + str(at) for at in range(60_000))
    names = Observations(60_000, {}, {"n": CategoryColumn(np.arange(60_000, dtype=np.int32), long)})
    wide = Observations(500, {f"c{at}": np.zeros(500) for at in range(10_000)}, {})
    for table in (names, wide):
        chunks = list(ObservationChunks("s", 65_536, prefix="p").of(table))
        assert max(chunk.request.ByteSize() for chunk in chunks) < 9 * 2**20
        assert sum(len(chunk.rows) for chunk in chunks) == table.rows
        assert [row for chunk in chunks for row in chunk.rows.tolist()] == [*range(table.rows)]
    violations: dict[str, str] = {}
    for chunk in ObservationChunks("s", 65_536, prefix="p").of(names):
        column = unpack_observations(chunk.request.observations, violations, "o").categorical["n"]
        assert [column.names[code] for code in column.codes] == [long[row] for row in chunk.rows]
    assert not violations


def test_options_and_times_as_messages() -> None:
    assert DriftOptions().message() == pb.DriftOptions()
    message = DriftOptions(window_rows=5, window_duration=timedelta(hours=1), trains_autoencoder=False).message()
    assert (message.window_rows, message.window_duration.seconds, message.trains_autoencoder) == (5, 3600, False)
    assert message.HasField("trains_autoencoder") and not message.HasField("false_alarms_a_year")
    east = timezone(timedelta(hours=2))
    spans = [time_range(one, None) for one in (datetime(2015, 7, 1, 2, tzinfo=east), datetime(2015, 7, 1))]
    assert spans[0] == spans[1] and not spans[0].HasField("end_time")
    assert spans[0].start_time.ToDatetime(UTC) == datetime(2015, 7, 1, tzinfo=UTC)


@pytest.mark.parametrize("given", [{"x": -0.1}, {"x": 1_001.0}, {"x": float("nan")}])
def test_weights_have_bounds(given: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="'x' must be from 0 to 1,000"):
        feature_options(given)


def test_outputs_are_several_names() -> None:
    with pytest.raises(InvalidInput, match="put it into a list"):
        feature_options(None, "label")


def test_losses_are_numbers_in_a_row() -> None:
    assert losses_f32([True, 0.5]) == np.array([1, 0.5], dtype="<f4").tobytes()
    for wrong in ([[1.0]], ["a"], 1.0):
        with pytest.raises(InvalidInput, match="losses"):
            losses_f32(wrong)  # type: ignore[arg-type]  # on purpose


def test_what_a_newer_server_says_is_taken_mildly() -> None:
    assert [severity_of(level) for level in (0, 1, 5, 9)] == ["none", "none", "critical", "none"]
    report = DriftReport.of(pb.DriftReport())
    assert (report.made_at, report.p_value, report.evidence, report.onset, report.drifted) == (None,) * 4 + ((),)
    with pytest.raises(KeyError):
        report["x"]


def test_an_arrow_table_is_taken_by_its_columns() -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"a": [1, 2, None], "b": ["x", None, "y"]})
    for rows in (table, table.to_batches()[0]):
        found = observations_of(rows)
        np.testing.assert_array_equal(found.numeric["a"], [1, 2, np.nan])
        assert found.categorical["b"].codes.tolist() == [0, -1, 1]


@pytest.mark.parametrize("rows", [np.zeros((3, 2)), [{"a": 1}], {"a": 1, "b": "x"}, "a.csv", 3])
def test_what_holds_no_columns_is_refused_with_what_to_give(rows: Any) -> None:
    with pytest.raises(InvalidInput, match="give a mapping of names to columns, a DataFrame, an Arrow table"):
        observations_of(rows)
