"""Training of heads on request: examples are embedded, the fit takes its turn in a thread, the head is kept."""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc import AlreadyExists, Deadline, Precondition
from meshcast.runtime.turns import Turns
from meshcast.services.analyzer.embedder import EMBEDDER
from meshcast.services.analyzer.embedding import TextEmbedder
from meshcast.services.analyzer.head_store import HeadRecord, HeadStore, examples_digest
from meshcast.services.analyzer.heads import HeadWeights, train
from meshcast.services.analyzer.questions import Examples

__all__ = ["HeadTrainer", "Kept"]

WAITING_MAX = 4
"""Trainings that may wait for the one that runs, each of up to some seconds."""


class Kept(NamedTuple):
    """A head, and whether an earlier try of the same request trained it."""

    record: HeadRecord
    is_retry: bool


class HeadTrainer:
    """Trains, keeps and finds heads for concurrent calls.

    Args:
        store: where they are kept.
        embedder: makes embeddings of the examples.
        model: name of the service's model, for errors.
    """

    def __init__(self, store: HeadStore, embedder: TextEmbedder, model: str) -> None:
        self._store, self._embedder = store, embedder
        self._turns = Turns(model, "training", waiting_max=WAITING_MAX, retry_after_s=2.0)

    def close(self) -> None:
        """Takes no more trainings; the one that runs is told to stop."""
        self._turns.close()

    async def train(self, name: str, examples: Examples, *, request_id: str, deadline: Deadline) -> Kept:
        """Trains a head and keeps it as the next version of its name; what is returned is on disk.

        Raises:
            AlreadyExists: this request id has trained a head of this name from other examples.
            Overloaded: too many trainings wait.
            DeadlineExceeded: the deadline passed; a fit under way ends, and nothing is kept.
            MeshError: as `TextEmbedder.embed`, and as `HeadStore.keep`.
        """
        self._embedder.require()
        digest = await asyncio.to_thread(examples_digest, examples.texts, examples.labels)
        if (record := await asyncio.to_thread(self._earlier, name, request_id, digest)) is not None:
            return Kept(record, is_retry=True)
        version = self._embedder.live
        vectors = await self._embedder.embed_many(examples.texts, deadline=deadline, version=version)

        def fit(is_over: Callable[[], bool]) -> Kept:
            # A second try of the request may have waited behind the first.
            if (earlier := self._earlier(name, request_id, digest)) is not None:
                return Kept(earlier, is_retry=True)
            trained = train(vectors, examples.labels, examples.texts, is_over=is_over)
            record = self._store.keep(
                name,
                trained,
                embedder_version=version,
                trained_unix_us=time.time_ns() // 1000,
                request_id=request_id,
                digest=digest,
            )
            return Kept(record, is_retry=False)

        async with deadline.enforced(where="the training"):
            return await self._turns.take(fit)

    async def find(self, name: str, version: int) -> tuple[HeadRecord, HeadWeights]:
        """A head that is kept, and its weights; version 0 is the newest.

        Raises:
            NotFound: HEAD_UNKNOWN.
            CorruptData: its weights are damaged.
            Precondition: the embedder that it belongs to is not loaded.
        """

        def read() -> tuple[HeadRecord, HeadWeights]:
            record = self._store.find(name, version)
            return record, self._store.weights(record)

        record, weights = await asyncio.to_thread(read)
        if record.embedder_version not in self._embedder.versions:
            raise Precondition(
                f"Version {record.version} of the head {name!r} belongs to version {record.embedder_version} of the "
                f"embedder, which is not loaded (version {self._embedder.live} is); train the head again.",
                reason=error_reason_pb2.ERROR_REASON_MODEL_STATE,
                model=EMBEDDER.name,
            )
        return record, weights

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
