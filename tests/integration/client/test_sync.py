"""The plain client is the asynchronous one: same answers and errors, from any thread, and it ends cleanly."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pytest

from meshcast.client import History, MeshClient, Question, SyncMeshClient
from meshcast.posts import settled_history
from meshcast.rpc import DeadlineExceeded, InvalidInput, NotFound, ServingStatus

T = TypeVar("T")


async def plainly(work: Callable[[], T]) -> T:
    """Runs plain code in a thread of its own, as a caller without a loop would; the server goes on in this one."""
    return await asyncio.to_thread(work)


async def test_calls_streams_and_errors_are_those_of_the_asynchronous_client(target: str, kit: Any) -> None:
    posts = kit.channel_posts(140)
    index = settled_history(posts)

    def work() -> None:
        told: list[tuple[int, threading.Thread]] = []
        with SyncMeshClient(target) as mesh:
            prediction = mesh.predict_engagement(kit.plan(), posts[:100])
            assert prediction.log_engagement == pytest.approx(kit.expected(posts[:100]), abs=1e-6)
            chunks = list(
                mesh.predict_posts(
                    posts, chunk_rows=50, progress=lambda done, _: told.append((done, threading.current_thread()))
                )
            )
            wanted = kit.arithmetic(posts, posts.planned(index.row), index.start, index.stop)
            np.testing.assert_allclose(np.concatenate([c.log_engagement for c in chunks]), wanted, atol=1e-5)
            assert told == [(rows, threading.current_thread()) for rows in (50, 100, len(index))]
            (many,) = mesh.predict_many([Question(planned=kit.plan(n), history=posts[:50]) for n in range(3)])
            assert many.rows.tolist() == [0, 1, 2]
            with pytest.raises(NotFound):
                mesh.predict_engagement(kit.plan(40_400), posts[:100])
            with pytest.raises(InvalidInput):
                list(mesh.predict_posts(posts[:5]))
            assert mesh.read_prediction("known").model_version == 4
            assert mesh.validate_features(kit.plan(), posts[:50]).valid
            assert mesh.describe_model().model.name == "predictor"
            assert mesh.health() is ServingStatus.SERVING

    await plainly(work)


async def test_single_calls_of_many_threads_travel_together(target: str, predictor: Any, kit: Any) -> None:
    own = [kit.channel_posts(25 + n, seed=n) for n in range(16)]
    prepared = [History(posts) for posts in own]

    def work() -> None:
        with SyncMeshClient(target, coalesce=True) as mesh, ThreadPoolExecutor(16) as threads:

            def ask(n: int) -> None:
                for turn in range(10):
                    prediction = mesh.predict_engagement(kit.plan(turn), prepared[n])
                    assert prediction.log_engagement == pytest.approx(kit.expected(own[n], turn), abs=1e-5)

            list(threads.map(ask, range(16)))

    await plainly(work)
    assert predictor.unary == []
    assert predictor.streams == 1
    assert sum(chunk.planned.posts for chunk in predictor.chunks) == 160


async def test_a_reader_that_stops_early_ends_the_stream(target: str, predictor: Any, kit: Any) -> None:
    def work() -> None:
        with SyncMeshClient(target) as mesh:
            answers = mesh.predict_posts(kit.channel_posts(140), chunk_rows=4)
            next(answers)
            answers.close()

    await plainly(work)
    async with asyncio.timeout(5):
        await predictor.closed.wait()


async def test_closing_ends_the_calls_of_other_threads_and_the_thread(target: str, predictor: Any, kit: Any) -> None:
    predictor.gate = asyncio.Event()
    mesh = await plainly(SyncMeshClient(target).__enter__)
    waiting = asyncio.create_task(plainly(lambda: mesh.predict_engagement(kit.plan(), kit.channel_posts(50))))
    await predictor.arrived.wait()
    await plainly(mesh.close)
    await plainly(mesh.close)
    with pytest.raises(BaseException) as caught:
        await waiting
    assert "Cancelled" in type(caught.value).__name__
    predictor.gate.set()
    assert not any(thread.name == "mesh-client" for thread in threading.enumerate())


async def test_deadlines_hold_from_threads(target: str, predictor: Any, kit: Any) -> None:
    predictor.gate = asyncio.Event()

    def work() -> None:
        with SyncMeshClient(target) as mesh, pytest.raises(DeadlineExceeded):
            mesh.predict_engagement(kit.plan(), kit.channel_posts(50), timeout_s=0.05)

    await plainly(work)
    predictor.gate.set()


async def test_use_outside_of_the_block_and_inside_of_its_own_calls_is_refused(target: str, kit: Any) -> None:
    def work() -> None:
        mesh = SyncMeshClient(target)
        with pytest.raises(RuntimeError, match="outside of its with block"):
            mesh.health()
        with mesh:

            def asks_again() -> Any:
                mesh.health()
                yield

            with pytest.raises(RuntimeError, match="inside of its own calls"):
                list(mesh.predict_many(asks_again()))
        with pytest.raises(RuntimeError, match="outside of its with block"):
            mesh.health()

    await plainly(work)


def test_both_clients_offer_the_same_calls_with_the_same_arguments() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in members if not name.startswith("_")}

    assert calls(SyncMeshClient) == calls(MeshClient)
    ours = inspect.signature(SyncMeshClient).parameters
    assert ours == inspect.signature(MeshClient).parameters
    for name in calls(MeshClient):
        one, other = (inspect.signature(getattr(kind, name)).parameters for kind in (MeshClient, SyncMeshClient))
        assert [p.default for p in one.values()] == [p.default for p in other.values()], name


def test_a_client_that_cannot_open_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with pytest.raises(InvalidInput, match="target is empty"), SyncMeshClient(" "):
        raise AssertionError("it opened")
    assert threading.active_count() == before


async def test_a_closed_client_says_that_it_is_closed(target: str, kit: Any) -> None:
    for coalesce in (False, True):
        async with MeshClient(target, coalesce=coalesce) as mesh:
            await mesh.predict_engagement(kit.plan(), kit.channel_posts(30))
        with pytest.raises(RuntimeError, match="not open"):
            await mesh.predict_engagement(kit.plan(), kit.channel_posts(30))
