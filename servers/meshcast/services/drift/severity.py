"""Severity: effect x importance x evidence, cut into named levels; a p-value alone is never severe.

An effect is measured in how far rows moved, not in how surely that was seen: what so many rows may show by chance, two
standard errors, is taken off its square, so that the same change has about the same level at any number of rows, and a
handful of rows none. Evidence says whether a change is believed.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.services.drift.effects import Effects

__all__ = [
    "ANCHORS",
    "CUTS",
    "Level",
    "certainty_of_logs",
    "certainty_of_p_values",
    "effect_sizes",
    "level_of",
    "overall",
    "relative_importance",
]

Vector = NDArray[np.float64]


class Level(IntEnum):
    """How bad a drift is, by the contract's numbers."""

    NONE = 1
    LOW = 2
    MODERATE = 3
    HIGH = 4
    CRITICAL = 5


CUTS: tuple[tuple[float, Level], ...] = (
    (0.7, Level.CRITICAL),
    (0.5, Level.HIGH),
    (0.3, Level.MODERATE),
    (0.1, Level.LOW),
)
"""From which score on a level is given. Of a feature of full weight that surely moved, a ninth of an anchor is LOW,
three sevenths of it MODERATE, the anchor HIGH, seven thirds of it CRITICAL."""


_SPREAD_OF_KS = 6.0  # more than log(ratio) / KS is at any ratio of two normal distributions up to 3


class Anchors(NamedTuple):
    """What counts as a half, by measure. Anything of that size calls for a look at fresh labels now.

    Attributes:
        wasserstein_sd: half a standard deviation of the reference: a medium effect (Cohen 1988).
        population_stability: .25, from which on scorecards are rebuilt (Siddiqi 2006).
        total_variation: of categories: a fifth of the rows have another one.
        spread: the logarithm of the standard deviation changed by a half: it is 1.65 times what it was, or that
            part. It counts as far as the distribution functions parted, too: one wild value is no spread.
        null_share: a tenth of the rows lost or gained the value.
        infinite_share: a tenth of the rows became infinite, or finite again.
        unseen_share: a twentieth of the rows have a category that a model cannot know.
    """

    wasserstein_sd: float = 0.5
    population_stability: float = 0.25
    total_variation: float = 0.2
    spread: float = 0.5
    null_share: float = 0.1
    infinite_share: float = 0.1
    unseen_share: float = 0.05


ANCHORS = Anchors()
"""The anchors in use."""


def effect_sizes(
    effects: Effects, groups: NDArray[np.int64], singletons: NDArray[np.int64], reference_rows: int, window_rows: int
) -> Vector:
    """How far each feature moved, 0 to 1: the largest of its measures, each x / (x + its anchor), chance off.

    Args:
        effects: of the window, F features.
        groups: shape (F,), groups that the stability index has of each; for categories those of total variation.
        singletons: shape (F,), categories that the reference has once: as many of its rows' worth are likely to come
            as categories that it has not (Good 1953), and are no drift.
        reference_rows: rows of the reference.
        window_rows: rows of the window.

    Returns:
        Shape (F,), float64.
    """
    if not reference_rows or not window_rows:
        return np.zeros(len(effects.kolmogorov_smirnov))
    error = 1 / reference_rows + 1 / window_rows  # variance of a difference of two means, in the values' own
    is_ordered = ~np.isnan(effects.wasserstein)
    chance = groups - 1 + 2 * np.sqrt(2 * (groups - 1))  # of chi-squared: its mean and two standard deviations
    missing = singletons / reference_rows
    new = missing + 2 * np.sqrt(missing * error)
    stability = effects.population_stability - chance * error - new * np.log(np.maximum(2 * singletons, 1))
    moved = np.maximum(effects.kolmogorov_smirnov - new, 0)
    apart = _beyond(moved, np.where(is_ordered, 1.85, 0.16 * groups + 1) * error)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = (
            (_beyond(effects.wasserstein_sd, 4 * error), ANCHORS.wasserstein_sd),
            (np.maximum(stability, 0), ANCHORS.population_stability),
            (np.where(is_ordered, 0, apart), ANCHORS.total_variation),
            (
                np.minimum(_beyond(np.abs(np.log(effects.spread_ratio)), 4 * error), _SPREAD_OF_KS * apart),
                ANCHORS.spread,
            ),
            (_beyond(np.abs(effects.null_share), error / 4), ANCHORS.null_share),
            (_beyond(np.abs(effects.infinite_share), error / 4), ANCHORS.infinite_share),
            (np.maximum(effects.unseen_share - new, 0), ANCHORS.unseen_share),
            # what has no standard deviation: a constant that became another
            (np.where(np.isnan(effects.wasserstein_sd) & is_ordered, apart, 0), ANCHORS.total_variation),
        )
        sizes = [np.where(np.isposinf(part), 1, part / (part + anchor)) for part, anchor in parts]
    return np.asarray(np.nan_to_num(np.stack(sizes), nan=0.0).max(axis=0))


def relative_importance(importances: Vector) -> Vector:
    """Weights by the largest of them, 0 to 1; all 0 where none has weight."""
    largest = importances.max(initial=0.0)
    return np.asarray(importances / largest) if largest > 0 else np.zeros(len(importances))


def certainty_of_p_values(p_values: Vector, chance: float) -> Vector:
    """How sure it is that features moved, 0 to 1, from adjusted p-values.

    Args:
        p_values: shape (F,), adjusted for the number of features; NaN where nothing was tested.
        chance: level at which drift is called, which counts as sure.
    """
    logs = np.log(np.clip(np.nan_to_num(p_values, nan=1.0), 1e-300, 1.0))
    return np.asarray(np.clip(logs / np.log(chance), 0, 1) ** 2)


def certainty_of_logs(by_feature: Vector, log_threshold: float, drifted: NDArray[np.bool_]) -> Vector:
    """The same from evidence over windows: of features that drift is called for 1.

    Args:
        by_feature: shape (F,), logarithm of each feature's e-detector.
        log_threshold: of the alarm.
        drifted: shape (F,).
    """
    needed = max(log_threshold, 0.0) + np.log(max(len(by_feature), 1))
    share = np.clip(np.nan_to_num(by_feature, nan=0.0, neginf=0.0, posinf=needed) / max(needed, 1e-9), 0, 1)
    return np.asarray(np.where(drifted, 1.0, share**2))


def level_of(score: float) -> Level:
    """The level of a score."""
    return next((level for cut, level in CUTS if score >= cut), Level.NONE)


def overall(scores: Vector, drifted: NDArray[np.bool_]) -> float:
    """Severity of all features together, 0 to 1: that of the worst that drift is called for, so that one broken column
    among many is as loud as it is by itself. Importances, which scores hold already, say what matters less.

    Args:
        scores: shape (F,), of each feature.
        drifted: shape (F,), features that drift is called for.
    """
    return float(scores[drifted].max(initial=0.0))


def _beyond(measure: Vector, variance: float | NDArray[np.floating]) -> Vector:
    """A measure without what chance may add to its square."""
    return np.asarray(np.sqrt(np.maximum(measure**2 - variance, 0)))
