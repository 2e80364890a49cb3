"""What `meshcast drift` found out, as a person at the terminal reads it."""

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from meshcast.cli.drift_found import (
    DriftFound,
    alarm_at,
    alarm_since,
    evidence_of,
    evidence_text,
    heading_of,
    headline,
    joint_texts,
    number,
    order_of,
    p_text,
    percent_of,
    sizes,
    summary_of,
)
from meshcast.cli.shown_text import excerpt, shown
from meshcast.client import DriftAlarm

__all__ = ["STYLES", "alarm_table", "print_drift"]

# Okabe and Ito's palette, which people with any colour vision tell apart; the word stands beside the colour.
STYLES = {"none": "#009E73", "low": "#0072B2", "moderate": "#E69F00", "high": "#D55E00", "critical": "#CC79A7"}

_FEATURES_SHOWN = 15
_ALARMS_SHOWN = 20
_NAME = 36
_WHAT = 90


def print_drift(console: Console, found: DriftFound) -> None:
    """Prints the verdict, what moved, what to do, and what a reader must know."""
    style = f"bold {STYLES[found.severity]}"
    console.print(Text(shown(headline(found)), style=style), soft_wrap=True)
    console.print(sizes(found), style="dim", highlight=False, markup=False, soft_wrap=True)
    report = found.report
    summary = summary_of(found)
    if summary:
        console.print(f"\n{shown(summary)}", highlight=False, markup=False)
    if found.over is not None and found.over.alarms:
        _head(console, "Alarms")
        console.print(alarm_table(found.over.alarms[:_ALARMS_SHOWN]))
        _more(console, len(found.over.alarms) - _ALARMS_SHOWN, "alarms")
    _head(console, heading_of(found))
    console.print(_features(found))
    own = sum(one.role != "derived" for one in report.features)
    _more(console, own - _FEATURES_SHOWN, "features")
    console.print(_legend(found), style="dim", highlight=False, markup=False)
    if report.joint_tests:
        _head(console, "All features together")
        for name, told in joint_texts(found):
            console.print(Text.assemble((f"  {name}: ", "bold"), shown(told)))
    if report.advice:
        _head(console, "What to do")
        for line in report.advice:
            console.print(f"  - {shown(line)}", highlight=False, markup=False)
    for note in (*found.notes, *report.notes):
        console.print(f"note: {shown(note)}", style="yellow", highlight=False, markup=False)


def alarm_table(alarms: tuple[DriftAlarm, ...], *, with_subject: bool = False) -> Table:
    """Alarms, a line each; one that is over says why in place of what is to blame."""
    table = Table()
    if with_subject:
        table.add_column("subject", no_wrap=True)  # which is to be copied
    for heading in ("alarm", "severity", "at", "since", "to blame"):
        table.add_column(heading, overflow="fold")
    for alarm in alarms:
        blamed = [f"{escape(excerpt(name, _NAME))} {percent_of(share)}" for name, share in alarm.blamed.items()]
        severity = f"[{STYLES[alarm.severity]}]{alarm.severity}[/]"
        why = escape(shown(alarm.text.rpartition(": ")[2].rstrip("."))) if alarm.kind == "resolved" else ""
        cells = [alarm.kind, severity, alarm_at(alarm), alarm_since(alarm), why or ", ".join(blamed[:4])]
        table.add_row(*([escape(shown(alarm.subject))] if with_subject else []), *cells)
    return table


def _features(found: DriftFound) -> Table:
    features = order_of(found, _FEATURES_SHOWN)
    over = any(one.evidence is not None for one in features)
    weighted = any(one.importance != 1 for one in features)
    table = Table()
    table.add_column("feature", overflow="fold")
    table.add_column("severity")
    for heading in ("blame", "distance", "PSI", "evidence" if over else "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    if weighted:
        table.add_column("weight", justify="right", no_wrap=True)
    table.add_column("what", overflow="fold")
    for one in features:
        name = Text(excerpt(one.name, _NAME), style="bold" if one.is_drifted else "")
        if one.role == "output":
            name.append(" (output)", style="dim")
        p = evidence_of(one)
        told = evidence_text(one.evidence) if one.evidence is not None else "-" if p is None else p_text(p)
        cells: list[RenderableType] = [
            name,
            Text(one.severity if one.is_drifted else "-", style=STYLES[one.severity] if one.is_drifted else "dim"),
            percent_of(one.blame),
            f"{one.effects.kolmogorov_smirnov:.3f}",
            number(one.effects.population_stability),
            told,
            *([number(one.importance)] if weighted else []),
            Text(excerpt(one.what, _WHAT)),
        ]
        table.add_row(*cells, style="" if one.is_drifted else "dim")
    return table


def _legend(found: DriftFound) -> str:
    told = "distance: largest gap of the two distribution functions, 0 to 1; PSI in nats; "
    if any(one.evidence is not None for one in found.report.features):
        return told + "evidence: powers of ten from an alarm, above 0 it is one; bold features are called"
    return told + "p: of this feature alone; bold features are called, all tests together"


def _head(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def _more(console: Console, count: int, what: str) -> None:
    if count > 0:
        console.print(f"… and {count:,} more {what}; --json prints them all", style="dim", highlight=False)
