"""The report on a file of texts as a person at the terminal reads it."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshcast.cli.content_report import QUESTIONS, ContentReport, FeatureSummary, claim_label, claims_shown, no_claims
from meshcast.cli.shown_text import excerpt
from meshcast.client import Claim, ContentPatterns

__all__ = ["feature_lines", "percent", "print_report"]

_TEXTS_SHOWN = 5
_CLAIMS_SHOWN = 8
_OTHERS_SHOWN = 3
_TOPICS_SHOWN = 12
_EXCERPT = 160


def print_report(console: Console, report: ContentReport) -> None:
    """Prints the report."""
    judged = report.judged
    if judged.receipt is not None:
        told = len(report.rows) - judged.failures
        _head(console, f"{told:,} texts of {report.source}, and how likely each is to end …")
        console.print(_spread(report))
        ranked = report.ranked("viral")
        _head(console, "Most likely to go viral")
        console.print(_texts(report, ranked[:_TEXTS_SHOWN]))
        _head(console, "Least likely to go viral")
        console.print(_texts(report, ranked[::-1][:_TEXTS_SHOWN]))
    if report.calibrations:
        _head(console, "How the probabilities held up")
        console.print(_held_up(report))
        legend = (
            "AUC 0.5 is chance; the error is the mean gap between probability and share; the top tenth is that of the "
            "posts of the file"
        )
        console.print(legend, style="dim", highlight=False)
    _print_patterns(console, report)
    if report.features is not None:
        _head(console, "What is in the texts")
        for line in feature_lines(report.features):
            console.print(f"  {line}", highlight=False, markup=False)
    for note in report.notes:
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    if judged.receipt is not None:
        receipt = judged.receipt
        console.print(
            f"{receipt.model} version {receipt.model_version} on {receipt.backend}. {report.held_up()} Effects are in "
            "standard deviations of the outcome within its channel.",
            style="dim",
            highlight=False,
        )


def feature_lines(features: FeatureSummary) -> Iterator[str]:
    """What is in texts, one sentence a line."""
    least, low, middle, high, most = features.characters
    yield f"languages of {features.rows:,} texts: " + _counted(features.languages, features.rows)
    lengths = f"{least:,} to {most:,}, half of them {low:,} to {high:,}"
    yield f"characters: {lengths}, median {middle:,} ({features.words:,} words)"
    held = [f"{name} {percent(share)}" for name, share in features.share.items() if share]
    yield "texts with " + (", ".join(held) if held else "none of links, mentions, hashtags and emoji")
    for name, counted in (("emoji", features.emoji), ("hashtags", features.hashtags)):
        if counted:
            yield f"most frequent {name}: " + ", ".join(f"{excerpt(one, 30)} ({k:,})" for one, k in counted.items())
    if features.reading_ease is not None:
        yield f"median reading ease of English texts: {features.reading_ease:.0f} (100 is easy, 0 is hard)"
    if features.sentiment is not None:
        yield f"mean sentiment of English texts: {features.sentiment:+.2f} (from -1 to 1)"


def percent(share: float) -> str:
    """A share as a person would write it; NaN as a dash."""
    if share != share:
        return "-"
    shown = f"{share:.1%}" if 0 < share < 0.1 else f"{share:.0%}"
    return "<0.1%" if shown == "0.0%" and share > 0 else shown


def _head(console: Console, words: str) -> None:
    console.print()
    console.print(words, style="bold", highlight=False, markup=False)


def _spread(report: ContentReport) -> Table:
    table = Table()
    table.add_column("")
    for heading in ("lowest", "quarter", "median", "quarter", "highest"):
        table.add_column(heading, justify="right")
    for question, words in QUESTIONS.items():
        p = report.judged.probability(question)
        table.add_row(words, *map(percent, np.nanquantile(p, (0, 0.25, 0.5, 0.75, 1)).tolist()))
    return table


def _texts(report: ContentReport, rows: NDArray[np.int64]) -> Table:
    table = Table()
    for heading in ("row", "viral", "above"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("text", overflow="fold")
    for row in rows.tolist():
        table.add_row(
            f"{report.places[row]:,}",
            percent(float(report.judged.viral[row])),
            percent(float(report.judged.above_median[row])),
            Text(report.excerpt(row, _EXCERPT)),
        )
    return table


def _held_up(report: ContentReport) -> Table:
    table = Table()
    table.add_column("ended …")
    for heading in ("rows", "came true", "AUC", "calibration error"):
        table.add_column(heading, justify="right")
    for question, one in report.calibrations.items():
        table.add_row(
            QUESTIONS[question], f"{one.rows:,}", percent(one.base_rate), f"{one.auc:.3f}", f"{one.error:.3f}"
        )
    return table


def _print_patterns(console: Console, report: ContentReport) -> None:
    patterns = report.patterns
    if patterns is None:
        return
    _head(console, "What works")
    if not patterns.claims:
        console.print(no_claims(report), highlight=False, markup=False)
    shown = claims_shown(patterns, max(min(len(patterns.claims), _CLAIMS_SHOWN), _OTHERS_SHOWN))
    if shown:
        console.print(_claims(patterns, shown))
        if len(shown) > len(patterns.claims):
            console.print("grey: cannot be told from chance", style="dim")
    hidden = len(patterns.claims) - _CLAIMS_SHOWN
    if hidden > 0:
        console.print(f"and {hidden:,} more claims: --html and --json have them all", style="dim")
    if patterns.topics:
        _head(console, f"Topics, found by {patterns.representation}")
        table = Table()
        for heading in ("topic", "rows", "share"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("words", overflow="fold")
        for topic in patterns.topics[:_TOPICS_SHOWN]:
            words = ", ".join(excerpt(word, 40) for word in topic.words[:6])
            table.add_row(str(topic.topic), f"{topic.rows:,}", percent(topic.share), Text(words))
        console.print(table)
        if len(patterns.topics) > _TOPICS_SHOWN:
            console.print(f"and {len(patterns.topics) - _TOPICS_SHOWN:,} smaller topics", style="dim")
    for note in patterns.notes:
        console.print(f"  {note}", style="dim", highlight=False, markup=False)


def _claims(patterns: ContentPatterns, shown: Sequence[tuple[Claim, bool]]) -> Table:
    table = Table()
    table.add_column("what the posts have", overflow="fold")
    for heading in ("effect", "95 % interval", "p, corrected", "rows"):
        table.add_column(heading, justify="right")
    for claim, is_claimed in shown:
        table.add_row(
            Text(excerpt(claim_label(claim, patterns), 100)),
            f"{claim.effect:+.2f}",
            f"{claim.lower:+.2f} to {claim.upper:+.2f}",
            _p(claim.p_corrected),
            f"{claim.rows_with:,}",
            style=None if is_claimed else "dim",
        )
    return table


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _counted(counts: Mapping[str, int], rows: int) -> str:
    shown = list(counts.items())[:6]
    rest = len(counts) - len(shown)
    return ", ".join(f"{name} {percent(k / rows)}" for name, k in shown) + (f" and {rest} more" if rest else "")
