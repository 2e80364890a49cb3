"""Made-up rows for the drift benchmarks: 64 columns that depend on each other through eight factors."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import ndtri

from meshcast.observations import CategoryColumn, Observations

COLUMNS = 64
FACTORS = 8
COMMON = 0.5  # of each column's variance, from the factors
NORMAL, SKEWED, ROUNDED, NULLED, CATEGORICAL = 48, 4, 4, 4, 4  # columns by kind, in this order
NULLS = 0.05
CATEGORIES = tuple("abcdefgh")

Floats = NDArray[np.float32]

# A fifth of the time of drawing normal numbers; sums of nine of them have many more values than this table.
_NORMAL = ndtri((np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.float32)


@dataclass(frozen=True)
class World:
    """One life's distribution: loadings drawn anew for each, columns with mean 0 and variance 1 before they are shaped.

    Attributes:
        rng: that all rows come from.
        loadings: shape (COLUMNS, FACTORS), float32.
        memory: correlation of each factor and each column's own part with the row before, 0 to 1.
        plain: True for normal columns alone.
    """

    rng: np.random.Generator
    loadings: Floats
    memory: float = 0.0
    plain: bool = False

    @classmethod
    def of(cls, seed: int | list[int], *, memory: float = 0.0, plain: bool = False) -> "World":
        """A world by its seed."""
        rng = np.random.default_rng(seed)
        loadings = rng.standard_normal((COLUMNS, FACTORS), dtype=np.float32)
        loadings *= np.float32(np.sqrt(COMMON)) / np.linalg.norm(loadings, axis=1, keepdims=True)
        return cls(rng, loadings.astype(np.float32), memory, plain)

    def rows(self, count: int, shifts: dict[int, float] | None = None) -> Observations:
        """Rows; rows of different calls are independent.

        Args:
            count: of them.
            shifts: standard deviations by which columns are moved, by column.
        """
        own = self._noise(COLUMNS, count)
        own *= np.float32(np.sqrt(1 - COMMON))
        own += self.loadings @ self._noise(FACTORS, count)
        for column, shift in (shifts or {}).items():
            own[column] += np.float32(shift)
        names = [f"x{at:02d}" for at in range(COLUMNS)]
        if self.plain:
            return Observations(count, dict(zip(names, own, strict=True)), {}, None)
        at = NORMAL
        np.exp(own[at : at + SKEWED], out=own[at : at + SKEWED])
        at += SKEWED
        own[at : at + ROUNDED] = np.rint(own[at : at + ROUNDED] * 2)
        at += ROUNDED
        own[at : at + NULLED][self.rng.random((NULLED, count), dtype=np.float32) < NULLS] = np.nan
        at += NULLED
        codes = np.clip(own[at:] * 1.5 + 4, 0, len(CATEGORIES) - 1).astype(np.int32)
        return Observations(
            count,
            dict(zip(names[:at], own[:at], strict=True)),
            {name: CategoryColumn(code, CATEGORIES) for name, code in zip(names[at:], codes, strict=True)},
            None,
        )

    def _noise(self, columns: int, count: int) -> Floats:
        noise: Floats = _NORMAL.take(self.rng.integers(1 << 16, size=(columns, count), dtype=np.uint16))
        if not self.memory:
            return noise
        fresh = np.float32(np.sqrt(1 - self.memory**2))
        start = noise[:, :1] * np.float32(self.memory)
        noise[:, 1:] *= fresh
        noise[:, 1:], _ = lfilter([1.0], [1.0, -self.memory], noise[:, 1:], axis=1, zi=start)
        return noise
