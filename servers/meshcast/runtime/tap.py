"""Tap: a sampled, bounded copy of the rows that go through a batcher; it drops rows rather than hold an answer up."""

import asyncio
import math
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput
from meshcast.runtime.signature import Arrays, Signature, TensorSpec

__all__ = ["Tap", "TapColumns", "TapRecord"]

COLUMNS_MAX = 64
"""Columns of rows whose service names none: what does not fit any more is left out."""


class TapRecord(NamedTuple):
    """One run: its inputs and outputs by the signature's names, rows of all doors in the order they ran."""

    model: str
    version: int
    backend: str
    rows: int
    inputs: Arrays
    outputs: Arrays


@dataclass(frozen=True)
class TapColumns:
    """Which numbers of a run are the columns of a row.

    Attributes:
        inputs: names of the columns by the name of the input that holds them, in the input's order.
        outputs: the same of outputs.
    """

    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, signature: Signature, observed: Mapping[str, tuple[str, ...]] | None = None) -> "TapColumns":
        """The columns of a model.

        Args:
            signature: of the model.
            observed: names of the columns by the name of the tensor; None: every input and output of one number or
                one row of numbers, as `name` or `name[0]`, at most 64 columns together.

        Raises:
            InvalidInput: a name stands for no tensor, or for one that has not as many numbers a row.
        """
        for name, names in (observed or {}).items():
            tensor = next((one for one in (*signature.inputs, *signature.outputs) if one.name == name), None)
            if tensor is None or len(_names(tensor)) != len(names):
                raise InvalidInput(f"{name} is no tensor with {len(names)} numbers a row", field=f"observed.{name}")
        if observed is None:
            observed, room = {}, COLUMNS_MAX
            for tensor in (*signature.inputs, *signature.outputs):
                names = _names(tensor)
                if len(names) <= room:
                    observed[tensor.name] = names
                    room -= len(names)
        return cls(
            inputs={one.name: observed[one.name] for one in signature.inputs if observed.get(one.name)},
            outputs={one.name: observed[one.name] for one in signature.outputs if observed.get(one.name)},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns, those of inputs first."""
        return tuple(name for part in (self.inputs, self.outputs) for names in part.values() for name in names)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the columns that the model answers."""
        return tuple(name for names in self.outputs.values() for name in names)

    def matrix(self, record: TapRecord, rows: Any = slice(None)) -> NDArray[np.float32]:
        """Rows of a run as a copy of shape (rows, columns), float32.

        Args:
            record: the run.
            rows: which, as a slice or positions.
        """
        parts = [record.inputs[name][rows] for name in self.inputs]
        parts += [record.outputs[name][rows] for name in self.outputs]
        return np.column_stack(parts).astype(np.float32, copy=False)


class Tap:
    """Keeps a share of the rows until they are taken; each row has the same chance, whatever ran with it.

    Args:
        columns: what is kept of a row.
        share: chance of a row to be kept, more than 0, at most 1.
        rows_max: most rows held; further ones are dropped and counted.
        rng: source of the chance.
    """

    def __init__(self, *, columns: TapColumns, share: float, rows_max: int, rng: random.Random) -> None:
        self.columns = columns
        self.rows = 0
        """Rows held."""
        self.dropped = 0
        """Rows that were drawn and not kept."""
        self.is_open = True
        """False while nobody wants rows: what is drawn is then dropped."""
        self.arrived = asyncio.Event()
        """Set while rows are held."""
        self._held: deque[NDArray[np.float32]] = deque()
        self._rows_max = rows_max
        self._rng = rng
        self._log_miss = math.log1p(-share) if share < 1 else -math.inf
        self._gap = self._draw()  # rows to pass over before the next one that is kept

    def __call__(self, record: TapRecord) -> None:
        """Offers a run; on the event loop, never blocks. Runs without a row that is kept cost next to nothing."""
        rows, at = record.rows, self._gap
        kept: list[int] = []
        while at < rows:
            kept.append(at)
            at += 1 + self._draw()
        self._gap = at - rows
        if not kept:
            return
        if not self.is_open or self.rows + len(kept) > self._rows_max:
            self.dropped += len(kept)
            return
        self._held.append(self.columns.matrix(record, kept if len(kept) < rows else slice(None)))
        self.rows += len(kept)
        self.arrived.set()

    def take(self, rows_max: int) -> list[NDArray[np.float32]]:
        """The oldest rows held, at least one run's and otherwise at most so many; they are then forgotten here.

        Returns:
            Parts of shape (rows, columns), float32, in the order in which they ran.
        """
        taken: list[NDArray[np.float32]] = []
        rows = 0
        while self._held and (not taken or rows + len(self._held[0]) <= rows_max):
            taken.append(self._held.popleft())
            rows += len(taken[-1])
        self.rows -= rows
        if not self._held:
            self.arrived.clear()
        return taken

    def drop(self) -> None:
        """Forgets what is held; it counts as dropped."""
        self.dropped += self.rows
        self.rows = 0
        self._held.clear()
        self.arrived.clear()

    def _draw(self) -> int:
        # How often independent trials miss before one hits is geometric: one draw a kept row, none for the others.
        return 0 if self._log_miss == -math.inf else int(math.log(1.0 - self._rng.random()) / self._log_miss)


def _names(tensor: TensorSpec) -> tuple[str, ...]:
    """Columns of a tensor; none where a row of it is more than one row of numbers, or of a length of its own."""
    if tensor.is_ragged or len(tensor.shape) > 1:
        return ()
    if not tensor.shape:
        return (tensor.name,)
    return tuple(f"{tensor.name}[{at}]" for at in range(tensor.shape[0]))
