"""What subjects are asked and what they answer: the values that pass between them and the service around."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import Observations
from meshcast.services.drift.alarms import Alarm, Judgement
from meshcast.services.drift.comparison import Comparison, Reference
from meshcast.services.drift.derived import DerivedReference, Encoded

__all__ = ["FeatureOption", "Hooks", "LossUpdate", "Observed", "Trained", "View"]


@dataclass(frozen=True, slots=True)
class FeatureOption:
    """What a caller wants of one column: its weight, and whether a model answered it."""

    importance: float = 1.0
    role: Literal["input", "output"] = "input"


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """An autoencoder that was trained on a reference's rows.

    Attributes:
        model_version: of the model `drift`.
        encoding: how rows become its input, as `Encoding.to_json` gives it.
        held_out: shape (k,), int64, positions of the reference's rows that it was not trained on.
    """

    model_version: int
    encoding: str
    held_out: NDArray[np.int64]


class Hooks(Protocol):
    """What the subjects ask of the service around them. Only `judge` runs in the worker thread."""

    def judge(self, comparison: Comparison, report_id: str, made_us: int) -> Judgement:
        """The report of a window at which the evidence reached the threshold; deterministic given its arguments."""

    async def encode(self, observations: Observations, reference: Reference) -> Encoded | None:
        """What the reference's autoencoder (`reference.autoencoder`) makes of rows; None where it cannot be asked.

        It is called in the task of the call that the rows came with, and in one of the subjects' own after a training.
        """

    async def serve(self, versions: Sequence[int]) -> None:
        """Has versions of the model loaded: all that references are bound to, ascending. Called whenever they change,
        on entering and after each training; what cannot be loaded is left out and logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What became of a chunk.

    Attributes:
        rows: of the chunk.
        is_duplicate: True when it had been counted before; then nothing else is known of it.
        reference_version: that it was counted against.
        windows_closed: by it.
        alarms: that it raised, in their order.
    """

    rows: int
    is_duplicate: bool
    reference_version: int
    windows_closed: int = 0
    alarms: tuple[Alarm, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """A subject as it stands.

    Attributes:
        reference: of it.
        observed_rows: since the reference was set.
        windows: closed since.
        recent_rows: that are held.
        state_bytes: of the subject's state.
        alarm: the data alarm that stands; None where none does.
        smallest_shift_sd: shape (F,), smallest shift of each column's mean that is found within 6 windows, in its
            standard deviations; NaN for categories and constants.
        derived: the derived columns that take part, in groups.
    """

    reference: Reference
    observed_rows: int
    windows: int
    recent_rows: int
    state_bytes: int
    alarm: Alarm | None
    smallest_shift_sd: NDArray[np.float64]
    derived: tuple[DerivedReference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LossUpdate:
    """What new losses made of a (subject, metric).

    Attributes:
        state: its new state; None where nothing was to be moved.
        alarms: that were raised; ids, report ids and versions are filled in by the subjects.
        answer: what a retry of the same request is answered with.
    """

    state: bytes | None
    alarms: tuple[Alarm, ...]
    answer: bytes
