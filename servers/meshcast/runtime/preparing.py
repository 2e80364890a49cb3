"""Preparation of questions: those of calls that arrive together are checked and turned into tensors in one pass.

A pass costs a few tenths of a millisecond whether it holds one row or thirty, so single calls that arrive together
share it. A large chunk goes to a worker thread instead, since it would hold the loop for longer than a millisecond.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["GATHER_S", "GATHER_S_MAX", "ROWS_INLINE", "Preparer", "Violations", "prepare_stacked"]

GATHER_S, GATHER_S_MAX = 0.000_25, 0.005
"""How long a single question waits for others, for each call under way and at most: about what a pass costs."""

ROWS_INLINE = 32
"""Rows of a pass that may run on the loop, about half a millisecond."""

Violations = dict[int, list[tuple[str, str]]]
"""By row at fault, the fields at fault and why."""

Positions = NDArray[np.int64]
Question = TypeVar("Question")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


class Ranged(Protocol):
    """A question whose rows are ranges of its own table."""

    @property
    def start(self) -> Positions:
        """First position of each row, (m,)."""

    @property
    def stop(self) -> Positions:
        """End of each row, exclusive, (m,)."""


class Checked(Protocol):
    """Rows of a question after its check."""

    @property
    def violations(self) -> Violations:
        """What is wrong with the rows at fault; empty for a sound question."""


RangedQuestion = TypeVar("RangedQuestion", bound=Ranged)
CheckedRows = TypeVar("CheckedRows", bound=Checked)


def prepare_stacked(
    questions: Sequence[RangedQuestion],
    prepare: Callable[[RangedQuestion], CheckedRows],
    *,
    length: Callable[[RangedQuestion], int],
    stack: Callable[[Sequence[RangedQuestion], Positions, Positions], RangedQuestion],
    cut: Callable[[CheckedRows, int, int], CheckedRows],
) -> list[CheckedRows]:
    """The same as `prepare` of each, in one pass for those that are sound.

    Args:
        questions: one or more.
        prepare: checks the rows of a question and turns the sound ones into tensors.
        length: of a question's table.
        stack: one question of all, from them and from `start` and `stop` of their rows in the tables end to end.
        cut: what belongs to the rows from the first to the last (exclusive) of sound rows.
    """
    # A range that leaves its own table would, stacked, read a neighbour's.
    if len(questions) == 1 or not all(
        bool(np.all((question.start >= 0) & (question.stop <= length(question)))) for question in questions
    ):
        return [prepare(question) for question in questions]
    before = np.cumsum([0, *(length(question) for question in questions)])[:-1]
    rows = np.cumsum([0, *(len(question.start) for question in questions)])
    start = np.concatenate([question.start + at for question, at in zip(questions, before, strict=True)])
    stop = np.concatenate([question.stop + at for question, at in zip(questions, before, strict=True)])
    prepared = prepare(stack(questions, start, stop))
    if prepared.violations:  # those at fault are prepared by themselves, since each names its own fields
        at_fault = set((np.searchsorted(rows, sorted(prepared.violations), side="right") - 1).tolist())
        sound = [question for at, question in enumerate(questions) if at not in at_fault]
        rest = iter(prepare_stacked(sound, prepare, length=length, stack=stack, cut=cut) if sound else [])
        return [prepare(question) if at in at_fault else next(rest) for at, question in enumerate(questions)]
    return [cut(prepared, first, last) for first, last in pairwise(rows.tolist())]


class Preparer(Generic[Question, Prepared]):
    """Prepares questions of concurrent calls; use as `async with`, from one event loop.

    Args:
        prepare_together: prepares several questions, each as if it were alone, and gives their answers in order. It
            runs on the loop for few rows and in a worker thread for many.
        rows_of: rows of a question.
    """

    def __init__(
        self, prepare_together: Callable[[Sequence[Question]], list[Prepared]], *, rows_of: Callable[[Question], int]
    ) -> None:
        self._prepare_together = prepare_together
        self._rows_of = rows_of
        self._waiting: list[tuple[Question, asyncio.Future[Prepared]]] = []
        self._callers = 0
        self._timer: asyncio.Handle | None = None
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")

    async def __aenter__(self) -> Self:
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
        if self._rows_of(question) > ROWS_INLINE:
            return (await loop.run_in_executor(self._pool, self._prepare_together, [question]))[0]
        future: asyncio.Future[Prepared] = loop.create_future()
        self._waiting.append((question, future))
        if len(self._waiting) >= min(self._callers, ROWS_INLINE):
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(min(GATHER_S * self._callers, GATHER_S_MAX), self._flush)
        return await future

    async def aside(self, work: Callable[[], Result]) -> Result:
        """What `work` gives, done in the worker thread: for work on many rows that would hold the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        together: list[tuple[Question, asyncio.Future[Prepared]]] = []
        rows = 0
        while self._waiting and (not together or rows + self._rows_of(self._waiting[0][0]) <= ROWS_INLINE):
            question, future = self._waiting.pop(0)
            if not future.done():  # its caller went away
                together.append((question, future))
                rows += self._rows_of(question)
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_soon(self._flush)
        if not together:
            return
        try:
            answers = self._prepare_together([question for question, _ in together])
        except Exception as error:  # a bug: every caller learns of it, and its interceptor masks it
            for _, future in together:
                future.set_exception(error)
            return
        for (_, future), answer in zip(together, answers, strict=True):
            future.set_result(answer)
