"""Questions out of requests: messages become texts and columns, and nothing is computed yet."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.contents import BYTES_MAX, Contents, Violations, contents_from_columns, contents_from_messages
from meshcast.rpc import Violation
from meshcast.runtime.requests import (
    VIOLATIONS_MAX,
    chunk_violations,
    name_violations,
    refusal,
)
from meshcast.services.analyzer.heads import EXAMPLES_MAX, LABELS_MAX
from meshcast.services.analyzer.spans import SPANS_DEFAULT, SPANS_MAX

__all__ = [
    "CONTENTS_MAX",
    "DOCUMENTS_MAX",
    "Examples",
    "Explain",
    "Question",
    "Shots",
    "TEXTS_MAX",
    "chunk_question",
    "classify_question",
    "contents_question",
    "embed_question",
    "explain_question",
    "rerank_question",
    "single_question",
    "train_question",
]

TEXTS_MAX = 1_024
"""Texts that EmbedTexts and ClassifyTexts take at most."""

DOCUMENTS_MAX = 1_000
"""Documents that RerankTexts takes at most."""

CONTENTS_MAX = 1_000
"""Contents that ExtractContentFeatures takes at most."""

LABEL_CHARACTERS_MAX = 128
"""Characters of a label at most."""

_HEAD_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_EACH_LABEL_MIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Contents as the caller sent them.

    Attributes:
        contents: the rows.
        violations: what is wrong with rows at fault; empty for a sound question.
    """

    contents: Contents
    violations: Violations

    def __len__(self) -> int:
        return len(self.contents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explain:
    """What is to be explained.

    Attributes:
        contents: the one row.
        length_follows: True where the caller declared no length, so that it is that of the text.
        question: which judgement; never unspecified.
        spans_max: most spans to name.
    """

    contents: Contents
    length_follows: bool
    question: pb.ContentQuestion.ValueType
    spans_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shots:
    """Labels that are known by their descriptions.

    Attributes:
        names: unique.
        descriptions: one a name.
    """

    names: tuple[str, ...]
    descriptions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Texts with their labels.

    Attributes:
        texts: n texts.
        labels: n labels.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]


def single_question(request: pb.AnalyzeContentRequest) -> Question:
    """The one row of a unary request.

    Raises:
        InvalidInput: the id is too long, or there is no content.
    """
    return _one(request, name_violations(request.request_id))


def explain_question(request: pb.DetectViralPotentialRequest) -> Explain:
    """What a request wants to be explained.

    Raises:
        InvalidInput: the content breaks a rule, the question is not known, or `spans_max` is out of its range.
    """
    found = name_violations(request.request_id)
    if request.question not in pb.ContentQuestion.values():
        found.append(Violation("question", f"is {request.question}; known are 1 (viral) and 2 (above the median)"))
    if not 0 <= request.spans_max <= SPANS_MAX:
        found.append(Violation("spans_max", f"is {request.spans_max}; 1 to {SPANS_MAX} spans can be named"))
    question = _one(request, found)
    if question.violations:
        raise refusal(question.violations[0])
    return Explain(
        contents=question.contents,
        length_follows=not request.content.HasField("content_length"),
        question=request.question or pb.CONTENT_QUESTION_VIRAL,
        spans_max=request.spans_max or SPANS_DEFAULT,
    )


def chunk_question(request: pb.AnalyzeContentStreamRequest, *, rows_max: int) -> Question:
    """The rows of a chunk.

    Raises:
        InvalidInput: columns differ in length, the chunk is empty or larger than `rows_max`, or the rows' own ids do
            not match the rows.
    """
    violations = name_violations(request.request_id)
    violations += chunk_violations(
        request.contents.rows, request.row_request_ids, rows_max=rows_max, field="contents.rows"
    )
    if violations:
        raise refusal(violations)
    contents, found = contents_from_columns(request.contents, "contents")
    return Question(contents=contents, violations=found)


def contents_question(contents: Sequence[pb.Content], *, field: str, rows_max: int) -> Contents:
    """Contents of which each must be sound.

    Raises:
        InvalidInput: there are none or more than `rows_max`, or one breaks a rule; up to 50 rules are named.
    """
    if not 1 <= len(contents) <= rows_max:
        raise refusal([Violation(field, f"must be 1 to {rows_max}, are {len(contents)}")])
    table, violations = contents_from_messages(contents, lambda row, column: f"{field}[{row}].{column}")
    if violations:
        raise refusal([one for row in sorted(violations) for one in violations[row]][:VIOLATIONS_MAX])
    return table


def embed_question(request: pb.EmbedTextsRequest) -> tuple[str, ...]:
    """The texts to embed.

    Raises:
        InvalidInput: the id is too long, there are too few or too many texts, or one is too long.
    """
    _raise(name_violations(request.request_id) + _texts_violations(request.texts, "texts", TEXTS_MAX))
    return tuple(request.texts)


def rerank_question(request: pb.RerankTextsRequest) -> tuple[str, ...]:
    """The query, and after it the documents.

    Raises:
        InvalidInput: the id is too long, the query is missing, there are too few or too many documents, one is too
            long, or `top` is negative.
    """
    found = name_violations(request.request_id)
    if not request.query.strip():
        found.append(Violation("query", "is required"))
    found += _size_violations(request.query, "query")
    found += _texts_violations(request.documents, "documents", DOCUMENTS_MAX)
    if request.top < 0:
        found.append(Violation("top", f"is {request.top}; 0 for all, or how many documents are wanted"))
    _raise(found)
    return (request.query, *request.documents)


def classify_question(request: pb.ClassifyTextsRequest) -> tuple[tuple[str, ...], Shots | None]:
    """The texts to classify, and the labels by their descriptions; None where a head is named.

    Raises:
        InvalidInput: the id is too long, there are too few or too many texts or one is too long, no classes are given,
            labels are missing, too many, empty, too long or not unique, or the head's name is none.
    """
    found = name_violations(request.request_id) + _texts_violations(request.texts, "texts", TEXTS_MAX)
    kind, shots = request.WhichOneof("classes"), None
    if kind is None:
        found.append(Violation("classes", "is required: zero_shot or head"))
    elif kind == "head":
        found += _head_name_violations(request.head.name, "head.name")
        if request.head.version < 0:
            found.append(Violation("head.version", f"is {request.head.version}; 0 for the newest, or a version"))
    else:
        labels = request.zero_shot.labels
        found += _label_violations([label.name for label in labels])
        for at, label in enumerate(labels):
            found += _size_violations(label.description, f"zero_shot.labels[{at}].description")
        shots = Shots(
            names=tuple(label.name for label in labels),
            descriptions=tuple(label.description or label.name for label in labels),
        )
    _raise(found)
    return tuple(request.texts), shots


def train_question(request: pb.TrainTextHeadRequest) -> Examples:
    """The examples of a head.

    Raises:
        InvalidInput: the id is too long, the name is none, or the examples break a rule.
    """
    found = name_violations(request.request_id) + _head_name_violations(request.name, "name")
    examples = request.examples
    if len(examples) > EXAMPLES_MAX:
        found.append(Violation("examples", f"has {len(examples)}, at most {EXAMPLES_MAX}"))
        _raise(found)
    labels: dict[str, list[int]] = {}
    for at, example in enumerate(examples):
        found += _text_violations(example.text, f"examples[{at}].text")
        found += _label_fault(example.label, f"examples[{at}].label")
        labels.setdefault(example.label, []).append(at)
    if not 2 <= len(labels) <= LABELS_MAX:
        found.append(Violation("examples", f"must be of 2 to {LABELS_MAX} labels, are of {len(labels)}"))
    found += [
        Violation(f"examples[{places[0]}].label", f"{label!r} has 1 example; each label needs {_EACH_LABEL_MIN}")
        for label, places in labels.items()
        if len(places) < _EACH_LABEL_MIN and 0 < len(label) <= LABEL_CHARACTERS_MAX
    ]
    texts = tuple(example.text for example in examples)
    if not found and len(set(texts)) < 2:
        found.append(Violation("examples", "are one text again and again; two different texts are needed"))
    _raise(found)
    return Examples(texts=texts, labels=tuple(example.label for example in examples))


def _head_name_violations(name: str, field: str) -> list[Violation]:
    """Breaches of the rule on the name of a head."""
    if not name:
        return [Violation(field, "is required")]
    if not _HEAD_NAME.fullmatch(name):
        return [Violation(field, "must be 1 to 64 of a-z, 0-9, `-` and `_`, a letter first")]
    return []


def _one(request: pb.AnalyzeContentRequest | pb.DetectViralPotentialRequest, found: Sequence[Violation]) -> Question:
    found = list(found)
    if not request.HasField("content"):
        found.append(Violation("content", "is required"))
    _raise(found)
    contents, violations = contents_from_messages([request.content], lambda row, column: f"content.{column}")
    return Question(contents=contents, violations=violations)


def _raise(found: Sequence[Violation]) -> None:
    if found:
        raise refusal(found[:VIOLATIONS_MAX])


def _texts_violations(texts: Sequence[str], field: str, most: int) -> list[Violation]:
    if not 1 <= len(texts) <= most:
        return [Violation(field, f"must be 1 to {most}, are {len(texts)}")]
    return [one for at, text in enumerate(texts) for one in _size_violations(text, f"{field}[{at}]")]


def _text_violations(text: str, field: str) -> list[Violation]:
    """Breaches of the rules on a text that must say something."""
    if not text or text.isspace():
        return [Violation(field, "is empty")]
    return _size_violations(text, field)


def _size_violations(text: str, field: str) -> list[Violation]:
    if 4 * len(text) <= BYTES_MAX:  # no code point takes more than 4 bytes
        return []
    size = len(text.encode())
    return [Violation(field, f"has {size} bytes of UTF-8, at most {BYTES_MAX}")] if size > BYTES_MAX else []


def _label_violations(names: Sequence[str]) -> list[Violation]:
    field = "zero_shot.labels"
    if not 2 <= len(names) <= LABELS_MAX:
        return [Violation(field, f"must be 2 to {LABELS_MAX}, are {len(names)}")]
    found = [one for at, name in enumerate(names) for one in _label_fault(name, f"{field}[{at}].name")]
    first: dict[str, int] = {}
    for at, name in enumerate(names):
        if first.setdefault(name, at) != at and name:
            found.append(Violation(f"{field}[{at}].name", f"is that of labels[{first[name]}] too; names are unique"))
    return found


def _label_fault(label: str, field: str) -> list[Violation]:
    if not label:
        return [Violation(field, "is required")]
    if len(label) > LABEL_CHARACTERS_MAX:
        return [Violation(field, f"has {len(label)} characters, at most {LABEL_CHARACTERS_MAX}")]
    return []
