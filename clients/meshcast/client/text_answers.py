"""Answers of the embedder as values: embeddings, orders of documents, classes, and the heads that give them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.client.receipts import Receipt
from meshcast.columns import unpack_floats
from meshcast.rpc import Internal, InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embeddings:
    """Vectors of texts; anything that takes an array takes them as one.

    Attributes:
        vectors: shape (n, dimensions), float32, each of length 1, so that `a @ b` is the cosine.
        cut: shape (k,), int64, texts of which only the beginning was read, ascending.
        receipts: one for each request that it took.
    """

    vectors: NDArray[np.float32]
    cut: NDArray[np.int64]
    receipts: tuple[Receipt, ...]

    def __len__(self) -> int:
        return len(self.vectors)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The vectors."""
        return np.array(self.vectors, dtype=dtype, copy=copy)

    @classmethod
    def of(cls, responses: Sequence[pb.EmbedTextsResponse], rows: Sequence[int]) -> "Embeddings":
        """The value of the answers to requests of so many texts each.

        Raises:
            Internal: an answer is not of as many rows as were asked about, or of other dimensions than the first.
        """
        parts, cut, first = [], [], 0
        dimensions = responses[0].dimensions
        for response, n in zip(responses, rows, strict=True):
            try:
                parts.append(unpack_floats(response.embeddings, (n, dimensions), "embeddings"))
            except InvalidInput as wrong:
                text = f"the server answered {n} texts with {response.rows} rows of {response.dimensions}: {wrong}"
                raise Internal(text) from wrong
            cut.extend([first + row for row in response.cut])
            first += n
        return cls(
            vectors=parts[0] if len(parts) == 1 else np.concatenate(parts),
            cut=np.array(cut, dtype=np.int64),
            receipts=tuple([Receipt(response.receipt) for response in responses]),
        )


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """A document in its place."""

    index: int
    """Its 0-based position in the question."""
    score: float
    """Cosine of query and document, -1 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Documents by how well they answer a query."""

    ranked: tuple[RankedDocument, ...]
    """Best first; documents of one score keep their order."""
    receipts: tuple[Receipt, ...]
    """One for each request that it took."""

    @property
    def indices(self) -> list[int]:
        """Positions of the documents, best first."""
        return [one.index for one in self.ranked]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextHead:
    """A head: a small classifier over embeddings, as it is kept."""

    name: str
    """Its name."""
    version: int
    """Its version, from 1."""
    labels: tuple[str, ...]
    """Its labels, ascending."""
    examples: int
    """Examples that it was trained on."""
    accuracy: float
    """Share of examples that are right when each is judged by a head that did not see it."""
    majority: float
    """The same share when the most frequent label is always given."""
    embedder_version: int
    """Version of the embedder that it belongs to."""
    trained_at: datetime
    """When it was trained, UTC."""

    @classmethod
    def of(cls, message: pb.TextHead) -> "TextHead":
        """The value of a message."""
        return cls(
            name=message.name,
            version=message.version,
            labels=tuple(message.labels),
            examples=message.examples,
            accuracy=message.accuracy,
            majority=message.majority,
            embedder_version=message.embedder_version,
            trained_at=message.trained_time.ToDatetime(tzinfo=UTC),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Classification:
    """Classes of texts.

    Attributes:
        labels: in the order of the columns.
        best: shape (n,), int64, the best label of each text, a position in `labels`.
        scores: shape (n, labels), float32, each row with the sum 1: of a head, its probabilities; of labels without
            examples, a softmax of the cosines, which orders labels and is no probability.
        head: the head that answered; None for labels without examples.
        receipts: one for each request that it took.
    """

    labels: tuple[str, ...]
    best: NDArray[np.int64]
    scores: NDArray[np.float32]
    head: TextHead | None
    receipts: tuple[Receipt, ...]

    def __len__(self) -> int:
        return len(self.best)

    @property
    def names(self) -> list[str]:
        """The best label of each text."""
        return [self.labels[at] for at in self.best.tolist()]

    @classmethod
    def of(cls, responses: Sequence[pb.ClassifyTextsResponse], rows: Sequence[int]) -> "Classification":
        """The value of the answers to requests of so many texts each.

        Raises:
            Internal: an answer is not of as many rows as were asked about, or of other labels than the first.
        """
        labels = tuple(responses[0].labels)
        scores: list[NDArray[np.float32]] = []
        best: list[int] = []
        for response, n in zip(responses, rows, strict=True):
            if tuple(response.labels) != labels or len(response.best) != n:
                raise Internal(f"the server answered {n} texts with {len(response.best)} classes of other labels")
            if any(not 0 <= at < len(labels) for at in response.best):
                raise Internal("the server answered with a label that is none")
            try:
                scores.append(unpack_floats(response.scores, (n, len(labels)), "scores"))
            except InvalidInput as wrong:
                raise Internal(f"the server answered {n} texts and {len(labels)} labels: {wrong}") from wrong
            best.extend(response.best)
        return cls(
            labels=labels,
            best=np.array(best, dtype=np.int64),
            scores=scores[0] if len(scores) == 1 else np.concatenate(scores),
            head=TextHead.of(responses[0].head) if responses[0].HasField("head") else None,
            receipts=tuple([Receipt(response.receipt) for response in responses]),
        )
