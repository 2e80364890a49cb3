"""Questions about losses: what DetectPerformanceDrift is asked, and the rules on its fields."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.rpc import Violation
from meshcast.runtime.requests import VIOLATIONS_MAX, name_violations
from meshcast.services.drift.fields import raise_for, subject_violations

__all__ = ["LOSSES_MAX", "METRIC_DEFAULT", "PerformanceQuestion", "performance_question"]

LOSSES_MAX = 262_144
"""Losses of one call at most, of the contract."""

METRIC_DEFAULT, METRIC_CHARACTERS_MAX = "loss", 128
WARM_UP_DEFAULT, WARM_UP_MIN, WARM_UP_MAX = 2_000, 100, 100_000
TO_FALSE_ALARM_DEFAULT, TO_FALSE_ALARM_MIN, TO_FALSE_ALARM_MAX = 100_000.0, 100.0, 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceQuestion:
    """Losses to be watched.

    Attributes:
        subject: whose they are; empty where they stand alone.
        metric: name of the loss.
        losses: shape (n,), float64, 0 to `loss_max`, oldest first.
        loss_max: largest loss that can be.
        baseline: mean loss while all is well; None: learnt.
        warm_up: losses that it is learnt from.
        losses_to_false_alarm: mean number of losses to one, at least.
        comparators: each once, in the order of the request.
        resets: True to forget baseline and evidence first.
    """

    subject: str
    metric: str
    losses: NDArray[np.float64]
    loss_max: float
    baseline: float | None
    warm_up: int
    losses_to_false_alarm: float
    comparators: tuple[pb.LossDetector.ValueType, ...]
    resets: bool

    @property
    def digest(self) -> str:
        """Tells whether two requests ask the same of the same losses."""
        wanted = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "losses"}
        digest = hashlib.blake2b(repr(wanted).encode("utf-8", "surrogatepass"), digest_size=16)
        digest.update(self.losses.tobytes())
        return digest.hexdigest()


def performance_question(request: pb.DetectPerformanceDriftRequest) -> PerformanceQuestion:
    """The losses that a request watches.

    Raises:
        InvalidInput: a field breaks its rule, or a loss is not in 0 to `loss_max`.
    """
    found = name_violations(request.request_id)
    if request.subject:
        found += subject_violations(request.subject)
    if len(request.metric) > METRIC_CHARACTERS_MAX:
        found.append(Violation("metric", f"has {len(request.metric)} characters, at most {METRIC_CHARACTERS_MAX}"))
    loss_max = request.loss_max or 1.0
    if not 0 < loss_max < float("inf"):
        found.append(Violation("loss_max", f"must be more than 0 and finite, is {loss_max:g}"))
        loss_max = float("inf")
    losses = _losses(request, loss_max, found)
    if not request.subject and not request.losses and not request.losses_f32:
        found.append(Violation("losses", "is required without a subject"))
    baseline = request.baseline if request.HasField("baseline") else None
    if baseline is not None and not 0 <= baseline <= loss_max:
        found.append(Violation("baseline", f"must be 0 to {loss_max:g}, is {baseline:g}"))
    warm_up = request.warm_up or WARM_UP_DEFAULT
    if not WARM_UP_MIN <= warm_up <= WARM_UP_MAX:
        found.append(Violation("warm_up", f"must be {WARM_UP_MIN} to {WARM_UP_MAX}, is {warm_up}"))
    rate = request.losses_to_false_alarm or TO_FALSE_ALARM_DEFAULT
    if not TO_FALSE_ALARM_MIN <= rate <= TO_FALSE_ALARM_MAX:
        rule = f"must be {TO_FALSE_ALARM_MIN:g} to {TO_FALSE_ALARM_MAX:g}, is {rate:g}"
        found.append(Violation("losses_to_false_alarm", rule))
    found += _comparator_violations(request.comparators, losses)
    raise_for(found)
    return PerformanceQuestion(
        subject=request.subject,
        metric=request.metric or METRIC_DEFAULT,
        losses=losses,
        loss_max=loss_max,
        baseline=baseline,
        warm_up=warm_up,
        losses_to_false_alarm=rate,
        comparators=tuple(
            dict.fromkeys(one for one in request.comparators if one != pb.LOSS_DETECTOR_SHIRYAEV_ROBERTS)
        ),
        resets=request.resets,
    )


def _losses(request: pb.DetectPerformanceDriftRequest, loss_max: float, found: list[Violation]) -> NDArray[np.float64]:
    nothing: NDArray[np.float64] = np.zeros(0)
    if request.losses and request.losses_f32:
        found.append(Violation("losses", "give either losses or losses_f32; both are given"))
        return nothing
    if len(request.losses_f32) % 4:
        found.append(Violation("losses_f32", f"must be whole float32 values, is {len(request.losses_f32)} bytes"))
        return nothing
    field = "losses_f32" if request.losses_f32 else "losses"
    losses: NDArray[Any] = (
        np.frombuffer(request.losses_f32, dtype="<f4") if request.losses_f32 else np.array(request.losses, dtype=float)
    )
    if len(losses) > LOSSES_MAX:
        found.append(Violation(field, f"has {len(losses)} losses, at most {LOSSES_MAX}"))
        return nothing
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~((losses >= 0) & (losses <= loss_max)))
    most = f"{loss_max:g}" if np.isfinite(loss_max) else "loss_max"
    found += [
        Violation(f"{field}[{at}]", f"must be 0 to {most}, is {losses[at]:g}") for at in wrong[:VIOLATIONS_MAX].tolist()
    ]
    return losses.astype(np.float64)


def _comparator_violations(comparators: Sequence[int], losses: NDArray[np.float64]) -> list[Violation]:
    found = []
    for at, detector in enumerate(comparators):
        if detector not in pb.LossDetector.values() or detector == pb.LOSS_DETECTOR_UNSPECIFIED:
            found.append(Violation(f"comparators[{at}]", f"is {detector}; known are 2 (ADWIN) to 4 (DDM)"))
        elif detector == pb.LOSS_DETECTOR_DDM and not np.isin(losses, (0.0, 1.0)).all():
            found.append(Violation(f"comparators[{at}]", "DDM takes losses of 0 and 1 alone"))
    return found
