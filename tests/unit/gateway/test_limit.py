"""The stage of the limit: who begins, who waits, who is refused with what words, and that no place is ever lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import grpc.aio
import pytest

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.gateway import Backend, RouteSettings
from meshcast.gateway.concurrency import LimitSettings
from meshcast.gateway.contracts import MethodContract, MethodKind
from meshcast.gateway.exchange import PRIORITY_KEY, Answer, Exchange, TryFailed
from meshcast.gateway.limit import Limit, RouteLimit
from meshcast.gateway.policy import MethodPolicy, Tries
from meshcast.rpc import Overloaded
from meshcast.rpc.status import trailers as trailers_of
from virtual_time import run_virtually

CONTRACT = MethodContract(path="/a.B/C", kind=MethodKind.UNARY, has_receipt=True)
POLICY = MethodPolicy(contract=CONTRACT, tries=Tries.ONCE, deadline_s=1.0)


class Mesh:
    """A route whose service holds every call until it is told how it ends."""

    def __init__(self, **settings: Any) -> None:
        clock = asyncio.get_running_loop().time
        self.route = Backend("echo", RouteSettings(services=("a.B",)))
        self.limit = RouteLimit("echo", LimitSettings(**settings), clock=clock, rng=random.Random(0))
        self.stage = Limit(self._serve, self.limit)
        self.under_way: list[tuple[str, asyncio.Future[Answer]]] = []

    async def _serve(self, exchange: Exchange) -> Answer:
        end: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.under_way.append((exchange.priority.name.lower(), end))
        return await end

    def call(self, priority: str = "normal", *, deadline_s: float = 10.0) -> asyncio.Task[Answer]:
        now = asyncio.get_running_loop().time()
        exchange = Exchange(POLICY, self.route, b"", ((PRIORITY_KEY, priority),), now, now + deadline_s, 0)
        return asyncio.create_task(self.stage(exchange))

    async def end(self, error: Exception | None = None) -> str:
        """Ends the oldest call under way; returns its priority."""
        priority, end = self.under_way.pop(0)
        if error is None:
            end.set_result(Answer(b""))
        else:
            end.set_exception(error)
        await settle()
        return priority

    async def end_all(self) -> None:
        while self.under_way:
            await self.end()
        assert self.limit.concurrency.in_flight == 0
        assert self.limit.waiting == 0


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def virtually(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Runs a test in virtual time."""

    def run() -> None:
        run_virtually(test())

    run.__name__ = test.__name__
    return run


def failure(code: grpc.StatusCode, trailers: grpc.aio.Metadata | None = None) -> TryFailed:
    return TryFailed(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers or grpc.aio.Metadata()), "a:1")


@virtually
async def test_sixty_four_calls_at_once_are_all_answered_by_a_fresh_gateway() -> None:
    mesh = Mesh()
    calls = [mesh.call() for _ in range(64)]
    await settle()
    assert len(mesh.under_way) == 32
    await mesh.end_all()
    assert all(call.result() for call in calls)
    assert not mesh.route.load.counts.shed


@virtually
async def test_those_that_matter_more_go_first() -> None:
    mesh = Mesh(calls_initial=5, headroom=0.2)
    calls = [mesh.call(priority) for priority in ["low"] * 6 + ["normal"] * 6 + ["high"] * 6]
    await settle()
    # Low ones fill their four fifths, normal ones the limit, high ones go one beyond it.
    assert [priority for priority, _ in mesh.under_way] == ["low"] * 4 + ["normal", "high"]
    order = [await mesh.end() for _ in range(18)]
    assert order == ["low"] * 4 + ["normal"] + ["high"] * 6 + ["normal"] * 5 + ["low"] * 2
    await asyncio.gather(*calls)


@virtually
async def test_one_that_cannot_wait_is_refused_at_once_and_told_when_to_come_back() -> None:
    mesh = Mesh(calls_initial=4, waiting_max=1, headroom=0)
    calls = [mesh.call() for _ in range(5)]
    await settle()
    refused = mesh.call("low")
    await settle()
    error = refused.exception()
    assert isinstance(error, Overloaded)
    assert error.reason == ErrorReason.ERROR_REASON_LIMIT_REACHED
    assert error.facts == {"service": "a.B", "priority": "low", "limit": "4"}
    assert error.retry_after_s is not None and 0 < error.retry_after_s < 1
    assert mesh.route.load.counts.shed == {"low": 1}
    await mesh.end_all()
    await asyncio.gather(*calls)


@virtually
async def test_one_that_matters_more_takes_the_place_of_one_that_waits() -> None:
    mesh = Mesh(calls_initial=4, waiting_max=1, headroom=0)
    calls = [mesh.call() for _ in range(4)]
    low = mesh.call("low")
    await settle()
    high = mesh.call("high")
    await settle()
    assert isinstance(low.exception(), Overloaded)
    await mesh.end_all()
    assert high.result()
    await asyncio.gather(*calls)


@virtually
async def test_a_waiting_call_leaves_while_there_is_time_to_ask_elsewhere_and_is_never_sent_on() -> None:
    loop = asyncio.get_running_loop()
    mesh = Mesh(calls_initial=4, headroom=0, wait_share=0.5)
    calls = [mesh.call() for _ in range(4)]
    waiting = mesh.call(deadline_s=2.0)
    with pytest.raises(Overloaded):
        await waiting
    assert loop.time() == pytest.approx(1.0)
    assert len(mesh.under_way) == 4
    await mesh.end_all()
    await asyncio.gather(*calls)


@virtually
async def test_a_call_that_has_no_time_to_wait_is_not_let_wait() -> None:
    loop = asyncio.get_running_loop()
    mesh = Mesh(calls_initial=4, headroom=0)
    for _ in range(10):  # calls take a second
        call = mesh.call()
        await asyncio.sleep(1.0)
        await mesh.end()
        await call
    calls = [mesh.call() for _ in range(4)]
    await settle()
    began = loop.time()
    refused = mesh.call(deadline_s=1.0)
    await settle()
    assert isinstance(refused.exception(), Overloaded)
    assert loop.time() == began
    await mesh.end_all()
    await asyncio.gather(*calls)


@virtually
async def test_a_line_that_does_not_move_takes_nobody_in_who_would_wait_in_vain() -> None:
    mesh = Mesh(calls_initial=4, headroom=0)
    calls = [mesh.call() for _ in range(4)]
    first = mesh.call(deadline_s=2.0)
    await asyncio.sleep(0.9)
    second = mesh.call(deadline_s=1.5)  # it may wait 0.75 s, and the one before it has waited longer
    await settle()
    assert isinstance(second.exception(), Overloaded)
    await mesh.end()
    assert not first.done()
    await mesh.end_all()
    await asyncio.gather(first, *calls)


@virtually
async def test_whoever_leaves_gives_its_place_to_the_next() -> None:
    mesh = Mesh(calls_initial=4, headroom=0)
    calls = [mesh.call() for _ in range(8)]
    await settle()
    calls[5].cancel()  # it waits
    calls[0].cancel()  # it is under way
    await settle()
    assert mesh.limit.waiting == 2
    assert mesh.limit.concurrency.in_flight == 4
    mesh.under_way = [(priority, end) for priority, end in mesh.under_way if not end.cancelled()]
    await mesh.end_all()
    await asyncio.gather(*calls, return_exceptions=True)
    assert [call.cancelled() for call in calls] == [True, False, False, False, False, True, False, False]


@virtually
async def test_one_that_is_cancelled_as_its_turn_comes_passes_it_on() -> None:
    mesh = Mesh(calls_initial=4, headroom=0)
    calls = [mesh.call() for _ in range(6)]
    await settle()
    _, end = mesh.under_way.pop(0)
    end.set_result(Answer(b""))
    while not mesh.limit.waiting == 1:  # noqa: ASYNC110  # until the turn is given, and not one step further
        await asyncio.sleep(0)
    calls[4].cancel()
    await settle()
    assert len(mesh.under_way) == 4
    assert mesh.limit.concurrency.in_flight == 4
    await mesh.end_all()
    assert calls[4].cancelled() and calls[5].result()


@virtually
async def test_one_that_leaves_as_a_place_falls_free_is_passed_over() -> None:
    mesh = Mesh(calls_initial=4, headroom=0)
    calls = [mesh.call() for _ in range(7)]
    await settle()
    mesh.under_way.pop(0)[1].set_result(Answer(b""))  # both in one turn of the loop, the end first
    calls[4].cancel()
    await settle()
    assert calls[0].result() and calls[4].cancelled()
    assert mesh.limit.concurrency.in_flight == len(mesh.under_way) == 4
    assert mesh.limit.waiting == 1
    await mesh.end_all()
    assert calls[5].result() and calls[6].result()


@virtually
async def test_every_end_gives_the_place_back() -> None:
    mesh = Mesh(calls_initial=4, headroom=0)
    for error in (failure(grpc.StatusCode.UNAVAILABLE), ValueError("a bug"), Overloaded("full"), None):
        call = mesh.call()
        await settle()
        await mesh.end(error)
        assert call.exception() is error
        assert mesh.limit.concurrency.in_flight == 0


async def _limit_after(error: TryFailed, *, took_s: float) -> float:
    mesh = Mesh(calls_initial=20)
    for _ in range(20):  # calls take 0.1 s
        call = mesh.call()
        await asyncio.sleep(0.1)
        await mesh.end()
        await call
    for _ in range(20):
        call = mesh.call()
        await asyncio.sleep(took_s)
        await mesh.end(error)
        assert call.exception() is error
    return mesh.limit.concurrency.limit


@virtually
async def test_a_service_that_refuses_calls_gets_fewer() -> None:
    error = failure(grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert await _limit_after(error, took_s=0.06) < 10


@virtually
async def test_deadlines_that_pass_lower_the_limit() -> None:
    error = failure(grpc.StatusCode.DEADLINE_EXCEEDED)
    assert await _limit_after(error, took_s=1.0) < 5


@virtually
async def test_deadlines_that_were_too_short_say_nothing() -> None:
    error = failure(grpc.StatusCode.DEADLINE_EXCEEDED)
    assert await _limit_after(error, took_s=0.06) == 20


@virtually
async def test_a_message_that_is_too_large_says_nothing_of_the_load() -> None:
    too_large = Overloaded("too large", reason=ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE)
    trailers = grpc.aio.Metadata(*trailers_of(too_large))
    assert await _limit_after(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, trailers), took_s=0.06) == 20
