"""Remarks on series that are sound but unusual: what a forecast of them should be taken with."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from meshcast.services.forecaster.features import DAYS_BACK, HISTORY
from meshcast.services.forecaster.questions import Question

__all__ = ["receipt_notes", "remarks"]

Floats = NDArray[np.float32]

TOTAL_ADVICE = ", as running totals do not: forecast its growth a day instead, a total's intervals are too wide"

_GAP_DAYS = 7
_RISES_MIN = 28  # fewer rises without a fall are no sign of a running total
_ZERO_SHARE = 0.5


def receipt_notes(inputs: Mapping[str, Floats]) -> list[str]:
    """What the receipt says of days without a value since a row's first one, and of running totals.

    Args:
        inputs: the graph's; `history` and `mask`, each (g, 112).
    """
    history, mask = inputs["history"], inputs["mask"]
    found = []
    of = "" if len(mask) == 1 else f" of {len(mask)} series"
    if missing := int((HISTORY - mask.argmax(axis=1) - mask.sum(axis=1)).sum()):
        found.append(f"{missing} of the last {HISTORY} days{of} missing: left out, not taken as zero")
    both = (mask[:, 1:] > 0) & (mask[:, :-1] > 0)
    step = np.where(both, history[:, 1:] - history[:, :-1], 0)
    totals = ((step >= 0).all(axis=1) & ((step > 0).sum(axis=1) >= _RISES_MIN)).sum()
    if totals:
        which = "the series" if len(mask) == 1 else f"{totals}{of}"
        found.append(f"{which} never falls{TOTAL_ADVICE}")
    return found


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
    if int((np.diff(latest) > 0).sum()) >= _RISES_MIN and float(np.diff(latest).min()) >= 0:
        found.append((field, f"never falls{TOTAL_ADVICE}"))
    if float(np.ptp(latest)) == 0.0:
        found.append((field, f"is {latest[0]:g} on every one of the last days; nothing but that can be forecast"))
    elif float((latest == 0).mean()) > _ZERO_SHARE:
        found.append((field, f"is 0 on {100 * float((latest == 0).mean()):.0f} % of the last days"))
    return found
