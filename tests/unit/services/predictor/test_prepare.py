"""Questions are checked and turned into tensors alike, alone or together with those of others."""

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest

from meshcast.posts import Planned, PostTable
from meshcast.runtime.preparing import ROWS_INLINE, Preparer
from meshcast.services.predictor.prepare import Prepared, Question, prepare, prepare_together, preparer
from meshcast.services.predictor.questions import CHUNK

HOUR_S, DAY_S = 3_600, 86_400


def posts_of(seed: int, n: int = 60) -> PostTable:
    rng = np.random.default_rng(seed)
    return PostTable.of(
        {
            "published_unix_s": 1_400_000_000 + np.arange(n) * 5 * HOUR_S,
            "hour_of_day": np.arange(n) * 5 % 24,
            "day_of_week": np.arange(n) // 5 % 7,
            "content_length": rng.integers(0, 400, n),
            "forwards": rng.integers(0, 900, n),
            "reactions": rng.integers(0, 9_000, n),
        }
    )


def question(seed: int = 0, rows: int = 1, **wrong: Any) -> Question:
    posts = posts_of(seed)
    planned: dict[str, Any] = {
        "published_unix_s": posts.published_unix_s[-1] + DAY_S + HOUR_S * np.arange(rows),
        "hour_of_day": np.full(rows, 7, np.float32),
        "day_of_week": np.full(rows, 2, np.float32),
        "content_length": np.arange(rows, dtype=np.float32),
        "has_media": np.zeros(rows, np.float32),
    }
    asked = Question(
        posts=posts,
        planned=Planned(**planned),
        start=np.zeros(rows, np.int64),
        stop=np.full(rows, len(posts), np.int64),
        naming=CHUNK,
    )
    return dataclasses.replace(asked, **wrong)


def assert_same(one: Prepared, other: Prepared) -> None:
    assert one.violations == other.violations
    np.testing.assert_array_equal(one.sound, other.sound)
    np.testing.assert_array_equal(one.recent_median, other.recent_median)
    assert one.inputs.keys() == other.inputs.keys()
    for name, values in one.inputs.items():
        np.testing.assert_array_equal(values, other.inputs[name])


def test_together_gives_the_same_tensors_as_alone_bit_for_bit() -> None:
    asked = [question(seed, rows=1 + seed % 3) for seed in range(9)]
    for one, other in zip(prepare_together(asked), map(prepare, asked), strict=True):
        assert_same(one, other)


def test_a_bad_row_is_named_and_the_others_are_prepared() -> None:
    asked = question(rows=3)
    planned = dataclasses.replace(asked.planned, hour_of_day=np.array([7, 24, 7], np.float32))
    prepared = prepare(dataclasses.replace(asked, planned=planned))
    assert list(prepared.violations) == [1]
    assert prepared.violations[1][0][0] == "planned.hour_of_day[1]"
    assert prepared.sound.tolist() == [0, 2]
    np.testing.assert_array_equal(prepared.inputs["planned"], prepare(asked).inputs["planned"][[0, 2]])


def test_a_bad_question_does_not_spoil_those_it_is_prepared_with() -> None:
    bad = question(1, stop=np.array([10_000]))
    together = prepare_together([question(0), bad, question(2)])
    assert list(together[1].violations) == [0] and not len(together[1].sound)
    assert_same(together[0], prepare(question(0)))
    assert_same(together[2], prepare(question(2)))


@pytest.mark.parametrize(("start", "stop"), [(-1, 59), (0, 61), (40, 20), (0, 5)])
def test_a_range_that_leaves_its_own_posts_never_reads_those_of_a_neighbour(start: int, stop: int) -> None:
    asked = question(3, start=np.array([start]), stop=np.array([stop]))
    assert list(prepare_together([question(0), asked, question(1)])[1].violations) == [0]


def test_too_few_posts_with_a_known_count_are_refused() -> None:
    posts = posts_of(0, 30)
    unknown = np.full(30, np.nan, np.float32)
    known = np.where(np.arange(30) < 15, np.float32(3), unknown)
    posts = dataclasses.replace(posts, forwards=unknown, reactions=known)
    prepared = prepare(question(posts=posts, stop=np.array([30])))
    assert "known, has 15" in prepared.violations[0][0][1]


async def test_callers_that_are_under_way_together_share_a_pass() -> None:
    passes: list[int] = []

    class Counting(Preparer[Question, Prepared]):
        def _flush(self) -> None:
            passes.append(len(self._waiting))
            super()._flush()

    async def call(shared: Preparer[Question, Prepared], seed: int) -> Prepared:
        with shared.caller():
            await asyncio.sleep(0)
            return await shared.prepare(question(seed))

    async with Counting(prepare_together, rows_of=lambda asked: len(asked.start)) as shared:
        answers = await asyncio.gather(*(call(shared, seed) for seed in range(8)))
    assert passes == [8]
    for seed, answer in enumerate(answers):
        assert_same(answer, prepare(question(seed)))


async def test_a_caller_that_never_comes_does_not_hold_the_others_up() -> None:
    async with preparer() as shared:
        with shared.caller(), shared.caller():  # the second one asks nothing
            async with asyncio.timeout(2):
                assert_same(await shared.prepare(question(1)), prepare(question(1)))


async def test_a_caller_that_goes_away_leaves_the_others_their_answers() -> None:
    async with preparer() as shared:
        with shared.caller(), shared.caller(), shared.caller():
            gone = asyncio.create_task(shared.prepare(question(1)))
            stays = asyncio.create_task(shared.prepare(question(2)))
            await asyncio.sleep(0)
            gone.cancel()
            assert_same(await stays, prepare(question(2)))
            assert gone.cancelled()


async def test_a_large_chunk_leaves_the_loop_free() -> None:
    async with preparer() as shared:
        asked = question(rows=ROWS_INLINE + 1)
        assert_same(await shared.prepare(asked), prepare(asked))
