"""Coalescing: calls awaited together travel together, and each gets its own answer, error, deadline and cancel."""

import asyncio
import random
from typing import Any

import numpy as np
import pytest

from meshcast.api.predictor.v1 import predictor_pb2_grpc as pb_grpc
from meshcast.client import EngagementPrediction, History, MeshClient, PlannedPost, prediction_id
from meshcast.client import coalesce as room
from meshcast.client.chunks import GatheredQuestions
from meshcast.client.questions import PlanValues
from meshcast.rpc import (
    DeadlineExceeded,
    InvalidInput,
    MeshError,
    NotFound,
    NotReady,
    Overloaded,
    Precondition,
    channel,
)

Predictions = room.Coalescer[tuple[PlanValues, History], EngagementPrediction]

KINDS: dict[int, type[MeshError]] = {40_400: NotFound, 42_900: Overloaded, 41_200: Precondition, -1: InvalidInput}


async def test_64_callers_with_mixed_failures_each_get_their_own(target: str, predictor: Any, kit: Any) -> None:
    rng = random.Random(7)
    shared = kit.channel_posts(400, seed=1)
    own = [kit.channel_posts(20 + n, seed=n) for n in range(64)]
    prepared = [History(posts) for posts in own]
    answered = 0

    async def caller(mesh: MeshClient, n: int) -> None:
        nonlocal answered
        for turn in range(12):
            length = rng.choice([*range(0, 50, 7), *KINDS])
            first = rng.randrange(300)
            posts = own[n] if turn % 2 else shared[first : first + 20 + n]
            history = prepared[n] if turn % 2 else posts
            request_id = f"{n}/{turn}"
            asked = mesh.predict_engagement(kit.plan(length), history, request_id=request_id)
            if length in KINDS:
                with pytest.raises(KINDS[length]):
                    await asked
            else:
                prediction = await asked
                assert prediction.log_engagement == pytest.approx(kit.expected(posts, length), abs=1e-5)
                assert prediction.prediction_id == prediction_id(request_id)
            answered += 1

    async with MeshClient(target, coalesce=True) as mesh, asyncio.TaskGroup() as group:
        for n in range(64):
            group.create_task(caller(mesh, n))
    assert answered == 64 * 12
    assert predictor.unary == []
    assert predictor.streams == 1
    assert len(predictor.chunks) < answered / 4, "they travel together"
    asked_ids = [request_id for chunk in predictor.chunks for request_id in chunk.row_request_ids]
    assert len(asked_ids) == len(set(asked_ids)) == answered, "each row is sent once"


async def test_a_gathered_call_answers_as_a_single_one_does(target: str, kit: Any) -> None:
    posts = kit.channel_posts(100)
    async with MeshClient(target) as single, MeshClient(target, coalesce=True) as gathered:
        one = await single.predict_engagement(kit.plan(), posts, request_id="same", version=3)
        two = await gathered.predict_engagement(kit.plan(), posts, request_id="same", version=3)
    assert two.log_engagement == pytest.approx(one.log_engagement, abs=1e-6)
    np.testing.assert_allclose(np.array(two.intervals), np.array(one.intervals), atol=1e-6)
    assert (two.confidence, two.prediction_id) == (one.confidence, one.prediction_id)
    assert two.receipt.model_version == one.receipt.model_version == 3


async def test_calls_of_one_turn_of_the_loop_leave_in_one_chunk(target: str, predictor: Any, kit: Any) -> None:
    history = History(kit.channel_posts(30))
    async with MeshClient(target, coalesce=True) as mesh:
        await asyncio.gather(*(mesh.predict_engagement(kit.plan(n), history) for n in range(300)))
    assert [chunk.planned.posts for chunk in predictor.chunks] == [256, 44]
    assert predictor.chunks[0].history.posts == 30, "a history that rows share is sent once"


async def test_calls_are_grouped_by_version_priority_and_channel(target: str, predictor: Any, kit: Any) -> None:
    posts = kit.channel_posts(30)
    keys = [(0, "normal", ""), (2, "normal", ""), (2, "high", ""), (0, "normal", "a")]
    async with MeshClient(target, coalesce=True) as mesh:
        asked = [
            mesh.predict_engagement(kit.plan(n), posts, version=version, priority=priority, channel=channel)  # type: ignore[arg-type]
            for n in range(5)
            for version, priority, channel in keys
        ]
        answers = await asyncio.gather(*asked)
    assert {chunk.planned.posts for chunk in predictor.chunks} == {5}
    assert {(chunk.model_version, chunk.priority, chunk.channel) for chunk in predictor.chunks} == {
        (0, 2, ""),
        (2, 2, ""),
        (2, 1, ""),
        (0, 2, "a"),
    }
    assert [answer.receipt.model_version for answer in answers[:4]] == [1, 2, 2, 1]


async def test_beyond_the_bound_of_streams_calls_go_out_on_their_own(target: str, predictor: Any, kit: Any) -> None:
    posts = kit.channel_posts(30)
    async with MeshClient(target, coalesce=True) as mesh:
        for version in range(room.LANES_MAX + 3):
            await mesh.predict_engagement(kit.plan(), posts, version=version)
    assert predictor.streams == room.LANES_MAX
    assert len(predictor.unary) == 3


async def test_each_caller_s_own_deadline_and_cancel_hold(target: str, predictor: Any, kit: Any) -> None:
    predictor.gate = asyncio.Event()
    posts = kit.channel_posts(30)
    async with MeshClient(target, coalesce=True) as mesh:
        patient = asyncio.create_task(mesh.predict_engagement(kit.plan(1), posts, timeout_s=30))
        hurried = asyncio.create_task(mesh.predict_engagement(kit.plan(2), posts, timeout_s=0.05))
        leaving = asyncio.create_task(mesh.predict_engagement(kit.plan(3), posts))
        await predictor.arrived.wait()
        leaving.cancel()
        with pytest.raises(DeadlineExceeded):
            await hurried
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert not patient.done()
        predictor.gate.set()
        assert (await patient).log_engagement == pytest.approx(kit.expected(posts, 1), abs=1e-6)


async def test_rows_that_nobody_waits_for_any_more_are_not_sent(target: str, predictor: Any, kit: Any) -> None:
    predictor.gate = asyncio.Event()
    posts = kit.channel_posts(30)
    async with MeshClient(target, coalesce=True) as mesh:
        first = [asyncio.create_task(mesh.predict_engagement(kit.plan(n), posts)) for n in range(2)]
        await predictor.arrived.wait()
        second = asyncio.create_task(mesh.predict_engagement(kit.plan(50), posts))
        await asyncio.sleep(0.01)  # the window is full now: what follows waits
        third = [asyncio.create_task(mesh.predict_engagement(kit.plan(n), posts)) for n in range(100, 104)]
        await asyncio.sleep(0.01)
        for task in third[:3]:
            task.cancel()
        predictor.gate.set()
        await asyncio.gather(*first, second, third[3])
    assert [chunk.planned.posts for chunk in predictor.chunks] == [2, 1, 1]


async def test_a_broken_stream_is_opened_again_and_rows_are_sent_again_once(
    target: str, predictor: Any, kit: Any
) -> None:
    predictor.break_at = {1: 1}
    posts = kit.channel_posts(60)
    async with MeshClient(target, coalesce=True) as mesh:
        asked = [mesh.predict_engagement(kit.plan(n), posts, request_id=f"r{n}") for n in range(8)]
        answers = await asyncio.gather(*asked)
    assert [answer.prediction_id for answer in answers] == [prediction_id(f"r{n}") for n in range(8)]
    assert predictor.streams == 2
    assert [list(chunk.row_request_ids) for chunk in predictor.chunks] == [[f"r{n}" for n in range(8)]] * 2


async def test_rows_that_break_two_streams_fail_and_the_next_call_is_served(
    target: str, predictor: Any, kit: Any
) -> None:
    predictor.break_at = {1: 1, 2: 1}
    posts = kit.channel_posts(60)
    async with MeshClient(target, coalesce=True) as mesh:
        asked = [mesh.predict_engagement(kit.plan(n), posts) for n in range(3)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NotReady] * 3
        assert len({id(outcome) for outcome in outcomes}) == 3, "each caller has an exception of its own"
        assert isinstance(await mesh.predict_engagement(kit.plan(), posts), EngagementPrediction)


async def test_a_refused_chunk_refuses_its_rows_with_their_own_errors(target: str, predictor: Any, kit: Any) -> None:
    predictor.refuse_at = {1: 1}
    posts = kit.channel_posts(60)
    async with MeshClient(target, coalesce=True) as mesh:
        asked = [mesh.predict_engagement(kit.plan(n), posts) for n in range(3)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Overloaded] * 3
        assert outcomes[0].retry_after_s == pytest.approx(0.01)  # type: ignore[union-attr]
        assert await mesh.predict_engagement(kit.plan(), posts)


async def test_a_question_that_cannot_be_sent_costs_its_neighbours_nothing(target: str, kit: Any) -> None:
    posts = kit.channel_posts(60)
    huge = PlannedPost(published_at=kit.plan().published_at, content_length=10**30)
    async with MeshClient(target, coalesce=True) as mesh:
        outcomes = await asyncio.gather(
            mesh.predict_engagement(kit.plan(), posts),
            mesh.predict_engagement(huge, posts),
            mesh.predict_engagement(kit.plan(), kit.channel_posts(500)),
            mesh.predict_engagement(kit.plan(), posts),
            return_exceptions=True,
        )
    kinds = [EngagementPrediction, InvalidInput, InvalidInput, EngagementPrediction]
    assert [type(outcome) for outcome in outcomes] == kinds


async def test_streams_under_constant_breaks_lose_and_swap_no_answer(target: str, predictor: Any, kit: Any) -> None:
    predictor.break_at = {n: 1 for n in range(5, 400, 9)}
    own = [kit.channel_posts(25 + n, seed=n) for n in range(16)]
    prepared = [History(posts) for posts in own]
    failed = right = 0

    async def caller(mesh: MeshClient, n: int) -> None:
        nonlocal failed, right
        for turn in range(15):
            try:
                prediction = await mesh.predict_engagement(kit.plan(turn), prepared[n], timeout_s=20)
            except NotReady:
                failed += 1
            else:
                assert prediction.log_engagement == pytest.approx(kit.expected(own[n], turn), abs=1e-5)
                right += 1

    async with MeshClient(target, coalesce=True) as mesh, asyncio.TaskGroup() as group:
        for n in range(16):
            group.create_task(caller(mesh, n))
    assert right + failed == 16 * 15
    assert right > 0.9 * 16 * 15


async def predict(coalescer: Predictions, kit: Any, length: int) -> EngagementPrediction:
    return await coalescer.ask(
        (kit.plan(length).values(), History(kit.channel_posts(30))),
        key=(0, "normal", ""),
        request_id=f"r{length}",
        timeout_s=10,
    )


async def test_an_idle_stream_is_closed_and_the_next_call_opens_one(target: str, predictor: Any, kit: Any) -> None:
    async with channel(target) as open_channel:
        stub = pb_grpc.PredictorServiceStub(open_channel)
        coalescer = Predictions(
            lambda s: stub.PredictEngagementStream(timeout=s), GatheredQuestions(), room.Bounds(idle_s=0.02)
        )
        for turn in range(3):
            await predict(coalescer, kit, turn)
            async with asyncio.timeout(5):
                await predictor.closed.wait()
            predictor.closed.clear()
            await asyncio.sleep(0.03 * turn)  # once before and once after the lane itself has ended
        await coalescer.close()
    assert predictor.streams == 3
    assert predictor.cancelled == 0, "it was closed in peace"


async def test_an_old_stream_is_replaced_and_no_row_is_lost(target: str, predictor: Any, kit: Any) -> None:
    async with channel(target) as open_channel:
        stub = pb_grpc.PredictorServiceStub(open_channel)
        coalescer = Predictions(
            lambda s: stub.PredictEngagementStream(timeout=s), GatheredQuestions(), room.Bounds(stream_s=0.01)
        )
        posts = kit.channel_posts(30)

        async def caller(n: int) -> None:
            for turn in range(20):
                prediction = await predict(coalescer, kit, 100 * n + turn)
                assert prediction.log_engagement == pytest.approx(kit.expected(posts, 100 * n + turn), abs=1e-5)

        await asyncio.gather(*(caller(n) for n in range(8)))
        await coalescer.close()
    assert predictor.streams > 2
    assert predictor.cancelled == 0


async def test_more_rows_than_may_wait_are_refused_at_once(target: str, predictor: Any, kit: Any) -> None:
    predictor.gate = asyncio.Event()
    async with channel(target) as open_channel:
        stub = pb_grpc.PredictorServiceStub(open_channel)
        bounds = room.Bounds(rows_waiting_max=3)
        coalescer = Predictions(lambda s: stub.PredictEngagementStream(timeout=s), GatheredQuestions(), bounds)
        asked = [asyncio.create_task(predict(coalescer, kit, n)) for n in range(5)]
        refused, waiting = set[asyncio.Task[Any]](), set(asked)
        async with asyncio.timeout(10):
            while len(refused) < 2:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                refused |= done
        assert [type(task.exception()) for task in refused] == [Overloaded] * 2
        predictor.gate.set()
        await asyncio.gather(*waiting)
        await coalescer.close()


async def test_a_client_that_is_not_open_says_how_to_open_it(kit: Any) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await MeshClient().predict_engagement(kit.plan(), kit.channel_posts(30))
