"""What `meshcast drift` found out, in words that the terminal and the page share."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from meshcast.cli.plain import plain
from meshcast.client import DriftAlarm, DriftEvidence, DriftReport, FeatureDrift, JointTest
from meshcast.observations import Observations

__all__ = [
    "DriftFound",
    "OverWindows",
    "WindowPoint",
    "alarm_at",
    "alarm_since",
    "document",
    "evidence_of",
    "evidence_text",
    "heading_of",
    "headline",
    "joint_texts",
    "level_of",
    "number",
    "order_of",
    "p_text",
    "percent_of",
    "position_of",
    "sizes",
    "summary_of",
    "window_of",
]

_LN10 = math.log(10.0)
_ROWS_MIN = 5  # of a window that stands alone: the service calls no drift in fewer
_NAMES = {
    "kolmogorov_smirnov_max": "largest distance of one feature",
    "share_max": "largest change of a share",
    "energy": "energy distance",
    "second_moments": "spreads and correlations",
    "autoencoder_error": "autoencoder, error",
    "autoencoder_code": "autoencoder, code",
    "outputs": "outputs",
}


@dataclass(frozen=True, kw_only=True)
class WindowPoint:
    """Where the evidence stood behind a window."""

    number: int
    """Number of the window, from 1."""
    end_at: datetime | None
    """Last time of its rows; None where they have none."""
    evidence: DriftEvidence
    """Of the subject as a whole."""


@dataclass(frozen=True, kw_only=True)
class OverWindows:
    """What came of going through a file window by window.

    Attributes:
        windows: windows that were closed.
        size: of a window, in words.
        alarms: all that were raised, in their order.
        points: evidence behind windows, not of every one where there are many.
    """

    windows: int
    size: str
    alarms: tuple[DriftAlarm, ...]
    points: tuple[WindowPoint, ...]

    @property
    def raised(self) -> DriftAlarm | None:
        """The first alarm; None where none was raised."""
        return next((alarm for alarm in self.alarms if alarm.kind != "resolved"), None)


@dataclass(frozen=True, kw_only=True)
class DriftFound:
    """What was found out.

    Attributes:
        reference_source: name of the reference's file.
        window_source: name of the window's file.
        reference_rows: its rows.
        window_rows: its rows.
        report: what moved.
        chance: chance of calling drift where there is none; None where the file was gone through window by window, or
            the report was kept.
        over: what came of that; None where the file was one window.
        reference: some of its rows, for pictures; None where they are not at hand, as of a report that was kept.
        window: some of its rows, likewise.
        notes: what a reader must know, beside the report's own notes.
    """

    reference_source: str
    window_source: str
    reference_rows: int
    window_rows: int
    report: DriftReport
    chance: float | None
    over: OverWindows | None
    reference: Observations | None
    window: Observations | None
    notes: tuple[str, ...]

    @classmethod
    def kept(cls, report: DriftReport) -> "DriftFound":
        """A report as the service keeps it: the rows themselves are not at hand."""
        reference = f"reference {report.reference_version} of {report.subject}"
        return cls(
            reference_source=reference,
            window_source=f"report {report.report_id}, {window_of(report)}",
            reference_rows=report.reference_rows,
            window_rows=report.window.rows,
            report=report,
            chance=None,
            over=None,
            reference=None,
            window=None,
            notes=(),
        )

    @property
    def is_drift(self) -> bool:
        """Whether drift was called: in the report, or over windows at any time."""
        return self.report.is_drift if self.over is None else self.over.raised is not None

    @property
    def is_too_small(self) -> bool:
        """Whether the window has too few rows for a verdict."""
        return self.report.p_value is not None and not self.is_drift and self.window_rows < _ROWS_MIN

    @property
    def severity(self) -> str:
        """The worst level that was told."""
        from meshcast.client import SEVERITIES

        told = [self.report.severity] if self.is_drift else []
        if self.over is not None:
            told += [alarm.severity for alarm in self.over.alarms]
        return max(told, key=SEVERITIES.index, default="none")


def level_of(found: DriftFound) -> str:
    """How bad the drift that was called is, in words."""
    return "too small to matter" if found.severity == "none" else found.severity


def headline(found: DriftFound) -> str:
    """The verdict in one line."""
    report, over = found.report, found.over
    if over is not None:
        alarm = over.raised
        if alarm is None:
            return f"no drift: no alarm in {over.windows:,} windows of {over.size}"
        since = ""
        if alarm.onset is not None and alarm.onset.window != alarm.position:
            since = f", since {alarm_since(alarm)}"
        return f"DRIFT, {level_of(found)}: alarm at {alarm_at(alarm)}{since}"
    own = [one for one in report.features if one.role != "derived"]
    if found.is_too_small:
        return f"too few rows for a verdict: {_rows(found.window_rows)}, at least {_ROWS_MIN} are needed"
    if not report.is_drift:
        told = ""
        if report.p_value is not None:
            below = "" if found.chance is None else f"; drift is called below {found.chance:g}"
            told = f" (p {p_text(report.p_value)}{below})"
        return f"no drift: nothing in {len(own):,} features that chance does not explain{told}"
    moved = sum(one.is_drifted for one in own)
    what = f"{moved:,} of {len(own):,} features moved" if moved else "all features together moved"
    told = "" if report.p_value is None else f"; the chance of it without drift: {p_text(report.p_value)}"
    return f"DRIFT, {level_of(found)}: {what}{told}"


def sizes(found: DriftFound) -> str:
    """What was compared, in one line."""
    reference = f"{found.reference_source} ({_rows(found.reference_rows)})"
    return f"{found.window_source} ({_rows(found.window_rows)}) against {reference}"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def window_of(report: DriftReport) -> str:
    """The window that a report is of, in words."""
    return position_of(report.window.number, report.window.end_at) if report.window.number else "a window of its own"


def heading_of(found: DriftFound) -> str:
    """What the table of the features is called: over windows it is of one of them."""
    where = ""
    if found.over is not None:
        is_last = found.report.window.number == found.over.windows
        where = f" in {window_of(found.report)}{', the last' if is_last else ''}"
    return f"What moved{where}" if found.is_drift else f"Nearest to moving{where}"


def summary_of(found: DriftFound) -> str:
    """The report's paragraph where it says more than the verdict does: of which window it is, and since when."""
    report = found.report
    if report.evidence is None or not report.summary:
        return ""
    where = window_of(report)
    return f"{where[0].upper()}{where[1:]}: {report.summary}" if found.over is not None else report.summary


def joint_texts(found: DriftFound) -> list[tuple[str, str]]:
    """The tests of all features together and what they say, those that are absent for one reason as one."""
    tests = found.report.joint_tests
    told = [joint_text(test) for test in tests if test.is_present]
    absent: dict[str, list[str]] = {}
    for test in tests:
        if test.is_present:
            continue
        name, why = joint_text(test)
        if found.reference is not None and test.name.startswith("autoencoder"):
            name, why = "autoencoder", "absent: two files are compared without; what a mesh watches has one"
        names = absent.setdefault(why, [])
        if name not in names:
            names.append(name)
    return told + [("; ".join(names), why) for why, names in absent.items()]


def position_of(window: int, at: datetime | None) -> str:
    """A window by its number, and its time where it has one."""
    if at is None:
        return f"window {window:,}"
    utc = at.astimezone(UTC)
    return (
        f"window {window:,} ({utc:%Y-%m-%d})"
        if not (utc.hour or utc.minute)
        else f"window {window:,} ({utc:%Y-%m-%d %H:%M})"
    )


def alarm_at(alarm: DriftAlarm) -> str:
    """Where an alarm was raised: a window, or a loss."""
    if alarm.source == "performance":
        return f"loss {alarm.position:,}"
    return position_of(alarm.position, alarm.observed_at)


def alarm_since(alarm: DriftAlarm) -> str:
    """Where what an alarm is about began; empty where that is not known."""
    if alarm.onset is None:
        return ""
    if alarm.source == "performance":
        return f"loss {alarm.onset.window:,}"
    return position_of(alarm.onset.window, alarm.onset.start_at)


def order_of(found: DriftFound, most: int) -> list[FeatureDrift]:
    """The features to show: those that drifted, and the next ones to blame, at most so many."""
    features = [one for one in found.report.features if one.role != "derived"]
    features.sort(key=lambda one: (not one.is_drifted, -one.blame, -one.effects.kolmogorov_smirnov))
    return features[:most]


def evidence_of(feature: FeatureDrift) -> float | None:
    """The p-value of the test of the feature's whole distribution; None where there is none."""
    for name in ("kolmogorov_smirnov", "chi_squared"):
        if name in feature.p_values:
            return feature.p_values[name]
    return min(feature.p_values.values(), default=None)


def evidence_text(evidence: DriftEvidence) -> str:
    """How far evidence over windows is from raising an alarm, in powers of ten."""
    return f"{(evidence.log_value - evidence.log_threshold) / _LN10:+.1f}"


def joint_text(test: JointTest) -> tuple[str, str]:
    """What a test of all features together is called, and what it says."""
    name = _NAMES.get(test.name, test.name.replace("_", " "))
    if not test.is_present:
        return name, f"absent: {test.why}"
    if test.evidence is not None:  # which alone judges it: there is no statistic of one window
        told = f"evidence {evidence_text(test.evidence)} powers of ten from an alarm"
    else:
        told = number(test.statistic) if test.p_value is None else f"{number(test.statistic)}, p {p_text(test.p_value)}"
    return name, f"{told} ({test.what})" if test.what else told


def p_text(p: float) -> str:
    """A p-value as a person would write it.

    >>> p_text(0.43), p_text(3.2e-9), p_text(0.0)
    ('0.43', '3e-09', '< 1e-99')
    """
    return "< 1e-99" if p < 1e-99 else f"{p:.2g}" if p >= 1e-3 else f"{p:.0e}"


def number(value: float | None, digits: int = 3) -> str:
    """A number as a person would write it; a dash for none.

    >>> number(0.12345), number(1234567.0), number(None)
    ('0.123', '1,234,567', '-')
    """
    if value is None or value != value:
        return "-"
    return f"{value:,.0f}" if 1_000 <= abs(value) < 1e9 else f"{value:.{digits}g}"


def percent_of(share: float) -> str:
    """A share of the blame."""
    return "-" if share <= 0 else "< 1 %" if share < 0.005 else f"{100 * share:.0f} %"


def document(found: DriftFound) -> dict[str, Any]:
    """What was found out as JSON."""
    report = plain(found.report)
    del report["row_errors"]
    for feature in report["features"]:
        del feature["plot_png"]
    over = found.over
    return {
        "is_drift": found.is_drift,
        "is_too_small": found.is_too_small,
        "severity": found.severity,
        "verdict": headline(found),
        "reference": {"source": found.reference_source, "rows": found.reference_rows},
        "window": {"source": found.window_source, "rows": found.window_rows},
        "over_windows": None
        if over is None
        else {
            "windows": over.windows,
            "size": over.size,
            "alarms": plain(over.alarms),
            "evidence": plain(over.points),
        },
        "report": report,
        "notes": list(found.notes),
    }
