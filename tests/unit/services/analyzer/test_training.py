"""Training on request: retries, heads that are trained at once, deadlines, and heads of another embedder."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import AlreadyExists, CorruptData, Deadline, DeadlineExceeded, NotFound, Overloaded, Precondition
from meshcast.services.analyzer.head_store import HeadStore
from meshcast.services.analyzer.questions import Examples
from meshcast.services.analyzer.training import WAITING_MAX, HeadTrainer


class WordCounts:
    """An embedder whose vectors count letters; it says which version it is."""

    def __init__(self) -> None:
        self.versions: tuple[int, ...] = (2,)
        self.live = 2
        self.asked = 0
        self.missing: Precondition | None = None
        self.started, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()

    def require(self, version: int = 0) -> None:
        if self.missing is not None:
            raise self.missing

    async def embed_many(self, texts: Sequence[str], *, deadline: Deadline, version: int) -> NDArray[np.float32]:
        assert version == self.live
        self.asked += 1
        self.started.set()
        await self.go.wait()
        counts = np.array([[1 + text.count(letter) for letter in "abcdefgh"] for text in texts], dtype=np.float32)
        counts /= np.linalg.norm(counts, axis=1, keepdims=True)
        return counts


@pytest.fixture
def embedder() -> Any:
    return WordCounts()


@pytest.fixture
async def trainer(embedder: Any, tmp_path: Path) -> AsyncIterator[HeadTrainer]:
    made = HeadTrainer(HeadStore(tmp_path / "heads"), embedder, "analyzer")
    yield made
    made.close()


def examples(seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("aab" if at % 2 else "ggh"), 9)) + str(at) for at in range(40)]
    return Examples(texts=tuple(texts), labels=tuple("ab" if at % 2 else "gh" for at in range(40)))


def soon() -> Deadline:
    return Deadline.after(20)


async def test_a_head_is_trained_kept_and_found(trainer: HeadTrainer) -> None:
    kept = await trainer.train("topic", examples(), request_id="", deadline=soon())
    assert (kept.record.version, kept.is_retry, kept.record.embedder_version) == (1, False, 2)
    assert kept.record.accuracy == 1
    found = await trainer.find("topic", 0)
    assert found.record == kept.record and not found.notes()
    assert found.weights.probabilities(np.eye(8, dtype=np.float32)[:1]).argmax() == 0
    assert [record.name for record in await trainer.newest()] == ["topic"]


async def test_a_retry_gives_the_head_of_the_first_try(trainer: HeadTrainer, embedder: Any) -> None:
    first = await trainer.train("topic", examples(), request_id="one", deadline=soon())
    again = await trainer.train("topic", examples(), request_id="one", deadline=soon())
    assert (again.record, again.is_retry) == (first.record, True)
    assert embedder.asked == 1
    for request_id, version in (("two", 2), ("", 3), ("", 4)):
        kept = await trainer.train("topic", examples(), request_id=request_id, deadline=soon())
        assert kept.record.version == version
    assert (await trainer.train("other", examples(), request_id="one", deadline=soon())).record.version == 1


async def test_a_request_id_is_not_taken_for_other_examples(trainer: HeadTrainer) -> None:
    await trainer.train("topic", examples(), request_id="one", deadline=soon())
    with pytest.raises(AlreadyExists):
        await trainer.train("topic", examples(1), request_id="one", deadline=soon())


async def test_trainings_of_one_name_at_once_get_versions_of_their_own_and_tries_of_one_request_one(
    trainer: HeadTrainer,
) -> None:
    calls = [trainer.train("topic", examples(at), request_id="", deadline=soon()) for at in range(3)]
    tries = [trainer.train("topic", examples(), request_id="one", deadline=soon()) for _ in range(2)]
    found = await asyncio.gather(*calls, *tries)
    assert sorted({kept.record.version for kept in found}) == [1, 2, 3, 4]
    first, second = found[3:]
    assert first.record == second.record
    assert first.is_retry != second.is_retry


async def test_a_deadline_that_passes_ends_the_training(trainer: HeadTrainer) -> None:
    with pytest.raises(DeadlineExceeded):
        await trainer.train("topic", examples(), request_id="", deadline=Deadline.after(0.0))
    assert await trainer.newest() == []
    assert (await trainer.train("topic", examples(), request_id="", deadline=soon())).record.version == 1


async def test_a_head_of_an_embedder_that_is_not_loaded_asks_to_be_trained_again(
    trainer: HeadTrainer, embedder: Any
) -> None:
    await trainer.train("topic", examples(), request_id="", deadline=soon())
    embedder.versions, embedder.live = (3,), 3
    with pytest.raises(Precondition, match="train the head again") as caught:
        await trainer.find("topic", 0)
    assert caught.value.reason == ErrorReason.ERROR_REASON_MODEL_STATE
    kept = await trainer.train("topic", examples(), request_id="", deadline=soon())
    assert (kept.record.version, kept.record.embedder_version) == (2, 3)
    assert (await trainer.find("topic", 0)).record.version == 2
    embedder.versions = (2, 3)
    assert (await trainer.find("topic", 1)).record.embedder_version == 2


async def test_an_older_version_that_stands_in_says_so(trainer: HeadTrainer, tmp_path: Path) -> None:
    for seed in range(2):
        await trainer.train("topic", examples(seed), request_id="", deadline=soon())
    (tmp_path / "heads" / "topic" / "2" / "head.json").write_text("damaged", "utf-8")
    found = await trainer.find("topic", 0)
    assert found.record.version == 1
    assert found.notes() == ["version 2 of the head could not be read, so version 1 answered; train it again"]
    with pytest.raises(CorruptData, match="train it again"):
        await trainer.find("topic", 2)
    assert not (await trainer.find("topic", 1)).notes()


async def test_a_training_that_finds_no_room_embeds_nothing(trainer: HeadTrainer, embedder: Any) -> None:
    embedder.go.clear()
    calls = [
        asyncio.create_task(trainer.train("topic", examples(at), request_id="", deadline=soon()))
        for at in range(WAITING_MAX + 1)
    ]
    await embedder.started.wait()
    with pytest.raises(Overloaded):
        await trainer.train("topic", examples(9), request_id="", deadline=soon())
    assert embedder.asked == 1
    embedder.go.set()
    assert sorted(kept.record.version for kept in await asyncio.gather(*calls)) == list(range(1, WAITING_MAX + 2))


async def test_without_an_embedder_nothing_is_trained(trainer: HeadTrainer, embedder: Any) -> None:
    embedder.missing = Precondition("build it")
    with pytest.raises(Precondition, match="build it"):
        await trainer.train("topic", examples(), request_id="", deadline=soon())
    with pytest.raises(NotFound):
        await trainer.find("topic", 0)
