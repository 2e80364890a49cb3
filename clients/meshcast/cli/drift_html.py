"""What `meshcast drift` found out as a page: the verdict, what to do, and each feature's picture beside its numbers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from meshcast.cli.drift_found import (
    DriftFound,
    OverWindows,
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
    position_of,
    sizes,
    summary_of,
)
from meshcast.cli.drift_plots import blame_picture, feature_picture, shares_of, windows_picture
from meshcast.cli.html_page import Html, figure, page, paragraph, quoted, section, table, text, write_page
from meshcast.client import DriftAlarm, FeatureDrift
from meshcast.observations import Observations

__all__ = ["drift_page", "write_html"]

_FEATURES_TOLD = 200
_SHORT_NAME = 28  # characters that a table need not break
_FEATURES_RANKED = 24
_FEATURES_DRAWN = 16
_NEAREST_DRAWN = 4  # where none has drifted


def write_html(path: Path, found: DriftFound) -> None:
    """Writes the page."""
    write_page(path, drift_page(found))


def drift_page(found: DriftFound) -> str:
    """The page."""
    title = f"{found.window_source} against {found.reference_source}"
    css = f"verdict {found.severity}" if found.is_drift else "verdict none"
    parts = [
        Html(f'<p class="{css}">{text(headline(found))}</p>'),
        paragraph(f"{sizes(found)}.", is_soft=True),
        *_sections(found),
    ]
    return page(title, parts)


def _sections(found: DriftFound) -> Iterator[Html]:
    report = found.report
    summary = summary_of(found)
    if summary:
        yield paragraph(summary)
    if report.advice:
        yield section("What to do", map(paragraph, report.advice))
    if found.over is not None:
        yield section("Over windows", _windows(found.over))
    yield section(heading_of(found), _features(found))
    if found.reference is not None and found.window is not None:
        yield section("Reference and window", _pictures(found, found.reference, found.window))
    if report.joint_tests:
        rows = [tuple(map(text, told)) for told in joint_texts(found)]
        yield section(
            "All features together", [table("Tests of whole rows, beside each feature's own.", ("test", "says"), rows)]
        )
    notes = [*found.notes, *report.notes]
    if notes:
        yield section("Notes", map(paragraph, notes))


def _windows(over: OverWindows) -> Iterator[Html]:
    if over.points:
        rows = [(position_of(point.number, point.end_at), evidence_text(point.evidence)) for point in over.points]
        raised = over.raised
        told = f"{over.windows:,} windows of {over.size}. The line is the evidence behind a window, the dashes "
        told += "the level of an alarm."
        if raised is not None:
            told += " The upright line is the alarm."
            if raised.onset is not None and raised.onset.window != raised.position:
                told += " The dotted one is where the drift began."
        yield figure(
            windows_picture(over),
            "The evidence over windows, and the level at which an alarm is raised.",
            told,
            table("Powers of ten from an alarm.", ("window", "evidence"), rows, numbers=(1,)),
        )
    if over.alarms:
        headings = ("alarm", "severity", "at", "since", "to blame", "in words")
        is_short = all(len(", ".join(alarm.blamed)) <= _SHORT_NAME for alarm in over.alarms)
        cells = [_alarm_cells(alarm) for alarm in over.alarms]
        yield table("Alarms.", headings, cells, words=range(5 if is_short else 4))
    else:
        yield paragraph("No alarm was raised.")


def _alarm_cells(alarm: DriftAlarm) -> tuple[object, ...]:
    blamed = ", ".join(f"{name} {percent_of(share)}" for name, share in alarm.blamed.items())
    return alarm.kind, alarm.severity, alarm_at(alarm), alarm_since(alarm), quoted(blamed), quoted(alarm.text)


def _features(found: DriftFound) -> Iterator[Html]:
    features = order_of(found, _FEATURES_TOLD)
    drifted = [one for one in features if one.is_drifted]
    over = any(one.evidence is not None for one in features)
    told = "Distance: the largest gap of the two distribution functions, 0 to 1. PSI in nats. "
    told += (
        "Evidence: powers of ten from an alarm of its own."
        if over
        else "P of each feature alone: of many features some are small by chance."
    )
    rest = [one for one in features if not one.is_drifted] or features  # those that moved have a table in sight
    yield figure(
        blame_picture(features[:_FEATURES_RANKED]),
        "Features by how far they moved.",
        f"Drift is called for {len(drifted):,} of {sum(one.role != 'derived' for one in found.report.features):,} "
        "features, all tests together; those are coloured.",
        _feature_table(told, rest, is_over=over),
    )
    if drifted:
        yield _feature_table(f"Features that drift is called for. {told}", drifted, is_over=over)


def _feature_table(caption: str, features: Sequence[FeatureDrift], *, is_over: bool) -> Html:
    weighted = any(one.importance != 1 for one in features)
    headings = [
        *("feature", "severity", "blame", "distance", "PSI", "evidence" if is_over else "p"),
        *(["weight"] if weighted else []),
        "what moved",
    ]
    names_are_short = max(len(one.name) for one in features) <= _SHORT_NAME
    return table(
        caption,
        headings,
        [_cells(one, weighted=weighted) for one in features],
        numbers=range(2, len(headings) - 1),
        words=(0, 1) if names_are_short else (1,),
    )


def _cells(one: FeatureDrift, *, weighted: bool) -> tuple[object, ...]:
    p = evidence_of(one)
    told = evidence_text(one.evidence) if one.evidence is not None else "-" if p is None else p_text(p)
    name = f"{one.name} (output)" if one.role == "output" else one.name
    return (
        quoted(name),
        one.severity if one.is_drifted else "-",
        percent_of(one.blame),
        f"{one.effects.kolmogorov_smirnov:.3f}",
        number(one.effects.population_stability),
        told,
        *([number(one.importance)] if weighted else []),
        quoted(one.what),
    )


def _pictures(found: DriftFound, reference: Observations, window: Observations) -> Iterator[Html]:
    drifted = [one for one in order_of(found, _FEATURES_TOLD) if one.is_drifted][:_FEATURES_DRAWN]
    drawn = drifted or order_of(found, _NEAREST_DRAWN)
    if not drifted:
        yield paragraph("Drift is called for none; these are nearest to it.", is_soft=True)
    for one in drawn:
        shares = shares_of(one.name, reference, window)
        if shares is None:
            yield paragraph(f"{one.name}: no values to draw, {one.what}.")
            continue
        pairs = zip(shares.labels, shares.reference.tolist(), shares.window.tolist(), strict=True)
        beside = table(
            "Shares of the rows with a value.",
            ("value", "reference", "window"),
            [(quoted(name), f"{100 * a:.2f} %", f"{100 * b:.2f} %") for name, a, b in pairs],
            numbers=(1, 2),
        )
        yield figure(feature_picture(shares, one.name), f"{one.name}: reference against window.", _told(one), beside)


def _told(one: FeatureDrift) -> str:
    told = f"{one.name}: {one.what}" if one.what else one.name
    reference, window = one.reference, one.window
    for name, a, b in (("null", reference.nulls, window.nulls), ("infinite", reference.infinities, window.infinities)):
        if a or b:
            shares = f"{100 * a / max(1, reference.rows):.1f} % and {100 * b / max(1, window.rows):.1f} %"
            told += f"; {name}: {shares}"
    if window.unseen:
        told += f"; in categories that the reference does not have: {window.unseen:,} rows"
    return f"{told}."
