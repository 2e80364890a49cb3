"""Sketches of numeric features: quantiles of any number of rows in constant memory, mergeable, by KLL.

A sketch of few rows that were never merged is their sorted values: exact, and free where no one merges it.

Source: Karnin, Lang, Liberty, Optimal Quantile Approximation in Streams (arXiv 1603.05346), as in Apache DataSketches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasketches import kll_floats_sketch
from numpy.typing import NDArray

from meshcast.rpc.errors import CorruptData, InvalidInput
from meshcast.services.drift.packing import pack, unpack

__all__ = ["Sketches"]

Runs = NDArray[np.float32]

_KIND = b"DSK1"


class Sketches:
    """Sketches of some numeric features, each of its finite values in the layout's narrow form.

    Args:
        k: accuracy: the rank of a quantile is off by about 2.3 / k (.35 % at 800), in about 12 k bytes a feature.
        runs: sorted values of each feature, shape (n_f,), float32, finite; they are not copied.
    """

    def __init__(self, k: int, runs: Sequence[Runs]) -> None:
        self.k = k
        self._runs: list[Runs] | None = list(runs)
        self._kll: list[kll_floats_sketch] = []

    def __len__(self) -> int:
        return len(self._kll if self._runs is None else self._runs)

    @property
    def is_exact(self) -> bool:
        """True where quantiles are those of the values themselves."""
        return self._runs is not None

    @property
    def state_bytes(self) -> int:
        """Bytes that the sketches hold."""
        if self._runs is not None:
            return sum(run.nbytes for run in self._runs)
        return sum(4 * int(kll.num_retained) + 100 for kll in self._kll)  # a header and the levels' places

    def copy(self) -> "Sketches":
        """The same, in memory of its own."""
        if self._runs is not None:
            return Sketches(self.k, [run.copy() for run in self._runs])
        twin = Sketches(self.k, [])
        twin._runs, twin._kll = None, [kll_floats_sketch.deserialize(kll.serialize()) for kll in self._kll]
        return twin

    def add(self, other: "Sketches") -> None:
        """Takes in the values of other sketches of the same features.

        Raises:
            InvalidInput: the other are sketches of another number of features, or of another accuracy.
        """
        if len(other) != len(self) or other.k != self.k:
            raise InvalidInput(
                f"sketches of {len(other)} features with k={other.k} do not go into {len(self)} with k={self.k}"
            )
        self.pour()
        if other._runs is not None:
            for kll, run in zip(self._kll, other._runs, strict=True):
                kll.update(run)
        else:
            for kll, more in zip(self._kll, other._kll, strict=True):
                kll.merge(more)

    def pour(self) -> None:
        """Gives up exactness for constant memory."""
        if self._runs is None:
            return
        self._kll = [kll_floats_sketch(self.k) for _ in self._runs]
        for kll, run in zip(self._kll, self._runs, strict=True):
            kll.update(run)  # sorted, which is three times as fast as in another order
        self._runs = None

    def quantiles(self, ranks: NDArray[np.float64]) -> NDArray[np.float32]:
        """Quantiles of each feature.

        Args:
            ranks: shape (r,), float64, from 0 to 1.

        Returns:
            Shape (features, r), float32; NaN where a feature has no value.
        """
        found = np.full((len(self), len(ranks)), np.nan, dtype=np.float32)
        if self._runs is not None:
            for row, run in zip(found, self._runs, strict=True):
                if len(run):
                    row[:] = run[np.maximum(np.ceil(ranks * len(run)).astype(np.int64), 1) - 1]
            return found
        for row, kll in zip(found, self._kll, strict=True):
            if not kll.is_empty():
                row[:] = kll.get_quantiles(ranks, True)
        return found

    def to_bytes(self) -> bytes:
        """Packed state; sorted values become sketches first, here too."""
        self.pour()
        blobs = [np.frombuffer(kll.serialize(), dtype=np.uint8) for kll in self._kll]
        sizes = np.array([len(blob) for blob in blobs], dtype=np.uint32)
        whole = np.concatenate(blobs) if blobs else np.empty(0, dtype=np.uint8)
        return pack(_KIND, {"k": self.k}, {"sizes": sizes, "sketches": whole})

    @staticmethod
    def from_bytes(data: bytes) -> "Sketches":
        """Sketches of packed state.

        Raises:
            CorruptData: it is truncated, altered, or no sketches.
        """
        head, arrays = unpack(_KIND, data)
        try:
            made = Sketches(int(head["k"]), [])
            made._runs, made._kll = None, _opened(arrays["sizes"], arrays["sketches"])
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as wrong:
            raise CorruptData(f"the sketches cannot be read: {wrong}") from wrong
        if any(kll.k != made.k for kll in made._kll):
            raise CorruptData("the sketches are of another accuracy than they say")
        return made


def _opened(sizes: NDArray[Any], whole: NDArray[Any]) -> list[kll_floats_sketch]:
    if int(sizes.sum()) != len(whole):
        raise ValueError(f"{len(whole)} bytes where {int(sizes.sum())} are announced")
    ends = np.cumsum(sizes, dtype=np.int64)
    return [
        kll_floats_sketch.deserialize(whole[end - size : end].tobytes())
        for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)
    ]
