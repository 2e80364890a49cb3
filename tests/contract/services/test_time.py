"""Time: deadlines that pass while a question waits, callers that go away, and servers that drain.

Questions wait because the servers here wait for fuller batches, which never come.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from meshcast.api.type.v1 import receipt_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import DeadlineExceeded, MeshError, NotReady, ServingStatus, mesh_errors

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOREVER_MS = 60_000.0


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def patient(case: Any, artefacts: Any, tmp_path_factory: Any, suite: Any) -> AsyncIterator[Any]:
    """A server that waits a minute for fuller batches; only a deadline closes one earlier."""
    folder = tmp_path_factory.mktemp("patient")
    repository = artefacts.repository(folder / "repository", suite.SECOND)
    async with suite.running(case, repository, folder / "state", wait_ms_max=FOREVER_MS) as found:
        yield found


def questions(server: Any, suite: Any) -> list[tuple[str, Any]]:
    """Calls that wait in the queue once they are made: every rpc of the example, and both of the tensor door."""
    peer, case = server.peer, server.case
    single = case.example.single
    tensors = peer.tensor_request(case.tensors(2))
    calls = [
        (single.method, lambda: peer.call(single.method, single.request(1, 0))),
        ("ModelInfer", lambda: peer.oip.ModelInfer(tensors, timeout=suite.CALL_S)),
        ("ModelStreamInfer", lambda: Streamed(peer.oip.ModelStreamInfer(iter([tensors]), timeout=suite.CALL_S))),
    ]
    if case.example.stream is not None:
        chunk = case.example.stream.request(2, 0)
        calls.append((case.example.stream.method, lambda: Streamed(peer.chunks(iter([chunk])))))
    return calls


class Streamed:
    """A stream of which one answer is wanted, as a unary call looks."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._first = asyncio.ensure_future(self._answer())

    def cancel(self) -> None:
        """Goes away."""
        self._call.cancel()

    def __await__(self) -> Any:
        return self._first.__await__()

    async def _answer(self) -> Any:
        (answer,) = [one async for one in self._call]
        return answer


# --- deadlines ---


async def test_a_deadline_that_has_passed_is_told_and_nothing_is_computed(patient: Any) -> None:
    counts = patient.context.batcher.counts
    runs, request = counts.runs, patient.peer.tensor_request(patient.case.tensors(1))
    request.parameters["timeout"].int64_param = 1  # microseconds: it has passed when the request is read
    with pytest.raises(DeadlineExceeded) as caught:
        await patient.peer.infer(request)
    assert caught.value.reason == ErrorReason.ERROR_REASON_DEADLINE_PASSED
    with pytest.raises(DeadlineExceeded):
        await patient.peer.single(timeout_s=-1.0)
    await patient.is_idle()
    assert counts.runs == runs
    for _ in range(20):  # about as long as an answer takes: some are in time, the others are not computed for nothing
        with contextlib.suppress(DeadlineExceeded):
            await patient.peer.single(timeout_s=0.001)
    await patient.is_idle()
    assert counts.executed_after_deadline == 0


async def test_the_tightest_deadline_closes_a_batch_for_all_that_wait_in_it(patient: Any) -> None:
    async def answered(timeout_s: float) -> receipt_pb2.Receipt | None:
        try:
            receipt: receipt_pb2.Receipt = (await patient.peer.single(timeout_s=timeout_s)).receipt
            return receipt
        except DeadlineExceeded:  # on a busy host an answer may cross its deadline
            return None

    for _ in range(8):
        long, short = await asyncio.gather(answered(3.0), answered(0.5))
        await patient.is_idle()
        if long is not None and long.batch_rows == 2:
            break
    assert long is not None
    assert (long.batch_rows, long.batch_close) == (2, receipt_pb2.BATCH_CLOSE_DEADLINE)
    assert long.queue_us < 2_500_000
    if short is not None:
        assert (short.batch_rows, short.batch_close) == (2, receipt_pb2.BATCH_CLOSE_DEADLINE)
        assert 300 <= short.deadline_ms <= 505
        assert not short.deadline_default
    assert patient.context.batcher.counts.executed_after_deadline == 0


# --- callers that go away ---


async def test_a_caller_that_goes_away_leaves_no_row_and_no_task_behind(patient: Any, suite: Any) -> None:
    batcher = patient.context.batcher
    runs = batcher.counts.runs
    for method, make in questions(patient, suite):
        cancelled = batcher.counts.cancelled
        call = make()
        waiting = asyncio.ensure_future(call)
        await suite.until(lambda: batcher.queued_rows > 0)
        rows = batcher.queued_rows
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await patient.is_idle()
        assert batcher.counts.cancelled - cancelled == rows, method
    assert batcher.counts.runs == runs


async def test_a_connection_that_breaks_leaves_nothing_behind(patient: Any, suite: Any) -> None:
    batcher = patient.context.batcher
    broken = suite.channel(patient.server.address, settings=suite.ChannelSettings(plain=True))
    peer = suite.Peer(patient.case, broken)
    waiting = [asyncio.ensure_future(peer.single()) for _ in range(3)]
    await suite.until(lambda: batcher.queued_rows == 3)
    await broken.close()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, asyncio.CancelledError | MeshError | grpc.aio.UsageError)
    await patient.is_idle()


# --- drains ---


async def test_a_drain_answers_what_is_in_flight_and_refuses_what_is_new(start: Any, suite: Any) -> None:
    server = await start(wait_ms_max=1_200.0, drain_delay_s=0.3)
    peer, batcher, spec = server.peer, server.context.batcher, server.case.spec
    names = ("", spec.service_name, f"model/{spec.name}", f"model/{spec.name}/{suite.SECOND}")
    made = questions(server, suite)
    async with peer.watching(*names) as seen:
        in_flight = [(method, asyncio.ensure_future(make())) for method, make in made]
        rows = 1 + 2 * (len(made) - 1)
        await suite.until(lambda: batcher.queued_rows == rows)
        draining = asyncio.create_task(server.server.drain(), name="the drain")
        await suite.until(lambda: server.server.health.status("") is ServingStatus.NOT_SERVING)
        assert not server.server.draining.is_set()  # callers are told to leave before they are refused
        await server.server.draining.wait()
        for ask in (peer.single(), peer.infer(peer.tensor_request(server.case.tensors(1)))):
            with pytest.raises(NotReady) as caught:
                await ask
            assert caught.value.reason == ErrorReason.ERROR_REASON_DRAINING
            assert caught.value.retry_after_s
        for method, call in in_flight:
            with mesh_errors():
                assert await call, method
        await draining
        assert {name: states[-1] for name, states in seen.items()} == dict.fromkeys(names, "NOT_SERVING")
    assert {status.name for status in server.server.health.statuses().values()} == {"NOT_SERVING"}
    await server.is_idle()
