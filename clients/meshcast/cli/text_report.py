"""The report on one text: its judgement, the spans that moved it, and what is in it."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshcast.cli.content_print import percent
from meshcast.cli.content_report import QUESTIONS
from meshcast.cli.plain import plain
from meshcast.cli.shown_text import excerpt, shown
from meshcast.client import Content, ContentFeatures, Span, Validation, ViralPotential

__all__ = [
    "LOWERS",
    "RAISES",
    "TextReport",
    "document",
    "feature_rows",
    "pieces",
    "points",
    "print_text_report",
    "times_typical",
]

# Okabe and Ito's blue and vermillion, which people with any colour vision tell apart.
RAISES, LOWERS = "#0072B2", "#D55E00"

_CHARACTERS_SHOWN = 1_200
_ITEMS_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """A report on one text.

    Attributes:
        source: what to call it.
        content: the post.
        potential: the judgement, and the spans that moved it.
        features: what is in it; None where it was not found out.
        remarks: what is legal but unusual about it.
        notes: what a reader must know of how it came about.
    """

    source: str
    content: Content
    potential: ViralPotential
    features: ContentFeatures | None
    remarks: Validation | None
    notes: tuple[str, ...]


def pieces(text: str, spans: list[Span]) -> Iterator[tuple[str, Span | None]]:
    """A text cut where spans begin and end, each piece with its span or None; control characters are shown.

    Args:
        text: the text.
        spans: of its field; they do not overlap.
    """
    end = 0
    for span in sorted(spans, key=lambda one: one.start):
        if end < span.start:
            yield shown(text[end : span.start]), None
        yield shown(text[span.start : span.end]), span
        end = span.end
    if end < len(text):
        yield shown(text[end:]), None


def points(effect: float) -> str:
    """An effect in points of probability, with its direction in a sign of its own.

    >>> points(0.21), points(-0.0004)
    ('▲ +21.0', '▼ -0.04')
    """
    shown_points = f"{100 * effect:+.1f}" if abs(effect) >= 0.001 else f"{100 * effect:+.1g}"
    return f"{'▲' if effect >= 0 else '▼'} {shown_points}"


def times_typical(span: Span, potential: ViralPotential) -> str:
    """The size of a span's effect over the median of all that were tried."""
    typical = potential.typical_effect_log_odds
    return f"{abs(span.effect_log_odds) / typical:.1f}" if typical > 0 else "-"


def print_text_report(console: Console, report: TextReport) -> None:
    """Prints the report."""
    judgement, potential = report.potential.judgement, report.potential
    table = Table()
    table.add_column("how likely the text is to end")
    table.add_column("probability", justify="right")
    table.add_row(QUESTIONS["above_median"], percent(judgement.above_median))
    table.add_row(QUESTIONS["viral"], percent(judgement.viral))
    console.print(table)
    for name, text in (("title", report.content.title), ("text", report.content.text)):
        if text:
            console.print(_coloured(name, text, [span for span in potential.spans if span.field == name]))
    if potential.spans:
        console.print(f"\nWhat moves the probability to end {QUESTIONS[potential.question]}", style="bold")
        console.print(_spans(potential))
        told = "blue ▲ raises it, orange ▼ lowers it; each span is taken out alone, so effects need not add up"
        console.print(told, style="dim", highlight=False)
    else:
        console.print("No span was tried: there is nothing to take out of so short a text.", style="dim")
    if report.features is not None:
        console.print("\n[bold]What is in it[/bold]")
        for name, value in feature_rows(report.features):
            console.print(f"  {name}: {value}", highlight=False, markup=False)
    for remark in report.remarks.remarks if report.remarks is not None else ():
        field = remark.field.removeprefix("content.")
        console.print(f"remark: {field} {remark.description}", style="yellow", highlight=False, markup=False)
    for note in report.notes:
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    receipt = potential.receipt
    console.print(
        f"{receipt.model} version {receipt.model_version} on {receipt.backend}; it read "
        f"{judgement.characters_read:,} characters, and {potential.spans_tried:,} times without a span",
        style="dim",
        highlight=False,
    )


def feature_rows(features: ContentFeatures) -> Iterator[tuple[str, str]]:
    """What is in a text as names and values; what it has none of is left out."""
    yield (
        "length",
        ", ".join(
            f"{count:,} {name}{'' if count == 1 else 's'}"
            for name, count in (
                ("character", features.characters),
                ("word", features.words),
                ("sentence", features.sentences),
                ("line", features.lines),
            )
        ),
    )
    if features.language is not None:
        yield "language", f"{features.language.code} ({percent(features.language.confidence)} sure)"
    if features.scripts:
        yield "scripts", ", ".join(features.scripts)
    if features.reading_ease is not None and features.reading_grade is not None:
        yield "reading ease", f"{features.reading_ease:.0f} of 100, grade {features.reading_grade:.1f}"
    if features.sentiment is not None:
        one = features.sentiment
        parts = f"{percent(one.positive)} positive, {percent(one.negative)} negative"
        yield "sentiment", f"{one.compound:+.2f} from -1 to 1 ({parts})"
    for name in ("links", "mentions", "hashtags", "emoji"):
        found = getattr(features, name)
        if found:
            more = f" and {len(found) - _ITEMS_SHOWN:,} more" if len(found) > _ITEMS_SHOWN else ""
            yield name, ", ".join(excerpt(one, 80) for one in found[:_ITEMS_SHOWN]) + more
    for name, count in (
        ("exclamation marks", features.exclamation_marks),
        ("question marks", features.question_marks),
        ("HTML tags", features.html_tags),
        ("control characters", features.control_characters),
        ("characters without width", features.invisible_characters),
    ):
        if count:
            yield name, f"{count:,}"
    for name, share in (
        ("letters in upper case", features.upper_share),
        ("digits", features.digit_share),
        ("letters written from right to left", features.right_to_left_share),
    ):
        if share:
            yield name, percent(share)


def document(report: TextReport) -> dict[str, object]:
    """The report as JSON."""
    potential, receipt = report.potential, report.potential.receipt
    return {
        "source": report.source,
        "judgement": plain(potential.judgement),
        "question": potential.question,
        "probability": potential.probability,
        "spans": plain(potential.spans),
        "typical_effect_log_odds": potential.typical_effect_log_odds,
        "spans_tried": potential.spans_tried,
        "features": plain(report.features),
        "remarks": [] if report.remarks is None else [plain(dict(one._asdict())) for one in report.remarks.remarks],
        "notes": list(report.notes),
        "model": receipt.model,
        "model_version": receipt.model_version,
        "prediction_id": receipt.prediction_id,
    }


def _coloured(name: str, text: str, spans: list[Span]) -> Text:
    found = Text(f"{name}: ", style="bold", end="\n")
    left = _CHARACTERS_SHOWN
    for piece, span in pieces(text, spans):
        style = "not bold" if span is None else f"bold white on {RAISES if span.effect >= 0 else LOWERS}"
        found.append(piece[:left], style=style)
        left -= len(piece)
        if left <= 0:
            found.append(f"… and {-left:,} more characters", style="dim not bold")
            break
    return found


def _spans(potential: ViralPotential) -> Table:
    table = Table()
    table.add_column("span", overflow="fold")
    for heading in ("effect", "without it", "times typical"):
        table.add_column(heading, justify="right", no_wrap=True)
    for span in potential.spans:
        cell = Text(excerpt(span.text, 120), style=RAISES if span.effect >= 0 else LOWERS)
        effect = f"{points(span.effect)} points"
        table.add_row(cell, effect, percent(span.probability_without), times_typical(span, potential))
    return table
