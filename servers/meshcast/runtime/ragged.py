"""Ragged rows: a question whose rows have lengths of their own, in groups of one padded shape."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from meshcast.runtime.queueing import Answer
from meshcast.runtime.signature import RAGGED, Arrays, Signature

__all__ = ["RowGroup", "Rows", "group_rows", "in_order"]

Column = Sequence[NDArray[Any]] | NDArray[Any]


class Rows(Protocol):
    """Some rows of a question, as one submission takes them."""

    @property
    def positions(self) -> NDArray[np.int64]:
        """Which rows of the question they are, (m,)."""

    @property
    def arrays(self) -> Arrays:
        """Their inputs by name; they fit the signature."""


class RowGroup(NamedTuple):
    """Rows of one padded shape.

    Attributes:
        positions: shape (m,), int64, of the rows in the question, ascending.
        arrays: inputs of these rows by name, padded; they fit the signature.
    """

    positions: NDArray[np.int64]
    arrays: Arrays


def group_rows(signature: Signature, columns: Mapping[str, Column]) -> list[RowGroup]:
    """The rows of a question in groups of one padded shape, the shortest first: none is padded for another's sake.

    Args:
        signature: of the model.
        columns: by name of the input, one array a row, without the row's dimension; of an input without a ragged axis
            also one array of all rows, rows first. Dtypes and lengths are the signature's.
    """
    rows = len(columns[signature.inputs[0].name])
    own = [
        np.fromiter((row.shape[axis - 1] for row in columns[spec.name]), dtype=np.int64, count=rows)
        for spec, axis in signature.ragged_axes
    ]
    lengths = signature.padded_lengths(np.stack(own, axis=1)) if own else np.empty((rows, 0), dtype=np.int64)
    shapes, number = np.unique(lengths, axis=0, return_inverse=True)
    groups = []
    for at, shape in enumerate(shapes.tolist()):
        positions = np.flatnonzero(number.ravel() == at)
        groups.append(RowGroup(positions, _stacked(signature, columns, positions, shape)))
    return groups


def _stacked(
    signature: Signature, columns: Mapping[str, Column], positions: NDArray[np.int64], lengths: Sequence[int]
) -> Arrays:
    rest = iter(lengths)
    arrays: dict[str, NDArray[Any]] = {}
    for spec in signature.inputs:
        column = columns[spec.name]
        if not spec.is_ragged and isinstance(column, np.ndarray):
            arrays[spec.name] = column[positions]
            continue
        shape = tuple(next(rest) if size == RAGGED else size for size in spec.shape)
        whole = np.zeros((len(positions), *shape), dtype=spec.numpy_dtype)
        for row, position in enumerate(positions):
            value = column[position]
            whole[row][tuple(map(slice, value.shape))] = value
        arrays[spec.name] = whole
    return arrays


def in_order(groups: Sequence[Rows], answers: Sequence[Answer]) -> Answer:
    """The answer to a question from those to its groups: outputs in the order of its rows, facts as of several runs.

    Args:
        groups: together they hold every row of the question once.
        answers: theirs.
    """
    first, *others = answers
    if not others:
        return first
    rows = sum(len(group.positions) for group in groups)
    outputs = {name: np.empty((rows, *array.shape[1:]), dtype=array.dtype) for name, array in first.outputs.items()}
    for group, answer in zip(groups, answers, strict=True):
        for name, array in answer.outputs.items():
            outputs[name][group.positions] = array
    facts = first.facts
    for answer in others:
        facts = facts.and_of(answer.facts)
    return Answer(outputs, facts)
