"""Dependence of rows on those before them: by how much it inflates the sampling error of means over a reference."""

from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from meshcast.observations import Observations

__all__ = ["INFLATION_MAX", "inflations"]

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]

INFLATION_MAX = 50.0
"""At most: a reference that is sorted by a column says nothing about how later rows depend on each other."""

_BLOCKS = 100
_BLOCK_ROWS_MIN = 20
_BLOCKS_MIN = 50
_CHANCE = 1e-5  # of taking independent rows for dependent ones, by score
_CLIP = 3.0  # standard deviations: one wild value must not hide how the others hang together
_SCALE_ROWS = 1_000
_CATEGORIES = 3
_STEADY = 1e-9


def inflations(observations: Observations) -> Floats:
    """Variance of the means of each column's blocks over what it would be if rows were independent; at least 1.

    Rows are cut into 100 blocks in their order (batch means, Law and Kelton); the scores are the clipped distance to
    the median, whether there is a value, and whether it is one of the three most frequent categories; the largest
    counts. A column whose blocks vary no more than those of independent rows do with a chance of 1e-5 has 1; the
    others get two standard errors on top. References of under 1,000 rows are taken to be independent.

    Args:
        observations: the reference, in the order in which it happened.

    Returns:
        Shape (F,), float64, in the order of `Observations.names`, 1 to `INFLATION_MAX`.
    """
    blocks = min(_BLOCKS, observations.rows // _BLOCK_ROWS_MIN)
    found = np.ones(len(observations.names))
    if blocks < _BLOCKS_MIN:
        return found
    noise = float(chdtri(blocks - 1, _CHANCE)) / (blocks - 1)
    above = 1 + 2 * np.sqrt(2 / (blocks - 1))
    numeric = (_of_numbers(column) for column in observations.numeric.values())
    categorical = (_of_codes(column.codes) for column in observations.categorical.values())
    for at, scores in enumerate(chain(numeric, categorical)):
        ratio = max(_ratio(score, blocks) for score in scores)
        if ratio > noise:
            found[at] = min(ratio * above, INFLATION_MAX)
    return found


def _of_numbers(column: NDArray[np.floating]) -> list[Scores]:
    is_null = np.isnan(column)
    has_nulls = bool(is_null.any())
    some = column[:: max(1, len(column) // _SCALE_ROWS)]
    some = np.sort(some[np.isfinite(some)])
    if not len(some):
        return [is_null.astype(np.float32)]
    low, middle, high = (float(some[int(part * (len(some) - 1))]) for part in (0.16, 0.5, 0.84))
    scale = high / 2 - low / 2
    with np.errstate(over="ignore", invalid="ignore"):
        moved = (column - middle) / scale if scale > 0 else np.sign(column - middle)
    scored = np.clip(moved, -_CLIP, _CLIP).astype(np.float32)
    if has_nulls:
        scored[is_null] = 0
        return [scored, is_null.astype(np.float32)]
    return [scored]


def _of_codes(codes: NDArray[np.int32]) -> list[Scores]:
    counts = np.bincount(codes + 1)
    most = np.argsort(-counts, kind="stable")[: _CATEGORIES + 1]
    return [(codes == code).astype(np.float32) for code in (most - 1).tolist()]


def _ratio(score: Scores, blocks: int) -> float:
    rows = len(score) // blocks
    means = score[: rows * blocks].reshape(blocks, rows).mean(axis=1, dtype=np.float64)
    centred = score - np.float32(means.mean())
    spread = float(centred @ centred) / len(score)
    return float(rows * means.var(ddof=1)) / spread if spread > _STEADY else 1.0
