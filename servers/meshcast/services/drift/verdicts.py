"""Verdicts: whether drift is called, for which features, and how surely, by a window's own rows or by evidence.

A window of a subject is judged by the evidence over its windows alone. Any other window is judged by its own rows: each
feature's tests, adjusted for the number of features (Benjamini and Hochberg 1995), and the joint test, at half the
chance each, so that all of it together calls drift where there is none at most at that chance.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.services.drift.comparison import GROUP_WEIGHTS, Comparison, GroupEvidence
from meshcast.services.drift.joint import JointDrift
from meshcast.services.drift.severity import certainty_of_logs, certainty_of_p_values

__all__ = ["ROWS_MIN", "Verdict", "benjamini_hochberg", "verdict_of_evidence", "verdict_of_window"]

Vector = NDArray[np.float64]

ROWS_MIN = 5
"""Rows of a window below which drift is never called: four rows are all on one side of a median in one of eight."""


class Verdict(NamedTuple):
    """What is called. F features.

    Attributes:
        is_drift: whether drift is called.
        drifted: shape (F,), features that it is called for.
        certainty: shape (F,), how sure it is that each moved, 0 to 1.
        p_value: of the window, all tests together; None where evidence over windows decides.
    """

    is_drift: bool
    drifted: NDArray[np.bool_]
    certainty: Vector
    p_value: float | None


def verdict_of_window(p_values: Vector, joint: JointDrift | None, chance: float, rows: int) -> Verdict:
    """The verdict on a window that stands alone.

    Args:
        p_values: shape (tests, F), of single tests; NaN where one does not apply.
        joint: the joint test; None where there is none, and the chance is the features' alone.
        chance: of calling drift where there is none.
        rows: of the window.
    """
    counts = (~np.isnan(p_values)).sum(axis=0)
    smallest = np.nan_to_num(p_values, nan=1.0).min(axis=0)
    adjusted = benjamini_hochberg(np.minimum(smallest * np.maximum(counts, 1), 1.0))
    parts = 2 if joint is not None else 1  # each at its part of the chance: valid whatever they have in common
    p_value = min(1.0, parts * float(min(adjusted.min(initial=1.0), 1.0 if joint is None else joint.p_value)))
    if rows < ROWS_MIN:
        return Verdict(False, np.zeros(len(adjusted), np.bool_), np.zeros(len(adjusted)), p_value)
    drifted = parts * adjusted <= chance
    return Verdict(
        p_value <= chance, drifted, certainty_of_p_values(np.minimum(parts * adjusted, 1.0), chance), p_value
    )


def verdict_of_evidence(comparison: Comparison, main: GroupEvidence) -> Verdict:
    """The verdict by the evidence over windows; `main` is that of the reference's own columns."""
    value = comparison.log_value if comparison.log_value is not None else -np.inf
    is_drift = comparison.standing or value >= comparison.log_threshold
    threshold = comparison.log_threshold - float(np.log(GROUP_WEIGHTS["features"]))
    drifted = main.step.drifted if is_drift else np.zeros_like(main.step.drifted)
    return Verdict(is_drift, drifted, certainty_of_logs(main.step.by_feature, threshold, drifted), None)


def benjamini_hochberg(p_values: Vector) -> Vector:
    """Adjusted p-values: those at most q are the discoveries at a rate q of false ones."""
    count = len(p_values)
    order = np.argsort(p_values)
    scaled = p_values[order] * count / np.arange(1, count + 1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted
