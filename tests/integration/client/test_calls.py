"""Single calls of the client against a real server: values in and out, errors as raised, deadlines and cancels kept."""

import asyncio
from typing import Any

import numpy as np
import pytest

from meshcast.client import History, MeshClient, prediction_id
from meshcast.rpc import (
    Cancelled,
    ChannelSettings,
    DeadlineExceeded,
    InvalidInput,
    MeshError,
    NotFound,
    NotReady,
    Overloaded,
    Precondition,
    ServingStatus,
)


async def test_a_planned_post_is_predicted_from_its_own_history(target: str, predictor: Any, kit: Any) -> None:
    posts = kit.channel_posts()
    async with MeshClient(target) as mesh:
        for cut in (posts[:20], posts[30:130]):
            prediction = await mesh.predict_engagement(kit.plan(), cut, request_id="mine", channel="a", version=7)
            assert prediction.log_engagement == pytest.approx(kit.expected(cut), abs=1e-6)
            assert prediction.engagement == pytest.approx(np.expm1(kit.expected(cut)), rel=1e-5)
            assert [interval.level for interval in prediction.intervals] == [0.8, 0.95]
            assert prediction.prediction_id == prediction_id("mine")
            assert prediction.receipt.model_version == 7
    assert predictor.unary[0].channel == "a"


async def test_each_request_has_an_id_so_that_a_retry_is_stored_once(target: str, predictor: Any, kit: Any) -> None:
    async with MeshClient(target) as mesh:
        for _ in range(2):
            await mesh.predict_engagement(kit.plan(), kit.channel_posts(50))
    assert len({request.request_id for request in predictor.unary}) == 2


@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize(
    ("length", "kind"), [(40_400, NotFound), (42_900, Overloaded), (41_200, Precondition), (-1, InvalidInput)]
)
async def test_the_server_s_error_is_raised_again(
    target: str, kit: Any, coalesce: bool, length: int, kind: type[MeshError]
) -> None:
    async with MeshClient(target, coalesce=coalesce) as mesh:
        with pytest.raises(kind) as caught:
            await mesh.predict_engagement(kit.plan(length), kit.channel_posts(50))
        assert await mesh.predict_engagement(kit.plan(), kit.channel_posts(50))
    if kind is InvalidInput:
        assert caught.value.violations[0].field == "planned.content_length[0]"
    if kind is Overloaded:
        assert caught.value.retry_after_s == pytest.approx(0.01)


@pytest.mark.parametrize("coalesce", [False, True])
async def test_a_deadline_holds(target: str, predictor: Any, kit: Any, coalesce: bool) -> None:
    predictor.gate = asyncio.Event()
    async with MeshClient(target, coalesce=coalesce) as mesh:
        with pytest.raises(DeadlineExceeded):
            await mesh.predict_engagement(kit.plan(), kit.channel_posts(50), timeout_s=0.05)
        predictor.gate.set()


@pytest.mark.parametrize("coalesce", [False, True])
async def test_a_cancelled_caller_is_cancelled_and_the_client_goes_on(
    target: str, predictor: Any, kit: Any, coalesce: bool
) -> None:
    predictor.gate = asyncio.Event()
    async with MeshClient(target, coalesce=coalesce) as mesh:
        task = asyncio.create_task(mesh.predict_engagement(kit.plan(), kit.channel_posts(50)))
        await predictor.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        predictor.gate.set()
        assert await mesh.predict_engagement(kit.plan(), kit.channel_posts(50))


async def test_nobody_there_is_not_ready(unused_tcp_port: int, kit: Any) -> None:
    for coalesce in (False, True):
        async with MeshClient(f"127.0.0.1:{unused_tcp_port}", coalesce=coalesce) as mesh:
            with pytest.raises(NotReady):
                await mesh.predict_engagement(kit.plan(), kit.channel_posts(50))


async def test_a_call_that_is_awaited_when_the_client_closes_is_cancelled(
    target: str, predictor: Any, kit: Any
) -> None:
    predictor.gate = asyncio.Event()
    mesh = await MeshClient(target, coalesce=True).__aenter__()
    task = asyncio.create_task(mesh.predict_engagement(kit.plan(), kit.channel_posts(50)))
    await predictor.arrived.wait()
    await mesh.close()
    with pytest.raises(Cancelled):
        await task
    predictor.gate.set()


async def test_the_other_rpcs_answer_with_values(target: str, kit: Any) -> None:
    async with MeshClient(target) as mesh:
        stored = await mesh.read_prediction("known")
        assert (stored.prediction.log_engagement, stored.channel, stored.model_version) == (2.0, "a", 4)
        assert (stored.published_at.timestamp(), stored.predicted_at.timestamp()) == (60, 30)
        with pytest.raises(NotFound) as caught:
            await mesh.read_prediction("unknown")
        assert caught.value.facts == {"prediction_id": "unknown"}
        good = await mesh.validate_features(kit.plan(), kit.channel_posts(50))
        assert good.valid
        assert good.remarks[0].description == "views are missing"
        short = await mesh.validate_features(kit.plan(-2), History(kit.channel_posts(5)))
        assert not short.valid
        assert len(short.violations) == 2
        assert (await mesh.describe_model()).model.name == "predictor"
        assert await mesh.health() is ServingStatus.SERVING
        assert await mesh.health("nobody") is ServingStatus.SERVICE_UNKNOWN


async def test_a_message_over_the_limit_is_named_as_such(target: str, kit: Any) -> None:
    settings = ChannelSettings(message_bytes_max=1_024)
    async with MeshClient(target, settings=settings) as mesh:
        with pytest.raises(Overloaded, match=r"1,?024") as caught:
            await mesh.predict_engagement(kit.plan(), kit.channel_posts(100))
        assert caught.value.reason_name == "ERROR_REASON_MESSAGE_TOO_LARGE"
        with pytest.raises(Overloaded):
            async for _ in mesh.predict_posts(kit.channel_posts(100)):
                pass
