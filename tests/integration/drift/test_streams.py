"""Streams of observations over real gRPC: counted once, in order, on disk; bad chunks in their place; drains."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.columns import unpack_floats
from meshcast.observations import Observations
from meshcast.rpc import InvalidInput, NotReady, from_item, mesh_errors


async def test_chunks_close_windows_wherever_their_ends_lie(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows(1_000))
    answers = await drift.observe(*(kit.chunk(kit.rows(size, size), size) for size in (30, 100, 250)))
    assert [(one.rows, one.windows_closed, one.reference_version) for one in answers] == [
        (30, 0, 1),
        (100, 1, 1),
        (250, 2, 1),
    ]
    described = await drift.describe()
    assert (described.observed_rows, described.windows, described.recent_rows) == (380, 3, 380)


async def test_a_chunk_is_not_counted_twice_within_a_stream(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows())
    chunks = [kit.chunk(kit.rows(20, at), at, stream_id="s") for at in (5, 6)]
    await drift.observe(*chunks)
    again = await drift.observe(*chunks, kit.chunk(kit.rows(20, 7), 7, stream_id="s"))
    assert [answer.is_duplicate for answer in again] == [True, True, False]
    assert (await drift.describe()).observed_rows == 60
    await drift.observe(kit.chunk(kit.rows(20, 5), 5), kit.chunk(kit.rows(20, 5), 5))
    assert (await drift.describe()).observed_rows == 100


async def test_many_streams_at_once_lose_nothing(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows())
    chunks = {s: [kit.chunk(kit.rows(5, at), at, stream_id=f"s{s}") for at in range(40)] for s in range(10)}
    answers = await asyncio.gather(*(drift.observe(*of) for of in chunks.values()))
    assert {answer.status.code for of in answers for answer in of} == {0}
    assert not any(answer.is_duplicate for of in answers for answer in of)
    assert (await drift.describe()).observed_rows == 10 * 40 * 5


async def test_a_bad_chunk_is_answered_in_its_place_and_the_stream_goes_on(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows())
    sound = kit.rows(20, 1)
    other = Observations(20, {**sound.numeric, "more": sound.numeric["x0"]}, {})
    answers = await drift.observe(
        kit.chunk(sound, 1),
        kit.chunk(other, 2),
        kit.chunk(sound, 3, subject="nobody"),
        kit.chunk(sound[:0], 4),
        kit.chunk(sound, 5, wants_row_errors=True),
        kit.chunk(sound, 6),
    )
    assert [answer.sequence for answer in answers] == [1, 2, 3, 4, 5, 6]
    assert [answer.status.code == 0 for answer in answers] == [True, False, False, False, False, True]
    columns = from_item(answers[1].status)
    assert isinstance(columns, InvalidInput)
    assert {one.field for one in columns.violations} == {"observations.more", "observations.town"}
    assert answers[2].status.reason == ErrorReason.ERROR_REASON_SUBJECT_UNKNOWN
    assert answers[3].status.violations[0].field == "observations.rows"
    assert "autoencoder" in answers[4].status.message
    assert (await drift.describe()).observed_rows == 40


async def test_rows_of_the_shipped_subject_have_errors(drift: Any, kit: Any, drift_example: Any) -> None:
    usual, odd = drift_example(200), drift_example(200)
    shifted = Observations(200, {**odd.numeric, "recent_median": odd.numeric["recent_median"] + np.float32(20)}, {})
    answers = await drift.observe(
        kit.chunk(usual, 1, subject="predictor", wants_row_errors=True),
        kit.chunk(shifted, 2, subject="predictor", wants_row_errors=True, model_version=1),
    )
    errors = [unpack_floats(answer.row_errors, (200,), "row_errors") for answer in answers]
    assert all(answer.receipt.model_version == 1 for answer in answers)
    assert np.median(errors[1]) > 2 * np.median(errors[0])


async def test_a_reference_that_is_replaced_while_a_stream_runs_is_told_by_its_version(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows())
    is_replaced = asyncio.Event()

    async def requests() -> Any:
        yield kit.chunk(kit.rows(150, 1), 1)
        await is_replaced.wait()
        yield kit.chunk(kit.rows(150, 2), 2)

    call = drift.stub.ObserveStream(requests(), timeout=kit.CALL_S)
    versions = []
    async for answer in call:
        assert answer.status.code == 0
        versions.append(answer.reference_version)
        if len(versions) == 1:
            await drift.set_reference(kit.rows(600, 9))
            is_replaced.set()
    assert versions == [1, 2]
    assert (await drift.describe()).observed_rows == 150


async def test_a_drain_ends_a_stream_after_its_last_answer(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows())
    forever = asyncio.Event()

    async def requests() -> Any:
        yield kit.chunk(kit.rows(150, 1), 1, stream_id="s")
        await forever.wait()

    call = drift.stub.ObserveStream(requests(), timeout=kit.CALL_S)
    answers = []
    with pytest.raises(NotReady) as caught, mesh_errors(call):
        async for answer in call:
            answers.append(answer)
            drained = asyncio.create_task(drift.server.drain())
    forever.set()
    await drained
    assert [answer.sequence for answer in answers] == [1]
    assert caught.value.reason == ErrorReason.ERROR_REASON_DRAINING


async def test_many_streams_of_one_subject_are_counted_whole(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows())
    await asyncio.gather(*(drift.observe(*(kit.chunk(kit.rows(37, at), at) for at in range(10))) for _ in range(4)))
    described = await drift.describe()
    assert (described.observed_rows, described.windows) == (1_480, 14)


async def test_times_far_in_the_future_are_refused_and_late_ones_counted(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows())
    now_us = 1_700_000_000_000_000
    future = kit.rows(10, 1, unix_us=4_000_000_000_000_000)
    answers = await drift.observe(
        kit.chunk(kit.rows(10, 1, unix_us=now_us), 1),
        kit.chunk(future, 2),
        kit.chunk(kit.rows(10, 2, unix_us=now_us - 10**12), 3),
    )
    assert [answer.status.code == 0 for answer in answers] == [True, False, True]
    assert answers[1].status.violations[0].field == "observations.unix_us"


async def test_a_draft_takes_one_form_of_rows(drift: Any, kit: Any) -> None:
    other = Observations(5, {"y": np.zeros(5, dtype=np.float32)}, {})
    answers = await drift.observe(
        kit.chunk(kit.rows(5), 1, subject="d", purpose=pb.PURPOSE_REFERENCE),
        kit.chunk(other, 2, subject="d", purpose=pb.PURPOSE_REFERENCE),
    )
    assert [answer.status.code for answer in answers] == [0, 3]
