"""Preparation of questions: days are checked and turned into tensors, those of calls that wait together in one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from meshcast.runtime.preparing import Preparer, Violations, prepare_stacked
from meshcast.series import day_of, series_violations
from meshcast.services.forecaster.features import tensors
from meshcast.services.forecaster.questions import Question


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
    """The same as `prepare` of each, in one pass for those that are sound."""
    return prepare_stacked(
        questions,
        lambda question: prepare(question, today),
        length=lambda question: len(question.day),
        stack=_stacked,
        cut=_cut,
    )


def preparer(today: Callable[[], date]) -> Preparer[Question, Prepared]:
    """What prepares the questions of concurrent calls in common passes.

    Args:
        today: tells the present day in UTC.
    """
    return Preparer(
        lambda questions: prepare_together(questions, day_of(today())), rows_of=lambda question: len(question.start)
    )


def _stacked(questions: Sequence[Question], start: NDArray[np.int64], stop: NDArray[np.int64]) -> Question:
    return Question(
        day=np.concatenate([question.day for question in questions]),
        value=np.concatenate([question.value for question in questions]),
        start=start,
        stop=stop,
        nonnegative=np.concatenate([question.nonnegative for question in questions]),
        naming=questions[0].naming,
    )


def _cut(prepared: Prepared, first: int, last: int) -> Prepared:
    return Prepared(
        inputs={name: column[first:last] for name, column in prepared.inputs.items()},
        sound=np.arange(last - first, dtype=np.int64),
        first_day=prepared.first_day[first:last],
        violations={},
    )
