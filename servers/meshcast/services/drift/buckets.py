"""Time buckets: what a subject observed in each of the last 60 minutes, 24 hours and 30 days, and in any span of them.

A row is counted in its minute, its hour and its day, so that a closed bucket never changes again, but for rows that
come late. No bucket begins after the server's time: a row's time is at most now, and when the clock goes back what it
had called the future becomes now.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import Observations
from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.packing import pack, unpack
from meshcast.services.drift.tally import Tally

__all__ = ["LEVELS", "Buckets", "Level", "Span"]


class Level(NamedTuple):
    """Buckets of one length, and how many of them are held."""

    length_us: int
    held: int


LEVELS = (Level(60_000_000, 60), Level(3_600_000_000, 24), Level(86_400_000_000, 30))
"""Minutes, hours and days, the newest of each still open."""

_KIND = b"DBK1"

Key = tuple[int, int]


class Span(NamedTuple):
    """What was observed from `start_us` to just before `end_us`, both ends of buckets; the tally has no sketches."""

    tally: Tally
    start_us: int
    end_us: int


class _Bucket:
    """A tally without sketches and names, its counts in the fewest bytes that hold them."""

    __slots__ = ("counts", "extremes", "infinite", "moments", "rows")

    def __init__(self, tally: Tally) -> None:
        self.hold(tally)

    def hold(self, tally: Tally) -> None:
        self.rows, self.moments, self.extremes, self.infinite = (
            tally.rows, tally.moments, tally.extremes, tally.infinite
        )  # fmt: skip
        self.counts: NDArray[Any] = tally.narrow_counts()

    def tally(self, fingerprint: str) -> Tally:
        return Tally(
            fingerprint=fingerprint,
            rows=self.rows,
            counts=self.counts.astype(np.int64),
            moments=self.moments.copy(),
            extremes=self.extremes.copy(),
            infinite=self.infinite.copy(),
            unseen={},
            fine=None,
            sketches=None,
        )

    @property
    def state_bytes(self) -> int:
        return self.counts.nbytes + self.moments.nbytes + self.extremes.nbytes + self.infinite.nbytes


class Buckets:
    """Time buckets of one subject since its reference was set.

    Args:
        layout: of the reference.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._held: dict[Key, _Bucket] = {}
        self._newest_us: int | None = None
        self._changed: set[Key] = set()
        self._removed: set[Key] = set()
        self._late_rows = 0
        self._whole_from = [-(1 << 62)] * len(LEVELS)  # a level lacks rows before, which coarser ones have

    @property
    def late_rows(self) -> int:
        """Rows that came too late for the oldest day and were counted there all the same."""
        return self._late_rows

    @property
    def state_bytes(self) -> int:
        """Bytes that the buckets hold."""
        return sum(bucket.state_bytes for bucket in self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def add(self, observations: Observations, now_us: int, counted: Tally | None = None) -> None:
        """Counts rows at their times; rows later than now, and rows without times, at `now_us`.

        Args:
            observations: of the layout's columns.
            now_us: the server's time, microseconds since 1970.
            counted: tally of all these rows where the caller has it; saves time where they fall in one minute.
        """
        if observations.rows == 0:
            return
        self._fold(now_us)
        times = np.array([now_us]) if observations.unix_us is None else np.minimum(observations.unix_us, now_us)
        newest = int(times.max())
        self._newest_us = newest if self._newest_us is None else max(self._newest_us, newest)
        for first, start_us, part in self._parts(observations, times):
            whole = counted is not None and part.rows == observations.rows
            tally = counted if counted is not None and whole else self._layout.tally(part, sketches=False)
            for level in range(first, len(LEVELS)):
                self._count((level, _floor(start_us, level)), tally)
        self._drop()

    def between(self, start_us: int | None, end_us: int | None) -> Span | None:
        """What was observed in a span of time, as finely as buckets of that age are held.

        Args:
            start_us: None: from the first observation that is still held.
            end_us: None: until the last.

        Returns:
            None where no bucket is of that span.
        """
        keys = sorted(self._covering(start_us, end_us), key=lambda key: key[1])
        if not keys:
            return None
        whole = self._held[keys[0]].tally(self._layout.fingerprint)
        for key in keys[1:]:
            whole.add(self._held[key].tally(self._layout.fingerprint))
        return Span(whole, keys[0][1], max(start + LEVELS[level].length_us for level, start in keys))

    def changes(self) -> dict[Key, bytes | None]:
        """Closed buckets that changed since the last call, packed, by level and start; None: it is no longer held."""
        found: dict[Key, bytes | None] = dict.fromkeys(sorted(self._removed))
        opened = self._open()
        for key in sorted(self._changed - opened):
            found[key] = self._held[key].tally(self._layout.fingerprint).to_bytes()
        self._changed &= opened
        self._removed.clear()
        return found

    def to_bytes(self) -> bytes:
        """Packed state of the open buckets and of what is known beside them; the closed ones are those of `changes`."""
        arrays = {
            f"{level} {start}": np.frombuffer(
                self._held[level, start].tally(self._layout.fingerprint).to_bytes(), dtype=np.uint8
            )
            for level, start in sorted(self._open())
        }
        head = {"newest_us": self._newest_us, "late_rows": self._late_rows, "whole_from": self._whole_from}
        return pack(_KIND, head, arrays)

    @staticmethod
    def from_parts(layout: Layout, opened: bytes, closed: Mapping[Key, bytes]) -> "Buckets":
        """Buckets of packed state.

        Args:
            layout: of the reference.
            opened: as `to_bytes` gave it.
            closed: what `changes` gave in all, less those that it had removed.

        Raises:
            CorruptData: a part is truncated, altered, or of another reference.
        """
        made = Buckets(layout)
        head, arrays = unpack(_KIND, opened)
        try:
            made._newest_us = None if head["newest_us"] is None else int(head["newest_us"])
            made._late_rows = int(head["late_rows"])
            made._whole_from = [int(head["whole_from"][level]) for level in range(len(LEVELS))]
            parts = {key: data.tobytes() for key, data in zip(map(_key, arrays), arrays.values(), strict=True)}
        except (KeyError, IndexError, TypeError, ValueError) as wrong:
            raise CorruptData(f"the time buckets cannot be read: {wrong}") from wrong
        for (level, start_us), data in {**closed, **parts}.items():
            tally = Tally.from_bytes(data)
            odd_place = not 0 <= level < len(LEVELS) or _floor(start_us, level) != start_us
            if tally.fingerprint != layout.fingerprint or odd_place or made._newest_us is None:
                raise CorruptData(f"the time bucket {level} {start_us} is not one of this reference")
            made._held[level, start_us] = _Bucket(tally)
        made._changed.update(parts)  # they are not among the closed ones yet
        made._drop()
        return made

    def _parts(self, observations: Observations, times: NDArray[np.int64]) -> Iterator[tuple[int, int, Observations]]:
        """Rows by the finest bucket that is held for them: its level, its start, and the rows."""
        level, start = np.zeros(len(times), dtype=np.int64), times - times % LEVELS[0].length_us
        for coarser in range(1, len(LEVELS)):
            late = (level == coarser - 1) & (start < self._oldest(coarser - 1))
            level[late], start[late] = coarser, times[late] - times[late] % LEVELS[coarser].length_us
        last = len(LEVELS) - 1
        gone = (level == last) & (start < self._oldest(last))
        start[gone] = self._oldest(last)
        self._late_rows += int(gone.sum())
        keys = start * len(LEVELS) + level
        if (keys == keys[0]).all():
            yield int(level[0]), int(start[0]), observations
            return
        order = np.argsort(keys, kind="stable")
        ends = [*(np.flatnonzero(np.diff(keys[order])) + 1).tolist(), len(keys)]
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            picked = order[begin:end]
            yield int(level[picked[0]]), int(start[picked[0]]), observations.take(picked)

    def _count(self, key: Key, tally: Tally) -> None:
        bucket = self._held.get(key)
        # A tally of its own, since the caller's may go on.
        whole = _Bucket(tally).tally(self._layout.fingerprint) if bucket is None else bucket.tally(tally.fingerprint)
        if bucket is None:
            self._held[key] = _Bucket(whole)
            self._removed.discard(key)
        else:
            whole.add(tally)
            bucket.hold(whole)
        self._changed.add(key)

    def _fold(self, now_us: int) -> None:
        """After the clock went back: what was counted in buckets that have not begun yet is now's."""
        if self._newest_us is None or self._newest_us <= now_us:
            return
        ahead = sorted(key for key in self._held if key[1] > now_us)
        for level, coarser in enumerate(LEVELS[1:]):
            resumed = _floor(now_us, level + 1) + coarser.length_us
            self._whole_from[level] = max(self._whole_from[level], min(self._oldest(level), resumed))
        self._newest_us = now_us
        for key in ahead:
            tally = self._held.pop(key).tally(self._layout.fingerprint)
            self._changed.discard(key)
            self._removed.add(key)
            self._count((key[0], _floor(now_us, key[0])), tally)

    def _drop(self) -> None:
        """Forgets buckets that are too old to be held."""
        for key in [key for key in self._held if key[1] < self._oldest(key[0])]:
            del self._held[key]
            self._changed.discard(key)
            self._removed.add(key)

    def _oldest(self, level: int) -> int:
        assert self._newest_us is not None
        return _floor(self._newest_us, level) - (LEVELS[level].held - 1) * LEVELS[level].length_us

    def _open(self) -> set[Key]:
        if self._newest_us is None:
            return set()
        return {(at, _floor(self._newest_us, at)) for at in range(len(LEVELS))} & self._held.keys()

    def _covering(self, start_us: int | None, end_us: int | None) -> list[Key]:
        """Buckets that hold a span once: each level from where it is whole, at an end of the coarser one's buckets."""
        if self._newest_us is None:
            return []
        first = min(start for _, start in self._held) if start_us is None else start_us
        stop = self._newest_us + 1 if end_us is None else end_us
        begins: list[int] = []
        for level in range(len(LEVELS)):
            begin = max(self._oldest(level), self._whole_from[level])
            if first < begin and level + 1 < len(LEVELS):
                begin = -(-begin // LEVELS[level + 1].length_us) * LEVELS[level + 1].length_us
            begins.append(max(begin, _floor(first, level)))
            if begin <= first:
                break
        for level in reversed(range(len(begins) - 1)):
            begins[level] = max(begins[level], begins[level + 1])
        ends = [stop, *(min(stop, begin) for begin in begins)]
        return [key for key in self._held if key[0] < len(begins) and begins[key[0]] <= key[1] < ends[key[0]]]


def _floor(time_us: int, level: int) -> int:
    return time_us - time_us % LEVELS[level].length_us


def _key(name: str) -> Key:
    level, start_us = name.split(" ")
    return int(level), int(start_us)
