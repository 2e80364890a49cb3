"""Preparation of questions: raw posts are checked and turned into tensors, those that wait together in one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.posts import PLAN_COLUMNS, POST_COLUMNS, Planned, PostTable, row_violations
from meshcast.runtime.preparing import Preparer, Violations, prepare_stacked
from meshcast.services.predictor.features import PLANNED_FEATURES, POSTS_MIN, tensors, usable_posts

_RECENT_MEDIAN = PLANNED_FEATURES.index("recent_median")


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How a form of request calls its fields, so that a violation names what the caller wrote.

    Attributes:
        planned: names a planned post's field, from row and column.
        history: names a settled post's field, from position and column.
        range: names a row's history as a whole.
    """

    planned: Callable[[int, str], str]
    history: Callable[[int, str], str]
    range: Callable[[int], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Rows as the caller sent them.

    Attributes:
        posts: settled posts, shared by the rows.
        planned: planned posts, (m,).
        start: first post of each row's history, (m,).
        stop: end of each row's history, exclusive, (m,).
        naming: how the request calls its fields.
    """

    posts: PostTable
    planned: Planned
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    naming: Naming


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Rows as the graph takes them.

    Attributes:
        inputs: tensors of the sound rows, by input name, (g, ...).
        sound: positions of those rows in the question, (g,), ascending.
        recent_median: median of the last 20 settled posts of the sound rows, log1p(count), (g,).
        violations: what is wrong with each of the other rows.
    """

    inputs: dict[str, NDArray[np.float32]]
    sound: NDArray[np.int64]
    recent_median: NDArray[np.float32]
    violations: Violations


def violations_of(question: Question) -> Violations:
    """The rows that break the contract; empty for a sound question."""
    found = row_violations(
        question.posts,
        question.planned,
        question.start,
        question.stop,
        history_field=question.naming.history,
        planned_field=question.naming.planned,
        range_field=question.naming.range,
    )
    size = len(question.posts)
    first, last = np.clip(question.start, 0, size), np.clip(question.stop, 0, size)
    usable = usable_posts(question.posts, first, np.maximum(first, last))
    for row in np.flatnonzero((usable < POSTS_MIN) & (last - first >= POSTS_MIN)).tolist():
        text = f"needs {POSTS_MIN} posts of which forwards, replies or reactions are known, has {usable[row]}"
        found.setdefault(row, []).append((question.naming.range(row), text))
    return found


def prepare(question: Question) -> Prepared:
    """Checks the rows of one question and turns the sound ones into tensors."""
    posts, planned, start, stop = question.posts, question.planned, question.start, question.stop
    violations = violations_of(question)
    sound = np.arange(len(start), dtype=np.int64)
    if violations:
        sound = np.delete(sound, sorted(violations))
        planned, start, stop = (
            Planned(**{name: getattr(planned, name)[sound] for name in PLAN_COLUMNS}),
            start[sound],
            stop[sound],
        )
        if not len(sound):
            none = np.empty(0, dtype=np.float32)
            return Prepared(inputs={}, sound=sound, recent_median=none, violations=violations)
    inputs = tensors(posts, planned, start, stop)
    return Prepared(
        inputs=inputs, sound=sound, recent_median=inputs["planned"][:, _RECENT_MEDIAN], violations=violations
    )


def prepare_together(questions: Sequence[Question]) -> list[Prepared]:
    """The same as `prepare` of each, in one pass for those that are sound."""
    return prepare_stacked(
        questions, prepare, length=lambda question: len(question.posts.published_unix_s), stack=_stacked, cut=_cut
    )


def preparer() -> Preparer[Question, Prepared]:
    """What prepares the questions of concurrent calls in common passes."""
    return Preparer(prepare_together, rows_of=lambda question: len(question.start))


def _stacked(questions: Sequence[Question], start: NDArray[np.int64], stop: NDArray[np.int64]) -> Question:
    return Question(
        posts=PostTable(**_columns([question.posts for question in questions], ("channel", *POST_COLUMNS))),
        planned=Planned(**_columns([question.planned for question in questions], PLAN_COLUMNS)),
        start=start,
        stop=stop,
        naming=questions[0].naming,
    )


def _cut(prepared: Prepared, first: int, last: int) -> Prepared:
    return Prepared(
        inputs={name: column[first:last] for name, column in prepared.inputs.items()},
        sound=np.arange(last - first, dtype=np.int64),
        recent_median=prepared.recent_median[first:last],
        violations={},
    )


def _columns(tables: Sequence[PostTable] | Sequence[Planned], columns: tuple[str, ...]) -> dict[str, Any]:
    return {name: np.concatenate([getattr(table, name) for table in tables]) for name in columns}
