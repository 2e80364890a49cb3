"""Noise of daily series: regressions whose errors remember the days before, up to a random walk and beyond.

A line through a random walk looks significant to anyone who takes its days for independent. Every test and interval of
the growth patterns goes through here instead: the noise is AR(1) with a memory that is found along with the
coefficients, from -0.3 to 1 (a random walk), and where the series is long enough also a random walk hidden under
independent noise (ARMA) or a smoothed one (AR(2)).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fit", "Slope", "clip_outliers", "fit", "robust_spread", "running_median", "slope", "standardize"]

Floats = NDArray[np.float64]

_MEMORY = np.array([-0.3, -0.15, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97, 0.985, 1.0])
_SMOOTHED = (0.3, 0.6, 0.8, 0.9)  # second root of AR(2)
_HIDDEN = (0.3, 0.6, 0.8, 0.9, 0.95)  # root of the moving average of ARMA(1, 1)
_RIDGE = 1e-9  # on standardised columns: a column that whitening annuls gets no weight and no warning
_CLIP = 4.0  # robust standard deviations from the running median; 1 day in 16,000 of normal noise
_RANDOM_WALKS = 0.25  # prior share: with less, intervals miss the drift of random walks too often
_TINY = 1e-12  # of the scale of the values: below it, differences are rounding


@dataclass(frozen=True, slots=True)
class Fit:
    """A regression with remembering noise."""

    rss: float
    """Sum of squared innovations, in squared units of the series."""
    rows: int
    """Days whose innovations were counted."""
    memory: float
    """AR(1) coefficient of the noise, -0.3 to 1."""

    def gain_over(self, null: "Fit") -> float:
        """Twice the log likelihood that this fit is ahead of `null`, which counts the same days."""
        return self.rows * float(np.log(null.rss / self.rss))


@dataclass(frozen=True, slots=True)
class Slope:
    """Slope of a line through noise that remembers."""

    slope: float
    """Growth a day, in the unit of the series."""
    lower: float
    """Lower end of its central 95 % interval."""
    upper: float
    """Upper end of the same."""
    probability_up: float
    """Probability that it is above 0."""


def standardize(values: Floats) -> Floats | None:
    """Values less their mean in standard deviations, shape (n,); None where they do not differ beyond rounding."""
    largest = float(np.abs(values).max())
    if largest == 0:
        return None
    scaled = values / largest
    scaled = scaled - scaled.mean()
    spread = float(scaled.std())
    return None if spread <= _TINY else scaled / spread


def running_median(values: Floats, width: int) -> Floats:
    """Median of the `width` values around each, the ends mirrored; shape (n,), `width` odd, at most 2 n - 1."""
    half = width // 2
    padded = np.pad(values, half, mode="reflect")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1))


def robust_spread(residuals: Floats) -> float:
    """Standard deviation of normal values with the same median distance from 0; zeros are left out."""
    distance = np.abs(residuals[residuals != 0])
    return 1.4826 * float(np.median(distance)) if len(distance) else 0.0


def clip_outliers(values: Floats) -> Floats:
    """Values with lone outliers pulled to 4 robust standard deviations from their week's median; shape (n,).

    Source: Hampel's filter, as in Pearson et al., Generalized Hampel Filters (EURASIP J. Adv. Signal Process., 2016).
    """
    middle = running_median(values, min(7, 2 * len(values) - 1))
    residuals = values - middle
    reach = _CLIP * robust_spread(residuals)
    return middle + np.clip(residuals, -reach, reach) if reach > 0 else values.copy()


def fit(values: Floats, columns: Floats, *, freed: Sequence[int] = (), rich: bool = False) -> Fit:
    """Regresses on columns under the noise that makes the values most likely, given the first one or two.

    Args:
        values: shape (n,), standardised.
        columns: shape (n, p), p << n.
        freed: days whose innovations are not counted, from 1, or from 2 where `rich`. A sudden jump there proves
            nothing: a random walk may jump as well.
        rich: let the noise be AR(2) or ARMA(1, 1) also.

    Source: conditional likelihood of regression with ARMA errors, over a grid of noises; Brockwell and Davis,
        Introduction to Time Series and Forecasting (2016), section 6.6.
    """
    design = np.column_stack([columns, values])
    if not rich:
        keep = np.ones(len(values) - 1, dtype=np.bool_)
        keep[np.asarray(freed, dtype=np.int64) - 1] = False
        rss, memory = _best(design, keep, _MEMORY)
        return Fit(rss, int(keep.sum()), memory)
    keep = np.ones(len(values) - 2, dtype=np.bool_)
    keep[np.asarray(freed, dtype=np.int64) - 2] = False
    found = [_best(design[1:], keep, _MEMORY)]
    found += [_best(design[1:] - second * design[:-1], keep, _MEMORY) for second in _SMOOTHED]
    found += [_best(_without_average(design, root)[1:], keep, _MEMORY[root <= _MEMORY]) for root in _HIDDEN]
    rss, memory = min(found)
    return Fit(rss, int(keep.sum()), memory)


def slope(day: Floats, values: Floats) -> Slope:
    """Slope of the line through a series, with an interval that allows for autocorrelation.

    The memory of the noise is not known, so the answer is a mixture over all memories from -0.3 to 1, each weighed by
    its restricted likelihood. Before the values are seen a random walk has 1/4, and the rest is spread evenly: where a
    random walk would do as well as a trend, the interval says so.

    Args:
        day: shape (n,), rising; n >= 3.
        values: shape (n,), in any unit, at most about 1 so that their squares exist.

    Source: Harville, Bayesian Inference for Variance Components Using Only Error Contrasts (Biometrika 61, 1974).
    """
    scaled = standardize(values)
    if scaled is None:
        return Slope(0.0, 0.0, 0.0, 0.5)
    n = len(values)
    span = float(day[-1] - day[0])
    at = (day - day[0]) / span
    memory = np.concatenate([np.arange(-0.3, 0.9, 0.05), np.arange(0.9, 0.9999, 0.01), [1.0]])
    prior = np.gradient(memory)
    prior *= (1 - _RANDOM_WALKS) / prior.sum()
    prior[-1] += _RANDOM_WALKS
    means, errors, weights = [], [], []
    for phi, share in zip(memory, prior, strict=True):
        first = np.sqrt(1 - phi**2) if phi < 1 else 0.0  # the first day of a random walk tells nothing of its slope
        line = np.append(first * at[0], at[1:] - phi * at[:-1])
        level = np.append(first, np.full(n - 1, 1 - phi))
        answer = np.append(first * scaled[0], scaled[1:] - phi * scaled[:-1])
        flat = float(level @ level)
        if flat > 0:
            line = line - level * (float(level @ line) / flat)
            answer = answer - level * (float(level @ answer) / flat)
        steep = float(line @ line)
        mean = float(line @ answer) / steep
        rss = max(float(((answer - mean * line) ** 2).sum()), _TINY)
        # |V|^-1/2 |X'V^-1 X|^-1/2; the factor 1 - phi^2 of a first day and of the level's information cancels at 1
        log_weight = np.log(share) - 0.5 * np.log(steep) - (n - 2) / 2 * np.log(rss)
        log_weight -= 0.5 * np.log((1 + phi + (n - 1) * (1 - phi)) / (1 + phi))
        means.append(mean)
        errors.append(np.sqrt(rss / (n - 2) / steep))
        weights.append(log_weight)
    share = np.exp(np.array(weights) - max(weights))
    return _mixture(np.array(means), np.array(errors), share / share.sum(), n - 2, values, span)


def _mixture(means: Floats, errors: Floats, share: Floats, freedom: int, values: Floats, span: float) -> Slope:
    """The mixture of t distributions as one slope, back in the unit of the series a day."""
    from scipy.special import stdtr

    def below(x: float) -> float:
        return float(share @ stdtr(freedom, (x - means) / errors))

    def quantile(level: float) -> float:
        low, high = float((means - 1e3 * errors).min()), float((means + 1e3 * errors).max())
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle) < level else (low, middle)
        return (low + high) / 2

    errors = np.maximum(errors, _TINY)
    mean = float(share @ means)
    unit = float(values.std()) / span
    return Slope(
        slope=mean * unit,
        lower=quantile(0.025) * unit,
        upper=quantile(0.975) * unit,
        probability_up=1 - below(0.0),
    )


def _best(design: Floats, keep: NDArray[np.bool_], memory: Floats) -> tuple[float, float]:
    """Smallest sum of squared innovations over memories, and the memory that has it; the last column is explained."""
    now, before = design[1:][keep], design[:-1][keep]
    cross = now.T @ before
    phi = memory[:, None, None]
    gram = now.T @ now - phi * (cross + cross.T) + phi**2 * (before.T @ before)
    size = np.sqrt(np.maximum(np.diagonal(gram[:, :-1, :-1], axis1=1, axis2=2), 0))
    size = np.where(size > 1e-9, size, 1.0)
    left = gram[:, :-1, :-1] / (size[:, :, None] * size[:, None, :]) + _RIDGE * np.eye(design.shape[1] - 1)
    right = gram[:, :-1, -1] / size
    weights = np.linalg.solve(left, right[..., None])[..., 0]
    rss = gram[:, -1, -1] - (right * weights).sum(axis=1)
    best = int(np.argmin(rss))
    return max(float(rss[best]), _TINY), float(memory[best])


def _without_average(design: Floats, root: float) -> Floats:
    """Columns through 1 / (1 - root B), each as if always at its first value before, plus one that frees the start."""
    from scipy.linalg import solve_banded

    n = len(design)
    start = np.zeros((n, 1))
    start[0] = 1
    columns = np.column_stack([start, design])
    columns[0, 1:] /= 1 - root
    bands = np.ones((2, n))
    bands[1] = -root
    return np.asarray(solve_banded((1, 0), bands, columns, overwrite_b=True, check_finite=False))
