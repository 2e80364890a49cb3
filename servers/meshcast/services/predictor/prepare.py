"""Preparation of questions: raw posts are checked and turned into tensors, those that wait together in one pass.

One pass costs about 0.3 ms whether it holds one row or thirty, so single calls that arrive together share it. A large
chunk goes to a worker thread instead, since it would hold the loop for longer than a millisecond.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.posts import PLAN_COLUMNS, POST_COLUMNS, Planned, PostTable, row_violations
from meshcast.services.predictor.features import PLANNED_FEATURES, POSTS_MIN, tensors, usable_posts

_RECENT_MEDIAN = PLANNED_FEATURES.index("recent_median")

GATHER_S, GATHER_S_MAX = 0.000_25, 0.005
"""How long a single question waits for others, for each call under way and at most: about what a pass costs."""

ROWS_INLINE = 32
"""Rows of a pass that may run on the loop, about half a millisecond."""


Violations = dict[int, list[tuple[str, str]]]
"""By row at fault, the fields at fault and why."""


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
    """The same as `prepare` of each, in one pass where all of them are sound."""
    if len(questions) == 1 or not all(_inside(question) for question in questions):
        return [prepare(question) for question in questions]
    sizes = np.cumsum([0, *(len(question.posts.published_unix_s) for question in questions)])
    rows = np.cumsum([0, *(len(question.start) for question in questions)])
    whole = Question(
        posts=PostTable(**_stacked([question.posts for question in questions], ("channel", *POST_COLUMNS))),
        planned=Planned(**_stacked([question.planned for question in questions], PLAN_COLUMNS)),
        start=np.concatenate([question.start + at for question, at in zip(questions, sizes, strict=False)]),
        stop=np.concatenate([question.stop + at for question, at in zip(questions, sizes, strict=False)]),
        naming=questions[0].naming,
    )
    if violations_of(whole):
        return [prepare(question) for question in questions]  # each names its own fields
    inputs = tensors(whole.posts, whole.planned, whole.start, whole.stop)
    return [
        Prepared(
            inputs={name: column[first:last] for name, column in inputs.items()},
            sound=np.arange(last - first, dtype=np.int64),
            recent_median=inputs["planned"][first:last, _RECENT_MEDIAN],
            violations={},
        )
        for first, last in pairwise(rows)
    ]


class Preparer:
    """Prepares questions of concurrent calls; use as `async with`, from one event loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Question, asyncio.Future[Prepared]]] = []
        self._callers = 0
        self._timer: asyncio.Handle | None = None
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")

    async def __aenter__(self) -> "Preparer":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)

    @contextmanager
    def caller(self) -> Iterator[None]:
        """Counts a call that asks a single question, from its start to its answer."""
        self._callers += 1
        try:
            yield
        finally:
            self._callers -= 1

    async def prepare(self, question: Question) -> Prepared:
        """Checks the rows and turns the sound ones into tensors.

        A small question shares its pass with those of other callers: it goes at once when every caller under way waits
        here, or when a pass is full, and after `GATHER_S_MAX` at the latest.
        """
        loop = asyncio.get_running_loop()
        if len(question.start) > ROWS_INLINE:
            return await loop.run_in_executor(self._pool, prepare, question)
        future: asyncio.Future[Prepared] = loop.create_future()
        self._waiting.append((question, future))
        if len(self._waiting) >= min(self._callers, ROWS_INLINE):
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(min(GATHER_S * self._callers, GATHER_S_MAX), self._flush)
        return await future

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        together: list[tuple[Question, asyncio.Future[Prepared]]] = []
        rows = 0
        while self._waiting and (not together or rows + len(self._waiting[0][0].start) <= ROWS_INLINE):
            question, future = self._waiting.pop(0)
            if not future.done():  # its caller went away
                together.append((question, future))
                rows += len(question.start)
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_soon(self._flush)
        if not together:
            return
        try:
            answers = prepare_together([question for question, _ in together])
        except Exception as error:  # a bug: every caller learns of it, and its interceptor masks it
            for _, future in together:
                future.set_exception(error)
            return
        for (_, future), answer in zip(together, answers, strict=True):
            future.set_result(answer)


def _inside(question: Question) -> bool:
    """True when no range leaves the question's own posts: stacked, it would read a neighbour's."""
    return bool(np.all((question.start >= 0) & (question.stop <= len(question.posts.published_unix_s))))


def _stacked(tables: Sequence[PostTable] | Sequence[Planned], columns: tuple[str, ...]) -> dict[str, Any]:
    return {name: np.concatenate([getattr(table, name) for table in tables]) for name in columns}
