"""Bounds on what a reference's own sampling error allows: how far a true mean can lie above that of the reference."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainccinv, ndtri

__all__ = ["share_above", "share_below", "unseen_above", "upper_means"]

Floats = NDArray[np.float64]

_HALVINGS = 64
_TILTS = (0.02, 0.06, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95)  # small ones suit many rare categories, large ones a few usual


def upper_means(scores: Floats, counts: Floats, failure: Floats) -> Floats:
    """Upper bounds of the means of scores of slots, given how often each slot was counted.

    Slots are cut at quantiles of the counted rows themselves, so for continuous values the true shares of the slots,
    given the rows, are Dirichlet distributed with the counts as parameters (spacings of uniform order statistics), the
    one spacing that is left over put where the score is highest. The bound is the quantile of the mean under it, by the
    signed root of the likelihood ratio (Barndorff-Nielsen 1986): the mean at which 2 n K = z^2, where K is the least
    Kullback-Leibler divergence from the counted shares to any with that mean (empirical likelihood, Owen 1988) and z is
    the normal quantile of the chance of failure.

    Args:
        scores: shape (n, slots), float64, finite.
        counts: shape (n, slots), float64, each row with something in it.
        failure: shape (n,), chance that the true mean lies above.

    Returns:
        Shape (n,), float64, at most the highest score.
    """
    top = scores.max(axis=1, keepdims=True)
    span = np.maximum(np.ptp(scores, axis=1, keepdims=True), 1e-300)
    depth = (top - scores) / span  # 0 at the highest score, 1 at the lowest
    weights = counts + (depth == 0) / (depth == 0).sum(axis=1, keepdims=True)
    rows = weights.sum(axis=1)
    shares = weights / rows[:, None]
    wanted = ndtri(failure) ** 2 / (2 * rows)
    low, high = np.full(len(rows), -60.0), np.full(len(rows), 20.0)  # logarithm of how far the tilt lies above the top
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        far = np.exp(middle)[:, None] + depth
        divergence = (shares * np.log(far)).sum(axis=1) + np.log((shares / far).sum(axis=1))
        is_near = divergence > wanted
        low, high = np.where(is_near, middle, low), np.where(is_near, high, middle)
    tilted = shares / (np.exp(low)[:, None] + depth)
    return np.asarray(top[:, 0] - span[:, 0] * (tilted * depth).sum(axis=1) / tilted.sum(axis=1))


def share_above(hits: Floats, rows: Floats, failure: Floats) -> Floats:
    """Upper bounds of shares, given hits among rows, each of which fails with at most a chance.

    Args:
        hits: shape (n,), float64.
        rows: shape (n,), float64, at least 1 and at least the hits.
        failure: shape (n,), chance that the true share lies above.

    Returns:
        Shape (n,), float64; 1 where every row is a hit.

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    is_all = hits >= rows
    bound = betainccinv(hits + 1, np.where(is_all, 1.0, rows - hits), failure)
    return np.where(is_all, 1.0, bound)


def share_below(hits: Floats, rows: Floats, failure: Floats) -> Floats:
    """Lower bounds of shares, as `share_above`; 0 where no row is a hit."""
    return 1 - share_above(rows - hits, rows, failure)


def unseen_above(times: Floats, numbers: Floats, rows: Floats, failure: Floats) -> Floats:
    """Upper bounds of the share of rows whose category was not met, whatever categories there are.

    A category of which x rows are expected is met r times with the chances of a Poisson variable. So, for any x and any
    tilt t between 0 and 1, what is exp(t x) where r = 0 and 1 - t^r elsewhere is 1 on average, and so is the product
    over all categories. By Markov's inequality, t times the rows expected of those that were not met is at most
    log(1 / failure), and -log(1 - t^r) for each that was.

    Args:
        times: shape (n, kinds), float64, at least 1: how often categories were met.
        numbers: shape (n, kinds), float64: how many categories were met so often.
        rows: shape (n,), float64, at least 1.
        failure: shape (n,), chance that the true share lies above.

    Returns:
        Shape (n,), float64, at most 1.
    """
    cost = np.log(len(_TILTS) / failure)
    found = [((numbers * -np.log1p(-(tilt**times))).sum(axis=1) + cost) / tilt for tilt in _TILTS]
    return np.asarray(np.minimum(np.min(found, axis=0) / rows, 1.0))
