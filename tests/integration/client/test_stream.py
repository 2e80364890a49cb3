"""Streaming batch against a real server: in order, bounded, each row once, resumed after breaks."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from meshcast.client import EngagementChunk, MeshClient, Question, prediction_id
from meshcast.posts import HistoryIndex, PostTable, settled_history
from meshcast.rpc import DeadlineExceeded, InvalidInput, MeshError, NotFound, NotReady, Overloaded, Precondition


def two_channels(kit: Any) -> PostTable:
    a, b = kit.channel_posts(140, seed=1, channel="a"), kit.channel_posts(90, seed=2, channel="b")
    names = ("channel", "published_unix_s", "hour_of_day", "day_of_week", "content_length", "has_media", "reactions")
    return PostTable.of({name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in names})


def check(chunks: list[EngagementChunk], posts: PostTable, index: HistoryIndex, kit: Any) -> None:
    rows = np.concatenate([chunk.rows for chunk in chunks])
    np.testing.assert_array_equal(rows, index.row)
    wanted = kit.arithmetic(posts, posts.planned(index.row), index.start, index.stop)
    given = np.concatenate([chunk.log_engagement for chunk in chunks])
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))


async def test_every_post_with_a_history_is_predicted_in_order(target: str, predictor: Any, kit: Any) -> None:
    posts = two_channels(kit)
    told: list[tuple[int, int | None]] = []
    async with MeshClient(target) as mesh:
        answers = mesh.predict_posts(posts, chunk_rows=16, progress=lambda done, total: told.append((done, total)))
        chunks = [chunk async for chunk in answers]
    index = settled_history(posts)
    check(chunks, posts, index, kit)
    assert told[-1] == (len(index), len(index))
    sent = sum(request.history.posts for request in predictor.chunks)
    assert sent < 0.2 * int((index.stop - index.start).sum()), "neighbours send their common history once"


async def test_columns_rows_and_tables_give_the_same(target: str, kit: Any) -> None:
    posts = two_channels(kit)
    names = ("channel", "published_unix_s", "hour_of_day", "day_of_week", "content_length", "has_media", "reactions")
    columns = {name: getattr(posts, name) for name in names}
    rows = [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]
    async with MeshClient(target) as mesh:
        for shape in (columns, rows, iter(rows)):
            check([chunk async for chunk in mesh.predict_posts(shape)], posts, settled_history(posts), kit)


async def test_a_refusal_is_known_though_chunks_are_still_being_sent(target: str, predictor: Any, kit: Any) -> None:
    predictor.break_with = lambda: Precondition("unloaded", why="on request")
    posts = two_channels(kit)
    async with MeshClient(target) as mesh:
        for _ in range(30):
            predictor.break_at = {0: 1}
            with pytest.raises(Precondition) as caught:
                async with aclosing(mesh.predict_posts(posts, chunk_rows=1, window=64)) as answers:
                    _ = [chunk async for chunk in answers]
            assert caught.value.facts == {"why": "on request"}


@pytest.mark.parametrize("window", [1, 4])
async def test_a_stream_that_breaks_goes_on_where_it_was(target: str, predictor: Any, kit: Any, window: int) -> None:
    predictor.break_at = {0: 1, 3: 2, 7: 1}
    posts = two_channels(kit)
    async with MeshClient(target) as mesh:
        chunks = [chunk async for chunk in mesh.predict_posts(posts, chunk_rows=16, window=window, request_id="run")]
    check(chunks, posts, settled_history(posts), kit)
    assert predictor.streams == 5
    assert [chunk.receipt.prediction_id for chunk in chunks] == [prediction_id(f"run/{n}") for n in range(len(chunks))]
    again: dict[int, set[bytes]] = {}
    for request in predictor.chunks:
        again.setdefault(request.sequence, set()).add(request.SerializeToString(deterministic=True))
    assert all(len(forms) == 1 for forms in again.values()), "a chunk is sent again as it was"


async def test_the_reason_of_a_break_is_told_however_much_is_being_written(
    target: str, predictor: Any, kit: Any
) -> None:
    predictor.break_with = lambda: Precondition("the model was unloaded", model="predictor")
    posts = two_channels(kit)
    async with MeshClient(target) as mesh:
        for _ in range(25):
            predictor.break_at = {2: 1}
            with pytest.raises(Precondition, match="unloaded"):
                async for _chunk in mesh.predict_posts(posts, chunk_rows=1, window=64):
                    pass


async def test_a_chunk_refused_for_a_full_queue_is_sent_again(target: str, predictor: Any, kit: Any) -> None:
    predictor.refuse_at = {2: 2}
    posts = two_channels(kit)
    async with MeshClient(target) as mesh:
        chunks = [chunk async for chunk in mesh.predict_posts(posts, chunk_rows=16)]
    check(chunks, posts, settled_history(posts), kit)


async def test_a_chunk_that_is_always_refused_is_given_as_refused_and_the_rest_goes_on(
    target: str, predictor: Any, kit: Any
) -> None:
    predictor.refuse_at = {1: 1_000}
    async with MeshClient(target) as mesh:
        chunks = [chunk async for chunk in mesh.predict_posts(two_channels(kit), chunk_rows=64)]
    assert [isinstance(chunk.error, Overloaded) for chunk in chunks] == [False, True, False]
    assert not chunks[1].is_ok.any()


async def test_a_server_that_stays_away_ends_the_stream_after_bounded_tries(
    target: str, predictor: Any, kit: Any
) -> None:
    predictor.break_at = {1: 1_000}
    chunks = []
    async with MeshClient(target) as mesh:
        with pytest.raises(NotReady):
            async for chunk in mesh.predict_posts(two_channels(kit), chunk_rows=64):
                chunks.append(chunk)
    assert len(chunks) == 1, "what was answered before is not lost"
    assert predictor.streams == 6


async def test_failed_rows_are_named_and_the_others_predicted(target: str, kit: Any) -> None:
    posts = kit.channel_posts(140)
    lengths = posts.content_length.copy()
    lengths[100] = 40_400
    broken = PostTable.of(
        {
            "published_unix_s": posts.published_unix_s,
            "hour_of_day": posts.hour_of_day,
            "day_of_week": posts.day_of_week,
            "content_length": lengths,
            "reactions": posts.reactions,
        }
    )
    async with MeshClient(target) as mesh:
        (chunk,) = [chunk async for chunk in mesh.predict_posts(broken)]
    place = chunk.rows.tolist().index(100)
    assert list(chunk.failed) == [place]
    assert isinstance(chunk.failed[place], NotFound)
    assert np.isnan(chunk.log_engagement[place])
    assert chunk.is_ok.sum() == len(chunk) - 1


async def test_no_more_chunks_are_under_way_than_the_window(target: str, predictor: Any, kit: Any) -> None:
    predictor.gate = asyncio.Event()
    taken = 0

    def questions() -> Iterator[Question]:
        nonlocal taken
        history = kit.channel_posts(30)
        for _ in range(200):
            taken += 1
            yield Question(planned=kit.plan(), history=history)

    async with MeshClient(target) as mesh:
        answers = mesh.predict_many(questions(), chunk_rows=5, window=3)
        first = asyncio.create_task(anext(answers))
        await predictor.arrived.wait()
        await asyncio.sleep(0.05)
        assert taken <= 3 * 5 + 1
        predictor.gate.set()
        await first
        rest = [chunk async for chunk in answers]
    assert sum(len(chunk) for chunk in rest) == 195


@pytest.mark.parametrize("is_async", [False, True])
async def test_questions_keep_their_own_ids_histories_and_channels_through_breaks(
    target: str, predictor: Any, kit: Any, is_async: bool
) -> None:
    predictor.break_at = {1: 1, 2: 1}
    tables = [kit.channel_posts(25 + n, seed=n) for n in range(40)]
    questions = [
        Question(planned=kit.plan(n), history=table, request_id=f"q{n}", channel="a" if n < 25 else "b")
        for n, table in enumerate(tables)
    ]

    async def slowly() -> AsyncIterator[Question]:
        for question in questions:
            await asyncio.sleep(0.001)
            yield question

    async with MeshClient(target) as mesh:
        source = slowly() if is_async else questions
        chunks = [chunk async for chunk in mesh.predict_many(source, chunk_rows=10)]
    assert [len(chunk) for chunk in chunks] == [10, 10, 5, 10, 5]
    assert np.concatenate([chunk.rows for chunk in chunks]).tolist() == list(range(40))
    given = np.concatenate([chunk.log_engagement for chunk in chunks])
    np.testing.assert_allclose(given, [kit.expected(table, n) for n, table in enumerate(tables)], atol=1e-5)
    assert chunks[3].prediction_id(2) == prediction_id("q27")
    assert [chunk.channel for chunk in predictor.chunks if chunk.sequence == 4][-1] == "b"


async def test_a_bad_question_is_raised_after_those_before_it_were_answered(target: str, kit: Any) -> None:
    history = kit.channel_posts(30)
    good = Question(planned=kit.plan(), history=history)
    bad = Question(planned=kit.plan(), history=history[:3])
    chunks = []
    async with MeshClient(target) as mesh:
        with pytest.raises(InvalidInput, match="question 5: the history must have 20 to 100"):
            async for chunk in mesh.predict_many([good] * 5 + [bad], chunk_rows=5):
                chunks.append(chunk)
        with pytest.raises(InvalidInput, match="question 0: planned is required to ask about engagement"):
            await anext(mesh.predict_many([Question(content="Hi")]))
    assert [len(chunk) for chunk in chunks] == [5]


async def test_a_reader_that_stops_early_ends_the_stream(target: str, predictor: Any, kit: Any) -> None:
    async with MeshClient(target) as mesh:
        async with aclosing(mesh.predict_posts(two_channels(kit), chunk_rows=4)) as answers:
            async for _ in answers:
                break
        async with asyncio.timeout(5):
            await predictor.closed.wait()


async def test_a_cancelled_reader_ends_the_stream(target: str, predictor: Any, kit: Any) -> None:
    predictor.gate = asyncio.Event()

    async def read(mesh: MeshClient) -> None:
        async for _ in mesh.predict_posts(two_channels(kit), chunk_rows=4):
            pass

    async with MeshClient(target) as mesh:
        task = asyncio.create_task(read(mesh))
        await predictor.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await predictor.closed.wait()
    assert predictor.cancelled == 1


async def test_a_stream_has_a_deadline_too(target: str, predictor: Any, kit: Any) -> None:
    predictor.gate = asyncio.Event()
    async with MeshClient(target) as mesh:
        with pytest.raises(DeadlineExceeded):
            async for _ in mesh.predict_posts(two_channels(kit), timeout_s=0.1):
                pass


@pytest.mark.parametrize(
    ("options", "field"), [({"chunk_rows": 0}, "chunk_rows"), ({"window": 0}, "window"), ({"window": 1_000}, "window")]
)
async def test_senseless_arguments_are_refused(target: str, kit: Any, options: dict[str, int], field: str) -> None:
    async with MeshClient(target) as mesh:
        with pytest.raises(InvalidInput) as caught:
            await anext(mesh.predict_posts(two_channels(kit), **options))  # type: ignore[arg-type]
    assert caught.value.violations[0].field == field


async def test_too_few_posts_and_rows_outside_of_the_table_are_refused(target: str, kit: Any) -> None:
    posts = kit.channel_posts(140)
    outside = settled_history(posts)
    outside.stop[3] = 141
    async with MeshClient(target) as mesh:
        with pytest.raises(InvalidInput, match="20 settled posts"):
            await anext(mesh.predict_posts(posts[:10]))
        with pytest.raises(MeshError, match=r"rows\[3\] points outside"):
            await anext(mesh.predict_posts(posts, outside))
