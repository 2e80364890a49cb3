"""Training of heads on request: examples are embedded, the fit takes its turn in a thread, the head is kept."""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc import AlreadyExists, Deadline, Precondition
from meshcast.runtime.loader import give_back_memory
from meshcast.runtime.turns import Turns
from meshcast.services.analyzer.embedder import EMBEDDER
from meshcast.services.analyzer.embedding import TextEmbedder
from meshcast.services.analyzer.head_store import HeadRecord, HeadStore, examples_digest
from meshcast.services.analyzer.heads import HeadWeights, train
from meshcast.services.analyzer.questions import Examples

__all__ = ["FoundHead", "HeadTrainer", "Kept"]

WAITING_MAX = 4
"""Trainings that may wait for the one that runs."""

RETRY_AFTER_S = 15.0
"""What callers who find no room are told to wait: about as long as a large training, its embedding included."""


class Kept(NamedTuple):
    """A head, and whether an earlier try of the same request trained it."""

    record: HeadRecord
    is_retry: bool


class FoundHead(NamedTuple):
    """A head, and the newer versions that are damaged where the newest was asked for."""

    record: HeadRecord
    weights: HeadWeights
    damaged: list[int]

    def notes(self) -> list[str]:
        """What a receipt says where an older version stands in."""
        if not self.damaged:
            return []
        which = f"version{'s' if len(self.damaged) > 1 else ''} {', '.join(map(str, self.damaged))}"
        return [f"{which} of the head could not be read, so version {self.record.version} answered; train it again"]


class HeadTrainer:
    """Trains, keeps and finds heads for concurrent calls.

    Args:
        store: where they are kept.
        embedder: makes embeddings of the examples.
        model: name of the service's model, for errors.
    """

    def __init__(self, store: HeadStore, embedder: TextEmbedder, model: str) -> None:
        self._store, self._embedder = store, embedder
        self._turns = Turns(model, "training", waiting_max=WAITING_MAX, retry_after_s=RETRY_AFTER_S)

    def close(self) -> None:
        """Takes no more trainings; the one that runs is told to stop."""
        self._turns.close()

    async def train(self, name: str, examples: Examples, *, request_id: str, deadline: Deadline) -> Kept:
        """Trains a head and keeps it as the next version of its name; what is returned is on disk.

        Raises:
            AlreadyExists: this request id has trained a head of this name from other examples.
            Overloaded: too many trainings wait; nothing was embedded.
            DeadlineExceeded: the deadline passed; a fit under way ends, and nothing is kept.
            MeshError: as `TextEmbedder.embed`, and as `HeadStore.keep`.
        """
        self._embedder.require()
        digest = await asyncio.to_thread(examples_digest, examples.texts, examples.labels)
        if (record := await asyncio.to_thread(self._earlier, name, request_id, digest)) is not None:
            return Kept(record, is_retry=True)
        advice = "send fewer examples or set a longer deadline"
        async with deadline.enforced(where="the training", advice=advice), self._turns.turn() as turn:
            # A second try of the request may have waited behind the first.
            if (record := await asyncio.to_thread(self._earlier, name, request_id, digest)) is not None:
                return Kept(record, is_retry=True)
            await asyncio.to_thread(self._store.require_room, name)
            version = self._embedder.live
            vectors = await self._embedder.embed_many(examples.texts, deadline=deadline, version=version)

            def fit(is_over: Callable[[], bool]) -> HeadRecord:
                try:
                    trained = train(vectors, examples.labels, examples.texts, is_over=is_over)
                finally:
                    give_back_memory()
                return self._store.keep(
                    name,
                    trained,
                    embedder_version=version,
                    trained_unix_us=time.time_ns() // 1000,
                    request_id=request_id,
                    digest=digest,
                )

            return Kept(await turn.run(fit), is_retry=False)

    async def find(self, name: str, version: int) -> FoundHead:
        """A head that is kept; version 0 is the newest that is sound.

        Raises:
            NotFound: HEAD_UNKNOWN.
            CorruptData: it is damaged.
            Precondition: the embedder that it belongs to is not loaded.
        """

        def read() -> FoundHead:
            record = self._store.find(name, version)
            damaged = [] if version else self._store.damaged_after(record)
            return FoundHead(record, self._store.weights(record), damaged)

        found = await asyncio.to_thread(read)
        record = found.record
        if record.embedder_version not in self._embedder.versions:
            raise Precondition(
                f"Version {record.version} of the head {name!r} belongs to version {record.embedder_version} of the "
                f"embedder, which is not loaded (version {self._embedder.live} is); train the head again.",
                reason=error_reason_pb2.ERROR_REASON_MODEL_STATE,
                model=EMBEDDER.name,
            )
        return found

    async def newest(self) -> list[HeadRecord]:
        """The newest version of every head, ascending by name."""
        return await asyncio.to_thread(self._store.newest)

    def _earlier(self, name: str, request_id: str, digest: str) -> HeadRecord | None:
        record = self._store.made_by(name, request_id)
        if record is not None and record.examples_digest != digest:
            raise AlreadyExists(
                f"The request {request_id!r} has trained version {record.version} of {name!r} from other examples; "
                "choose another request id.",
                name=name,
            )
        return record
