"""Embeddings of texts: the embedder's part of the service, and what is computed from vectors alone."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc import CorruptData, Deadline
from meshcast.runtime import LOW, NORMAL, Models, RunFacts
from meshcast.services.analyzer.embedder import EMBEDDER
from meshcast.services.analyzer.embedder.signature import TOKENS_MAX
from meshcast.services.analyzer.prepare import text_preparer

__all__ = ["TEMPERATURE", "Embedded", "TextEmbedder", "ranking", "zero_shot"]

TEMPERATURE = 0.05
"""Cosine that makes one label e times another: what near and far texts of this embedder differ by is a few of it."""

TEXTS_AT_ONCE = 512
"""Texts of a large question that wait for runs together."""

Floats = NDArray[np.float32]


class Embedded(NamedTuple):
    """Vectors of texts.

    Attributes:
        vectors: shape (n, width), float32, of length 1.
        was_cut: shape (n,), whether only the beginning of a text was read.
        facts: how they came about.
    """

    vectors: Floats
    was_cut: NDArray[np.bool_]
    facts: RunFacts

    def notes(self) -> list[str]:
        """What a receipt says where only the beginning of texts was read."""
        count = int(self.was_cut.sum())
        which = f"of {count} of {len(self.was_cut)} texts only the first {TOKENS_MAX} tokens were read"
        return [which] if count else []


class TextEmbedder:
    """Embeds the texts of concurrent calls; use as `async with`.

    Args:
        models: of the process; the embedder may be missing.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._preparer = text_preparer()

    async def __aenter__(self) -> Self:
        await self._preparer.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._preparer.__aexit__(*error)

    @property
    def live(self) -> int:
        """Version of the embedder that serves; 0 where none does."""
        return self._models.get(EMBEDDER.name).live

    @property
    def versions(self) -> tuple[int, ...]:
        """Versions of the embedder that can be asked for."""
        return self._models.get(EMBEDDER.name).versions

    def require(self, version: int = 0) -> None:
        """Checks that texts would be embedded by a version (0: any).

        Raises:
            Precondition: nobody has built the embedder, or it was unloaded; the command is named.
            NotReady: it loads.
            NotFound: the version is not loaded.
        """
        self._models.require(EMBEDDER.name, version)

    async def embed(
        self, texts: Sequence[str], *, deadline: Deadline, priority: int = NORMAL, version: int = 0
    ) -> Embedded:
        """Embeds texts, at least one.

        Raises:
            MeshError: as `require`, and as `Batcher.submit`.
        """
        model = self._models.require(EMBEDDER.name, version)
        with self._preparer.caller() if len(texts) == 1 else nullcontext():
            prepared = await self._preparer.prepare(texts)
            ran = await model.batcher.submit_groups(
                prepared.groups, deadline=deadline, priority=priority, version=version
            )
        vectors = ran.outputs[EMBEDDER.signature.output_names[0]]
        if not np.isfinite(vectors).all():
            raise CorruptData(
                f"Version {ran.facts.version} of {model.name} gave a vector that is none.",
                model=model.name,
                version=ran.facts.version,
                why="not finite",
            )
        return Embedded(vectors, prepared.was_cut, ran.facts)

    async def embed_many(self, texts: Sequence[str], *, deadline: Deadline, version: int) -> Floats:
        """Vectors of many texts, (n, width), behind everybody else's and in parts, so that others find room.

        Raises:
            MeshError: as `embed`.
        """
        parts = []
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            part = texts[first : first + TEXTS_AT_ONCE]
            parts.append((await self.embed(part, deadline=deadline, priority=LOW, version=version)).vectors)
        return np.concatenate(parts)


def ranking(query: Floats, documents: Floats, top: int = 0) -> tuple[NDArray[np.int64], Floats]:
    """Documents by their cosine with a query, best first; those of one score keep their order.

    Args:
        query: shape (width,), of length 1.
        documents: shape (n, width), of length 1.
        top: most documents to return; 0 for all.

    Returns:
        Their positions, int64, and their cosines, float32.
    """
    # One text may have vectors that differ in their last digits, by the batch that each was in.
    cosines = np.einsum("nd,d->n", documents, query, dtype=np.float64)
    scores = np.round(np.clip(cosines, -1, 1), 6).astype(np.float32)
    order = np.argsort(-scores, kind="stable")[: top or len(documents)]
    return order, scores[order]


def zero_shot(texts: Floats, descriptions: Floats) -> Floats:
    """Scores of labels that are known by their descriptions.

    Args:
        texts: shape (n, width), of length 1.
        descriptions: shape (labels, width), of length 1.

    Returns:
        Shape (n, labels), float32: a softmax of the cosines over `TEMPERATURE`, each row with the sum 1.
    """
    scores = texts @ descriptions.T / np.float32(TEMPERATURE)
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    shares: Floats = scores
    return shares
