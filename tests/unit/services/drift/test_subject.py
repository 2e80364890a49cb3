"""A subject's evidence, alarms and counts, and that putting it back to a state changes nothing of what comes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.observations import CategoryColumn, Observations
from meshcast.rpc.errors import CorruptData, InvalidInput
from meshcast.services.drift.alarms import QUIET_WINDOWS, Judgement
from meshcast.services.drift.changes import Changes
from meshcast.services.drift.comparison import Autoencoder, Comparison, WatchOptions
from meshcast.services.drift.derived import Encoded, derived_reference, encoded_columns
from meshcast.services.drift.references import subject_of, training_rows
from meshcast.services.drift.subject import STREAMS_MAX, Subject
from meshcast.services.drift.subject_state import save_observed, save_reference, subject_from_parts
from meshcast.services.drift.watched import FeatureOption

NOW = 1_700_000_000_000_000
MINUTE = 60_000_000
OPTIONS = WatchOptions(false_alarms_a_year=0.5, window_rows=200, window_us=86_400_000_000, trains_autoencoder=False)


def rows(count: int, seed: int, *, shift: float = 0.0, first_us: int | None = None) -> Observations:
    rng = np.random.default_rng(seed)
    numeric = {name: rng.normal(size=count).astype(np.float32) for name in ("a", "b", "c")}
    numeric["b"] += np.float32(shift)
    town = CategoryColumn(rng.integers(-1, 3, count).astype(np.int32), ("x", "y", "z"))
    times = None if first_us is None else first_us + 10_000_000 * np.arange(count, dtype=np.int64)
    return Observations(count, numeric, {"town": town}, times)


def subject(count: int = 3_000, **options: Any) -> Subject:
    made = subject_of(
        "s",
        rows(count, 0),
        set_us=NOW,
        features={"c": FeatureOption(2.0, "output")},
        options=replace(OPTIONS, **options),
        autoencoder=Autoencoder(),
    )
    made.reference = replace(made.reference, version=1)
    return made


def judge(comparison: Comparison, report_id: str, made_us: int) -> Judgement:
    """What of a comparison decides, as a report would tell it."""
    step = comparison.groups[0].step
    onsets = step.onset[step.drifted]
    names = [feature.name for feature in comparison.reference.layout.features]
    return Judgement(
        severity=3,
        severity_score=0.5,
        is_drift=True,
        blamed=tuple((names[at], float(step.blame[at])) for at in np.argsort(-step.blame, kind="stable")[:2]),
        onset_window=int(onsets.min()) if len(onsets) else None,
        text=f"{comparison.number}",
        message=repr((report_id, comparison.log_value, step.by_feature.tolist())).encode(),
    )


def shifted(windows: int, since: int, until: int, *, shift: float = 0.6, size: int = 170) -> list[Observations]:
    """Chunks whose rows are shifted between two windows."""
    chunks = []
    for at in range(windows * 200 // size):
        row = at * size
        moved = since * 200 <= row < until * 200
        chunks.append(rows(size, 100 + at, shift=shift if moved else 0.0, first_us=NOW - 10**13 + row * 10_000_000))
    return chunks


def state(one: Subject) -> dict[str, Any]:
    """All that verdicts are made of; sketches are left out, which are drawn at random."""
    last = one.last_window()
    return {
        "clock": one.clock,
        "windows": (one.windows, one.observed_rows, one.span),
        "standing": one.standing,
        "starts": one.window_starts,
        "last": None if last is None else (last.number, last.log_value, last.start_us, last.end_us, last.standing),
        "steps": [np.concatenate([v.ravel() for v in g.step[1:]]).tolist() for g in last.groups] if last else [],
        "counts": [
            (group.name, group.window.counts.tolist(), group.total.counts.tolist(), group.total.moments.tolist())
            for group in one.groups.values()
        ],
        "buckets": None if (found := one.in_range(None, None)) is None else found.window.counts.tolist(),
        "recent": None if (newest := one.recent.newest(500)) is None else newest.numeric["b"].tolist(),
    }


def written(one: Subject, parts: dict[str, bytes], buckets: dict[tuple[int, int], bytes], *, closed: bool) -> list[Any]:
    """Writes a subject as the store would; returns its fresh alarms and reports."""
    changes = Changes()
    save_observed(one, changes, has_closed=closed)
    parts.update({part: data for (_, part), data in changes.parts.items() if data is not None})
    for (_, level, start_us), bucket in changes.buckets.items():
        if bucket is None:
            buckets.pop((level, start_us), None)
        else:
            buckets[level, start_us] = bucket
    return [*changes.alarms, *changes.reports]


def test_a_shift_is_raised_once_with_its_feature_and_beginning_and_resolved_when_it_is_over() -> None:
    one = subject()
    for chunk in shifted(60, 10, 20):
        one.observe(chunk, NOW, judge)
    raised, resolved = one.fresh_alarms
    assert (raised.kind, resolved.kind) == ("raised", "resolved")
    assert raised.blamed[0][0] == "b" and raised.blamed[0][1] > 0.9
    assert raised.onset_window in (10, 11, 12) and 11 <= raised.position <= 15
    assert raised.onset_us == one.window_starts[raised.onset_window]
    assert raised.report_id == f"s.1.{raised.position}" == one.fresh_reports[0].report_id
    assert resolved.position >= 20 + QUIET_WINDOWS and resolved.severity == 1
    assert one.standing.alarm is None
    assert one.number_alarms(5) == 7 and [alarm.alarm_id for alarm in one.fresh_alarms] == [5, 6]


def test_rows_without_drift_raise_nothing() -> None:
    one = subject()
    for chunk in shifted(40, 0, 0):
        one.observe(chunk, NOW, judge)
    assert one.windows == 39 and not one.fresh_alarms
    assert one.all_observed().window.rows == one.observed_rows == 40 * 200 // 170 * 170


@pytest.mark.parametrize("every", [1, 7])
def test_a_subject_that_is_put_back_to_a_state_ends_where_it_was(every: int) -> None:
    whole, chunks = subject(), shifted(40, 10, 18)
    told = []
    for chunk in chunks:
        whole.observe(chunk, NOW, judge)
        whole.number_alarms(1)
        told += [*whole.fresh_alarms, *whole.fresh_reports]
        whole.fresh_alarms, whole.fresh_reports = [], []
    parts, buckets = dict[str, bytes](), dict[tuple[int, int], bytes]()
    first, changes, heard = subject(), Changes(), []
    save_reference(first, changes)
    parts.update({part: data for (_, part), data in changes.parts.items() if data is not None})
    broken = subject_from_parts("s", parts, buckets)
    for at, chunk in enumerate(chunks):
        if at % every == 0:
            lost = subject_from_parts("s", parts, buckets)  # counts a chunk that nobody hears of
            lost.observe(chunk, NOW, judge)
            broken = subject_from_parts("s", parts, buckets)
        closed = broken.observe(chunk, NOW, judge)
        broken.number_alarms(1)
        heard += written(broken, parts, buckets, closed=closed > 0)
    assert state(broken) == state(whole)
    assert [repr(one) for one in heard] == [repr(one) for one in told] and len(told) == 3


def test_state_that_is_damaged_or_incomplete_is_told() -> None:
    changes = Changes()
    save_reference(subject(300), changes)
    parts = {part: data for (_, part), data in changes.parts.items() if data is not None}
    assert subject_from_parts("s", parts, {}).reference.tally.rows == 300
    for name, data in parts.items():
        for broken in ({**parts, name: data[:-7]}, {k: v for k, v in parts.items() if k != name}):
            if name.startswith(("energy", "group.")) and name not in broken:
                continue  # a subject may be without
            with pytest.raises(CorruptData):
                subject_from_parts("s", broken, {})


def test_chunks_are_remembered_by_their_streams() -> None:
    one = subject(300)
    assert not one.is_duplicate("t", 0) and not one.is_duplicate("", -5)
    one.mark("t", 4)
    one.mark("", 9)
    assert one.is_duplicate("t", 4) and one.is_duplicate("t", 3)
    assert not one.is_duplicate("t", 5) and not one.is_duplicate("", 9)
    for at in range(STREAMS_MAX):
        one.mark(f"other {at}", 1)
    assert not one.is_duplicate("t", 4) and len(one.streams) == STREAMS_MAX


def test_rows_of_other_columns_or_of_the_far_future_are_refused_by_their_fields() -> None:
    one = subject(300)
    odd = rows(5, 1)
    with pytest.raises(InvalidInput) as caught:
        one.require_sound(Observations(5, {**odd.numeric, "q": odd.numeric["a"]}, {}), NOW)
    assert {violation.field for violation in caught.value.violations} == {"observations.q", "observations.town"}
    with pytest.raises(InvalidInput) as caught:
        one.require_sound(rows(5, 1, first_us=NOW + 2 * 86_400_000_000), NOW)
    assert [violation.field for violation in caught.value.violations] == ["observations.unix_us"]
    one.require_sound(rows(5, 1, first_us=NOW + MINUTE), NOW)


def test_a_report_that_fails_does_not_keep_an_alarm_back() -> None:
    def failing(comparison: Comparison, report_id: str, made_us: int) -> Judgement:
        raise ZeroDivisionError

    one = subject()
    for chunk in shifted(20, 0, 20):
        one.observe(chunk, NOW, failing)
    assert [alarm.kind for alarm in one.fresh_alarms] == ["raised"]
    assert "log" in one.fresh_alarms[0].text and not one.fresh_reports


def test_small_references_are_not_looked_at_together() -> None:
    assert set(subject(100).groups) == {"features"}
    assert set(subject(300).groups) == {"features", "energy"}


def encoded(count: int, seed: int, shift: float = 0.0) -> Encoded:
    rng = np.random.default_rng(seed)
    error: NDArray[np.float32] = (rng.chisquare(5, count) + shift).astype(np.float32)
    return Encoded(error, rng.normal(size=(count, 8)).astype(np.float32))


def test_an_autoencoder_takes_part_from_when_it_is_ready() -> None:
    one = subject(window_rows=2_000)
    assert one.encoded_rows(5) is None
    one.observe(rows(101, 1), NOW, judge)
    ready = Autoencoder(state="ready", model_version=3, encoding="{}")
    one.add_autoencoder(ready, derived_reference(encoded_columns(encoded(900, 1))))
    assert one.reference.autoencoder == ready
    positions = one.encoded_rows(6)
    assert positions is not None and positions.tolist() == [1, 3, 5]  # every second row, counted from the first
    for at in range(8):
        size = 1_000
        positions = one.encoded_rows(size)
        assert positions is not None
        one.observe(rows(size, 50 + at), NOW, judge, (positions, encoded(len(positions), at, shift=8.0)))
    last = one.last_window()
    assert last is not None and [group.name for group in last.groups] == ["features", "energy", "autoencoder"]
    assert last.groups[2].window.rows == 1_000 and last.window.rows == 2_000
    assert last.groups[2].step.drifted[0] and not last.groups[0].step.drifted.any()
    assert [alarm.kind for alarm in one.fresh_alarms] == ["raised"]


def test_rows_to_train_on_are_bounded() -> None:
    wide = Observations(20_000, {f"x{at}": np.zeros(20_000, np.float32) for at in range(600)}, {})
    assert training_rows(wide).rows * 600 * 4 <= 32 << 20
    assert training_rows(rows(500, 0)).rows == 500
