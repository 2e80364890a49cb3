"""Answers out of values: what subjects, chunks and alarms become."""

import numpy as np
import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.observations import CategoryColumn, Observations
from meshcast.services.drift.alarms import Alarm
from meshcast.services.drift.answers import alarm_message, chunk_answer, reference_message, timestamp
from meshcast.services.drift.comparison import Autoencoder, Reference, WatchOptions
from meshcast.services.drift.facts import RANKS, feature_facts
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.watched import Observed, View

OPTIONS = WatchOptions(false_alarms_a_year=0.5, window_rows=1_000, window_us=86_400_000_000, trains_autoencoder=False)


def table(rows: int = 1_000) -> Observations:
    x = np.arange(rows, dtype=np.float64)
    x[:2] = np.nan, np.inf
    return Observations(
        rows,
        {"x": x, "one": np.ones(rows, dtype=np.float32), "void": np.full(rows, np.nan, dtype=np.float32)},
        {"town": CategoryColumn(np.arange(rows, dtype=np.int32) % 3 - 1, ("Oslo", "Rome"))},
    )


def view_of(observations: Observations, alarm: Alarm | None = None) -> View:
    layout = Layout.of(observations, roles={"x": "output"}, importances={"town": 3.0})
    reference = Reference(
        subject="a",
        version=4,
        set_us=1_500_000,
        layout=layout,
        tally=layout.tally(observations),
        sample=observations[:10],
        options=OPTIONS,
        autoencoder=Autoencoder(state="absent", why="nobody asked for it"),
    )
    return View(
        reference=reference,
        observed_rows=7,
        windows=2,
        recent_rows=5,
        state_bytes=11,
        alarm=alarm,
        smallest_shift_sd=np.array([0.25, np.nan, np.nan, np.nan]),
    )


ALARM = Alarm(
    alarm_id=9,
    subject="a",
    kind="worsened",
    raised_us=2_000_000,
    severity=4,
    blamed=(("x", 0.75), ("town", 0.25)),
    onset_window=3,
    report_id="r",
    text="x has moved.",
    position=5,
    reference_version=4,
)


# --- facts ---


def test_facts_of_numbers_leave_nulls_and_infinities_out_of_the_moments() -> None:
    observations = table()
    layout = Layout.of(observations)
    x, one, void, town = feature_facts(layout, layout.tally(observations))
    assert (x.rows, x.nulls, x.infinities, x.unseen) == (1_000, 1, 1, 0)
    assert (x.minimum, x.maximum) == (2, 999)
    assert x.mean == pytest.approx(500.5)
    assert x.standard_deviation == pytest.approx(np.arange(2, 1_000).std())
    assert len(x.quantiles) == len(RANKS) and list(x.quantiles) == sorted(x.quantiles)
    assert (one.mean, one.standard_deviation, one.minimum, one.maximum) == (1, 0, 1, 1)
    assert void.nulls == 1_000 and not void.HasField("mean") and not void.quantiles
    assert [(count.category, count.rows) for count in town.categories] == [("Oslo", 333), ("Rome", 333)]
    assert town.nulls == 334 and not town.HasField("mean") and not town.quantiles


def test_facts_of_a_window_tell_categories_that_the_reference_does_not_have() -> None:
    layout = Layout.of(table())
    rows = table(4)
    odd = Observations(4, rows.numeric, {"town": CategoryColumn(np.array([0, 1, 1, -1]), ("Rome", "Bonn"))})
    (town,) = feature_facts(layout, layout.tally(odd), [3])
    assert (town.unseen, town.nulls) == (2, 1)
    assert [(count.category, count.rows) for count in town.categories] == [("Rome", 1)]
    assert [(count.category, count.rows) for count in town.unseen_categories] == [("Bonn", 2)]


# --- subjects ---


def test_a_subject_is_described_with_every_option_and_its_features_in_order() -> None:
    message = reference_message(view_of(table(), ALARM))
    assert (message.subject, message.version, message.rows) == ("a", 4, 1_000)
    assert message.set_time.ToMicroseconds() == 1_500_000
    options = message.options
    assert (options.false_alarms_a_year, options.window_rows, options.trains_autoencoder) == (0.5, 1_000, False)
    assert options.window_duration.seconds == 86_400
    assert (message.observed_rows, message.windows, message.recent_rows, message.state_bytes) == (7, 2, 5, 11)
    assert message.autoencoder.state == pb.AUTOENCODER_STATE_ABSENT and message.autoencoder.why
    assert [feature.name for feature in message.features] == ["x", "one", "void", "town"]
    x, one, _, town = message.features
    assert (x.role, x.kind, x.importance) == (pb.FEATURE_ROLE_OUTPUT, pb.FEATURE_KIND_NUMERIC, 1)
    assert (town.role, town.kind, town.importance) == (pb.FEATURE_ROLE_INPUT, pb.FEATURE_KIND_CATEGORICAL, 3)
    assert x.smallest_shift_sd == 0.25 and not one.HasField("smallest_shift_sd")
    assert message.alarm.alarm_id == 9
    assert not reference_message(view_of(table()), with_features=False).features


def test_what_a_reader_should_know_of_a_reference_is_said() -> None:
    notes = " ".join(reference_message(view_of(table(20))).notes)
    assert "20 rows" in notes and "'one'" in notes and "'void'" in notes
    rng = np.random.default_rng(0)
    assert not reference_message(view_of_numbers(Observations(5_000, {"x": rng.normal(size=5_000)}, {}))).notes


def view_of_numbers(observations: Observations) -> View:
    layout = Layout.of(observations)
    reference = Reference(
        subject="a",
        version=1,
        set_us=0,
        layout=layout,
        tally=layout.tally(observations),
        sample=observations[:10],
        options=OPTIONS,
    )
    return View(
        reference=reference,
        observed_rows=0,
        windows=0,
        recent_rows=0,
        state_bytes=0,
        alarm=None,
        smallest_shift_sd=np.array([0.1]),
    )


# --- chunks and alarms ---


def test_an_alarm_keeps_its_onset_and_its_blame_apart_from_what_is_not_known() -> None:
    message = alarm_message(ALARM)
    assert (message.kind, message.source) == (pb.ALARM_KIND_WORSENED, pb.ALARM_SOURCE_DATA)
    assert [(one.name, one.share) for one in message.blamed] == [("x", 0.75), ("town", 0.25)]
    assert (message.onset.window, message.onset.HasField("start_time")) == (3, False)
    assert not message.HasField("observed_time")
    bare = alarm_message(
        Alarm(subject="a", kind="resolved", source="performance", raised_us=0, severity=1, text="over")
    )
    assert not bare.HasField("onset")
    assert (bare.kind, bare.source) == (pb.ALARM_KIND_RESOLVED, pb.ALARM_SOURCE_PERFORMANCE)


def test_a_chunk_is_answered_with_its_alarms_and_row_errors() -> None:
    observed = Observed(rows=2, is_duplicate=False, reference_version=4, windows_closed=1, alarms=(ALARM,))
    answer = chunk_answer(observed, np.array([1.5, 2.5], dtype=np.float32))
    assert (answer.rows, answer.reference_version, answer.windows_closed) == (2, 4, 1)
    assert np.frombuffer(answer.row_errors, dtype="<f4").tolist() == [1.5, 2.5]
    assert answer.alarms[0].alarm_id == 9
    duplicate = chunk_answer(Observed(rows=2, is_duplicate=True, reference_version=4), None)
    assert duplicate.is_duplicate and not duplicate.row_errors and not duplicate.alarms


def test_a_time_that_is_not_known_stays_unset() -> None:
    assert timestamp(None) is None
    known = timestamp(-1)
    assert known is not None and known.ToMicroseconds() == -1
