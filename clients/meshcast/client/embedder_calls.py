"""Calls to the analyzer's embedder: embeddings, orders of documents, classes of texts, and heads that are trained."""

from collections.abc import Iterable, Mapping, Sequence

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.client.analyzer_calls import BULK_TIMEOUT_S, Clock, parts
from meshcast.client.calls import Calls, answer_to
from meshcast.client.content_questions import check_asking, check_text, check_version, size_of
from meshcast.client.priority import PRIORITIES, Priority
from meshcast.client.receipts import Receipt
from meshcast.client.text_answers import Classification, Embeddings, RankedDocument, Ranking, TextHead
from meshcast.contents import ROWS_MAX
from meshcast.rpc import InvalidInput

_DOCUMENTS_MAX = 1_000  # of a request, of the contract

Labels = Sequence[str] | Mapping[str, str]
"""Labels by their names, or names with a sentence like the texts that have them."""


class EmbedderCalls(Calls):
    """What a client asks the embedder; where it is not built, each call raises Precondition with the command to run."""

    async def embed_texts(
        self,
        texts: Sequence[str],
        *,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float = BULK_TIMEOUT_S,
    ) -> Embeddings:
        """Embeds texts: vectors of length 1 whose dot product is high for texts of like meaning.

        ```python
        found = await mesh.embed_texts(["a cat", "a kitten", "the tax return"])
        print(found.vectors @ found.vectors.T)
        ```

        Args:
            texts: any number, each at most 1 MiB: as many requests are made as it takes, all of one version.
            request_id: prefix of the requests' ids. None: one is made.
            version: version of the embedder that must answer; 0 for the one that serves.
            priority: which rows go first when the queue holds more than a batch.
            timeout_s: deadline of the whole, in seconds.

        Raises:
            InvalidInput: there is no text, or one cannot be sent; it is named.
            Precondition: the embedder is not built; `facts["command"]` builds it.
        """
        sent = _checked(texts, "texts")
        prefix, clock = request_id or self._ids.next(), Clock(timeout_s)
        responses: list[pb.EmbedTextsResponse] = []
        rows: list[int] = []
        check_asking(request_id, version, priority)
        for number, part in enumerate(parts(map(size_of, sent), ROWS_MAX)):
            request = pb.EmbedTextsRequest(
                request_id=f"{prefix}/{number}",
                texts=sent[part.start : part.stop],
                model_version=version,
                priority=PRIORITIES[priority],
            )
            response = await answer_to(self._open.analyzer.EmbedTexts(request, timeout=clock.remaining_s()))
            version = version or response.receipt.model_version  # vectors of two versions cannot be compared
            responses.append(response)
            rows.append(len(part))
        return Embeddings.of(responses, rows)

    async def rerank_texts(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top: int = 0,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float = BULK_TIMEOUT_S,
    ) -> Ranking:
        """Ranks documents by how well they answer a query.

        Args:
            query: what is looked for.
            documents: any number, each at most 1 MiB: as many requests are made as it takes, all of one version.
            top: most documents to return; 0 means all.
            request_id: prefix of the requests' ids. None: one is made.
            version: version of the embedder that must answer; 0 for the one that serves.
            priority: which rows go first when the queue holds more than a batch.
            timeout_s: deadline of the whole, in seconds.

        Raises:
            InvalidInput: the query or a document cannot be sent; it is named.
            Precondition: the embedder is not built; `facts["command"]` builds it.
        """
        check_text(query, "query")
        check_asking(request_id, version, priority)
        if top < 0:
            raise InvalidInput(f"top must be 0 or more, is {top}", field="top")
        sent = _checked(documents, "documents")
        prefix, clock = request_id or self._ids.next(), Clock(timeout_s)
        ranked: list[RankedDocument] = []
        receipts = []
        for number, part in enumerate(parts(map(size_of, sent), _DOCUMENTS_MAX, around=size_of(query))):
            request = pb.RerankTextsRequest(
                request_id=f"{prefix}/{number}",
                query=query,
                documents=sent[part.start : part.stop],
                top=min(top, len(part)),
                model_version=version,
                priority=PRIORITIES[priority],
            )
            response = await answer_to(self._open.analyzer.RerankTexts(request, timeout=clock.remaining_s()))
            version = version or response.receipt.model_version
            ranked.extend([RankedDocument(part.start + one.index, one.score) for one in response.ranked])
            receipts.append(Receipt(response.receipt))
        ranked.sort(key=lambda one: (-one.score, one.index))
        return Ranking(ranked=tuple(ranked[: top or None]), receipts=tuple(receipts))

    async def classify_texts(
        self,
        texts: Sequence[str],
        *,
        labels: Labels | None = None,
        head: str | None = None,
        head_version: int = 0,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float = BULK_TIMEOUT_S,
    ) -> Classification:
        """Classifies texts: by descriptions of the labels alone, or by a head that `train_text_head` trained.

        ```python
        found = await mesh.classify_texts(texts, labels={"sport": "A match was won.", "weather": "It will rain."})
        found = await mesh.classify_texts(texts, head="tone")
        print(found.names, found.scores)
        ```

        Args:
            texts: any number, each at most 1 MiB: as many requests are made as it takes, all of one version.
            labels: 2 to 256 labels, by name or with a sentence each; or give `head`.
            head: name of a trained head; or give `labels`.
            head_version: version of the head; 0: the newest.
            request_id: prefix of the requests' ids. None: one is made.
            version: version of the embedder that must answer for `labels`; 0 for the one that serves. A head has its
                own.
            priority: which rows go first when the queue holds more than a batch.
            timeout_s: deadline of the whole, in seconds.

        Raises:
            InvalidInput: neither or both of `labels` and `head` are given, or a text cannot be sent; it is named.
            NotFound: there is no such head.
            Precondition: the embedder is not built; `facts["command"]` builds it.
        """
        if (labels is None) == (head is None):
            raise InvalidInput("give labels or the name of a head, one of the two", field="labels")
        check_asking(request_id, version, priority)
        check_version(head_version, "head_version")
        check_text(head or "", "head")
        zero_shot = None if labels is None else pb.ZeroShot(labels=_labels(labels))
        sent = _checked(texts, "texts")
        prefix, clock = request_id or self._ids.next(), Clock(timeout_s)
        responses: list[pb.ClassifyTextsResponse] = []
        rows: list[int] = []
        around = 0 if zero_shot is None else zero_shot.ByteSize()
        for number, part in enumerate(parts(map(size_of, sent), ROWS_MAX, around=around)):
            request = pb.ClassifyTextsRequest(
                request_id=f"{prefix}/{number}",
                texts=sent[part.start : part.stop],
                zero_shot=zero_shot,
                head=None if head is None else pb.TextHeadRef(name=head, version=head_version),
                priority=PRIORITIES[priority],
                model_version=version if head is None else 0,
            )
            response = await answer_to(self._open.analyzer.ClassifyTexts(request, timeout=clock.remaining_s()))
            head_version = response.head.version  # one that is trained meanwhile may have other labels
            version = version or response.receipt.model_version  # scores by two embedders cannot be compared
            responses.append(response)
            rows.append(len(part))
        return Classification.of(responses, rows)

    async def train_text_head(
        self,
        name: str,
        examples: Iterable[tuple[str, str]],
        *,
        request_id: str | None = None,
        timeout_s: float = BULK_TIMEOUT_S,
    ) -> TextHead:
        """Trains a head, a small classifier over embeddings, and keeps it as the next version of its name.

        Args:
            name: 1 to 64 of a-z, 0-9, `-` and `_`, a letter first.
            examples: up to 4,096 pairs of text and label, at least 2 of each of 2 to 256 labels.
            request_id: unique to the question; a retry with the same gives the version that was trained first. None:
                one is made.
            timeout_s: deadline in seconds.

        Raises:
            InvalidInput: a rule of the contract is broken; the fields are named.
            Precondition: the embedder is not built; `facts["command"]` builds it.
        """
        check_asking(request_id, 0, "normal")
        labelled = []
        for row, (text, label) in enumerate(examples):
            check_text(text, f"examples[{row}].text")
            check_text(label, f"examples[{row}].label")
            labelled.append(pb.LabelledText(text=text, label=label))
        request = pb.TrainTextHeadRequest(
            request_id=request_id or self._ids.next(), name=check_text(name, "name"), examples=labelled
        )
        response = await answer_to(self._open.analyzer.TrainTextHead(request, timeout=timeout_s))
        return TextHead.of(response.head)


def _checked(texts: Sequence[str], field: str) -> list[str]:
    if isinstance(texts, str):
        raise InvalidInput(f"{field} must be several texts, is one; put it into a list", field=field)
    found = [check_text(text, f"{field}[{row}]") for row, text in enumerate(texts)]
    if not found:
        raise InvalidInput(f"{field}: there are none; give at least one", field=field)
    return found


def _labels(labels: Labels) -> list[pb.TextLabel]:
    if isinstance(labels, str):
        raise InvalidInput("labels must be several, is one text; put them into a list", field="labels")
    pairs = labels.items() if isinstance(labels, Mapping) else [(name, "") for name in labels]
    return [
        pb.TextLabel(name=check_text(name, f"labels[{row}].name"), description=check_text(text, f"labels[{row}]"))
        for row, (name, text) in enumerate(pairs)
    ]
