"""Groups of columns of a subject: for each its reference, the counts of its rows, and the evidence over its windows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from meshcast.observations import CategoryColumn, Observations
from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.bets import FAILURE, Bets
from meshcast.services.drift.comparison import GROUP_WEIGHTS, GroupEvidence, GroupName
from meshcast.services.drift.evidence import Evidence, Step
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.packing import pack, unpack
from meshcast.services.drift.tally import Tally

__all__ = ["Group", "empty_tally", "group_from_bytes", "group_to_bytes"]

log = structlog.get_logger()

_REFERENCE, _OPEN, _CLOSED = b"DGR1", b"DGO1", b"DGC1"


class Group:
    """Columns that evidence is gathered on together.

    Args:
        name: of the group.
        layout: of its columns.
        reference: tally of the reference's rows.
        log_threshold: of the subject: logarithm of one over its false alarms a year.

    Attributes:
        window: tally of the open window.
        total: tally of all closed windows.
        last: what the last closed window was; None before the first.
    """

    def __init__(self, name: GroupName, layout: Layout, reference: Tally, log_threshold: float) -> None:
        self.name, self.layout, self.reference = name, layout, reference
        self.log_weight = float(np.log(GROUP_WEIGHTS[name]))
        self.bets = Bets.against(layout, reference, failure=FAILURE * GROUP_WEIGHTS[name])
        self.evidence = Evidence(self.bets, log_threshold - self.log_weight)
        self._nothing = empty_tally(layout)  # is never added to
        self.window = self._nothing
        self.total = empty_tally(layout)
        self.last: GroupEvidence | None = None

    def count(self, rows: Observations) -> Tally:
        """Counts rows of the open window; returns their tally."""
        tally = self.layout.tally(rows)
        if self.window is self._nothing:
            self.window = tally.copy()
        else:
            self.window.add(tally)
        return tally

    def close(self, elapsed_years: float, number: int) -> float:
        """Closes the open window.

        Args:
            elapsed_years: time that it counts for.
            number: of the window.

        Returns:
            The logarithm of the group's evidence by its weight in the subject's budget.
        """
        step = self.evidence.step(self.window.counts, elapsed_years, number)
        self.last = GroupEvidence(
            name=self.name, layout=self.layout, reference=self.reference, window=self.window, step=step
        )
        self.total.add(self.window)
        self.window = self._nothing
        return self.log_weight + step.log_value

    @property
    def state_bytes(self) -> int:
        """Bytes of counts and evidence, the reference's included."""
        last = 0 if self.last is None else self.last.window.state_bytes
        tallies = self.reference.state_bytes + self.window.state_bytes + self.total.state_bytes
        return tallies + last + self.evidence.state_bytes

    def closed_to_bytes(self) -> bytes:
        """What changes when a window closes."""
        arrays = {"total": _raw(self.total.to_bytes()), "evidence": _raw(self.evidence.to_bytes())}
        head: dict[str, Any] = {"log_value": None, "bets": self.bets.digest.hex()}
        if self.last is not None:
            step = self.last.step
            head["log_value"] = float(step.log_value) if np.isfinite(step.log_value) else None
            arrays |= {"last": _raw(self.last.window.to_bytes())}
            arrays |= {name: value for name, value in step._asdict().items() if name != "log_value"}
        return pack(_CLOSED, head, arrays)

    def open_to_bytes(self) -> bytes:
        """What changes with every chunk."""
        return pack(_OPEN, {}, {"window": _raw(self.window.to_bytes())})

    def restore(self, closed: bytes, opened: bytes) -> None:
        """Takes up what `closed_to_bytes` and `open_to_bytes` gave.

        Raises:
            CorruptData: that is not what these bytes are.
        """
        head, arrays = unpack(_CLOSED, closed)
        _, window = unpack(_OPEN, opened)
        try:
            self.total = self._own(arrays.pop("total"))
            counted = self._own(window["window"])
            self.window = counted if counted.rows else self._nothing
            self._restore_evidence(arrays.pop("evidence").tobytes(), str(head["bets"]))
            if "last" in arrays:
                tally = self._own(arrays.pop("last"))
                log_value = -np.inf if head["log_value"] is None else float(head["log_value"])
                step = Step(log_value=log_value, **_steps(arrays))
                self.last = GroupEvidence(
                    name=self.name, layout=self.layout, reference=self.reference, window=tally, step=step
                )
        except (KeyError, TypeError, ValueError) as wrong:
            raise CorruptData(f"what a group of columns has counted cannot be read: {wrong}") from wrong

    def _restore_evidence(self, data: bytes, digest: str) -> None:
        if digest == self.bets.digest.hex():
            self.evidence = Evidence.from_bytes(data, self.bets)
        else:  # less evidence is never a false alarm
            log.warning("evidence begins anew: bets are made otherwise in this version of the service", group=self.name)

    def _own(self, data: NDArray[Any]) -> Tally:
        tally = Tally.from_bytes(data.tobytes())
        if tally.fingerprint != self.layout.fingerprint:
            raise CorruptData("a tally is of another reference")
        return tally


def group_to_bytes(layout: Layout, reference: Tally) -> bytes:
    """The reference of a group, which is written once."""
    return pack(_REFERENCE, {}, {"layout": _raw(layout.to_bytes()), "tally": _raw(reference.to_bytes())})


def group_from_bytes(data: bytes) -> tuple[Layout, Tally]:
    """What `group_to_bytes` gave.

    Raises:
        CorruptData: that is not what these bytes are.
    """
    _, arrays = unpack(_REFERENCE, data)
    try:
        return Layout.from_bytes(arrays["layout"].tobytes()), Tally.from_bytes(arrays["tally"].tobytes())
    except KeyError as wrong:
        raise CorruptData(f"the reference of a group of columns lacks {wrong}") from wrong


def empty_tally(layout: Layout) -> Tally:
    """The tally of no row."""
    numeric = {feature.name: np.empty(0, np.float32) for feature in layout.features if feature.kind == "numeric"}
    nothing = CategoryColumn(np.empty(0, np.int32), ())
    names = [feature.name for feature in layout.features if feature.kind == "categorical"]
    return layout.tally(Observations(0, numeric, dict.fromkeys(names, nothing)))


def _raw(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _steps(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: arrays[name] for name in Step._fields if name != "log_value"}
