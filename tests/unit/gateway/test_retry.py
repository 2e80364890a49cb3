"""Retry: which failures another replica may make good, how often, and who is left alone."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.gateway import Backend, Replica, RouteSettings, State
from meshcast.gateway.allowance import Allowance
from meshcast.gateway.contracts import Idempotency, MethodContract, MethodKind
from meshcast.gateway.exchange import Answer, Exchange, TryFailed
from meshcast.gateway.policy import MethodPolicy, Tries
from meshcast.gateway.retry import Retry, RetrySettings, may_try_again
from meshcast.rpc import MeshError, NotFound, NotReady, Overloaded
from meshcast.rpc.status import trailers

SERVICE = "acme.EchoService"
UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
SETTINGS = RetrySettings(backoff_s=0.0)
NOT_CONNECTED = "failed to connect to all addresses; last error: refused"


def ended(code: grpc.StatusCode, details: str = "", *trailing: tuple[str, str | bytes]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)


def told(error: MeshError) -> grpc.aio.AioRpcError:
    return ended(error.code, error.message, *trailers(error))


DRAINING = told(NotReady("draining", reason=ErrorReason.ERROR_REASON_DRAINING))


def backend(count: int) -> Backend:
    made = Backend("echo", RouteSettings(services=(SERVICE,)), random.Random(7))
    for number in range(count):
        channel: Any = None
        replica = made.replicas[f"r{number}:1"] = Replica(f"r{number}:1", channel)
        replica.problem = ""
        replica.services = {"": State.SERVING, SERVICE: State.SERVING}
    made.refresh()
    return made


class Script:
    """Asks nobody: fails as it is told, then answers.

    Attributes:
        asked: endpoints that were asked.
    """

    def __init__(self, *failures: grpc.aio.AioRpcError) -> None:
        self.asked: list[str] = []
        self._failures = list(failures)

    async def __call__(self, exchange: Exchange, replica: Replica) -> Answer:
        self.asked.append(replica.endpoint)
        exchange.attempts += 1
        if self._failures:
            raise TryFailed(self._failures.pop(0), replica.endpoint)
        return Answer(b"answer", endpoint=replica.endpoint)


def retrying(
    script: Script,
    to: Backend,
    *,
    tries: Tries = Tries.RETRIED,
    idempotency: Idempotency = Idempotency.IDEMPOTENT,
    settings: RetrySettings = SETTINGS,
) -> Callable[[], Any]:
    policy = MethodPolicy(
        contract=MethodContract(f"/{SERVICE}/Echo", MethodKind.UNARY, False, idempotency), tries=tries, deadline_s=5.0
    )
    stage = Retry(
        script,
        policy,
        settings,
        Allowance(settings.share_max, settings.burst),
        retry_after_s=0.25,
        rng=random.Random(1),
    )

    async def call() -> Answer:
        now = time.perf_counter()
        return await stage(Exchange(policy, to, b"", (), now, now + 5.0, 0))

    return call


async def test_another_replica_answers_where_one_has_failed() -> None:
    script, to = Script(ended(UNAVAILABLE)), backend(3)
    assert (await retrying(script, to)()).response == b"answer"
    assert len({*script.asked}) == 2
    assert to.load.counts.retries == 1


async def test_the_only_replica_is_asked_again_after_a_pause() -> None:
    script, to = Script(ended(UNAVAILABLE)), backend(1)
    assert (await retrying(script, to)()).response == b"answer"
    assert script.asked == ["r0:1", "r0:1"]


async def test_a_replica_that_leaves_during_the_pause_is_not_asked_again() -> None:
    script, to = Script(ended(UNAVAILABLE)), backend(1)
    asking = asyncio.ensure_future(retrying(script, to, settings=RetrySettings(backoff_s=0.5))())
    while not script.asked:  # noqa: ASYNC110  # until its first try has failed
        await asyncio.sleep(0)
    to.replicas = {"r1:1": backend(2).replicas["r1:1"]}
    to.refresh()
    assert (await asking).endpoint == "r1:1"
    assert script.asked == ["r0:1", "r1:1"]


async def test_tries_are_counted_and_the_last_failure_is_told() -> None:
    script = Script(*[ended(UNAVAILABLE, str(number)) for number in range(9)])
    with pytest.raises(TryFailed) as caught:
        await retrying(script, backend(5))()
    assert len(script.asked) == SETTINGS.attempts_max
    assert caught.value.error.details() == "2"


@pytest.mark.parametrize("tries", [Tries.ONCE, Tries.RETRIED])
async def test_replicas_that_had_not_begun_are_passed_over_without_limit_or_cost(tries: Tries) -> None:
    script, to = Script(ended(UNAVAILABLE, NOT_CONNECTED), DRAINING, DRAINING, DRAINING), backend(5)
    call = retrying(script, to, tries=tries, idempotency=Idempotency.UNKNOWN, settings=RetrySettings(share_max=0.0))
    assert (await call()).response == b"answer"
    assert len({*script.asked}) == 5
    assert to.load.counts.retries == 0


async def test_refusals_of_all_replicas_end_the_call() -> None:
    script = Script(DRAINING, DRAINING, DRAINING)
    with pytest.raises(TryFailed):
        await retrying(script, backend(2))()
    assert len(script.asked) == 2


async def test_a_call_that_may_have_been_begun_is_not_repeated_where_a_repeat_may_harm() -> None:
    script = Script(ended(UNAVAILABLE, "Socket closed"))
    with pytest.raises(TryFailed):
        await retrying(script, backend(3), tries=Tries.ONCE)()
    assert len(script.asked) == 1


async def test_a_broken_mesh_is_soon_asked_once_a_call() -> None:
    script, to = Script(*[ended(UNAVAILABLE)] * 10_000), backend(3)
    call = retrying(script, to)
    for _ in range(1_000):
        with pytest.raises(TryFailed):
            await call()
    assert to.load.counts.retries <= 0.2 * 1_000 + SETTINGS.burst
    assert len(script.asked) == 1_000 + to.load.counts.retries


async def test_a_full_replica_is_left_for_another_where_it_says_when_to_come_back() -> None:
    full = told(Overloaded("full", retry_after_s=0.1))
    script, to = Script(full), backend(2)
    assert (await retrying(script, to)()).response == b"answer"
    assert len({*script.asked}) == 2


@pytest.mark.parametrize(
    "failure", [Overloaded("full", retry_after_s=0.1), NotFound("no", reason=ErrorReason.ERROR_REASON_VERSION_UNKNOWN)]
)
async def test_a_replica_that_is_full_or_has_not_the_version_is_not_asked_again_itself(failure: MeshError) -> None:
    script = Script(told(failure))
    with pytest.raises(TryFailed):
        await retrying(script, backend(1))()
    assert len(script.asked) == 1


@pytest.mark.parametrize("tries", [Tries.ONCE, Tries.RETRIED])
async def test_a_version_that_one_replica_has_not_is_asked_of_another(tries: Tries) -> None:
    script, to = Script(told(NotFound("no", reason=ErrorReason.ERROR_REASON_VERSION_UNKNOWN))), backend(2)
    assert (await retrying(script, to, tries=tries)()).response == b"answer"
    assert len({*script.asked}) == 2
    to, script = backend(2), Script(told(NotFound("no", reason=ErrorReason.ERROR_REASON_MODEL_UNKNOWN)))
    with pytest.raises(TryFailed):
        await retrying(script, to, tries=tries)()
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ended(EXHAUSTED), False),
        (ended(EXHAUSTED, "", ("grpc-retry-pushback-ms", "20")), True),
        (ended(EXHAUSTED, "", ("grpc-retry-pushback-ms", "-1")), False),
        (ended(EXHAUSTED, "", ("grpc-retry-pushback-ms", "soon")), False),
        (told(Overloaded("too large", reason=ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE)), False),
        (told(NotReady("it cannot reach another (failed to connect to all addresses)")), True),
        (ended(grpc.StatusCode.CANCELLED), True),
        (ended(grpc.StatusCode.INVALID_ARGUMENT), False),
        (ended(grpc.StatusCode.INTERNAL), False),
        (ended(grpc.StatusCode.DEADLINE_EXCEEDED), False),
    ],
)
def test_what_another_replica_would_answer_in_the_same_way_is_not_repeated(
    error: grpc.aio.AioRpcError, again: bool
) -> None:
    assert may_try_again(error, is_idempotent=True) is again
    assert not may_try_again(error, is_idempotent=False)


async def test_without_any_replica_the_call_is_refused_with_a_time_to_come_back() -> None:
    with pytest.raises(NotReady, match="no replica of echo") as caught:
        await retrying(Script(), backend(0))()
    assert caught.value.retry_after_s == 0.25


@pytest.mark.parametrize("change", [{"attempts_max": 0}, {"share_max": float("nan")}, {"burst": 0}, {"backoff_s": 9.0}])
def test_settings_that_cannot_work_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"retry.{next(iter(change))}"):
        RetrySettings(**change)
