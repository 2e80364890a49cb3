"""Recent rows of a subject: the newest ones, as numbers of four bytes, in blocks that go to the disk one by one."""

from collections import deque
from collections.abc import Iterator, Mapping

from meshcast.observations import Observations
from meshcast.services.drift.packed_rows import rows_from_bytes, rows_to_bytes, small_copy

__all__ = ["RECENT_ROWS_MAX", "RecentRows"]

RECENT_ROWS_MAX = 4_096
"""Rows that are held: 1 MiB at 64 columns."""

_BLOCK_ROWS = 256
_SLOTS = RECENT_ROWS_MAX // _BLOCK_ROWS + 1  # the oldest block is partly out
_PARTS_MAX = 16  # of the block that is being filled; single rows would take a hundred times their size


class RecentRows:
    """The newest rows, at most 4,096. Numbers are held as float32."""

    def __init__(self) -> None:
        self.count = 0
        """Rows that were ever added."""
        self._blocks: deque[Observations] = deque()  # full ones, the newest last
        self._parts: list[Observations] = []  # of the block that is being filled
        self._changed: set[int] = set()  # numbers of blocks that have changed since they were last written

    @property
    def rows(self) -> int:
        """Rows that are held."""
        return min(RECENT_ROWS_MAX, sum(block.rows for block in (*self._blocks, *self._parts)))

    @property
    def state_bytes(self) -> int:
        """Bytes of the rows that are held, without the names of categories."""
        return sum(_size(part) for part in (*self._blocks, *self._parts))

    def add(self, rows: Observations) -> None:
        """Adds rows; the oldest go."""
        skipped = max(0, rows.rows - _SLOTS * _BLOCK_ROWS)
        skipped = max(0, (self.count + skipped) // _BLOCK_ROWS * _BLOCK_ROWS - self.count) if skipped else 0
        if skipped:
            self._blocks.clear()
            self._parts.clear()
            self.count += skipped
        start = skipped
        while start < rows.rows:
            stop = min(rows.rows, start + _BLOCK_ROWS - self.count % _BLOCK_ROWS)
            self._parts.append(small_copy(rows[start:stop]))
            self._changed.add(self.count // _BLOCK_ROWS)
            self.count += stop - start
            start = stop
            if self.count % _BLOCK_ROWS == 0:
                self._blocks.append(Observations.concat(self._parts))
                self._parts.clear()
                while len(self._blocks) > _SLOTS - 1:
                    self._blocks.popleft()
            elif len(self._parts) > _PARTS_MAX:
                self._parts = [Observations.concat(self._parts)]

    def between(self, start: int, stop: int) -> Observations | None:
        """Rows by their numbers, counted from the first that was ever added; None where not one of them is held.

        Args:
            start: of the first row; rows that are no longer held are left out.
            stop: behind the last row.
        """
        held = [*self._blocks, *self._parts]
        first = self.count - sum(part.rows for part in held)
        found = []
        for part in held:
            low, high = max(start - first, 0), min(stop - first, part.rows)
            if low < high:
                found.append(part[low:high])
            first += part.rows
        return Observations.concat(found) if found else None

    def newest(self, rows: int) -> Observations | None:
        """The newest rows, at most so many; None where none is held."""
        return self.between(self.count - min(rows, RECENT_ROWS_MAX), self.count)

    def changes(self) -> Iterator[tuple[int, bytes]]:
        """Slots whose block has changed since this was last called, with the block; each replaces what was there."""
        numbers, self._changed = self._changed, set()
        whole = self.count // _BLOCK_ROWS
        for number in sorted(numbers):
            behind = whole - number
            if behind == 0 and self._parts:
                self._parts = [Observations.concat(self._parts)]
                yield number % _SLOTS, rows_to_bytes(self._parts[0])
            elif 0 < behind <= len(self._blocks):
                yield number % _SLOTS, rows_to_bytes(self._blocks[-behind])

    @classmethod
    def restored(cls, count: int, slots: Mapping[int, bytes]) -> "RecentRows":
        """The rows that `changes` wrote.

        Args:
            count: `count` at the time.
            slots: what each slot holds.

        Raises:
            CorruptData: a block is damaged.
        """
        recent = cls()
        recent.count = count
        whole, rest = divmod(count, _BLOCK_ROWS)
        if rest and whole % _SLOTS in slots:
            recent._parts = [rows_from_bytes(slots[whole % _SLOTS])]
        for number in range(whole - 1, max(-1, whole - _SLOTS), -1):
            if number % _SLOTS not in slots:
                break
            recent._blocks.appendleft(rows_from_bytes(slots[number % _SLOTS]))
        return recent


def _size(rows: Observations) -> int:
    times = 0 if rows.unix_us is None else rows.unix_us.nbytes
    return (
        times
        + sum(values.nbytes for values in rows.numeric.values())
        + sum(column.codes.nbytes for column in rows.categorical.values())
    )
