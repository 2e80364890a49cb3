"""The bulkhead: a bound that holds for calls and chunks together, and gives every place back."""

from __future__ import annotations

import asyncio

import pytest

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.gateway import Backend, RouteSettings
from meshcast.gateway.bulkhead import Bulkhead, BulkheadGate, BulkheadSettings
from meshcast.gateway.contracts import MethodContract, MethodKind
from meshcast.gateway.exchange import PRIORITY_KEY, Answer, Exchange
from meshcast.gateway.policy import MethodPolicy, Tries
from meshcast.rpc import Overloaded

CONTRACT = MethodContract(path="/a.B/C", kind=MethodKind.UNARY, has_receipt=True)
POLICY = MethodPolicy(contract=CONTRACT, tries=Tries.ONCE, deadline_s=1.0)


def test_it_is_full_at_its_bound() -> None:
    bulkhead = Bulkhead("echo", BulkheadSettings(calls_max=2, retry_after_s=0.5))
    bulkhead.in_use = 1
    assert not bulkhead.is_full
    bulkhead.check("a.B")
    bulkhead.in_use = 2
    assert bulkhead.is_full
    with pytest.raises(Overloaded) as refused:
        bulkhead.check("a.B")
    assert refused.value.reason == ErrorReason.ERROR_REASON_LIMIT_REACHED
    assert refused.value.facts == {"service": "a.B", "priority": "normal", "limit": "2"}
    assert refused.value.retry_after_s == 0.5


async def test_calls_and_chunks_share_the_places() -> None:
    route = Backend("echo", RouteSettings(services=("a.B",)))
    bulkhead = Bulkhead("echo", BulkheadSettings(calls_max=3))
    held = asyncio.Event()

    async def service(exchange: Exchange) -> Answer:
        await held.wait()
        if exchange.request:
            raise ValueError("a bug")
        return Answer(b"")

    gate = BulkheadGate(service, bulkhead)

    def exchange(request: bytes = b"") -> Exchange:
        return Exchange(POLICY, route, request, ((PRIORITY_KEY, "low"),), 0.0, 1.0, 0)

    bulkhead.in_use += 1  # a chunk
    calls = [asyncio.create_task(gate(exchange(request))) for request in (b"", b"x")]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await gate(exchange())
    assert route.load.counts.shed == {"low": 1}
    held.set()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(ends[0], Answer) and isinstance(ends[1], ValueError)
    assert bulkhead.in_use == 1


async def test_a_call_that_is_cancelled_gives_its_place_back() -> None:
    bulkhead = Bulkhead("echo", BulkheadSettings())

    async def service(exchange: Exchange) -> Answer:
        await asyncio.Event().wait()
        return Answer(b"")

    route = Backend("echo", RouteSettings(services=("a.B",)))
    call = asyncio.create_task(BulkheadGate(service, bulkhead)(Exchange(POLICY, route, b"", (), 0.0, 1.0, 0)))
    await asyncio.sleep(0)
    assert bulkhead.in_use == 1
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert bulkhead.in_use == 0


@pytest.mark.parametrize("change", [{"calls_max": 0}, {"retry_after_s": -1.0}])
def test_settings_that_cannot_work_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"bulkhead\."):
        BulkheadSettings(**change)  # type: ignore[arg-type]
