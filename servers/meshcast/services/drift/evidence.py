"""Evidence over windows: e-detectors in the manner of Shiryaev and Roberts, whose budget is false alarms a year.

Each bet's value M grows to (M + w) * L with every window, where w is the time since the window before, in years, and L
is what the window made of a unit of money. Under the null E[L] <= 1 given the past, so M less the years gone by is a
supermartingale, and so is every weighted mean of such values: where an alarm is raised at 1 / (false alarms a year), at
most that many a year are false on average, however fast windows come and whatever features depend on each other (Shin,
Ramdas and Rinaldo, E-detectors, 2023). What is cut off from M, as at its ceiling, only lowers it.

Features are called by e-BH (Wang and Ramdas, False discovery rate control with e-values, JRSS B 2022). M / T is an
e-value at every stopping time within T years of the start, and e-BH at level T * (false alarms a year) calls those k
features whose M is at least F / (k * false alarms a year), whatever T: false discoveries are held to .05 within the
first .05 / (false alarms a year) years, and an alarm that one feature raises calls it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.bets import Bets
from meshcast.services.drift.blame import blame_since_onset
from meshcast.services.drift.onset import Restarts
from meshcast.services.drift.packing import pack, unpack

__all__ = ["ELAPSED_YEARS_MAX", "ELAPSED_YEARS_MIN", "YEAR_US", "Evidence", "Step", "called"]

Floats = NDArray[np.float64]

YEAR_US = 31_557_600_000_000
"""Microseconds of a year of 365.25 days."""

ELAPSED_YEARS_MIN = 1e-3 / 31_557_600
"""A millisecond: what a window counts for that takes no time, so that rows sent all at once can raise an alarm."""

ELAPSED_YEARS_MAX = 1 / 365.25
"""A day: what a window counts for after a long silence, so that its beginning is no evidence by itself."""

_ABOVE = 5.0  # log units above an alarm by one bet alone, at which its value is held, so that alarms can end
_KIND = b"DEV1"


class Step(NamedTuple):
    """What a window made of the evidence. F features; logarithms are natural."""

    log_value: float
    """Of the e-detector over all features, in alarms a year."""
    by_feature: Floats
    """Shape (F,): the same by feature; their mean is the whole."""
    window_log_e: Floats
    """Shape (F,): log e-value of this window alone."""
    drifted: NDArray[np.bool_]
    """Shape (F,): features that drift is called for."""
    onset: NDArray[np.int64]
    """Shape (F,): number of the window in which the drift of each began; 0 where there is nothing to tell it from."""
    blame: Floats
    """Shape (F,): shares of the blame since then, adding up to 1; all 0 where nothing moved beyond chance."""


class Evidence:
    """The evidence of a subject's windows against its reference, from the reference on; it changes with each window.

    Args:
        bets: against the reference.
        log_threshold: logarithm of one over the false alarms a year; only limits how high evidence is counted and
            calls features, the caller raises the alarm.
    """

    def __init__(self, bets: Bets, log_threshold: float) -> None:
        self._bets = bets
        self.log_threshold = log_threshold
        self._log_features = float(np.log(max(bets.features, 1)))
        self._ceiling = log_threshold + self._log_features - bets.log_weight + _ABOVE
        self.reset()

    def reset(self) -> None:
        """Forgets all windows, as when an alarm has been resolved. Less evidence is never a false alarm."""
        self._log_values = np.full(len(self._bets.feature), -np.inf)
        self._restarts = Restarts.none(len(self._bets.feature))

    def step(self, counts: NDArray[np.int64], elapsed_years: float, window: int) -> Step:
        """Takes in a window.

        Args:
            counts: shape (F, S), int64, of its rows.
            elapsed_years: since the window before, or since the reference was set; held to `ELAPSED_YEARS_MIN` and
                `ELAPSED_YEARS_MAX`.
            window: its number, ascending from 1.
        """
        bets = self._bets
        increments = bets.log_increments(counts)
        begun = np.log(min(max(elapsed_years, ELAPSED_YEARS_MIN), ELAPSED_YEARS_MAX))
        self._log_values = np.minimum(np.logaddexp(self._log_values, begun) + increments, self._ceiling)
        rows = int(counts[0].sum()) if len(counts) else 0
        self._restarts.step(increments, bets.excesses(counts), rows, window)
        by_feature = bets.means(self._log_values)
        return Step(
            log_value=float(np.logaddexp.reduce(by_feature, initial=-np.inf)) - self._log_features,
            by_feature=by_feature,
            window_log_e=bets.means(increments),
            drifted=called(by_feature, self.log_threshold),
            onset=self._restarts.onset(bets),
            blame=blame_since_onset(bets, self._restarts),
        )

    @property
    def state_bytes(self) -> int:
        """Bytes of the state."""
        return sum(array.nbytes for array in self._arrays().values())

    def to_bytes(self) -> bytes:
        """The state; it belongs to the bets that it was made with."""
        return pack(_KIND, {"bets": self._bets.digest.hex(), "log_threshold": self.log_threshold}, self._arrays())

    @classmethod
    def from_bytes(cls, data: bytes, bets: Bets) -> "Evidence":
        """What `to_bytes` gave.

        Args:
            data: the state.
            bets: those that it was made with.

        Raises:
            CorruptData: it is truncated, altered, of another version of its form, or of other bets.
        """
        head, arrays = unpack(_KIND, data)
        if head.get("bets") != bets.digest.hex():
            raise CorruptData("the evidence is of other bets")
        try:
            evidence = cls(bets, float(head["log_threshold"]))
            for name, like in evidence._arrays().items():
                if arrays[name].dtype != like.dtype or arrays[name].shape != like.shape:
                    raise ValueError(f"{name} has another shape or type")
            evidence._log_values = arrays["log_values"]
            evidence._restarts = Restarts(arrays["gained"], arrays["start"], arrays["rows"], arrays["excess"])
        except (KeyError, TypeError, ValueError) as wrong:
            raise CorruptData(f"the evidence cannot be read: {wrong}") from wrong
        return evidence

    def _arrays(self) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
        kept = self._restarts
        return {
            "log_values": self._log_values,
            "gained": kept.gained,
            "start": kept.start,
            "rows": kept.rows,
            "excess": kept.excess,
        }


def called(by_feature: Floats, log_threshold: float) -> NDArray[np.bool_]:
    """Features that e-BH calls; shape (F,), bool.

    Args:
        by_feature: shape (F,), logarithms of the e-detectors' values, in alarms a year.
        log_threshold: logarithm of one over the false alarms a year.
    """
    count = len(by_feature)
    order = np.argsort(-by_feature, kind="stable")
    passes = by_feature[order] + np.log(np.arange(1, count + 1)) >= log_threshold + np.log(max(count, 1))
    found = np.zeros(count, dtype=np.bool_)
    if passes.any():
        found[order[: int(np.flatnonzero(passes)[-1]) + 1]] = True
    return found
