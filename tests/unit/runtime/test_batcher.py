"""The batcher over a session that computes y = x + version, and that a test can hold and fail."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.api.type.v1 import error_reason_pb2, receipt_pb2
from meshcast.rpc import Deadline, DeadlineExceeded, InvalidInput, NotFound, NotReady, Overloaded
from meshcast.runtime import (
    HIGH,
    LOW,
    NORMAL,
    Answer,
    Arrays,
    Batcher,
    Batching,
    RowGroup,
    RunFailed,
    Signature,
    TapRecord,
    TensorSpec,
    Versions,
)
from meshcast.runtime.versions import LoadedVersion

SIGNATURE = Signature(inputs=(TensorSpec(name="x", shape=(2,)),), outputs=(TensorSpec(name="y"),), rows_max=8)


class AddVersion:
    """y = sum of x + version; each run waits until `go` is set."""

    def __init__(self, version: int) -> None:
        self.backend = "test/cpu/f32"
        self.version = version
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.runs: list[NDArray[Any]] = []
        self.fails = 0
        self.run_s = 0.0
        self.is_closed = False

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        assert not self.is_closed
        self.runs.append(arrays["x"])
        self.entered.set()
        self.go.wait(10)
        time.sleep(self.run_s)
        if self.fails:
            self.fails -= 1
            raise RuntimeError("secret of a library")
        return {"y": arrays["x"].sum(axis=1) + np.float32(self.version)}

    def buckets(self, rows_max: int) -> tuple[int, ...]:
        return (rows_max,)

    @property
    def is_shaped(self) -> bool:
        return False

    def worth(self, rows: int, cells: int) -> int:
        return rows

    def warm(self, arrays: Arrays) -> None:
        self.run(arrays)

    def close(self) -> None:
        self.is_closed = True


class Bench:
    """A batcher with version 1 live."""

    def __init__(self, batcher: Batcher, versions: Versions, sessions: dict[int, AddVersion]) -> None:
        self.batcher, self.versions, self.sessions = batcher, versions, sessions

    @property
    def session(self) -> AddVersion:
        return self.sessions[1]

    def add(self, version: int) -> AddVersion:
        session = self.sessions[version] = AddVersion(version)
        self.versions.publish(version, session)
        return session

    async def submit(self, values: NDArray[np.float32], *, after_s: float = 30.0, **options: Any) -> Answer:
        return await self.batcher.submit({"x": values}, rows=len(values), deadline=Deadline.after(after_s), **options)

    def later(self, rows: int = 1, value: float = 0.0, **options: Any) -> asyncio.Task[Answer]:
        values = np.full((rows, 2), value, np.float32)
        return asyncio.get_running_loop().create_task(self.submit(values, **options))

    def let_go(self) -> None:
        for session in self.sessions.values():
            session.go.set()

    async def hold(self, session: AddVersion | None = None) -> asyncio.Task[Answer]:
        """Keeps the only run slot busy until `go` is set."""
        session = session or self.session
        session.go.clear()
        session.entered.clear()
        task = self.later(value=-1.0)
        await asyncio.to_thread(session.entered.wait, 10)
        session.runs.clear()
        return task


Make = Callable[..., Any]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def start(*, taps: tuple[Callable[[TapRecord], None], ...] = (), **batching: Any) -> Bench:
            sessions: dict[int, AddVersion] = {}
            versions = Versions("add", lambda loaded: loaded.session.close())
            batcher = Batcher(
                model="add", signature=SIGNATURE, versions=versions, batching=Batching(**batching), taps=taps
            )
            bench = Bench(batcher, versions, sessions)
            bench.add(1)
            versions.make_live(1)
            await stack.enter_async_context(batcher)
            stack.callback(bench.let_go)
            return bench

        yield start


async def test_an_answer_says_how_it_came_about(make: Make) -> None:
    bench = await make()
    answer = await bench.submit(np.ones((3, 2), np.float32))
    assert answer.outputs["y"].tolist() == [3.0, 3.0, 3.0]
    facts = answer.facts
    assert (facts.model, facts.version, facts.backend) == ("add", 1, "test/cpu/f32")
    assert (facts.batch_rows, facts.batch_doors, facts.batch_close) == (3, 1, receipt_pb2.BATCH_CLOSE_IDLE)
    assert facts.queue_us >= 0 and facts.compute_us >= 0


async def test_a_full_chunk_is_run_without_a_copy(make: Make) -> None:
    bench = await make()
    values = np.ones((8, 2), np.float32)
    answer = await bench.submit(values)
    assert bench.session.runs[0] is values
    assert answer.facts.batch_close == receipt_pb2.BATCH_CLOSE_FULL


async def test_rows_of_two_doors_share_a_batch_and_each_caller_gets_its_own(make: Make) -> None:
    bench = await make()
    held = await bench.hold()
    tasks = [bench.later(value=float(k), door=("typed", "oip")[k % 2]) for k in range(4)]
    await asyncio.sleep(0)
    bench.session.go.set()
    answers = await asyncio.gather(*tasks)
    assert [answer.outputs["y"].tolist() for answer in answers] == [[1.0], [3.0], [5.0], [7.0]]
    assert {(answer.facts.batch_rows, answer.facts.batch_doors) for answer in answers} == {(4, 2)}
    assert bench.batcher.counts.mixed == 1
    await held


async def test_a_large_question_takes_several_runs_of_one_version(make: Make) -> None:
    bench = await make()
    second = bench.add(2)
    bench.session.go.clear()
    values = np.arange(40, dtype=np.float32).reshape(20, 2)
    task = asyncio.create_task(bench.submit(values))
    await asyncio.to_thread(bench.session.entered.wait, 10)
    bench.versions.make_live(2)  # in the middle of it
    bench.versions.retire(1)
    bench.session.go.set()
    answer = await task
    assert answer.outputs["y"].tolist() == (values.sum(axis=1) + 1).tolist()
    assert [len(run) for run in bench.session.runs] == [8, 8, 4]
    assert (answer.facts.version, answer.facts.batch_rows) == (1, 8)
    assert not second.runs
    assert (await bench.submit(values[:1])).facts.version == 2
    assert bench.session.is_closed


async def test_a_device_that_takes_larger_batches_gets_them(make: Make) -> None:
    bench = await make()
    bench.batcher.resize(32)
    answer = await bench.submit(np.ones((20, 2), np.float32))
    assert answer.facts.batch_rows == 20 and len(bench.session.runs) == 1
    bench.batcher.resize(8)
    assert (await bench.submit(np.ones((20, 2), np.float32))).facts.batch_rows == 8


async def test_a_retired_version_closes_when_its_last_run_has_ended(make: Make) -> None:
    bench = await make()
    bench.add(2)
    held = await bench.hold()
    bench.versions.make_live(2)
    bench.versions.retire(1)
    assert not bench.session.is_closed
    bench.session.go.set()
    assert (await held).facts.version == 1
    assert bench.session.is_closed


async def test_a_version_can_be_asked_for_and_an_unknown_one_is_refused(make: Make) -> None:
    bench = await make()
    bench.add(2)
    values = np.zeros((1, 2), np.float32)
    assert (await bench.submit(values, version=2)).facts.version == 2
    assert (await bench.submit(values)).facts.version == 1
    with pytest.raises(NotFound) as caught:
        await bench.submit(values, version=9)
    assert caught.value.reason == error_reason_pb2.ERROR_REASON_VERSION_UNKNOWN


async def test_rows_of_different_versions_never_share_a_batch(make: Make) -> None:
    bench = await make()
    bench.add(2)
    held = await bench.hold()
    tasks = [bench.later(value=float(k), version=1 + k % 2) for k in range(6)] + [bench.later(value=6.0)]
    await asyncio.sleep(0)
    bench.session.go.set()
    for k, answer in enumerate(await asyncio.gather(*tasks)):
        version = 1 if k == 6 else 1 + k % 2
        assert answer.facts.version == version
        assert answer.outputs["y"].tolist() == [2.0 * k + version]
        assert answer.facts.batch_rows == (4 if version == 1 else 3)  # the live one joins those that name it
    await held


async def test_a_full_queue_refuses_every_class_and_says_when_to_retry(make: Make) -> None:
    bench = await make(queue_rows_max=10)
    held = await bench.hold()
    waiting = bench.later(rows=8)
    await asyncio.sleep(0)
    for priority in (HIGH, NORMAL, LOW):
        with pytest.raises(Overloaded) as caught:
            await bench.submit(np.zeros((3, 2), np.float32), priority=priority)
        assert caught.value.reason == error_reason_pb2.ERROR_REASON_QUEUE_FULL
        assert caught.value.retry_after_s is not None and caught.value.retry_after_s > 0
        assert caught.value.facts == {"model": "add", "rows_max": "10"}
    with pytest.raises(InvalidInput, match="queue_rows_max"):
        await bench.submit(np.zeros((11, 2), np.float32))
    assert bench.batcher.queued_rows == 8
    bench.session.go.set()
    await asyncio.gather(held, waiting)
    assert bench.batcher.counts.refused == 20


def groups_of(*positions: list[int]) -> list[RowGroup]:
    """Groups of a question whose row k holds k twice."""
    return [
        RowGroup(np.array(places), {"x": np.repeat(np.array(places, np.float32)[:, None], 2, axis=1)})
        for places in positions
    ]


async def test_a_question_of_several_groups_is_answered_in_its_order_by_one_version(make: Make) -> None:
    bench = await make()
    bench.add(2)
    held = await bench.hold()
    asked = bench.batcher.submit_groups(groups_of([3, 0], [1, 4], [2]), deadline=Deadline.after(30.0))
    task = asyncio.create_task(asked)
    await asyncio.sleep(0)
    bench.versions.make_live(2)  # between its being asked and its run
    bench.session.go.set()
    answer = await task
    assert answer.outputs["y"].tolist() == [1.0, 3.0, 5.0, 7.0, 9.0]
    assert answer.facts.version == 1
    await held


async def test_a_question_of_several_groups_is_taken_whole_or_not_at_all(make: Make) -> None:
    bench = await make(queue_rows_max=10)
    held = await bench.hold()

    def ask(*positions: list[int], **options: Any) -> asyncio.Task[Answer]:
        asked = bench.batcher.submit_groups(groups_of(*positions), deadline=Deadline.after(30.0), **options)
        return asyncio.get_running_loop().create_task(asked)

    first = ask([0, 1, 2], [3, 4, 5])
    with pytest.raises(Overloaded):
        await ask([0, 1, 2], [3, 4, 5])
    with pytest.raises(NotFound):
        await ask([0], [1], version=9)
    with pytest.raises(InvalidInput, match="queue_rows_max"):
        await ask(list(range(6)), list(range(6, 11)))
    assert bench.batcher.queued_rows == 6
    gone = ask([0, 1], [2])
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert bench.batcher.queued_rows == 6
    bench.session.go.set()
    assert (await first).outputs["y"].tolist() == [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]
    await held
    bench.session.fails = 2
    with pytest.raises(RunFailed):
        await ask(list(range(8)), [8])  # two runs, and both fail
    await bench.batcher.settle()
    assert bench.versions.loaded[0].leases == 0


async def test_rows_whose_deadline_passed_are_never_computed(make: Make) -> None:
    bench = await make()
    with pytest.raises(DeadlineExceeded):
        await bench.submit(np.zeros((1, 2), np.float32), after_s=0.0)
    held = await bench.hold()
    late = [bench.later(after_s=0.005), bench.later(rows=20, after_s=0.005), bench.later(value=1.0)]
    await asyncio.sleep(0.02)
    bench.session.go.set()
    outcomes = await asyncio.gather(*late, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded, DeadlineExceeded, Answer]
    assert [run.tolist() for run in bench.session.runs] == [[[1.0, 1.0]]]
    counts = bench.batcher.counts
    assert (counts.expired, counts.executed_after_deadline) == (22, 0)
    await held


async def test_high_priority_goes_first(make: Make) -> None:
    bench = await make(rows_max=1)
    held = await bench.hold()
    tasks = [bench.later(value=float(k), priority=priority) for k, priority in enumerate((LOW, NORMAL, HIGH))]
    await asyncio.sleep(0)
    bench.session.go.set()
    await asyncio.gather(*tasks, held)
    assert [run[0, 0] for run in bench.session.runs] == [2.0, 1.0, 0.0]


async def test_rows_of_a_caller_that_has_gone_are_not_computed(make: Make) -> None:
    bench = await make()
    held = await bench.hold()
    gone, stays = bench.later(value=1.0), bench.later(value=2.0)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert bench.batcher.queued_rows == 1
    bench.session.go.set()
    await asyncio.gather(held, stays)
    assert [run.tolist() for run in bench.session.runs] == [[[2.0, 2.0]]]
    assert bench.batcher.counts.cancelled == 1


async def test_a_failed_run_is_told_to_its_callers_and_the_next_one_works(make: Make) -> None:
    bench = await make()
    bench.session.fails = 1
    with pytest.raises(RunFailed) as caught:
        await bench.submit(np.zeros((1, 2), np.float32))
    assert "secret" not in str(caught.value)
    assert (await bench.submit(np.zeros((1, 2), np.float32))).facts.version == 1


async def test_a_failed_part_fails_the_whole_question_once(make: Make) -> None:
    bench = await make()
    bench.session.fails = 2
    with pytest.raises(RunFailed):
        await bench.submit(np.zeros((20, 2), np.float32))
    await bench.batcher.settle()
    bench.session.fails = 0
    assert len((await bench.submit(np.zeros((20, 2), np.float32))).outputs["y"]) == 20


async def test_without_a_live_version_waiting_rows_are_told_so(make: Make) -> None:
    bench = await make()
    held = await bench.hold()
    waiting = bench.later()
    await asyncio.sleep(0)
    bench.versions.make_live(0)
    bench.session.go.set()
    with pytest.raises(NotReady):
        await waiting
    await held


async def test_a_drain_answers_what_is_in_and_refuses_the_rest(make: Make) -> None:
    bench = await make(wait_ms_max=60_000)
    held = bench.later(rows=2)
    await asyncio.sleep(0)
    draining = asyncio.create_task(bench.batcher.drain())
    await asyncio.sleep(0)
    with pytest.raises(NotReady) as caught:
        await bench.submit(np.zeros((1, 2), np.float32))
    assert caught.value.reason == error_reason_pb2.ERROR_REASON_DRAINING
    assert (await held).facts.batch_close == receipt_pb2.BATCH_CLOSE_DRAIN
    await draining


async def test_a_batch_waits_for_more_rows_until_the_limit_the_deadline_or_its_size(make: Make) -> None:
    bench = await make(wait_ms_max=100)
    answers = await asyncio.gather(bench.later(), bench.later())
    assert {(answer.facts.batch_rows, answer.facts.batch_close) for answer in answers} == {
        (2, receipt_pb2.BATCH_CLOSE_WAIT)
    }
    full = await asyncio.gather(*[bench.later() for _ in range(8)])
    assert {answer.facts.batch_close for answer in full} == {receipt_pb2.BATCH_CLOSE_FULL}
    patient = await make(wait_ms_max=60_000)
    # It learns that runs are slow, and closes that much before the deadline: time for a busy machine to wake the slot.
    patient.batcher.resize(1)
    patient.session.run_s = 0.2
    await patient.submit(np.zeros((1, 2), np.float32))
    patient.batcher.resize(250)  # 250 rows x a tenth of .2 s: 5 s before
    patient.session.run_s = 0.0
    answer = await patient.submit(np.zeros((1, 2), np.float32), after_s=5.2)
    assert answer.facts.batch_close == receipt_pb2.BATCH_CLOSE_DEADLINE


async def test_taps_see_every_run_with_its_inputs_and_outputs(make: Make) -> None:
    records: list[TapRecord] = []
    bench = await make(taps=(records.append,))
    for value in range(3):
        await bench.submit(np.full((1, 2), value, np.float32))
    assert [record.inputs["x"].tolist() for record in records] == [[[0.0, 0.0]], [[1.0, 1.0]], [[2.0, 2.0]]]
    assert [record.outputs["y"].tolist() for record in records] == [[1.0], [3.0], [5.0]]
    assert {(record.model, record.version, record.rows) for record in records} == {("add", 1, 1)}


async def test_twice_the_load_that_it_can_bear_computes_nothing_after_its_deadline(make: Make) -> None:
    bench = await make(queue_rows_max=64, runs_max=2)
    rng = random.Random(0)
    bench.session.run_s = 0.002
    outcomes: list[object] = []

    async def caller() -> None:
        for _ in range(20):
            rows = rng.choice((1, 3, 8, 20))
            values = np.full((rows, 2), rng.random(), np.float32)
            try:
                answer = await bench.submit(values, after_s=rng.uniform(0.0, 0.01), priority=rng.choice((HIGH, LOW)))
                assert np.allclose(answer.outputs["y"], values.sum(axis=1) + 1)
                outcomes.append(Answer)
            except (Overloaded, DeadlineExceeded) as error:
                outcomes.append(type(error))
                await asyncio.sleep(0.001)

    await asyncio.gather(*[caller() for _ in range(16)])
    assert len(outcomes) == 320
    assert {Answer, DeadlineExceeded} <= set(outcomes)
    assert bench.batcher.counts.executed_after_deadline == 0
    await bench.batcher.settle()
    assert bench.batcher.queued_rows == 0
    assert bench.versions.loaded[0].leases == 0


def test_a_lease_keeps_a_retired_version_open() -> None:
    closed: list[LoadedVersion] = []
    versions = Versions("m", closed.append)
    versions.publish(1, AddVersion(1))
    versions.make_live(1)
    lease = versions.acquire()
    versions.retain(lease)
    versions.make_live(0)
    versions.retire(1)
    versions.release(lease)
    assert not closed
    versions.release(lease)
    assert closed == [lease]
    with pytest.raises(NotReady):
        versions.acquire()
