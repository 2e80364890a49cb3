"""Sampling of training windows: drawn at random from real and made-up series, and disturbed as real ones are."""

import math

import numpy as np
from numpy.typing import NDArray

from meshcast.services.forecaster import synthetic
from meshcast.services.forecaster.features import DAYS_BACK, DAYS_MIN, HISTORY, HORIZON
from meshcast.services.forecaster.panel import Panel, blocks, tensors_of

__all__ = ["Sampler", "made_up_panel"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_DAYS = 620
_POOL = 4_000
"""Made-up series that are held at a time; after four draws from each they are drawn anew."""


class Sampler:
    """Draws training windows, made-up ones among them, and disturbs them.

    Args:
        panel: the series; only their training days are drawn from.
        rng: source of chance.
        synthetic_share: share of made-up windows.
    """

    def __init__(self, panel: Panel, rng: np.random.Generator, *, synthetic_share: float) -> None:
        self._panel, self._rng = panel, rng
        self._synthetic_share = synthetic_share
        usable = panel.learn_stop - panel.start > 2 * DAYS_MIN
        length = np.where(usable, panel.learn_stop - panel.start, 0).astype(np.float64)
        weight = np.zeros(len(panel))
        for source in np.unique(panel.source):
            mine = panel.source == source
            # a set of many series counts more than one of few, but far from in proportion
            own = np.sqrt(np.minimum(length[mine], 2_000.0))
            if own.sum() > 0:
                weight[mine] = own / own.sum() * (mine & usable).sum() ** 0.45
        self._weight = weight / weight.sum()
        self._made_up = made_up_panel(rng, _POOL) if synthetic_share > 0 else None
        self._drawn = 0

    def __call__(self, rows: int) -> tuple[dict[str, Floats], Floats]:
        """The graph's inputs of that many windows, and what came, (rows, 90), NaN where unknown."""
        rng = self._rng
        made_up = 0
        parts: list[tuple[Floats, Ints, NDArray[np.bool_]]] = []
        if self._made_up is not None:
            made_up = int(rng.binomial(rows, self._synthetic_share))
            self._drawn += made_up
            if self._drawn > 4 * _POOL:
                self._made_up, self._drawn = made_up_panel(rng, _POOL), 0
            if made_up:
                parts.append(self._draw(self._made_up, rng.integers(0, len(self._made_up), made_up)))
        if rows > made_up:
            parts.append(self._draw(self._panel, rng.choice(len(self._panel), rows - made_up, p=self._weight)))
        block, day, flag = (np.concatenate(column) for column in zip(*parts, strict=True))
        block, day, flag = _disturbed(rng, block, day, flag)
        return tensors_of(block, day, flag), block[:, DAYS_BACK:]

    def _draw(self, panel: Panel, series: Ints) -> tuple[Floats, Ints, NDArray[np.bool_]]:
        low, high = panel.start[series] + DAYS_MIN, panel.learn_stop[series] - 1
        # half of the windows see all of the horizon, where the series is long enough
        full = np.maximum(high - HORIZON + 1, low)
        high = np.where(self._rng.random(len(series)) < 0.7, full, high)
        origin = low + (self._rng.random(len(series)) * (high - low + 1)).astype(np.int64)
        block = blocks(panel, series, origin, panel.learn_stop[series])
        return block, panel.first_day[series] + origin - panel.start[series], panel.nonnegative[series]


def made_up_panel(rng: np.random.Generator, series: int) -> Panel:
    """Made-up series whose windows all end well inside them; the last 90 days test."""
    counts = int(series * 0.85)
    day = rng.integers(10_000, 20_000, series)
    drawn = [
        synthetic.draw_counts(rng, counts, _DAYS, day[:counts]),
        synthetic.draw_signed(rng, series - counts, _DAYS, day[counts:]),
    ]
    size = np.full(series, _DAYS, dtype=np.int64)
    stop = np.cumsum(size)
    return Panel(
        value=np.concatenate(drawn).astype(np.float32).reshape(-1),
        start=stop - size,
        stop=stop,
        learn_stop=stop,
        validate_stop=stop - HORIZON,
        first_day=day,
        nonnegative=np.arange(series) < counts,
        source=np.zeros(series, dtype=np.int64),
    )


def _disturbed(
    rng: np.random.Generator, block: Floats, day: Ints, flag: NDArray[np.bool_]
) -> tuple[Floats, Ints, NDArray[np.bool_]]:
    """Windows as they might have been: mixed, tilted, bent, shorter, with days missing, not declared non-negative."""
    rows = len(block)

    def some(share: float) -> NDArray[np.bool_]:
        return np.asarray(rng.random(rows) < share)

    with np.errstate(invalid="ignore", over="ignore"):
        size = np.nansum(np.abs(block), axis=1) / np.maximum((~np.isnan(block)).sum(axis=1), 1)
        block = block / np.where(size > 0, size, 1.0).astype(np.float32)[:, None]
        mixed = flag & some(0.15)
        other = rng.permutation(rows)
        mixed &= flag[other]
        share = rng.uniform(0.2, 0.8, (rows, 1)).astype(np.float32)
        both = share * block + (1 - share) * block[other]
        block = np.where(mixed[:, None] & ~np.isnan(both), both, block)
        bent = flag & some(0.2)
        power = np.where(bent, rng.uniform(0.5, 1.6, rows), 1.0).astype(np.float32)
        raised = np.asarray(np.maximum(block, 0.0) ** power[:, None], dtype=np.float32)
        block = np.where(flag[:, None], raised, block)
        tilt = np.where(flag & some(0.25), rng.normal(0, 0.3, rows), 0.0)
        block = block * np.exp(tilt[:, None] * np.arange(-DAYS_BACK, HORIZON) / 90).astype(np.float32)
        rough = np.where(flag & some(0.15), rng.uniform(0, 0.4, rows), 0.0)
        block = block * np.exp(rough[:, None] * rng.normal(size=block.shape)).astype(np.float32)
        turned = ~flag & some(0.5)
        block = np.where(turned[:, None], -block, block)
        moved = ~flag & some(0.3)
        block = block + np.where(moved, rng.normal(0, 2, rows), 0.0)[:, None].astype(np.float32)
    flag = flag & ~some(0.12)
    day = np.where(some(0.2), day + rng.integers(0, 3_650, rows), day)
    past = block[:, :DAYS_BACK]
    short = np.where(some(0.35), np.exp(rng.uniform(math.log(DAYS_MIN), math.log(DAYS_BACK), rows)), DAYS_BACK)
    ago = np.arange(DAYS_BACK, 0, -1)
    gone = ago > short[:, None]
    rate = np.where(some(0.15), rng.uniform(0, 0.5, rows), 0.0)
    gone |= rng.random(past.shape) < rate[:, None]
    gap = np.where(some(0.08), rng.integers(1, 60, rows), 0)
    gap_at = rng.integers(1, HISTORY, rows)
    gone |= (ago >= gap_at[:, None]) & (ago < (gap_at + gap)[:, None])
    enough = (~gone & ~np.isnan(past))[:, -HISTORY:].sum(axis=1) >= DAYS_MIN // 2
    past[gone & enough[:, None]] = np.nan
    return block, day, flag
