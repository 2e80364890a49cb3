"""Preparation of questions: days are checked and turned into tensors, those of calls that wait together in one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from meshcast.runtime.preparing import Preparer
from meshcast.series import day_of, series_violations
from meshcast.services.forecaster.features import tensors
from meshcast.services.forecaster.questions import Question

Violations = dict[int, list[tuple[str, str]]]
"""By row at fault, the fields at fault and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Rows as the graph takes them.

    Attributes:
        inputs: tensors of the sound rows, by input name, (g, ...).
        sound: positions of those rows in the question, (g,), int64, ascending.
        first_day: first day to forecast of the sound rows, (g,), int64, days since 1970-01-01.
        violations: what is wrong with each of the other rows.
    """

    inputs: dict[str, NDArray[np.float32]]
    sound: NDArray[np.int64]
    first_day: NDArray[np.int64]
    violations: Violations


def violations_of(question: Question, today: int) -> Violations:
    """The rows that break the contract; empty for a sound question.

    Args:
        question: the rows.
        today: days since 1970-01-01, UTC.
    """
    return series_violations(
        question.day,
        question.value,
        question.start,
        question.stop,
        question.nonnegative,
        today=today,
        day_field=question.naming.day,
        history_field=question.naming.history,
    )


def prepare(question: Question, today: int) -> Prepared:
    """Checks the rows of one question and turns the sound ones into tensors. Arguments as `violations_of`."""
    violations = violations_of(question, today)
    sound = np.arange(len(question.start), dtype=np.int64)
    if violations:
        sound = np.delete(sound, sorted(violations))
        if not len(sound):
            return Prepared(inputs={}, sound=sound, first_day=sound, violations=violations)
    start, stop = question.start[sound], question.stop[sound]
    first_day = question.day[stop - 1] + 1
    inputs = tensors(question.day, question.value, start, stop, first_day, question.nonnegative[sound])
    return Prepared(inputs=inputs, sound=sound, first_day=first_day, violations=violations)


def prepare_together(questions: Sequence[Question], today: int) -> list[Prepared]:
    """The same as `prepare` of each, in one pass where all of them are sound."""
    if len(questions) == 1 or not all(_inside(question) for question in questions):
        return [prepare(question, today) for question in questions]
    sizes = np.cumsum([0, *(len(question.day) for question in questions)])
    rows = np.cumsum([0, *(len(question.start) for question in questions)])
    whole = Question(
        day=np.concatenate([question.day for question in questions]),
        value=np.concatenate([question.value for question in questions]),
        start=np.concatenate([question.start + at for question, at in zip(questions, sizes, strict=False)]),
        stop=np.concatenate([question.stop + at for question, at in zip(questions, sizes, strict=False)]),
        nonnegative=np.concatenate([question.nonnegative for question in questions]),
        naming=questions[0].naming,
    )
    prepared = prepare(whole, today)
    if prepared.violations:  # those at fault are prepared by themselves, since each names its own fields
        at_fault = set((np.searchsorted(rows, sorted(prepared.violations), side="right") - 1).tolist())
        sound = [question for at, question in enumerate(questions) if at not in at_fault]
        rest = iter(prepare_together(sound, today) if sound else [])
        return [prepare(question, today) if at in at_fault else next(rest) for at, question in enumerate(questions)]
    return [
        Prepared(
            inputs={name: column[first:last] for name, column in prepared.inputs.items()},
            sound=np.arange(last - first, dtype=np.int64),
            first_day=prepared.first_day[first:last],
            violations={},
        )
        for first, last in pairwise(rows)
    ]


def preparer(today: Callable[[], date]) -> Preparer[Question, Prepared]:
    """What prepares the questions of concurrent calls in common passes.

    Args:
        today: tells the present day in UTC.
    """
    return Preparer(
        lambda questions: prepare_together(questions, day_of(today())), rows_of=lambda question: len(question.start)
    )


def _inside(question: Question) -> bool:
    """True when no range leaves the question's own days: stacked, it would read a neighbour's."""
    return bool(np.all((question.start >= 0) & (question.stop <= len(question.day))))
