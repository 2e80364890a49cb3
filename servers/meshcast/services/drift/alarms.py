"""Alarms of a subject: raised once, worse by a level, resolved; a pure decision over the evidence of its windows."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

__all__ = [
    "BLAMED_MAX",
    "QUIET_LOG",
    "QUIET_WINDOWS",
    "RAISED",
    "RESOLVED",
    "WORSENED",
    "Alarm",
    "AlarmKind",
    "AlarmSource",
    "Judgement",
    "Standing",
]

AlarmKind = Literal["raised", "worsened", "resolved"]
AlarmSource = Literal["data", "performance"]

RAISED: AlarmKind = "raised"
WORSENED: AlarmKind = "worsened"
RESOLVED: AlarmKind = "resolved"

QUIET_WINDOWS = 10
"""Windows without a sign of drift, one after the other, after which an alarm is over."""

QUIET_LOG = 3.0
"""Evidence since the last alarm, as a natural logarithm, below which a window is quiet.

It is measured in what no drift expects of it, so by Markov's inequality one window in 20 is loud by chance."""

BLAMED_MAX = 10
"""Features that an alarm names, of the contract."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a report says of a window, as far as alarms and lists need it.

    Attributes:
        severity: level, the contract's number: 1 none to 5 critical.
        severity_score: the same as a number, 0 to 1.
        is_drift: True when drift is called.
        blamed: features to blame with their share, those to blame first.
        onset_window: number of the window in which the drift began; None where nothing is called.
        text: one sentence for a person.
        message: the report as it is stored.
    """

    severity: int
    severity_score: float
    is_drift: bool
    blamed: tuple[tuple[str, float], ...]
    onset_window: int | None
    text: str
    message: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An alarm, as it is stored and sent.

    Attributes:
        alarm_id: counts up over all subjects; 0 until it is on its way to the disk.
        subject: its name.
        kind: what it says.
        source: what it is about.
        raised_us: when, by this server's clock, microseconds since 1970.
        observed_us: last time of the rows that raised it; None where they had none.
        severity: level, the contract's number: 1 none to 5 critical.
        blamed: features to blame with their share, at most 10; the metric where it is about losses.
        onset_window: number of the window, or position of the loss, where the drift began; None where that is unknown.
        onset_us: start of that window; None where its rows had no times.
        report_id: of the window's report; empty where there is none.
        text: one sentence for a person.
        position: number of the window that raised it, or position of the loss.
        reference_version: of the subject's reference at the time.
    """

    alarm_id: int = 0
    subject: str
    kind: AlarmKind
    source: AlarmSource = "data"
    raised_us: int
    observed_us: int | None = None
    severity: int
    blamed: tuple[tuple[str, float], ...] = ()
    onset_window: int | None = None
    onset_us: int | None = None
    report_id: str = ""
    text: str
    position: int = 0
    reference_version: int = 0

    def to_json(self) -> str:
        """The alarm as a text, but for its id."""
        values = asdict(self)
        del values["alarm_id"]
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, alarm_id: int, text: str) -> "Alarm":
        """The alarm that `to_json` wrote."""
        values = json.loads(text)
        values["blamed"] = tuple((str(name), float(share)) for name, share in values["blamed"])
        return cls(alarm_id=alarm_id, **values)


@dataclass(frozen=True, slots=True)
class Standing:
    """The data alarm that stands, and how long it has been quiet.

    Attributes:
        alarm: the last one that was raised or became worse; None where none stands.
        features: every feature that drift was called for since it was raised.
        quiet: quiet windows, one after the other.
    """

    alarm: Alarm | None = None
    features: frozenset[str] = frozenset()
    quiet: int = 0

    def after_crossing(self, judgement: Judgement, drifted: Sequence[str]) -> tuple[AlarmKind | None, "Standing"]:
        """What to say, and the state, after a window at which the evidence reached the threshold.

        Args:
            judgement: of that window.
            drifted: names of the features that drift is called for.

        Returns:
            The kind of the alarm, whose record the caller makes and puts into the state by `told`; None where what
            stands has been told already.
        """
        features = self.features.union(drifted)
        if self.alarm is None:
            return RAISED, Standing(None, features, 0)
        if judgement.severity > self.alarm.severity or features > self.features:
            return WORSENED, Standing(self.alarm, features, 0)
        return None, replace(self, quiet=0)

    def after_window(self, log_since: float) -> tuple[AlarmKind | None, "Standing"]:
        """What to say, and the state, after a window at which the evidence stayed below the threshold.

        Args:
            log_since: logarithm of the evidence since the last alarm over what no drift expects of it.
        """
        if self.alarm is None:
            return None, self
        quiet = self.quiet + 1 if log_since < QUIET_LOG else 0
        if quiet >= QUIET_WINDOWS:
            return RESOLVED, Standing()
        return None, replace(self, quiet=quiet)

    def told(self, alarm: Alarm) -> "Standing":
        """The state once an alarm was raised or became worse."""
        return replace(self, alarm=alarm)

    def to_json(self) -> str:
        """The state as a text."""
        return json.dumps(
            {
                "alarm": None if self.alarm is None else [self.alarm.alarm_id, self.alarm.to_json()],
                "features": sorted(self.features),
                "quiet": self.quiet,
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> "Standing":
        """The state that `to_json` wrote."""
        values = json.loads(text)
        alarm = None if values["alarm"] is None else Alarm.from_json(*values["alarm"])
        return cls(alarm, frozenset(map(str, values["features"])), int(values["quiet"]))
