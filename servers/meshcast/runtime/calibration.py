"""Calibration of confidence on posts that training did not see, and the scores that check it.

That of intervals is `meshcast.runtime.conformal`.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "area_under_curve",
    "confidence_line",
    "expected_calibration_error",
    "mean_ranks",
    "rank_correlation",
    "rank_correlation_within",
    "stacking_line",
]

Floats = NDArray[np.float32] | NDArray[np.float64]

_SLOPE_MIN = 0.01  # so that the order of the rows is kept


def confidence_line(logits: Floats, labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept that turn log odds into calibrated ones, by maximum likelihood.

    Args:
        logits: shape (n,), uncalibrated log odds.
        labels: shape (n,), what happened.

    Returns:
        Slope, at least .01 so that the order is kept, and intercept.

    Source: Platt, Probabilistic Outputs for Support Vector Machines (1999), with its smoothed targets.
    """
    slope, shift = _fitted(np.asarray(logits, dtype=np.float64)[:, None], labels)
    return max(slope, _SLOPE_MIN), shift


def stacking_line(main: Floats, more: Floats, labels: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Slopes and intercept that turn two answers into calibrated log odds, as `confidence_line` does with one.

    Args:
        main: shape (n,), log odds of the answer that counts whatever the other is worth.
        more: shape (n,), what is added to it.
        labels: shape (n,), what happened.

    Returns:
        Slope of the main answer, at least .01; slope of the other, 0 where it would do harm; and intercept.

    Source: Wolpert, Stacked Generalization (Neural Networks 5, 1992), with Platt's smoothed targets.
    """
    answers = np.stack([main, more], axis=1).astype(np.float64)
    if np.ptp(answers[:, 1]) > 0:
        slope, added, shift = _fitted(answers, labels)
        if added > 0 and slope >= _SLOPE_MIN:
            return slope, added, shift
    slope, shift = confidence_line(main, labels)
    return slope, 0.0, shift


def expected_calibration_error(confidence: Floats, labels: NDArray[np.bool_], *, bins: int = 15) -> float:
    """Mean distance of stated from observed frequency, over bins of equally many rows; 0 = calibrated.

    Args:
        confidence: shape (n,), stated probabilities.
        labels: shape (n,), what happened.
        bins: number of bins.

    Source: Naeini, Cooper, Hauskrecht, Obtaining Well Calibrated Probabilities (AAAI 2015), with equal-mass bins.
    """
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [len(part) * abs(float(confidence[part].mean()) - float(labels[part].mean())) for part in parts]
    return float(sum(gaps) / len(order))


def area_under_curve(score: Floats, labels: NDArray[np.bool_]) -> float:
    """Probability that a positive row scores above a negative one, ties counting half; NaN with one class alone."""
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = mean_ranks(score)
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; NaN where one side is constant."""
    x, y = mean_ranks(a), mean_ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / scale) if scale > 0 else float("nan")


def rank_correlation_within(a: Floats, b: Floats, groups: NDArray[np.int64], *, rows_min: int = 20) -> float:
    """Mean of the groups' own Spearman correlations; groups that are small or constant are left out.

    Args:
        a: shape (n,).
        b: shape (n,).
        groups: shape (n,), the group of each row.
        rows_min: rows that a group needs to count.
    """
    values = [
        rank_correlation(a[rows], b[rows])
        for rows in (np.flatnonzero(groups == group) for group in np.unique(groups))
        if len(rows) >= rows_min
    ]
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _fitted(answers: NDArray[np.float64], labels: NDArray[np.bool_]) -> list[float]:
    """Slopes of the columns and intercept by Newton's method, from slopes of 1."""
    positives, negatives = int(labels.sum()), int((~labels).sum())
    goal = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.concatenate([answers, np.ones((len(answers), 1))], axis=1)
    line = np.append(np.ones(answers.shape[1]), 0.0)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ line, -30, 30)))
        slope = design.T @ (p - goal)
        curve = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(len(line))
        step = np.linalg.solve(curve, slope)
        # A full Newton step overshoots where log odds are far off; half steps until the loss falls always arrive.
        while _log_loss(design @ (line - step), goal) > _log_loss(design @ line, goal) and np.abs(step).max() > 1e-9:
            step = step / 2
        line = line - step
        if float(np.abs(step).max()) < 1e-9:
            break
    return [float(value) for value in line]


def _log_loss(odds: NDArray[np.float64], goal: NDArray[np.float64]) -> float:
    return float((np.logaddexp(0, odds) - goal * odds).mean())


def mean_ranks(values: Floats) -> NDArray[np.float64]:
    """Ranks from 1, shape (m,); ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle = (last - counts + 1 + last) / 2
    return np.asarray(middle[inverse], dtype=np.float64)
