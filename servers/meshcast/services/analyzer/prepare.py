"""Preparation of questions: texts become tensors, those of calls that wait together in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from meshcast.contents import Contents, Violations
from meshcast.runtime.preparing import Preparer
from meshcast.runtime.ragged import RowGroup
from meshcast.services.analyzer.embedder import tokens as embedder_tokens
from meshcast.services.analyzer.features import READ_CHARS, READ_TITLE_CHARS, groups, padded, rows
from meshcast.services.analyzer.questions import Question
from meshcast.services.analyzer.signature import SIGNATURE

__all__ = [
    "Prepared",
    "PreparedTexts",
    "content_preparer",
    "prepare_contents",
    "text_preparer",
]

_COST_CHARS = 125  # what 0.03 ms of the loop reads; a pass of `ROWS_INLINE` of them is about a millisecond


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Rows as the graph of the content model takes them.

    Attributes:
        groups: the sound rows by padded shape; positions count sound rows.
        sound: positions of those rows in the question, (g,), int64, ascending.
        read_chars: code points of text and title that the model reads of the sound rows, (g,), int64.
        was_cut: whether there are more, (g,), bool.
        tokens_cut: whether the network's tokens end before those code points do, (g,), bool.
        violations: what is wrong with each of the other rows.
    """

    groups: Sequence[RowGroup]
    sound: NDArray[np.int64]
    read_chars: NDArray[np.int64]
    was_cut: NDArray[np.bool_]
    tokens_cut: NDArray[np.bool_]
    violations: Violations


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTexts:
    """Texts as the embedder's graph takes them.

    Attributes:
        groups: the texts by padded length.
        was_cut: whether the embedder does not read a text to its end, (n,), bool.
    """

    groups: Sequence[RowGroup]
    was_cut: NDArray[np.bool_]


def prepare_contents(questions: Sequence[Question]) -> list[Prepared]:
    """What each question becomes, in one pass for all of them."""
    sound = [np.delete(np.arange(len(question), dtype=np.int64), sorted(question.violations)) for question in questions]
    tables = [
        question.contents.take(kept) if question.violations else question.contents
        for question, kept in zip(questions, sound, strict=True)
    ]
    whole = tables[0] if len(tables) == 1 else Contents.joined(tables)
    if not len(whole):  # no row is sound
        return [_nothing(question) for question in questions]
    tokenized = rows(whole)
    cut = np.array(
        [
            len(text) > READ_CHARS or len(title) > READ_TITLE_CHARS
            for text, title in zip(whole.text, whole.title, strict=True)
        ],
        dtype=np.bool_,
    )
    prepared, first = [], 0
    for question, kept in zip(questions, sound, strict=True):
        own = slice(first, first + len(kept))
        if len(questions) == 1:
            found = list(groups(tokenized, SIGNATURE.rows_max))
        else:  # few rows each: those that share a pass are small
            found = [
                RowGroup(np.array([row], dtype=np.int64), padded(tokenized, np.array([first + row], dtype=np.int64)))
                for row in range(len(kept))
            ]
        prepared.append(
            Prepared(
                groups=found,
                sound=kept,
                read_chars=tokenized.read_chars[own],
                was_cut=cut[own],
                tokens_cut=tokenized.tokens_cut[own],
                violations=question.violations,
            )
        )
        first += len(kept)
    return prepared


def prepare_texts(questions: Sequence[Sequence[str]]) -> list[PreparedTexts]:
    """What the texts of each question become."""
    tokenized = embedder_tokens.tokenize(list(chain.from_iterable(questions)))
    prepared, first = [], 0
    for texts in questions:
        own = slice(first, first + len(texts))
        found = embedder_tokens.group(tokenized.tokens[own])
        prepared.append(PreparedTexts(groups=found, was_cut=tokenized.was_cut[own]))
        first += len(texts)
    return prepared


def content_preparer() -> Preparer[Question, Prepared]:
    """What prepares the contents of concurrent calls in common passes."""
    return Preparer(
        prepare_contents,
        rows_of=lambda question: (
            _cost(question.contents.text, READ_CHARS) + _cost(question.contents.title, READ_TITLE_CHARS)
        ),
    )


def text_preparer() -> Preparer[Sequence[str], PreparedTexts]:
    """What prepares the texts of concurrent calls for the embedder in common passes."""
    return Preparer(prepare_texts, rows_of=lambda texts: _cost(texts, embedder_tokens.READ_CHARS))


def _nothing(question: Question) -> Prepared:
    none, no = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_)
    return Prepared(groups=(), sound=none, read_chars=none, was_cut=no, tokens_cut=no, violations=question.violations)


def _cost(texts: Sequence[str], read: int) -> int:
    """What preparing texts costs, in units of a short row; twice as much where letters have to be normalised."""
    return sum(1 + min(len(text), read) * (1 if text.isascii() else 2) // _COST_CHARS for text in texts)
