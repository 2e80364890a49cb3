"""Tallies: what is kept of any number of rows, in memory that does not grow with them. Tallies of parts add up."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import CorruptData, InvalidInput
from meshcast.services.drift.packing import pack, unpack
from meshcast.services.drift.sketches import Sketches

__all__ = ["UNSEEN_MAX", "Tally"]

UNSEEN_MAX = 100
"""Unseen categories of a feature that are told by name: five times what a report shows; rows of others are counted
without their names."""

_NAME_CHARACTERS_MAX = 200  # of an unseen category: a name, not a text
_KIND = b"DTY1"


class Tally:
    """What is kept of some rows, in the layout of a reference.

    Attributes:
        fingerprint: of the layout; tallies of another one do not add up.
        rows: rows counted.
        counts: shape (features, slots), int64: value bins or categories; nulls in slot -2, unseen categories in -1.
        moments: shape (features, 3), float64: number, mean and sum of squared deviations of the finite values; 0 for
            categories.
        extremes: shape (features, 2), float64: least and greatest finite value; inf and -inf where there is none.
        infinite: shape (features, 2), int64: values of -inf and of inf; they are in the outermost bins, too.
        unseen: rows of categories that the reference does not have, by feature's name and category: the most frequent,
            each at least as often as told.
        fine: shape (numeric features, most fine bins), int64: finer counts of the numeric features, as of `Cuts.fine`;
            None where they were not kept.
        sketches: of the numeric features in the layout's order; None where none were wanted.
    """

    def __init__(
        self,
        *,
        fingerprint: str,
        rows: int,
        counts: NDArray[np.int64],
        moments: NDArray[np.float64],
        extremes: NDArray[np.float64],
        infinite: NDArray[np.int64],
        unseen: Mapping[str, Counter[str]],
        fine: NDArray[np.int64] | None,
        sketches: Sketches | None,
    ) -> None:
        self.fingerprint = fingerprint
        self.rows = rows
        self.counts = counts
        self.moments = moments
        self.extremes = extremes
        self.infinite = infinite
        self.unseen = {name: _kept(found) for name, found in unseen.items()}
        self.fine = fine
        self.sketches = sketches

    @property
    def infinities(self) -> NDArray[np.int64]:
        """Infinite values of either sign, shape (features,)."""
        both: NDArray[np.int64] = self.infinite.sum(axis=1)
        return both

    @property
    def nulls(self) -> NDArray[np.int64]:
        """Nulls, shape (features,)."""
        return self.counts[:, -2]

    @property
    def unseen_rows(self) -> NDArray[np.int64]:
        """Rows of categories that the reference does not have, shape (features,)."""
        return self.counts[:, -1]

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean of the finite values, shape (features,); NaN where there is none, as for categories."""
        return np.where((self.moments[:, 0] > 0) & np.isfinite(self.moments[:, 1]), self.moments[:, 1], np.nan)

    @property
    def deviations(self) -> NDArray[np.float64]:
        """Standard deviation of the finite values, shape (features,); NaN where there is none; 0 of equal values."""
        n = self.moments[:, 0]
        found = np.sqrt(self.moments[:, 2] / np.maximum(n, 1))
        alike = self.extremes[:, 0] == self.extremes[:, 1]  # rounding leaves them a spread of nearly nothing
        return np.where((n > 0) & np.isfinite(found), np.where(alike, 0.0, found), np.nan)

    @property
    def state_bytes(self) -> int:
        """Bytes that the tally holds."""
        arrays = (self.counts, self.moments, self.extremes, self.infinite)
        names = sum(len(name) + 100 for found in self.unseen.values() for name in found)
        names += 0 if self.fine is None else self.fine.nbytes
        return sum(a.nbytes for a in arrays) + names + (self.sketches.state_bytes if self.sketches else 0)

    def narrow_counts(self) -> NDArray[Any]:
        """`counts` in the fewest bytes that hold them, unsigned."""
        return _narrow(self.counts)

    def copy(self) -> "Tally":
        """The same, in memory of its own."""
        return Tally(
            fingerprint=self.fingerprint,
            rows=self.rows,
            counts=self.counts.copy(),
            moments=self.moments.copy(),
            extremes=self.extremes.copy(),
            infinite=self.infinite.copy(),
            unseen={name: Counter(found) for name, found in self.unseen.items()},
            fine=None if self.fine is None else self.fine.copy(),
            sketches=self.sketches.copy() if self.sketches else None,
        )

    def add(self, other: "Tally") -> None:
        """Takes in other rows; what one of the two was not kept of, as sketches, the sum has not.

        Moments are joined as in Chan, Golub, LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample
        Variances (1979).

        Raises:
            InvalidInput: the other is in the layout of another reference.
        """
        if other.fingerprint != self.fingerprint:
            raise InvalidInput("tallies of two references do not add up")
        self.rows += other.rows
        self.counts += other.counts
        self.moments = joined_moments(self.moments, other.moments)
        self.extremes[:, 0] = np.minimum(self.extremes[:, 0], other.extremes[:, 0])
        self.extremes[:, 1] = np.maximum(self.extremes[:, 1], other.extremes[:, 1])
        self.infinite += other.infinite
        for name, found in other.unseen.items():
            self.unseen[name] = _kept(self.unseen.get(name, Counter()) + found)
        self.fine = None if self.fine is None or other.fine is None else self.fine + other.fine
        if self.sketches is not None and other.sketches is not None:
            self.sketches.add(other.sketches)
        else:
            self.sketches = None

    def __add__(self, other: "Tally") -> "Tally":
        """Both together; neither is changed."""
        whole = self.copy()
        whole.add(other)
        return whole

    def to_bytes(self) -> bytes:
        """Packed state."""
        arrays: dict[str, NDArray[Any]] = {
            "counts": self.narrow_counts(),
            "moments": self.moments,
            "extremes": self.extremes,
            "infinite": self.infinite,
        }
        if self.fine is not None:
            arrays["fine"] = _narrow(self.fine)
        if self.sketches is not None:
            arrays["sketches"] = np.frombuffer(self.sketches.to_bytes(), dtype=np.uint8)
        head = {"fingerprint": self.fingerprint, "rows": self.rows, "unseen": self.unseen}
        return pack(_KIND, head, arrays)

    @staticmethod
    def from_bytes(data: bytes) -> "Tally":
        """Tally of packed state.

        Raises:
            CorruptData: it is truncated, altered, or no tally.
        """
        head, arrays = unpack(_KIND, data)
        try:
            packed = arrays.get("sketches")
            tally = Tally(
                fingerprint=str(head["fingerprint"]),
                rows=int(head["rows"]),
                counts=arrays["counts"].astype(np.int64, copy=False),
                moments=arrays["moments"].astype(np.float64, copy=False),
                extremes=arrays["extremes"].astype(np.float64, copy=False),
                infinite=arrays["infinite"].astype(np.int64, copy=False),
                unseen={
                    str(name): Counter({str(category): int(times) for category, times in found.items()})
                    for name, found in head["unseen"].items()
                },
                fine=arrays["fine"].astype(np.int64) if "fine" in arrays else None,
                sketches=None if packed is None else Sketches.from_bytes(packed.tobytes()),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as wrong:
            raise CorruptData(f"the tally cannot be read: {wrong}") from wrong
        _checked(tally)
        return tally


def joined_moments(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moments of two samples together; all of shape (features, 3): number, mean, sum of squared deviations."""
    n = a[:, 0] + b[:, 0]
    share = np.divide(b[:, 0], n, out=np.zeros_like(n), where=n > 0)
    with np.errstate(over="ignore", invalid="ignore"):  # no number where float64 cannot hold it
        apart = b[:, 1] - a[:, 1]
        squares = a[:, 2] + b[:, 2] + a[:, 0] * share * apart * apart
        return np.stack([n, a[:, 1] + apart * share, squares], axis=1)


def _narrow(counts: NDArray[np.int64]) -> NDArray[Any]:
    top = int(counts.max(initial=0))
    return counts.astype(np.uint16 if top < 1 << 16 else np.uint32 if top < 1 << 32 else np.uint64)


def _kept(found: Counter[str]) -> Counter[str]:
    if len(found) <= UNSEEN_MAX and all(len(name) <= _NAME_CHARACTERS_MAX for name in found):
        return found
    short: Counter[str] = Counter()
    for name, times in found.items():
        short[name[:_NAME_CHARACTERS_MAX]] += times
    return Counter(dict(short.most_common(UNSEEN_MAX)))


def _checked(tally: Tally) -> None:
    features = len(tally.counts)
    if tally.counts.ndim != 2 or tally.counts.shape[1] < 3:
        raise CorruptData("the tally's counts have another shape")
    for array, width in ((tally.moments, 3), (tally.extremes, 2), (tally.infinite, 2)):
        if array.shape != (features, width):
            raise CorruptData("the tally's arrays have other shapes than its counts")
    if tally.rows < 0 or (tally.counts < 0).any() or (tally.counts.sum(axis=1) != tally.rows).any():
        raise CorruptData("the tally's counts do not add up to its rows")
    if tally.fine is not None and (tally.fine.ndim != 2 or len(tally.fine) > features):
        raise CorruptData("the tally's fine counts have another shape")
    if tally.sketches is not None and len(tally.sketches) > features:
        raise CorruptData("the tally has more sketches than features")
