"""Single flight: who asks, who waits, and whom a cancellation, a deadline or a failure concerns."""

from __future__ import annotations

import asyncio
import time

import grpc
import grpc.aio
import pytest

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.gateway import Backend, RouteSettings
from meshcast.gateway.contracts import MethodContract, MethodKind
from meshcast.gateway.exchange import PRIORITY_KEY, Answer, Exchange, TryFailed
from meshcast.gateway.policy import MethodPolicy, Tries
from meshcast.gateway.single_flight import SingleFlight
from meshcast.rpc import DeadlineExceeded, MeshError, NotReady, Overloaded

CONTRACT = MethodContract(path="/a.B/C", kind=MethodKind.UNARY, has_receipt=True)
POLICY = MethodPolicy(contract=CONTRACT, tries=Tries.HEDGED, deadline_s=60.0, cache_ttl_s=60.0)
HOUR_S = 3600.0


class Service:
    """The next stage: keeps each call until it is told how it ends."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[Answer]] = []

    async def __call__(self, exchange: Exchange) -> Answer:
        call: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.calls.append(call)
        return await call


def exchange(to: Backend, request: bytes = b"", *, deadline_s: float = HOUR_S, priority: str = "normal") -> Exchange:
    now = time.perf_counter()
    return Exchange(POLICY, to, request, ((PRIORITY_KEY, priority),), now, now + deadline_s, 0)


def failure(code: grpc.StatusCode) -> TryFailed:
    return TryFailed(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata()), "a:1")


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def route() -> Backend:
    return Backend("echo", RouteSettings(services=("a.B",)))


@pytest.fixture
def service() -> Service:
    return Service()


async def test_equal_questions_are_one_call(route: Backend, service: Service) -> None:
    stage = SingleFlight(service)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stage(exchange(route))) for _ in range(64)]
        await settle()
        assert len(service.calls) == 1
        service.calls[0].set_result(Answer(b"answer", trailers=(("t", "1"),), endpoint="a:1"))
    answers = [task.result() for task in tasks]
    assert {answer.response for answer in answers} == {b"answer"}
    assert [answer.from_cache for answer in answers] == [False] + [True] * 63
    assert not any(answer.trailers for answer in answers[1:])
    assert route.load.counts.shared == 63
    assert not stage._flights


async def test_other_questions_and_other_priorities_are_calls_of_their_own(route: Backend, service: Service) -> None:
    stage = SingleFlight(service)
    async with asyncio.TaskGroup() as group:
        for each in (exchange(route), exchange(route, b"x"), exchange(route, priority="high")):
            group.create_task(stage(each))
        await settle()
        assert len(service.calls) == 3
        for call in service.calls:
            call.set_result(Answer(b""))


async def test_one_that_waits_for_a_restart_does_not_fail_with_one_that_does_not(
    route: Backend, service: Service
) -> None:
    stage = SingleFlight(service)
    hasty = exchange(route)
    hasty.is_hasty = True
    first, patient = asyncio.create_task(stage(hasty)), asyncio.create_task(stage(exchange(route)))
    await settle()
    service.calls[0].set_exception(NotReady("nobody is there"))
    service.calls[1].set_result(Answer(b"answer"))
    assert (await patient).response == b"answer"
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], NotReady)


async def test_the_next_question_after_an_answer_asks_anew(route: Backend, service: Service) -> None:
    stage = SingleFlight(service)
    for turn in range(2):
        task = asyncio.create_task(stage(exchange(route)))
        await settle()
        service.calls[turn].set_result(Answer(b""))
        await task
    assert len(service.calls) == 2


async def test_one_that_leaves_hands_over_to_the_next(route: Backend, service: Service) -> None:
    stage = SingleFlight(service)
    leader = asyncio.create_task(stage(exchange(route)))
    await settle()
    followers = [asyncio.create_task(stage(exchange(route))) for _ in range(3)]
    await settle()
    leader.cancel()
    await settle()
    assert leader.cancelled() and service.calls[0].cancelled()
    assert len(service.calls) == 2
    service.calls[1].set_result(Answer(b"answer"))
    answers = await asyncio.gather(*followers)
    assert [answer.from_cache for answer in answers] == [False, True, True]


async def test_a_follower_that_leaves_concerns_nobody(route: Backend, service: Service) -> None:
    stage = SingleFlight(service)
    tasks = [asyncio.create_task(stage(exchange(route))) for _ in range(3)]
    await settle()
    tasks[1].cancel()
    await settle()
    assert tasks[1].cancelled() and not tasks[0].done() and not tasks[2].done()
    assert [len(waiters) for waiters in stage._flights.values()] == [1]
    service.calls[0].set_result(Answer(b""))
    await asyncio.gather(tasks[0], tasks[2])


async def test_all_may_leave(route: Backend, service: Service) -> None:
    stage = SingleFlight(service)
    tasks = [asyncio.create_task(stage(exchange(route))) for _ in range(3)]
    await settle()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)
    assert len(service.calls) == 1
    assert not stage._flights


async def test_a_follower_keeps_its_own_deadline(route: Backend, service: Service) -> None:
    stage = SingleFlight(service)
    leader = asyncio.create_task(stage(exchange(route)))
    await settle()
    with pytest.raises(DeadlineExceeded) as refused:
        await stage(exchange(route, deadline_s=0.0))
    assert refused.value.facts == {"where": "gateway"}
    service.calls[0].set_result(Answer(b""))
    await leader


async def test_a_failure_is_everyones(route: Backend, service: Service) -> None:
    stage = SingleFlight(service)
    tasks = [asyncio.create_task(stage(exchange(route))) for _ in range(4)]
    await settle()
    service.calls[0].set_exception(failure(grpc.StatusCode.INVALID_ARGUMENT))
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, TryFailed) and end.endpoint == "a:1" for end in ends)
    assert len({id(end) for end in ends}) == 4  # each raises its own
    assert len(service.calls) == 1


async def test_a_failure_of_the_gateways_own_keeps_what_it_says(route: Backend, service: Service) -> None:
    stage = SingleFlight(service)
    tasks = [asyncio.create_task(stage(exchange(route))) for _ in range(2)]
    await settle()
    refused = NotReady("no", reason=ErrorReason.ERROR_REASON_CIRCUIT_OPEN, retry_after_s=1.5, service="a.B")
    service.calls[0].set_exception(refused)
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        assert isinstance(end, NotReady)
        assert (end.message, end.reason, end.facts, end.retry_after_s) == (
            *("no", ErrorReason.ERROR_REASON_CIRCUIT_OPEN, {"service": "a.B"}),
            1.5,
        )


@pytest.mark.parametrize(
    "end",
    [
        failure(grpc.StatusCode.DEADLINE_EXCEEDED),
        failure(grpc.StatusCode.CANCELLED),
        DeadlineExceeded("too late"),
        Overloaded("no", reason=ErrorReason.ERROR_REASON_LIMIT_REACHED),
        ValueError("a bug"),
    ],
    ids=["deadline", "cancelled", "own deadline", "limit", "bug"],
)
async def test_what_ended_one_call_alone_is_asked_again_by_the_next(
    end: TryFailed | MeshError | ValueError, route: Backend, service: Service
) -> None:
    stage = SingleFlight(service)
    tasks = [asyncio.create_task(stage(exchange(route))) for _ in range(3)]
    await settle()
    service.calls[0].set_exception(end)
    await settle()
    assert tasks[0].exception() is end
    assert len(service.calls) == 2
    service.calls[1].set_result(Answer(b"answer"))
    assert [answer.response for answer in await asyncio.gather(*tasks[1:])] == [b"answer"] * 2
