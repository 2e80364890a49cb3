"""Hedging over real servers: who is asked, who wins, what is cancelled, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshcast.gateway.breaker import BreakerSettings, BreakerState, Outcome
from meshcast.gateway.exchange import Answer, Exchange, TryFailed
from meshcast.gateway.hedge import HedgeSettings
from meshcast.gateway.retry import RetrySettings
from planned_replicas import FOREVER_S, SERVICE, Plan, Planned, planned

OK: tuple[float, str] = (0.0, "OK")
STALLED: tuple[float, str] = (FOREVER_S, "OK")
NO_HEDGES = HedgeSettings(share_max=0.0, burst=0, first_delay_ms=10.0)


async def ask_first(mesh: Planned, plan: Plan, **options: Any) -> tuple[Answer, Exchange]:
    """Asks replica 0 first."""
    exchange = mesh.exchange(plan, **options)
    mesh.prefer(0)
    asking = asyncio.ensure_future(mesh.stage(exchange))
    await asyncio.sleep(0)
    mesh.forget(0)
    return await asking, exchange


def counts(mesh: Planned) -> tuple[int, int, int]:
    made = mesh.backend.load.counts
    return made.hedges, made.hedges_won, made.retries


async def test_a_quick_answer_costs_no_second_try_and_no_task() -> None:
    async with planned(2, hedge=HedgeSettings(first_delay_ms=5_000.0)) as mesh:
        ours: list[str] = []

        def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
            code = getattr(coroutine, "cr_code", None)
            if code is not None and "meshcast" in code.co_filename:
                ours.append(code.co_qualname)
            return asyncio.Task(coroutine, loop=loop, **options)

        asyncio.get_running_loop().set_task_factory(factory)
        for _ in range(5):
            exchange = mesh.exchange([OK, OK])
            answer = await mesh.stage(exchange)
            assert (exchange.attempts, exchange.hedged) == (1, False)
            assert answer.response in (b"0", b"1")
        assert ours == []
        assert counts(mesh) == (0, 0, 0)


async def test_a_slow_replica_is_hedged_by_another_which_wins_and_the_slow_try_is_cancelled() -> None:
    async with planned(2) as mesh:
        answer, exchange = await ask_first(mesh, [STALLED, OK])
        assert answer.response == b"1"
        assert answer.endpoint != mesh.replicas[0].endpoint
        assert (exchange.attempts, exchange.hedged) == (2, True)
        assert counts(mesh) == (1, 1, 0)
        await mesh.idle()
        assert mesh.servers[0].cancelled == 1


async def test_the_first_may_still_win_and_the_hedge_is_cancelled() -> None:
    async with planned(2) as mesh:
        answer, _ = await ask_first(mesh, [(0.1, "OK"), STALLED])
        assert answer.response == b"0"
        assert counts(mesh) == (1, 0, 0)
        await mesh.idle()
        assert mesh.servers[1].cancelled == 1


async def test_where_the_hedge_stalls_too_a_third_replica_is_asked() -> None:
    async with planned(3) as mesh:
        answer, exchange = await ask_first(mesh, [STALLED, STALLED, (0.3, "OK")])
        assert answer.response == b"2"
        assert exchange.attempts == 3


async def test_a_failure_goes_on_to_another_replica_at_once() -> None:
    async with planned(2, hedge=HedgeSettings(first_delay_ms=5_000.0)) as mesh:
        answer, exchange = await ask_first(mesh, [(0.0, "UNAVAILABLE"), OK])
        assert answer.response == b"1"
        assert (exchange.attempts, exchange.hedged) == (2, False)
        assert counts(mesh) == (0, 0, 1)


async def test_a_replica_that_leaves_while_a_call_pauses_is_not_asked_again() -> None:
    async with planned(1, retry=RetrySettings(backoff_s=0.5)) as mesh:
        asking = asyncio.ensure_future(mesh.stage(mesh.exchange([(0.0, "UNAVAILABLE")])))
        async with asyncio.timeout(5):
            while not mesh.replicas[0].tries:  # noqa: ASYNC110  # it wakes nobody
                await asyncio.sleep(0)
        (left,) = mesh.replicas
        mesh.backend.replicas.clear()
        mesh.backend.refresh()
        await left.channel.close()
        with pytest.raises(TryFailed):
            await asking


async def test_a_replica_that_is_left_while_it_is_asked_about_leaves_nothing_behind() -> None:
    async with planned(1) as mesh:
        (left,) = mesh.replicas
        await left.channel.close()
        left.inquiry.accuse(left.breaker.begin(time.perf_counter()))
        while left.inquiry.is_under_way:  # noqa: ASYNC110  # it wakes nobody
            await asyncio.sleep(0)
        assert left.breaker.state is BreakerState.CLOSED


async def test_a_failed_hedge_leaves_the_first_in_the_race() -> None:
    async with planned(2) as mesh:
        answer, _ = await ask_first(mesh, [(0.2, "OK"), (0.0, "UNAVAILABLE")])
        assert answer.response == b"0"
        assert counts(mesh) == (1, 0, 0)


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"])
async def test_what_another_would_repeat_ends_the_call_at_once(code: str) -> None:
    async with planned(2) as mesh:
        with pytest.raises(TryFailed) as failed:
            await ask_first(mesh, [(0.1, code), STALLED])
        assert failed.value.error.code() is grpc.StatusCode[code]
        await mesh.idle()
        assert mesh.servers[1].cancelled == 1


async def test_where_every_replica_fails_the_last_failure_is_told() -> None:
    async with planned(2) as mesh:
        with pytest.raises(TryFailed) as failed:
            await ask_first(mesh, [(0.0, "UNAVAILABLE"), (0.0, "UNAVAILABLE")])
        assert failed.value.error.code() is grpc.StatusCode.UNAVAILABLE


async def test_without_an_allowance_a_slow_replica_is_waited_for() -> None:
    async with planned(2, hedge=NO_HEDGES) as mesh:
        answer, exchange = await ask_first(mesh, [(0.1, "OK"), OK])
        assert answer.response == b"0"
        assert exchange.attempts == 1


class Crowded:
    """A route's limit under which calls wait."""

    calls_max = 1
    share = 2.0
    waiting = 1


async def test_while_calls_wait_for_a_place_a_slow_replica_is_waited_for_and_a_silent_one_is_not() -> None:
    async with planned(2) as mesh:
        mesh.backend.load.limit = Crowded()
        mesh.replicas[0].heard_at = math.inf  # it answers other calls
        answer, exchange = await ask_first(mesh, [(0.3, "OK"), OK])
        assert (answer.response, exchange.attempts) == (b"0", 1)
        mesh.proxies[0].blackhole()
        answer, exchange = await ask_first(mesh, [OK, OK])
        assert (answer.response, exchange.attempts) == (b"1", 2)


async def test_a_call_whose_replica_was_given_up_moves_on_even_without_an_allowance() -> None:
    async with planned(2, hedge=NO_HEDGES, breaker=BreakerSettings(tries_min=1, failures_in_row=1)) as mesh:
        asking = asyncio.ensure_future(ask_first(mesh, [STALLED, OK]))
        await asyncio.sleep(0.03)
        now, breaker = time.perf_counter(), mesh.replicas[0].breaker
        for _ in range(2):
            breaker.end(breaker.begin(now), Outcome.FAILED, now)
        answer, _ = await asking
        assert answer.response == b"1"
        assert counts(mesh) == (0, 0, 1)


async def until_open(mesh: Planned, number: int) -> None:
    async with asyncio.timeout(5):
        while mesh.replicas[number].breaker.state is not BreakerState.OPEN:  # noqa: ASYNC110  # breakers wake nobody
            await asyncio.sleep(0.005)


async def test_a_replica_that_is_silent_while_others_win_is_found_out_and_passed_over_meanwhile() -> None:
    async with planned(2, breaker=BreakerSettings(tries_min=3, failures_in_row=3)) as mesh:
        mesh.proxies[0].blackhole()
        answer, _ = await ask_first(mesh, [OK, OK])
        assert answer.response == b"1"
        assert mesh.replicas[0].inquiry.is_under_way
        assert mesh.replicas[0].breaker.state is BreakerState.CLOSED
        assert all(mesh.backend.pick(SERVICE) is mesh.replicas[1] for _ in range(20))
        await until_open(mesh, 0)
        assert mesh.replicas[1].breaker.state is BreakerState.CLOSED
        assert mesh.replicas[0].tries == {"CANCELLED": 1}


async def test_a_replica_that_stays_silent_is_left_even_without_an_allowance() -> None:
    async with planned(2, hedge=NO_HEDGES) as mesh:
        mesh.proxies[0].blackhole()
        asking = [asyncio.ensure_future(ask_first(mesh, [OK, OK])) for _ in range(3)]
        for answer, exchange in await asyncio.gather(*asking):
            assert answer.response == b"1"
            assert exchange.attempts == 2
        assert counts(mesh) == (0, 0, 3)
        assert all(replica.in_flight == 0 for replica in mesh.replicas)


async def test_a_busy_replica_is_not_taken_for_a_dead_one() -> None:
    async with planned(2, breaker=BreakerSettings(tries_min=1, failures_in_row=1)) as mesh:
        for _ in range(5):
            await ask_first(mesh, [STALLED, OK])
            async with asyncio.timeout(5):
                while mesh.replicas[0].inquiry.is_under_way:  # noqa: ASYNC110  # it wakes nobody
                    await asyncio.sleep(0.002)
            assert mesh.replicas[0].breaker.state is BreakerState.CLOSED


async def test_a_caller_that_leaves_is_no_failure_of_a_replica() -> None:
    hedge = HedgeSettings(first_delay_ms=1_000.0)
    async with planned(2, hedge=hedge, breaker=BreakerSettings(tries_min=1, failures_in_row=1)) as mesh:
        asking = asyncio.ensure_future(mesh.stage(mesh.exchange([STALLED, STALLED])))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()
        assert [replica.breaker.state for replica in mesh.replicas] == [BreakerState.CLOSED] * 2
        assert [replica.in_flight for replica in mesh.replicas] == [0, 0]
        await mesh.idle()


async def test_a_deadline_that_left_hardly_any_time_is_no_failure_of_a_replica() -> None:
    async with planned(1, breaker=BreakerSettings(tries_min=1, failures_in_row=1)) as mesh:
        await mesh.stage(mesh.exchange([(0.05, "OK")]))
        for given_s, state in ((0.01, BreakerState.CLOSED), (0.04, BreakerState.CLOSED), (0.5, BreakerState.OPEN)):
            with pytest.raises(TryFailed) as failed:
                await mesh.stage(mesh.exchange([STALLED], deadline_s=given_s))
            assert failed.value.error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert mesh.replicas[0].breaker.state is state
        await mesh.idle()


@pytest.mark.parametrize("is_gone", [False, True], ids=["busy", "gone"])
async def test_deadlines_that_no_answer_has_ever_kept_say_only_that_a_replica_may_be_asked(is_gone: bool) -> None:
    async with planned(1, breaker=BreakerSettings(tries_min=3, failures_in_row=3)) as mesh:
        if is_gone:
            mesh.proxies[0].blackhole()
        asking = [mesh.stage(mesh.exchange([STALLED], deadline_s=0.05)) for _ in range(5)]
        ends = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(end, TryFailed) for end in ends)
        assert mesh.replicas[0].inquiry.is_under_way
        async with asyncio.timeout(5):
            while mesh.replicas[0].inquiry.is_under_way:  # noqa: ASYNC110  # it wakes nobody
                await asyncio.sleep(0.002)
        assert mesh.replicas[0].breaker.state is (BreakerState.OPEN if is_gone else BreakerState.CLOSED)


class Passing(grpc.aio.UnaryUnaryClientInterceptor):
    """Does nothing, as tracing does to who wins; calls then are grpc's intercepted ones."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)


async def test_hedging_works_over_intercepted_channels() -> None:
    async with planned(2, interceptors=[Passing()]) as mesh:
        answer, _ = await ask_first(mesh, [STALLED, OK])
        assert answer.response == b"1"
        answer, _ = await ask_first(mesh, [(0.0, "UNAVAILABLE"), OK])
        assert answer.response == b"1"
        await mesh.idle()


CALLS = st.lists(
    st.tuples(
        st.lists(
            st.tuples(
                st.sampled_from([0.0, 0.003, 0.01, 0.03, FOREVER_S]),
                st.sampled_from(["OK", "OK", "OK", "UNAVAILABLE", "INVALID_ARGUMENT", "INTERNAL"]),
            ),
            min_size=3,
            max_size=3,
        ),
        st.sampled_from([None, None, 0.0, 0.001, 0.005, 0.011, 0.03]),  # when its caller leaves, if it does
    ),
    min_size=1,
    max_size=25,
)


@given(calls=CALLS, burst=st.integers(0, 20), tries_max=st.integers(1, 3), intercepted=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_no_call_no_task_and_no_place_is_left_behind(
    calls: list[tuple[Plan, float | None]], burst: int, tries_max: int, intercepted: bool
) -> None:
    asyncio.run(_whatever_happens(calls, burst, tries_max, [Passing()] if intercepted else []))


async def _whatever_happens(
    calls: list[tuple[Plan, float | None]], burst: int, tries_max: int, interceptors: list[Any]
) -> None:
    hedge = HedgeSettings(burst=burst, tries_max=tries_max, first_delay_ms=5.0, samples_min=5)
    async with planned(3, hedge=hedge, interceptors=interceptors) as mesh:
        before = _tasks()

        async def call(plan: Plan, leaves_s: float | None) -> Exchange:
            exchange = mesh.exchange(plan, deadline_s=0.2)
            asking = asyncio.ensure_future(mesh.stage(exchange))
            await asyncio.wait([asking], timeout=leaves_s)
            asking.cancel()
            (end,) = await asyncio.gather(asking, return_exceptions=True)
            if isinstance(end, Answer):
                assert plan[int(end.response)][1] == "OK"
            elif isinstance(end, TryFailed):
                assert end.error.code().name in {code for _, code in plan} | {"DEADLINE_EXCEEDED"}
            else:
                assert isinstance(end, asyncio.CancelledError), end
            return exchange

        exchanges = await asyncio.gather(*(call(*each) for each in calls))
        await mesh.idle()
        async with asyncio.timeout(5):
            while _tasks() - before:  # noqa: ASYNC110  # calls that were cancelled end when grpc's core has noticed
                await asyncio.sleep(0.002)
        assert [replica.in_flight for replica in mesh.replicas] == [0, 0, 0]
        assert [replica.breaker.probes for replica in mesh.replicas] == [0, 0, 0]
        assert sum(sum(replica.tries.values()) for replica in mesh.replicas) == sum(each.attempts for each in exchanges)
        assert max(each.attempts for each in exchanges) <= tries_max + 3
        assert mesh.backend.load.counts.hedges <= burst + 0.08 * len(calls)


def _tasks() -> set[asyncio.Task[Any]]:
    """All tasks, those of the far end left out."""
    return {task for task in asyncio.all_tasks() if "server.pyx" not in repr(task)}
