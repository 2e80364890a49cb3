"""Comparisons: a reference and what is held against it, as reports take them and as callers ask for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from meshcast.observations import Observations
from meshcast.services.drift.evidence import Step
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.tally import Tally

__all__ = [
    "GROUP_WEIGHTS",
    "Autoencoder",
    "AutoencoderState",
    "Comparison",
    "GroupEvidence",
    "GroupName",
    "Reference",
    "WatchOptions",
]

GroupName = Literal["features", "energy", "autoencoder"]

GROUP_WEIGHTS: Mapping[GroupName, float] = {"features": 0.75, "energy": 0.05, "autoencoder": 0.10}
"""Share of each group of columns in a subject's budget of false alarms; a tenth is kept for the losses."""

AutoencoderState = Literal["absent", "training", "ready"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """How a subject is watched.

    Attributes:
        false_alarms_a_year: expected at most, of everything that is tested on the subject together.
        window_rows: rows of a window.
        window_us: a window also closes when its rows span this time.
        trains_autoencoder: True to have an autoencoder trained where training is installed.
    """

    false_alarms_a_year: float
    window_rows: int
    window_us: int
    trains_autoencoder: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoencoder:
    """What became of a reference's autoencoder.

    Attributes:
        state: of it.
        why: it is absent or failed, with the way out; empty otherwise.
        model_version: of the model `drift`; 0 until it is ready.
        encoding: how rows become its input, as the trainer gave it; empty until it is ready.
    """

    state: AutoencoderState = "absent"
    why: str = ""
    model_version: int = 0
    encoding: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """A subject's reference; what it holds never changes but for the autoencoder.

    Attributes:
        subject: its name; empty where the reference came in a request.
        version: counts up with each reference of the subject, from 1; 0 where it came in a request.
        set_us: when it was set, microseconds since 1970.
        layout: of its columns.
        tally: of its rows, sketches included.
        sample: some of its rows, at most 1,024, picked at random, for tests that need rows and for plots.
        options: how the subject is watched.
        autoencoder: what became of it.
    """

    subject: str
    version: int
    set_us: int
    layout: Layout
    tally: Tally
    sample: Observations
    options: WatchOptions
    autoencoder: Autoencoder = Autoencoder()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupEvidence:
    """One group of columns: what the window's rows are there, and the evidence over windows. F columns.

    Attributes:
        name: `features` are the columns of the reference; `energy` and `autoencoder` are derived of all of them.
        layout: of the group's columns.
        reference: tally of the reference's rows (of those held out, for derived columns).
        window: tally of the window's rows.
        step: what the window made of the evidence, by column; its value is before the group's weight.
    """

    name: GroupName
    layout: Layout
    reference: Tally
    window: Tally
    step: Step


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """What a report is made of.

    Attributes:
        reference: what it is compared with.
        window: tally of the window's rows.
        start_us: first time of its rows, microseconds since 1970; None where they had none.
        end_us: last time, likewise.
        number: of the window, from 1; 0 where it is none of the subject's windows.
        rows: rows of the window as far as they are held, for tests that need rows; None where they are not.
        groups: evidence over windows, `features` first; empty where the window is none of the subject's.
        log_value: logarithm of the e-detector over all groups, in alarms a year; None without `groups`.
        log_threshold: logarithm of the value at which an alarm is raised.
        window_starts: first time of recent windows by their number, for onsets.
        standing: True while a data alarm of the subject stands, this window's included.
    """

    reference: Reference
    window: Tally
    start_us: int | None = None
    end_us: int | None = None
    number: int = 0
    rows: Observations | None = None
    groups: tuple[GroupEvidence, ...] = ()
    log_value: float | None = None
    log_threshold: float = 0.0
    window_starts: Mapping[int, int]
    standing: bool = False
