"""Predictions that are read back by the id that follows from the caller's request id: through the gateway, from a
second replica that shares the state folder, and after a restart."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.client import MeshClient, PlannedPost, StoredPrediction
from meshcast.client import Question as ClientQuestion
from meshcast.posts import Planned, pack_planned, pack_positions, pack_posts, settled_history
from meshcast.rpc import ChannelSettings, InvalidInput, NotFound, mesh_errors, prediction_id, row_id


@dataclass(frozen=True)
class Mesh:
    """Two replicas over one state folder, and a gateway before the first."""

    folder: Path
    first: Any
    second: Any
    gateway: Any

    @property
    def addresses(self) -> list[str]:
        """Of both replicas and the gateway."""
        return [self.first.address, self.second.address, self.gateway.address]

    def stored(self, table: str = "predictions") -> int:
        """Rows of a table of the prediction log."""
        return count(self.folder, table)


def count(folder: Path, table: str = "predictions") -> int:
    """Rows of a table of the prediction log in a state folder."""
    with closing(sqlite3.connect(folder / "state" / "predictions" / "predictor.sqlite")) as log:
        return int(log.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.fixture(scope="module")
def mesh(mesh_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    with (
        mesh_of.predictor(folder) as first,
        mesh_of.predictor(folder) as second,
        mesh_of.gateway(folder, first.address) as gateway,
    ):
        yield Mesh(folder, first, second, gateway)


async def within_a_second(read: Callable[[], Awaitable[Any]]) -> Any:
    """What a read gives that may be early: predictions are written behind their answers."""
    async with asyncio.timeout(10):  # the promise is a second; a busy host is no failure of it
        while True:
            try:
                return await read()
            except NotFound:
                await asyncio.sleep(0.02)


async def read_everywhere(mesh: Mesh, wanted: str) -> list[StoredPrediction]:
    """The stored prediction as each address tells it."""
    found = []
    for address in mesh.addresses:
        async with MeshClient(address) as client:

            async def read(client: MeshClient = client) -> StoredPrediction:
                return await client.read_prediction(wanted)

            found.append(await within_a_second(read))
    return found


async def test_a_prediction_is_read_back_everywhere_by_the_id_of_its_request(mesh: Mesh, mesh_of: Any) -> None:
    request = mesh_of.question(request_id="order-17", channel="news")
    async with mesh_of.peer(mesh.gateway.address) as asked:
        with mesh_errors():
            answer = await asked.typed.PredictEngagement(request, timeout=10)
    wanted = answer.receipt.prediction_id
    assert wanted == prediction_id("order-17") == hashlib.blake2b(b"order-17", digest_size=16).hexdigest()
    for address in mesh.addresses:
        async with mesh_of.peer(address) as asked:

            async def read(asked: Any = asked) -> pb.ReadPredictionResponse:
                with mesh_errors():
                    stored: pb.ReadPredictionResponse = await asked.typed.ReadPrediction(
                        pb.ReadPredictionRequest(prediction_id=wanted), timeout=10
                    )
                return stored

            stored = await within_a_second(read)
        assert stored.prediction == answer.prediction  # to the last bit
        assert (stored.prediction_id, stored.channel) == (wanted, "news")
        assert stored.published_time == request.planned.published_time
        assert (stored.model_version, stored.backend) == (1, answer.receipt.backend)
        assert not stored.receipt.prediction_id  # the receipt is the read's own


async def test_a_retry_is_stored_once_wherever_it_goes(mesh: Mesh, mesh_of: Any) -> None:
    before = mesh.stored()
    ids = set()
    for address in mesh.addresses:
        async with mesh_of.peer(address) as asked:
            with mesh_errors():
                answer = await asked.typed.PredictEngagement(mesh_of.question(request_id="retried"), timeout=10)
        ids.add(answer.receipt.prediction_id)
    (wanted,) = ids
    await read_everywhere(mesh, wanted)
    # What is put after it is written after it, so once this one is there, the retries have been looked at.
    for address in mesh.addresses[:2]:
        async with mesh_of.peer(address) as asked:
            with mesh_errors():
                last = await asked.typed.PredictEngagement(mesh_of.question(request_id=f"after {address}"), timeout=10)
        await read_everywhere(mesh, last.receipt.prediction_id)
    async with asyncio.timeout(10):
        while mesh.stored() < before + 3:  # noqa: ASYNC110  # a file tells nobody
            await asyncio.sleep(0.02)
    assert mesh.stored() == before + 3


async def test_questions_without_a_request_id_get_ids_of_their_own(mesh: Mesh, mesh_of: Any) -> None:
    async with mesh_of.peer(mesh.gateway.address) as asked:
        with mesh_errors():
            answers = [await asked.typed.PredictEngagement(mesh_of.question(), timeout=10) for _ in range(2)]
    first, second = (answer.receipt.prediction_id for answer in answers)
    assert first != second
    assert len(await read_everywhere(mesh, first)) == 3


async def test_rows_of_a_stream_are_read_back_by_chunk_and_number(mesh: Mesh, mesh_of: Any) -> None:
    table = mesh_of.made_up_posts()
    async with MeshClient(mesh.gateway.address) as client:
        chunks = [
            chunk async for chunk in client.predict_posts(table, chunk_rows=50, request_id="night-run", channel="news")
        ]
    assert len(chunks) > 1
    bases = [chunk.receipt.prediction_id for chunk in chunks]
    assert len(set(bases)) == len(chunks)
    for chunk in (chunks[0], chunks[-1]):
        for row in (0, len(chunk) - 1):
            wanted = chunk.prediction_id(row)
            assert wanted == f"{chunk.receipt.prediction_id}.{row}"
            for stored in await read_everywhere(mesh, wanted):
                assert stored.prediction.log_engagement == chunk.log_engagement[row]
                assert stored.prediction.confidence == chunk.confidence[row]
                assert [i.lower_log for i in stored.prediction.intervals] == chunk.lower_log[:, row].tolist()
                assert int(stored.published_at.timestamp()) == table.published_unix_s[chunk.rows[row]]
    records = mesh.stored()
    async with MeshClient(mesh.second.address) as client:  # the whole stream again, at the other replica
        again = [
            chunk async for chunk in client.predict_posts(table, chunk_rows=50, request_id="night-run", channel="news")
        ]
    assert [chunk.receipt.prediction_id for chunk in again] == bases
    async with mesh_of.peer(mesh.second.address) as asked:
        with mesh_errors():
            last = await asked.typed.PredictEngagement(mesh_of.question(request_id="after the stream"), timeout=10)
    await read_everywhere(mesh, last.receipt.prediction_id)
    assert mesh.stored() == records + 1  # a chunk is one record, and a retried one is none


async def test_rows_with_request_ids_of_their_own_are_read_back_by_those(mesh: Mesh, mesh_of: Any) -> None:
    table = mesh_of.made_up_posts()
    index = settled_history(table)[:5]
    questions = [
        ClientQuestion(
            planned=PlannedPost.of(table, int(row)), history=table[int(start) : int(stop)], request_id=f"own-{at}"
        )
        for at, (row, start, stop) in enumerate(zip(index.row, index.start, index.stop, strict=True))
    ]
    async with MeshClient(mesh.gateway.address) as client:
        (chunk,) = [chunk async for chunk in client.predict_many(questions)]
    for row in range(len(index)):
        wanted = prediction_id(f"own-{row}")
        assert chunk.prediction_id(row) == wanted
        for stored in await read_everywhere(mesh, wanted):
            assert stored.prediction.log_engagement == chunk.log_engagement[row]


async def test_a_row_that_failed_is_not_read_back_and_leaves_its_id_to_the_question_put_right(
    mesh: Mesh, mesh_of: Any
) -> None:
    table = mesh_of.made_up_posts()
    index = settled_history(table)[:3]
    planned = table.planned(index.row)
    hours = planned.hour_of_day.copy()
    hours[1] = 24

    async def ask(name: str, plan: Planned) -> pb.PredictEngagementStreamResponse:
        request = pb.PredictEngagementStreamRequest(
            request_id=name,
            history=pack_posts(table),
            planned=pack_planned(plan),
            history_start=pack_positions(index.start),
            history_stop=pack_positions(index.stop),
            row_request_ids=[f"mended-{row}" for row in range(3)],
        )
        async with mesh_of.peer(mesh.first.address) as asked:
            with mesh_errors():
                return await anext(aiter(asked.typed.PredictEngagementStream(iter([request]), timeout=10)))

    bad = await ask("with-a-bad-row", replace(planned, hour_of_day=hours))
    assert [failed.row for failed in bad.failed] == [1]
    await read_everywhere(mesh, prediction_id("mended-2"))  # the chunk is on file
    async with MeshClient(mesh.first.address) as client:
        for unknown in (row_id(bad.receipt.prediction_id, 1), prediction_id("mended-1")):
            with pytest.raises(NotFound):
                await client.read_prediction(unknown)
    good = await ask("put-right", planned)
    assert not good.failed
    for stored in await read_everywhere(mesh, prediction_id("mended-1")):
        assert stored.prediction.log_engagement == np.frombuffer(good.log_engagement, dtype="<f4")[1]


async def test_a_prediction_that_nobody_stored_is_not_found_and_an_empty_id_is_refused(
    mesh: Mesh, mesh_of: Any
) -> None:
    for address in mesh.addresses:
        async with MeshClient(address) as client:
            for unknown in ("nobody", f"{prediction_id('order-17')}.999", "x" * 3_000, "a.-1", "a.b.c"):
                with pytest.raises(NotFound) as caught:
                    await client.read_prediction(unknown)
                assert caught.value.reason == ErrorReason.ERROR_REASON_PREDICTION_UNKNOWN
                assert caught.value.facts["prediction_id"] in unknown or len(unknown) > 128
            with pytest.raises(InvalidInput) as refusal:
                await client.read_prediction("")
            assert [violation.field for violation in refusal.value.violations] == ["prediction_id"]
    await mesh_of.still_serves(*mesh.addresses)


async def test_what_was_answered_before_a_drain_is_there_after_the_restart(mesh_of: Any, tmp_path: Path) -> None:
    answers: dict[str, float] = {}
    with mesh_of.predictor(tmp_path) as server:
        async with mesh_of.peer(server.address, message_bytes_max=2**20) as asked:

            async def ask(number: int) -> None:
                answer = await asked.typed.PredictEngagement(
                    mesh_of.question(seed=number % 5, request_id=f"last-{number}"), timeout=10
                )
                answers[answer.receipt.prediction_id] = answer.prediction.log_engagement

            await asyncio.gather(*(ask(number) for number in range(200)))
            server.popen.send_signal(signal.SIGTERM)  # at once: what is still to be written goes with the drain
        assert await asyncio.to_thread(server.popen.wait, 20) == 0
    assert len(answers) == 200
    assert count(tmp_path) == 200
    with mesh_of.predictor(tmp_path) as server:
        async with MeshClient(server.address, settings=ChannelSettings(plain=True)) as client:
            for wanted, log_engagement in answers.items():
                stored = await client.read_prediction(wanted)
                assert stored.prediction.log_engagement == np.float32(log_engagement)
