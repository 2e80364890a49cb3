"""The report on texts as a page: one text with its spans, or a file with plots, each beside its numbers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meshcast.cli.content_plots import (
    DAYS,
    calibration_picture,
    claims_picture,
    clock_picture,
    spread_picture,
    topics_picture,
)
from meshcast.cli.content_print import feature_lines, percent
from meshcast.cli.content_report import QUESTIONS, Clock, ContentReport, claim_label, claims_shown, no_claims
from meshcast.cli.html_page import Html, figure, page, paragraph, quoted, section, table, text, write_page
from meshcast.cli.shown_text import excerpt
from meshcast.cli.text_report import TextReport, feature_rows, pieces, points, times_typical
from meshcast.client import Claim, ContentPatterns, Receipt, Span

__all__ = ["file_page", "text_page", "write_html"]

_TEXTS_SHOWN = 10
_EXCERPT = 280
_CLAIMS_DRAWN = 20
_TOPICS_DRAWN = 24
_CHARACTERS_SHOWN = 20_000


def write_html(path: Path, report: ContentReport | TextReport) -> None:
    """Writes a report as one self-contained page."""
    write_page(path, text_page(report) if isinstance(report, TextReport) else file_page(report))


def text_page(report: TextReport) -> str:
    """The page on one text."""
    potential, judgement = report.potential, report.potential.judgement
    words = QUESTIONS[potential.question]
    parts = [
        table(
            "How likely the text is to end …",
            ("to end …", "probability"),
            [
                (QUESTIONS["above_median"], percent(judgement.above_median)),
                (QUESTIONS["viral"], percent(judgement.viral)),
            ],
            numbers=(1,),
        ),
        section(f"What moves the probability to end {words}", _span_parts(report)),
    ]
    if report.features is not None:
        rows = [(name, quoted(value)) for name, value in feature_rows(report.features)]
        parts.append(section("What is in it", [table("What it has none of is left out.", ("what", "how much"), rows)]))
    told = [one.description for one in report.remarks.remarks] if report.remarks is not None else []
    if told or report.notes:
        parts.append(section("Notes", [paragraph(note) for note in (*told, *report.notes)]))
    model = _model(potential.receipt, "The probabilities are calibrated on the posts that it was trained with.")
    return page(f"{report.source}: what it will do and why", [model, *parts])


def file_page(report: ContentReport) -> str:
    """The page on a file."""
    parts = [paragraph(f"{len(report.rows):,} texts of {report.source}")]
    if report.judged.receipt is not None:
        note = " Effects are differences within a channel and say what goes together, not what causes what."
        parts.append(_model(report.judged.receipt, f"{report.held_up()}{note}"))
    parts += _sections(report)
    return page(f"{report.source}: what its texts will do, and what works", parts)


def _sections(report: ContentReport) -> Iterator[Html]:
    if len(report.ranked("viral")):
        yield section("How likely the texts are to do well", _spread(report))
    if report.calibrations:
        yield section("How the probabilities held up", _held_up(report))
    if report.patterns is not None:
        yield section("What works", _works(report, report.patterns))
        yield section("Topics", _topics(report, report.patterns))
    if report.clock is not None:
        yield section("When", _when(report, report.clock))
    if report.features is not None:
        yield section("What is in the texts", map(paragraph, feature_lines(report.features)))
    notes = [paragraph(note) for note in report.notes]
    if report.judged.failures:
        reasons = report.judged.reasons
        rows = [(reason, f"{len(rows):,}", f"{report.places[rows[0]]:,}") for reason, rows in reasons.items()]
        caption = f"{report.judged.failures:,} of {len(report.rows):,} rows were refused."
        notes.append(table(caption, ("reason", "rows", "first row"), rows, numbers=(1, 2)))
    if notes:
        yield section("Notes", notes)


def _model(receipt: Receipt, note: str) -> Html:
    model = f"{receipt.model} version {receipt.model_version} on {receipt.backend}"
    return paragraph(f"Judged by {model}. {note}", is_soft=True)


def _spread(report: ContentReport) -> Iterator[Html]:
    shares = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
    found = {question: report.judged.probability(question) for question in QUESTIONS}
    rows = [
        (words, *map(percent, np.nanquantile(found[question], shares).tolist()))
        for question, words in QUESTIONS.items()
    ]
    middles = {question: percent(float(np.nanmedian(p))) for question, p in found.items()}
    told = (
        f"Half of the texts are below {middles['above_median']} for ending above the "
        f"median of their channel, and below {middles['viral']} for its top tenth."
    )
    headings = ("to end …", "lowest", "10 %", "25 %", "median", "75 %", "90 %", "highest")
    yield figure(
        spread_picture(found),
        "Histograms of both probabilities.",
        told,
        table("Quantiles.", headings, rows, numbers=range(1, 8)),
    )
    ranked = report.ranked("viral")
    yield _texts("Most likely to go viral.", report, ranked[:_TEXTS_SHOWN])
    yield _texts("Least likely to go viral.", report, ranked[::-1][:_TEXTS_SHOWN])


def _texts(caption: str, report: ContentReport, rows: NDArray[np.int64]) -> Html:
    return table(
        caption,
        ("row", "viral", "above the median", "text"),
        [
            (
                f"{report.places[row]:,}",
                percent(float(report.judged.viral[row])),
                percent(float(report.judged.above_median[row])),
                quoted(report.excerpt(row, _EXCERPT)),
            )
            for row in rows.tolist()
        ],
        numbers=(0, 1, 2),
    )


def _held_up(report: ContentReport) -> Iterator[Html]:
    found = report.calibrations
    told = " ".join(
        f"To end {QUESTIONS[question]}: {one.rows:,} rows, {percent(one.base_rate)} of them did; AUC {one.auc:.3f} "
        f"(0.5 is chance), calibration error {one.error:.3f} over {len(one.bins)} bins."
        for question, one in found.items()
    )
    rows = [
        (
            QUESTIONS[question],
            f"{part.rows:,}",
            f"{part.mean:.3f}",
            f"{part.rate:.3f}",
            f"{part.lower:.3f} to {part.upper:.3f}",
        )
        for question, one in found.items()
        for part in one.bins
    ]
    headings = ("to end …", "rows", "mean probability", "share that came true", "95 % interval")
    told += " The top tenth is that of the posts of the file."
    alt = "Reliability diagrams: the share that came true beside the probability that was told."
    yield figure(
        calibration_picture(found), alt, told, table("Bins of equal mass.", headings, rows, numbers=range(1, 5))
    )


def _works(report: ContentReport, patterns: ContentPatterns) -> Iterator[Html]:
    if not patterns.claims:
        yield paragraph(no_claims(report))
    if patterns.claims:
        yield table(
            "What can be told from chance, corrected for every comparison.",
            ("what", "effect", "95 % interval", "p, corrected", "with", "without", "examples"),
            [(*_claim_cells(patterns, claim), _examples(report, claim.examples[:2])) for claim in patterns.claims],
            numbers=range(1, 6),
        )
    shown = claims_shown(patterns, max(len(patterns.claims), _CLAIMS_DRAWN))
    if shown:
        rows = [
            (*_claim_cells(patterns, claim), f"{claim.p_value:.2g}", "yes" if is_claimed else "no", quoted(claim.text))
            for claim, is_claimed in shown
        ]
        headings = ("what", "effect", "95 % interval", "p, corrected", "with", "without", "p", "claimed", "in words")
        beside = table("Everything that is drawn.", headings, rows, numbers=range(1, 7))
        drawn = shown[:_CLAIMS_DRAWN]
        told = f"{len(patterns.claims):,} can be told from chance (coloured dots), the others cannot (grey diamonds)."
        alt = "Effects with their 95 % intervals, the strongest evidence on top."
        labels = [claim_label(claim, patterns) for claim, _ in drawn]
        yield figure(claims_picture(drawn, labels), alt, told, beside)
    yield from (paragraph(note, is_soft=True) for note in patterns.notes)


def _claim_cells(patterns: ContentPatterns, claim: Claim) -> tuple[object, ...]:
    return (
        quoted(claim_label(claim, patterns)),
        f"{claim.effect:+.2f}",
        f"{claim.lower:+.2f} to {claim.upper:+.2f}",
        f"{claim.p_corrected:.2g}",
        f"{claim.rows_with:,}",
        f"{claim.rows_without:,}",
    )


def _examples(report: ContentReport, examples: tuple[int, ...]) -> Html:
    rows = report.examples(examples)
    shown = (f"{text(f'{report.places[row]:,}:')} {quoted(report.excerpt(row, 90))}" for row in rows)
    return Html("<br/>".join(shown))


def _topics(report: ContentReport, patterns: ContentPatterns) -> Iterator[Html]:
    if not patterns.topics:
        yield paragraph("No topics were found.")
        return
    claims = {claim.topic: claim for claim in patterns.claims if claim.topic is not None}
    told = (
        f"{len(patterns.topics):,} topics were found by {patterns.representation}; the largest is about"
        f" {', '.join(patterns.topics[0].words[:4])} with {percent(patterns.topics[0].share)} of the texts."
    )
    rows = [
        (
            topic.topic,
            quoted(", ".join(topic.words)),
            f"{topic.rows:,}",
            percent(topic.share),
            f"{claims[topic.topic].effect:+.2f}" if topic.topic in claims else "-",
            _examples(report, topic.examples[:2]),
        )
        for topic in patterns.topics
    ]
    headings = ("topic", "words", "texts", "share", "effect", "examples")
    beside = table("Topics, largest first.", headings, rows, numbers=(0, 2, 3, 4))
    yield figure(
        topics_picture(patterns.topics[:_TOPICS_DRAWN], claims), "Topics by their number of texts.", told, beside
    )


def _when(report: ContentReport, clock: Clock) -> Iterator[Html]:
    is_shown = ~np.isnan(clock.outcome)
    has_outcomes = bool(is_shown.any())
    if has_outcomes:
        what = "the mean outcome, in standard deviations within its channel"
        told = (
            f"Of the 168 hours of a week, {int(is_shown.sum())} have ten posts or more with an outcome, the fullest "
            f"{int(clock.known.max()):,}; the others are empty. It is a picture, not a claim: of so many hours, "
            f"the best is best by luck. {_times_claimed(report)}"
        )
        caption, posts = f"Of each hour {what}, and in brackets its posts with an outcome.", clock.known
    else:
        what = "the number of posts"
        few = "no hour of the week has ten posts with an outcome" if report.has_outcomes else "the file has no outcomes"
        told = f"It shows how many posts there are, not how they did: {few}."
        caption, posts = f"Of each hour {what}.", clock.rows
    rows = [
        (day, *(_hour(value, count, has_outcomes) for value, count in zip(values, counts, strict=True)))
        for day, values, counts in zip(DAYS, clock.outcome.tolist(), posts.tolist(), strict=True)
    ]
    headings = ("day", *(f"{hour:02}" for hour in range(24)))
    alt = f"A map of {what} by weekday and hour."
    yield figure(clock_picture(clock), alt, told, table(caption, headings, rows, numbers=range(1, 25)))


def _hour(value: float, posts: int, has_outcomes: bool) -> str:
    """An hour of the week in the table of numbers."""
    if not has_outcomes:
        return str(posts)
    if not posts:
        return ""
    return f"({posts})" if value != value else f"{value:+.2f} ({posts})"


def _times_claimed(report: ContentReport) -> str:
    """What can be told from chance about times."""
    if report.patterns is None:
        return "Whether any time is better was not tested."
    claims = [claim.text for claim in report.patterns.claims if claim.kind in ("hour", "weekday")]
    return " ".join(claims) or "No time of the day and no day of the week can be told from chance."


def _span_parts(report: TextReport) -> Iterator[Html]:
    potential = report.potential
    for name, body in (("Title", report.content.title), ("Text", report.content.text)):
        if body:
            spans = [span for span in potential.spans if span.field == name.lower()]
            yield paragraph(name, is_soft=True)
            yield Html(f'<div class="quoted" dir="auto">{_marked(body, spans)}</div>')
    if not potential.spans:
        yield paragraph("No span was tried: there is nothing to take out of so short a text.")
        return
    yield table(
        f"The model read the text again without each span, {potential.spans_tried:,} times. Each is taken out alone, "
        "so effects need not add up.",
        ("span", "in", "effect, points", "probability without it", "times the typical span"),
        [
            (
                quoted(excerpt(span.text, 200)),
                span.field,
                points(span.effect),
                percent(span.probability_without),
                times_typical(span, potential),
            )
            for span in potential.spans
        ],
        numbers=(2, 3, 4),
    )


def _marked(body: str, spans: list[Span]) -> Html:
    """A text with its spans marked, cut where it is longer than anybody reads."""
    most = max([_CHARACTERS_SHOWN, *(span.end for span in spans)])
    found: list[str] = []
    for piece, span in pieces(body[:most], spans):
        if span is None:
            found.append(text(piece))
        else:
            way = "raises" if span.effect >= 0 else "lowers"
            title = f"{way} it: {points(span.effect)} points"
            found.append(f'<mark class="{"up" if span.effect >= 0 else "down"}" title="{title}">{text(piece)}</mark>')
    if len(body) > most:
        found.append(text(f"… and {len(body) - most:,} more characters"))
    return Html("".join(found))
