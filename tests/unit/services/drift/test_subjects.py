"""Subjects as calls see them: counted once and in order, on disk when answered, bounded, and apart from each other."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from meshcast.observations import Observations
from meshcast.rpc.errors import (
    AlreadyExists,
    CorruptData,
    Internal,
    InvalidInput,
    MeshError,
    NotFound,
    NotReady,
    Overloaded,
    Precondition,
)
from meshcast.services.drift import held, loss_states
from meshcast.services.drift.alarms import Alarm, Judgement
from meshcast.services.drift.comparison import Comparison, Reference, WatchOptions
from meshcast.services.drift.questions import WatchQuestion
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.subjects import (
    Encoded,
    FeatureOption,
    LossUpdate,
    ReportFilter,
    StoredReport,
    Subjects,
    Trained,
)
from meshcast.services.drift.watching import watch

NOW = 1_700_000_000_000_000
OPTIONS = WatchOptions(false_alarms_a_year=0.5, window_rows=200, window_us=86_400_000_000, trains_autoencoder=False)


def rows(count: int, seed: int = 0, shift: float = 0.0) -> Observations:
    rng = np.random.default_rng(seed)
    numeric = {name: rng.normal(size=count).astype(np.float32) for name in ("a", "b", "c")}
    numeric["b"] += np.float32(shift)
    return Observations(count, numeric, {}, NOW + seed * 3_600_000_000 + np.arange(count, dtype=np.int64) * 1_000_000)


class Service:
    """The service around: an autoencoder whose error is the first column, and reports of one line."""

    def __init__(self) -> None:
        self.versions: Sequence[int] = ()
        self.encodes: Callable[[Observations], Encoded | None] = encoded
        self.asked = 0

    def judge(self, comparison: Comparison, report_id: str, made_us: int) -> Judgement:
        return Judgement(
            severity=3,
            severity_score=0.5,
            is_drift=True,
            blamed=(("b", 1.0),),
            onset_window=comparison.number,
            text="b moved",
            message=f"{report_id} {comparison.log_value}".encode(),
        )

    async def encode(self, observations: Observations, reference: Reference) -> Encoded | None:
        self.asked += observations.rows
        await asyncio.sleep(0)
        return self.encodes(observations) if reference.autoencoder.model_version in self.versions else None

    async def serve(self, versions: Sequence[int]) -> None:
        self.versions = versions


def encoded(observations: Observations) -> Encoded:
    return Encoded(np.asarray(observations.numeric["a"], np.float32), np.zeros((observations.rows, 8), np.float32))


def subjects(root: Path, service: Service | None = None, **settings: Any) -> Subjects:
    return Subjects(
        root, service or Service(), DriftSettings(**settings), now_us=lambda: NOW + 10_000_000_000_000, model="drift"
    )


async def set_reference(opened: Subjects, name: str = "s", source: Any = None, **given: Any) -> Any:
    given = {"features": {}, "options": OPTIONS, **given}
    return await opened.set_reference(name, rows(1_000) if source is None else source, **given)


@pytest_asyncio.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Subjects]:
    """Subjects with one of 1,000 rows, `s`."""
    async with subjects(tmp_path) as found:
        await set_reference(found)
        yield found


async def test_what_is_answered_is_there_for_the_next_process(tmp_path: Path) -> None:
    async with subjects(tmp_path) as one:
        view = await set_reference(one, features={"c": FeatureOption(3.0, "output")})
        assert (view.reference.version, view.windows, view.recent_rows) == (1, 0, 0)
        told = [await one.observe("s", rows(170, at, 0.8), stream_id="t", sequence=at) for at in range(1, 11)]
        before, last = await one.view("s"), await one.last_window("s")
    async with subjects(tmp_path) as two:
        view, again = await two.view("s"), await two.last_window("s")
        alarms, _ = await two.alarms(0)
        repeated = await two.observe("s", rows(170, 10, 0.8), stream_id="t", sequence=10)
        after = await two.view("s")
    assert (view.observed_rows, view.windows, view.recent_rows) == (1_700, 8, 1_700)
    assert (view.observed_rows, view.windows, view.alarm) == (before.observed_rows, before.windows, before.alarm)
    assert last is not None and again is not None
    assert (again.log_value, again.start_us, again.end_us) == (last.log_value, last.start_us, last.end_us)
    assert again.rows is not None and last.rows is not None and again.rows.rows == last.rows.rows == 200
    assert alarms == [one for answer in told for one in answer.alarms] and alarms[0].alarm_id == 1
    assert view.alarm == alarms[0]
    assert sum(answer.windows_closed for answer in told) == 8
    assert repeated.is_duplicate and after.observed_rows == view.observed_rows
    assert view.reference.layout.features[2][2:] == ("output", 3.0)
    assert view.smallest_shift_sd.shape == (3,) and (view.smallest_shift_sd > 0).all()


async def test_chunks_are_counted_in_the_order_of_the_calls_and_share_transactions(opened: Subjects) -> None:
    calls = [opened.observe("s", rows(30, at), stream_id="t", sequence=at) for at in range(50)]
    answers = await asyncio.gather(*calls)
    assert not any(answer.is_duplicate for answer in answers)
    newest = await opened._look("s", lambda one: one.recent.newest(60))
    assert newest is not None
    assert (newest.numeric["a"] == np.concatenate([rows(30, 48).numeric["a"], rows(30, 49).numeric["a"]])).all()
    assert (await opened.all_observed("s")).window.rows == 1_500


async def test_large_chunks_are_counted_whole_even_when_the_caller_goes_away(
    opened: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "PIECE_VALUES", 768)  # 256 rows at a time
    going = asyncio.create_task(opened.observe("s", rows(5_000, 1), stream_id="t", sequence=1))
    other = asyncio.create_task(opened.observe("s", rows(10, 2), stream_id="u", sequence=1))
    while not opened._held.entry("s").is_mid_chunk:  # noqa: ASYNC110  # nobody is told when a chunk is half counted
        await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert (await other).windows_closed == 0
    assert (await opened.view("s")).observed_rows == 5_010
    assert (await opened.observe("s", rows(5_000, 1), stream_id="t", sequence=1)).is_duplicate


@pytest.mark.parametrize("narrow", [{"window_rows": 1}, {"window_us": 1_000_000}])
async def test_narrow_windows_leave_other_subjects_their_turn(
    opened: Subjects, monkeypatch: pytest.MonkeyPatch, narrow: dict[str, Any]
) -> None:
    await set_reference(opened, options=replace(OPTIONS, **narrow))
    subject = await opened._look("s", lambda one: one)
    closed, observe = list[int](), subject.observe

    def counted(*arguments: Any) -> int:
        closed.append(observe(*arguments))
        return closed[-1]

    monkeypatch.setattr(subject, "observe", counted)
    assert (await opened.observe("s", rows(60, 1))).windows_closed >= 59
    assert max(closed) <= held.WINDOWS_AT_ONCE + 1 and sum(closed) >= 59


async def test_a_failure_in_mid_chunk_leaves_what_is_on_disk(opened: Subjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "PIECE_VALUES", 768)
    await opened.observe("s", rows(100, 1), stream_id="t", sequence=1)
    subject = await opened._look("s", lambda one: one)
    monkeypatch.setattr(subject.recent, "add", lambda _: 1 / 0)
    waiting = asyncio.create_task(opened.observe("s", rows(1_000, 2), stream_id="t", sequence=2))
    with pytest.raises(ZeroDivisionError):
        await waiting
    answer = await opened.observe("s", rows(1_000, 2), stream_id="t", sequence=2)
    assert (answer.is_duplicate, answer.windows_closed) == (False, 5)
    assert (await opened.view("s")).observed_rows == 1_100
    entry = opened._held.entry("s")
    with pytest.raises(Internal, match="send it again"):
        opened._held.require_epoch(entry, entry.epoch - 1)


async def test_rows_after_a_new_reference_count_against_it_and_the_alarm_is_resolved(opened: Subjects) -> None:
    for at in range(1, 8):
        await opened.observe("s", rows(200, at, 1.0), stream_id="t", sequence=at)
    assert (await opened.view("s")).alarm is not None
    view = await set_reference(opened, source=600, features={"a": FeatureOption(2.0)})
    assert (view.reference.version, view.reference.tally.rows, view.observed_rows, view.alarm) == (2, 600, 0, None)
    assert view.reference.layout.features[0].importance == 2.0
    assert (await opened.observe("s", rows(200, 7, 1.0), stream_id="t", sequence=7)).is_duplicate
    answer = await opened.observe("s", rows(200, 8, 1.0), stream_id="t", sequence=8)
    assert (answer.reference_version, answer.windows_closed, answer.alarms) == (2, 1, ())
    alarms, _ = await opened.alarms(0)
    assert [(one.kind, one.reference_version) for one in alarms] == [("raised", 1), ("resolved", 1)]
    assert "replaced" in alarms[1].text
    assert (await opened.reports(ReportFilter(), page_size=5)).reports[0].report_id == alarms[0].report_id


async def test_references_that_cannot_be_are_refused(opened: Subjects) -> None:
    with pytest.raises(InvalidInput, match="2 rows"):
        await set_reference(opened, source=rows(1))
    with pytest.raises(InvalidInput, match="nobody"):
        await set_reference(opened, features={"nobody": FeatureOption()})
    for observed in ("no", "1"):
        with pytest.raises(InvalidInput, match=f"observed {observed} rows") as caught:
            await set_reference(opened, source=500)
        assert caught.value.violations[0].field == "recent_rows"
        await opened.observe("s", rows(1))
    await opened.collect("small", rows(1))
    with pytest.raises(InvalidInput) as caught:
        await set_reference(opened, source="small")
    assert caught.value.violations[0].field == "draft"
    for source in ("draft", 500):
        with pytest.raises(NotFound):
            await set_reference(opened, "new", source)
    assert (await opened.view("s")).reference.version == 1


async def test_what_is_collected_while_a_draft_is_used_up_begins_the_next_one(opened: Subjects) -> None:
    await opened.collect("d", rows(300, 1))
    used = [set_reference(opened, name, "d") for name in "uv"]
    answers: list[Any] = await asyncio.gather(*used, opened.collect("d", rows(20, 2)), return_exceptions=True)
    first, second, _ = answers
    assert first.reference.tally.rows == 300
    assert isinstance(second, NotFound)
    assert (await set_reference(opened, "w", "d")).reference.tally.rows == 20


async def test_the_same_request_sets_a_reference_once(opened: Subjects) -> None:
    first = set_reference(opened, "n", rows(500, 1), request_id="r")
    second = set_reference(opened, "n", rows(500, 1), request_id="r")
    views = await asyncio.gather(first, second)
    assert [view.reference.version for view in views] == [1, 1]
    others: list[dict[str, Any]] = [
        {"source": rows(500, 2)},
        {"source": replace(rows(500, 1), unix_us=None)},
        {"options": replace(OPTIONS, window_rows=100)},
        {"features": {"a": FeatureOption(importance=2.0)}},
        {"name": "other"},
    ]
    for other in others:
        with pytest.raises(AlreadyExists, match="another request id"):
            await set_reference(opened, **{"name": "n", "source": rows(500, 1), "request_id": "r", **other})
    assert (await opened.view("n")).reference.version == 1


async def test_subjects_are_bounded(tmp_path: Path) -> None:
    async with subjects(tmp_path, subjects_max=1, features_max=3) as one:
        await set_reference(one)
        with pytest.raises(Precondition, match="subjects_max"):
            await set_reference(one, "t")
        wide = Observations(5, {f"x{at}": np.zeros(5, np.float32) for at in range(4)}, {})
        with pytest.raises(InvalidInput, match="features_max"):
            await set_reference(one, source=wide)


async def test_a_draft_becomes_a_reference_and_is_used_up(opened: Subjects) -> None:
    chunks = [opened.collect("d", rows(300, at), stream_id="t", sequence=at) for at in range(3)]
    assert [answer.is_duplicate for answer in await asyncio.gather(*chunks)] == [False] * 3
    assert (await opened.collect("d", rows(300, 2), stream_id="t", sequence=2)).is_duplicate
    view = await set_reference(opened, "n", "d", request_id="r")
    assert view.reference.tally.rows == 900
    assert (await set_reference(opened, "n", "d", request_id="r")).reference.version == 1
    with pytest.raises(NotFound):
        await set_reference(opened, "n", "d")


async def test_what_cannot_be_counted_is_refused_and_nothing_of_it_counts(opened: Subjects) -> None:
    with pytest.raises(NotFound, match="SetReference"):
        await opened.observe("nobody", rows(5))
    with pytest.raises(InvalidInput):
        await opened.observe("s", Observations(2, {"a": np.zeros(2)}, {}), stream_id="t", sequence=3)
    assert not (await opened.observe("s", rows(5), stream_id="t", sequence=3)).is_duplicate


async def test_too_many_calls_are_told_to_come_later(opened: Subjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "WAITING_MAX", 3)
    answers = await asyncio.gather(*(opened.observe("s", rows(50)) for _ in range(6)), return_exceptions=True)
    refused = [one for one in answers if isinstance(one, Overloaded)]
    assert len(refused) == 3 and all(one.retry_after_s for one in refused)
    assert (await opened.view("s")).observed_rows == 150


async def test_a_damaged_subject_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    async with subjects(tmp_path) as one:
        await set_reference(one, "s")
        await set_reference(one, "t")
    with closing(sqlite3.connect(tmp_path / "drift.sqlite")) as connection, connection:
        connection.execute("UPDATE parts SET data = substr(data, 1, 90) WHERE subject = 's' AND part = 'reference'")
    async with subjects(tmp_path) as two:
        with pytest.raises(CorruptData, match="'s' is damaged on disk; set its reference again"):
            await two.observe("s", rows(5))
        assert [view.reference.subject for view in await two.views()] == ["t"]
        assert (await two.observe("t", rows(5))).rows == 5
        assert (await set_reference(two, "s")).reference.version == 2
        assert (await two.observe("s", rows(5))).reference_version == 2


async def test_subjects_that_are_not_asked_for_leave_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "MEMORY_BYTES_MAX", 1)
    async with subjects(tmp_path) as one:
        for name in "stu":
            await set_reference(one, name)
        for at in range(1, 9):
            names = "stu"[at % 3 :]
            await asyncio.gather(*(one.observe(name, rows(100, at), stream_id="x", sequence=at) for name in names))
        assert [view.observed_rows for view in await one.views()] == [200, 500, 800]
        assert sum(one._held.entry(name).subject is not None for name in "stu") == 1


async def test_alarms_are_watched_without_a_gap(opened: Subjects) -> None:
    heard: list[int] = []

    async def watch() -> None:
        cursor = 0
        while len(heard) < 12:
            found, cursor = await opened.alarms(cursor, limit=3)
            heard.extend(one.alarm_id for one in found)
            if len(found) < 3 and len(heard) < 12:
                await opened.wait_for_alarm(cursor, within_s=60)

    async def lose(at: int) -> bytes:
        alarm = Alarm(subject="s", kind="raised", source="performance", raised_us=at, severity=2, text="rise")
        return await opened.losses("s", f"m{at % 4}", lambda _: LossUpdate(state=b"", alarms=(alarm,), answer=b""))

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(lose(at) for at in range(12)))
    await watching
    assert heard == list(range(1, 13)) and opened.newest_alarm_id == 12
    assert not await opened.wait_for_alarm(12, within_s=0.0)
    assert await opened.wait_for_alarm(11, within_s=0.0)


async def test_a_cursor_of_the_file_is_taken_before_the_process_was_told_of_it(opened: Subjects) -> None:
    alarm = Alarm(subject="s", kind="raised", source="performance", raised_us=1, severity=2, text="rise")
    await opened.losses("s", "error", lambda _: LossUpdate(state=b"", alarms=(alarm,), answer=b""))
    opened._held.newest_alarm_id = 0
    sent, draining = list[Any](), asyncio.Event()

    async def write(message: Any) -> None:
        sent.append(message)
        draining.set()

    with pytest.raises(NotReady):
        await watch(opened, WatchQuestion("", 1, 60.0), write, draining=draining)
    assert [(one.HasField("alarm"), one.cursor, list(one.receipt.notes)) for one in sent] == [(False, 1, [])]


async def test_losses_of_a_request_count_once(opened: Subjects) -> None:
    def more(state: bytes | None) -> LossUpdate:
        now = int(state or b"0") + 1
        alarm = Alarm(subject="s", kind="raised", source="performance", raised_us=1, severity=2, text="rise")
        return LossUpdate(state=b"%d" % now, alarms=(alarm,), answer=b"answer %d" % now)

    calls = [opened.losses("s", "error", more, request_id="r", digest="x") for _ in range(3)]
    assert await asyncio.gather(*calls) == [b"answer 1"] * 3
    assert await opened.losses("s", "error", more) == b"answer 2"
    assert await opened.losses("s", "other", more, request_id="r", digest="y") == b"answer 1"
    with pytest.raises(AlreadyExists):
        await opened.losses("s", "error", more, request_id="r", digest="other")
    found, _ = await opened.alarms(0)
    assert [(one.alarm_id, one.reference_version) for one in found] == [(1, 1), (2, 1), (3, 1)]


async def test_losses_that_could_not_be_written_count_once_all_the_same(
    opened: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    def more(state: bytes | None) -> LossUpdate:
        alarm = Alarm(subject="s", kind="raised", source="performance", raised_us=1, severity=2, text="rise")
        now = int(state or b"0") + 1
        return LossUpdate(state=b"%d" % now, alarms=(alarm,), answer=b"%d" % now)

    async def fail(changes: Any) -> None:
        raise Precondition("the disk is full")

    with monkeypatch.context() as full:
        full.setattr(opened._held._saver, "_write", fail)
        for request in "pqq":
            with pytest.raises(Precondition, match="full"):
                await opened.losses("s", "error", more, request_id=request, digest="x")
    answers = [await opened.losses("s", "error", more, request_id=request, digest="x") for request in "pqr"]
    assert answers == [b"1", b"2", b"3"]
    assert [alarm.alarm_id for alarm in (await opened.alarms(0))[0]] == [1, 2, 3]


async def test_damaged_losses_can_be_begun_anew(opened: Subjects, tmp_path: Path) -> None:
    seen: list[bytes | None] = []

    def more(state: bytes | None) -> LossUpdate:
        seen.append(state)
        return LossUpdate(state=b"sound", alarms=(), answer=b"")

    for _ in range(2):
        await opened.losses("s", "error", more)
        with closing(sqlite3.connect(tmp_path / "drift.sqlite")) as connection, connection:
            connection.execute("UPDATE losses SET state = x'00'")
    assert seen == [None, b""]


async def test_a_question_about_losses_keeps_nothing_and_many_metrics_are_refused(
    opened: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_states, "METRICS_MAX", 1)
    asked, kept = LossUpdate(state=None, alarms=(), answer=b"none"), LossUpdate(state=b"x", alarms=(), answer=b"")
    for metric in "abc":
        assert await opened.losses("s", metric, lambda _: asked) == b"none"
    await opened.losses("s", "a", lambda _: kept)
    with pytest.raises(Precondition, match="resets"):
        await opened.losses("s", "b", lambda _: kept)
    assert await opened.losses("s", "b", lambda _: asked) == b"none"
    await opened.losses("s", "a", lambda _: kept)


async def test_reports_are_kept_and_found(opened: Subjects) -> None:
    one = StoredReport(
        report_id="r", subject="s", reference_version=1, made_us=5, severity=2, is_drift=False, message=b"text"
    )
    await opened.keep_report(one)
    await opened.keep_report(replace(one, message=b"other"))
    assert (await opened.report("r")).message == (await opened.newest_report("s")).message == b"other"
    assert [found.report_id for found in (await opened.reports(ReportFilter(), page_size=9)).reports] == ["r"]
    with pytest.raises(NotFound):
        await opened.report("x")


async def test_spans_of_time_are_told_from_buckets(opened: Subjects) -> None:
    for at in range(1, 5):
        await opened.observe("s", rows(100, at))
    hour = 3_600_000_000
    found = await opened.in_range("s", NOW + 2 * hour - NOW % hour, NOW + 4 * hour - NOW % hour)
    assert found is not None and 0 < found.window.rows < 400
    assert await opened.in_range("s", NOW - 9 * hour, NOW - 8 * hour) is None
    assert await opened.last_window("s") is not None


async def test_a_trained_autoencoder_takes_part_and_its_faults_count_nothing(tmp_path: Path) -> None:
    service = Service()
    async with subjects(tmp_path, service) as one:
        trained = Trained(model_version=4, encoding="{}", held_out=np.arange(300))
        view = await set_reference(one, trained=trained)
        assert (view.reference.autoencoder.state, list(service.versions)) == ("ready", [4])
        assert [len(group.layout) for group in view.derived] == [1, 9]
        await one.observe("s", rows(100, 1))
        assert service.asked == 400

        def fail(_: Observations) -> Encoded:
            raise Overloaded("full")

        service.encodes = fail
        with pytest.raises(Overloaded):
            await one.observe("s", rows(100, 2), stream_id="t", sequence=1)
        service.encodes = lambda _: None  # it cannot be asked: the other columns go on
        assert not (await one.observe("s", rows(100, 2), stream_id="t", sequence=1)).is_duplicate
    async with subjects(tmp_path, again := Service()) as two:
        assert list(again.versions) == [4]
        last = await two.last_window("s")
        assert last is not None
        assert [(group.name, group.window.rows) for group in last.groups] == [
            ("features", 200),
            ("energy", 200),
            ("autoencoder", 100),
        ]


async def test_a_disk_that_fails_is_told_and_tried_again(opened: Subjects, monkeypatch: pytest.MonkeyPatch) -> None:
    write = opened._store.write

    async def full(changes: Any) -> None:
        raise Precondition("the disk is full")

    monkeypatch.setattr(opened._held._saver, "_write", full)
    with pytest.raises(MeshError, match="full"):
        await opened.observe("s", rows(100, 1), stream_id="t", sequence=1)
    monkeypatch.setattr(opened._held._saver, "_write", write)
    assert (await opened.observe("s", rows(100, 1), stream_id="t", sequence=1)).is_duplicate
    assert "state" in await opened._store.parts("s")
    assert (await opened.view("s")).observed_rows == 100
