"""Blocks: gathers the rows of several chunks until a commit of them is worth its cost."""

from __future__ import annotations

from itertools import chain

import numpy as np

from meshcast.sinks.sink import Column, Columns, Sink, fitted, kinds_of, rows_of

__all__ = ["Blocks"]


class Blocks:
    """The rows that a sink is still to be given, and the token of what follows them.

    Args:
        sink: which is open.
        now: on any clock, in seconds.
    """

    def __init__(self, sink: Sink, now: float) -> None:
        self._sink = sink
        self._parts: list[Columns] = []
        self._token = ""
        self._since = now
        self.rows = 0
        """Rows that wait."""

    def add(self, columns: Columns, token: str, now: float) -> None:
        """Takes rows in that belong to the block, and the token of what follows them; a chunk may have none.

        Raises:
            InvalidInput: they have other columns than those that wait.
        """
        if not self._parts:
            self._since = now
        else:
            fitted(self._sink.name, kinds_of(self._parts[0]), columns)
        self._parts.append(columns)
        self.rows += rows_of(columns)
        self._token = token

    def is_due(self, now: float) -> bool:
        """Whether what waits is worth a commit: by rows, or since it has waited."""
        return bool(self._parts) and (self.rows >= self._sink.block_rows or now - self._since >= self._sink.block_s)

    def commit(self) -> bool:
        """Commits what waits; False where nothing does.

        Raises:
            MeshError: as the sink does; what waited is lost, and is to be asked for again.
            OSError: likewise.
        """
        parts, self._parts, self.rows = self._parts, [], 0
        if parts:
            self._sink.commit({name: _joined([part[name] for part in parts]) for name in parts[0]}, self._token)
        return bool(parts)


def _joined(parts: list[Column]) -> Column:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return list(chain.from_iterable(part.tolist() if isinstance(part, np.ndarray) else part for part in parts))
