"""The store: what is written is there whole, damage is told to those it concerns, and nothing grows without bound."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from meshcast.observations import Observations
from meshcast.rpc.errors import CorruptData, InvalidInput, NotFound, Precondition
from meshcast.services.drift import changes, drafts, history
from meshcast.services.drift.alarms import Alarm
from meshcast.services.drift.changes import Changes
from meshcast.services.drift.history import ReportFilter, StoredReport
from meshcast.services.drift.packed_rows import rows_to_bytes
from meshcast.services.drift.store import Store
from meshcast.services.drift.store_lock import StoreLock


def report(number: int, subject: str = "a", severity: int = 1) -> StoredReport:
    return StoredReport(
        report_id=f"{subject}.{number}",
        subject=subject,
        reference_version=1,
        made_us=1_000 * number,
        severity=severity,
        is_drift=severity > 1,
        message=b"report %d" % number,
    )


def alarm(number: int, subject: str = "a") -> Alarm:
    return Alarm(alarm_id=number, subject=subject, kind="raised", raised_us=number, severity=2, text="it moved")


def damage(root: Path, statement: str) -> None:
    with closing(sqlite3.connect(root / "drift.sqlite")) as connection, connection:
        connection.execute(statement)


async def listed(opened: Store, page_size: int = 50, token: str = "", **which: object) -> history.ReportPage:
    chosen = ReportFilter(**which)  # type: ignore[arg-type]
    return await opened.read(
        lambda connection: history.page_of_reports(connection, chosen, page_size=page_size, page_token=token)
    )


async def after(opened: Store, cursor: int, subject: str = "", limit: int = 100) -> tuple[list[int], int]:
    found, behind = await opened.read(
        lambda connection: history.alarms_after(connection, cursor, subject=subject, limit=limit)
    )
    return [one.alarm_id for one in found], behind


async def test_what_is_written_is_there_for_the_next_process(tmp_path: Path) -> None:
    async with Store(tmp_path) as opened:
        changes = Changes(
            parts={("a", "reference"): b"one", ("a", "state"): b"two", ("b", "reference"): b"three"},
            buckets={("a", 0, 60): b"minute"},
            losses={("a", "error"): b"losses"},
            requests={"losses a error 1": ("digest", b"answer")},
            versions={"a": 3},
        )
        await opened.write(changes)
    async with Store(tmp_path) as opened:
        assert await opened.subjects() == ["a", "b"]
        assert await opened.parts("a") == {"reference": b"one", "state": b"two"}
        assert await opened.parts("a", without="state") == {"reference": b"one"}
        assert await opened.part("a", "state") == b"two" and await opened.part("a", "more") is None
        assert await opened.buckets("a") == {(0, 60): b"minute"}
        assert (await opened.version("a"), await opened.version("b")) == (3, 0)
        assert await opened.losses("a", "error") == b"losses" and await opened.losses("b", "error") is None
        assert await opened.answered("losses a error 1") == ("digest", b"answer")
        await opened.write(Changes(parts={("a", "state"): None}, buckets={("a", 0, 60): None}))
        assert await opened.parts("a") == {"reference": b"one"} and await opened.buckets("a") == {}


async def test_a_subject_that_is_forgotten_leaves_only_what_comes_after(tmp_path: Path) -> None:
    async with Store(tmp_path) as opened:
        old = Changes(parts={("a", "x"): b"1", ("b", "x"): b"1"}, buckets={("a", 0, 60): b"1"})
        new = Changes(parts={("a", "y"): b"2"}, forgotten={"a"})
        await opened.write(old.then(new))
        assert await opened.parts("a") == {"y": b"2"} and await opened.parts("b") == {"x": b"1"}
        assert await opened.buckets("a") == {}
        await opened.write(Changes(parts={("a", "x"): b"3"}))
        await opened.write(new)
        assert await opened.parts("a") == {"y": b"2"}


async def test_damage_is_told_and_concerns_its_subject_alone(tmp_path: Path) -> None:
    async with Store(tmp_path) as opened:
        parts: dict[tuple[str, str], bytes | None] = {("a", "reference"): b"one", ("b", "reference"): b"two"}
        await opened.write(Changes(parts=parts, reports=[report(1), report(2)], losses={("a", "m"): b"three"}))
        damage(tmp_path, "UPDATE parts SET data = 'onf' WHERE subject = 'a'")
        damage(tmp_path, "UPDATE reports SET message = x'00' WHERE report_id = 'a.2'")
        damage(tmp_path, "UPDATE losses SET state = x'00'")
        for what in (opened.parts("a"), opened.part("a", "reference"), opened.losses("a", "m")):
            with pytest.raises(CorruptData, match="damaged"):
                await what
        assert await opened.parts("b") == {"reference": b"two"}
        assert [one.report_id for one in (await listed(opened)).reports] == ["a.1"]
        with pytest.raises(CorruptData):
            await opened.read(lambda connection: history.report_of(connection, "a.2"))


async def test_reports_come_newest_first_in_pages_that_new_ones_do_not_shift(tmp_path: Path) -> None:
    async with Store(tmp_path) as opened:
        await opened.write(Changes(reports=[report(at, "ab"[at % 2], severity=1 + at % 5) for at in range(10)]))
        first = await listed(opened, 4)
        assert [one.report_id for one in first.reports] == ["b.9", "a.8", "b.7", "a.6"]
        assert first.reports[0] == report(9, "b", severity=5)
        await opened.write(Changes(reports=[report(10), report(8)]))  # one is new, one takes the place of its elder
        second = await listed(opened, 4, first.next_page_token)
        assert [one.report_id for one in second.reports] == ["b.5", "a.4", "b.3", "a.2"]
        last = await listed(opened, 4, second.next_page_token)
        assert [one.report_id for one in last.reports] == ["b.1", "a.0"] and not last.next_page_token
        assert [one.report_id for one in (await listed(opened, subject="b", drift_only=True)).reports] == [
            "b.9",
            "b.7",
            "b.3",
            "b.1",
        ]
        assert [one.report_id for one in (await listed(opened, severity_min=5)).reports] == ["b.9", "a.4"]
        assert [one.report_id for one in (await listed(opened, start_us=2_000, end_us=4_000)).reports] == ["b.3", "a.2"]
        newest = await opened.read(lambda connection: history.newest_report(connection, "b"))
        assert newest.report_id == "b.9"
        for token in ("x", "-1", "9" * 30):
            with pytest.raises(InvalidInput):
                await listed(opened, token=token)
        for look in (history.report_of, history.newest_report):
            with pytest.raises(NotFound):
                await opened.read(lambda connection, look=look: look(connection, "none"))  # type: ignore[misc]


async def test_a_cursor_moves_past_the_alarms_of_others(tmp_path: Path) -> None:
    async with Store(tmp_path) as opened:
        await opened.write(Changes(alarms=[alarm(1), alarm(2, "b"), alarm(3), alarm(4, "b")]))
        assert await opened.newest_alarm_id() == 4
        assert await after(opened, 0) == ([1, 2, 3, 4], 4)
        assert await after(opened, 0, limit=3) == ([1, 2, 3], 3)
        assert await after(opened, 0, "a") == ([1, 3], 4)
        assert await after(opened, 1, "a", limit=1) == ([3], 3)
        assert await after(opened, 4) == ([], 4) and await after(opened, 9) == ([], 9)


async def test_only_the_newest_reports_and_alarms_of_a_subject_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("REPORTS_MAX", "ALARMS_MAX", "REQUESTS_MAX"):
        monkeypatch.setattr(changes, bound, 3)
    async with Store(tmp_path) as opened:
        await opened.write(Changes(reports=[report(1, "b")], alarms=[alarm(1, "b")]))
        for at in range(2, 9):
            one = Changes(reports=[report(at)], alarms=[alarm(at)], requests={f"{at}": ("", b"")})
            await opened.write(one)
        assert [one.report_id for one in (await listed(opened)).reports] == ["a.8", "a.7", "a.6", "b.1"]
        assert await after(opened, 0) == ([1, 6, 7, 8], 8)
        assert await opened.answered("5") is None and await opened.answered("6") is not None


async def test_one_process_at_a_time_uses_a_store(tmp_path: Path) -> None:
    async with Store(tmp_path):
        with pytest.raises(Precondition, match="Another process"):
            StoreLock(tmp_path).take(within_s=0)
    lock = StoreLock(tmp_path)
    lock.take(within_s=0)
    lock.give_back()


async def test_a_file_that_is_something_else_or_newer_is_left_alone(tmp_path: Path) -> None:
    async with Store(tmp_path / "newer"):
        pass
    damage(tmp_path / "newer", "UPDATE facts SET value = 2 WHERE name = 'schema'")
    with pytest.raises(Precondition, match="version 2"):
        async with Store(tmp_path / "newer"):
            pass
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "drift.sqlite").write_text("no database, but long enough to be looked at as one" * 40)
    with pytest.raises(Precondition, match=r"drift\.sqlite"):
        async with Store(tmp_path / "odd"):
            pass
    StoreLock(tmp_path / "odd").take(within_s=0)  # it is not held any longer


def some_rows(count: int, first: int = 0, name: str = "x") -> Observations:
    return Observations(count, {name: np.arange(first, first + count, dtype=np.float32)}, {})


async def collected(opened: Store, rows: Observations, draft: str = "d", *, sequence: int = 0, now_us: int = 0) -> bool:
    chunk = drafts.chunk_of(
        draft, rows, rows_to_bytes(rows), stream_id="s" if sequence else "", sequence=sequence, now_us=now_us
    )
    return await opened.change(lambda connection: drafts.collect(connection, chunk))


async def test_a_draft_is_collected_once_and_outlives_the_process(tmp_path: Path) -> None:
    async with Store(tmp_path) as opened:
        assert await collected(opened, some_rows(3), sequence=1)
        assert await collected(opened, some_rows(2, 3), sequence=2)
        assert not await collected(opened, some_rows(2, 3), sequence=2)
    async with Store(tmp_path) as opened:
        assert not await collected(opened, some_rows(2, 3), sequence=1)
        with pytest.raises(InvalidInput, match="other columns"):
            await collected(opened, some_rows(2, name="y"), sequence=3)
        rows = await opened.read(lambda connection: drafts.rows_of_draft(connection, "d"))
        assert rows.numeric["x"].tolist() == [0, 1, 2, 3, 4]
        await opened.write(Changes(drafts_used={"d"}))
        with pytest.raises(NotFound, match="PURPOSE_REFERENCE"):
            await opened.read(lambda connection: drafts.rows_of_draft(connection, "d"))


async def test_drafts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "DRAFT_ROWS_MAX", 5)
    monkeypatch.setattr(drafts, "DRAFTS_MAX", 2)
    async with Store(tmp_path) as opened:
        await collected(opened, some_rows(3))
        with pytest.raises(Precondition, match="6 rows"):
            await collected(opened, some_rows(3))
        await collected(opened, some_rows(2))
        await collected(opened, some_rows(2), "e", now_us=50_000_000_000)
        with pytest.raises(Precondition, match="2 drafts"):
            await collected(opened, some_rows(2), "f", now_us=60_000_000_000)
        await collected(opened, some_rows(2), "f", now_us=100_000_000_000)  # the oldest was left alone for a day
        with pytest.raises(NotFound):
            await opened.read(lambda connection: drafts.rows_of_draft(connection, "d"))
