"""Alarms of a subject: raised once, worse by a level, resolved; a pure decision over the evidence of its windows."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

__all__ = [
    "BLAMED_MAX",
    "JUDGED_WINDOWS",
    "NO_SEVERITY",
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
"""Windows with the evidence below the threshold, one after the other, after which an alarm is over."""

JUDGED_WINDOWS = 5
"""Windows from one report to the next while an alarm stands and reaches no further feature: a higher level is told
that late at most."""

NO_SEVERITY = 1
"""Level of what is no drift, the contract's number; one more is low."""

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

    A drift keeps the evidence above the threshold while it lasts, so an alarm is raised once and stands until the
    evidence has been below for `QUIET_WINDOWS`. In between the window is judged again every `JUDGED_WINDOWS`, and when
    drift is called for a further feature.

    Attributes:
        alarm: the last one that was raised or became worse; None where none stands.
        features: every feature that drift was called for since it was raised.
        quiet: quiet windows, one after the other.
        loud: windows above the threshold since the last judgement.
    """

    alarm: Alarm | None = None
    features: frozenset[str] = frozenset()
    quiet: int = 0
    loud: int = 0

    def after_window(
        self, is_loud: bool, drifted: Collection[str] = ()
    ) -> tuple[Literal["judge", "resolve"] | None, "Standing"]:
        """What is to be done about a window, and the state behind it.

        Args:
            is_loud: whether the evidence is at the threshold or above it.
            drifted: names of the features that drift is called for.

        Returns:
            `judge`: a report is to be made of it and given to `after_judgement`; `resolve`: the alarm is over.
        """
        if is_loud:
            state = replace(self, quiet=0, loud=self.loud + 1)
            is_due = self.alarm is None or state.loud >= JUDGED_WINDOWS or not self.features.issuperset(drifted)
            return ("judge" if is_due else None), state
        if self.alarm is None:
            return None, self
        if self.quiet + 1 >= QUIET_WINDOWS:
            return "resolve", Standing()
        return None, replace(self, quiet=self.quiet + 1)

    def after_judgement(
        self, judgement: Judgement, drifted: Sequence[str]
    ) -> tuple[Literal["raised", "worsened"] | None, "Standing"]:
        """What is to be told of a window that was judged, and the state behind it; what is told is put in by `told`.

        Args:
            judgement: of the window.
            drifted: names of the features that drift is called for.
        """
        features = self.features.union(drifted)
        state = replace(self, features=features, loud=0)
        if self.alarm is None:
            return "raised", state
        if judgement.severity > self.alarm.severity or features > self.features:
            return "worsened", state
        return None, state

    def told(self, alarm: Alarm) -> "Standing":
        """The state once an alarm was raised or became worse."""
        return replace(self, alarm=alarm)

    def to_facts(self) -> dict[str, Any]:
        """The state as JSON takes it."""
        return {
            "alarm": None if self.alarm is None else [self.alarm.alarm_id, self.alarm.to_json()],
            "features": sorted(self.features),
            "quiet": self.quiet,
            "loud": self.loud,
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Standing":
        """The state that `to_facts` gave."""
        alarm = None if facts["alarm"] is None else Alarm.from_json(*facts["alarm"])
        return cls(alarm, frozenset(map(str, facts["features"])), int(facts["quiet"]), int(facts["loud"]))
