"""Remarks on series that are sound but unusual: what a forecast of them should be taken with."""

import numpy as np
from numpy.typing import NDArray

from meshcast.services.forecaster.features import DAYS_BACK, HISTORY
from meshcast.services.forecaster.questions import Question

__all__ = ["missing_notes", "remarks"]

_GAP_DAYS = 7
_ZERO_SHARE = 0.5


def missing_notes(mask: NDArray[np.float32]) -> list[str]:
    """What the receipt says of days without a value since a row's first one; empty where there are none.

    Args:
        mask: shape (g, 112), 1 where a row has a value.
    """
    missing = int((HISTORY - mask.argmax(axis=1) - mask.sum(axis=1)).sum())
    if not missing:
        return []
    of = "" if len(mask) == 1 else f" of {len(mask)} series"
    return [f"{missing} of the last {HISTORY} days{of} missing: left out, not taken as zero"]


def remarks(question: Question) -> list[tuple[str, str]]:
    """Legal but unusual things about a single sound question, as (field, remark)."""
    field = question.naming.history(0)
    known = ~np.isnan(question.value)
    day, value = question.day[known], question.value[known]
    newest = int(question.day[-1])
    recent = day > newest - HISTORY
    span = min(newest - int(question.day[0]) + 1, HISTORY)
    found = []
    if span > int(recent.sum()):
        found.append(
            (field, f"{span - int(recent.sum())} of the last {span} days have no value; they are left out, not zero")
        )
    if len(day) > 1 and (gap := int(np.diff(day).max())) > _GAP_DAYS:
        found.append((field, f"has a gap of {gap} days between two values"))
    if newest > int(day[-1]):
        found.append((field, f"the last {newest - int(day[-1])} days have no value; the forecast starts after them"))
    if span < HISTORY:
        found.append((field, f"has {span} days; the model looks at the last {HISTORY} one by one"))
    elif newest - int(day[0]) + 1 < DAYS_BACK:
        found.append((field, f"has less than {DAYS_BACK} days, so that nothing is known of the season of the year"))
    latest = value[recent]
    if float(np.ptp(latest)) == 0.0:
        found.append((field, f"is {latest[0]:g} on every one of the last days; nothing but that can be forecast"))
    elif float((latest == 0).mean()) > _ZERO_SHARE:
        found.append((field, f"is 0 on {100 * float((latest == 0).mean()):.0f} % of the last days"))
    return found
