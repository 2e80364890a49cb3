"""What the report on a file of texts says of times, and of texts that are longer than the model reads."""

from typing import Any

import numpy as np
import pytest

from meshcast.api.type.v1 import receipt_pb2
from meshcast.cli.content_html import file_page
from meshcast.cli.content_report import ContentReport, Judged, clock, cut_note
from meshcast.client import Claim, ContentPatterns, Receipt
from meshcast.contents import ContentRows, Contents, rows_from_columns


def rows_at(hours: list[int], **columns: Any) -> ContentRows:
    """Posts on a Monday at these hours."""
    times = [f"2024-01-01T{hour:02}:00:00" for hour in hours]
    return rows_from_columns({"text": ["a text"] * len(hours), "published_at": times, **columns})


def report(rows: ContentRows, claims: tuple[Claim, ...] | None = ()) -> ContentReport:
    """A report on times alone."""
    patterns = None
    if claims is not None:
        patterns = ContentPatterns(
            claims=claims,
            others=(),
            topics=(),
            row_topics=np.full(len(rows), -1),
            representation="words",
            notes=(),
            receipt=Receipt(receipt_pb2.Receipt()),
        )
    return ContentReport(
        source="posts.csv",
        rows=rows,
        places=np.arange(1, len(rows) + 1),
        judged=Judged(rows=len(rows)),
        calibrations={},
        patterns=patterns,
        pattern_rows=np.arange(len(rows)),
        features=None,
        clock=clock(rows),
        notes=(),
    )


def judged(viral: list[float], read: list[int]) -> Judged:
    """Judgements of texts of which so many characters were read."""
    found = Judged(rows=len(viral))
    found.viral[:], found.characters_read[:] = viral, read
    return found


def test_texts_that_were_cut_are_counted_and_the_longest_is_told() -> None:
    contents = Contents.of(["x" * 5_000, "x" * 30, "x" * 70_000, "x" * 9_000], title=["", "title", "t" * 300, ""])
    note = cut_note(contents, judged([0.1, 0.1, 0.1, np.nan], [1_000, 35, 1_200, 0]))
    assert "no more: 2;" in note and "1,200 of 70,300 characters were read" in note
    assert not cut_note(contents[1:2], judged([0.1], [35]))


def test_an_hour_is_shown_from_ten_posts_on_with_its_count_and_no_best_hour_is_named() -> None:
    pytest.importorskip("matplotlib")
    rows = rows_at([7] * 10 + [9] * 9, outcome=[5.0] * 10 + [9.0] * 9)
    times = clock(rows)
    assert times is not None
    assert times.known[0, [7, 9]].tolist() == [10, 9]
    assert not np.isnan(times.outcome[0, 7]) and np.isnan(times.outcome[0, 9])
    page = file_page(report(rows))
    assert "1 have ten posts or more with an outcome, the fullest 10" in page and "picture, not a claim" in page
    assert "No time of the day and no day of the week can be told from chance." in page
    assert "(10)</td>" in page and ">(9)</td>" in page
    assert "highest on" not in page
    assert "Whether any time is better was not tested." in file_page(report(rows, None))


def test_a_claim_about_a_time_is_told_beside_the_map() -> None:
    pytest.importorskip("matplotlib")
    rows = rows_at([7] * 10 + [9] * 10, outcome=[float(n) for n in range(20)])
    page = file_page(report(rows, (claim("hour", "Posts of the morning do worse."), claim("text", "Links do better."))))
    when = page[page.index("<h2>When") :]
    assert "best is best by luck. Posts of the morning do worse.</p>" in when and "told from chance.</p>" not in when


@pytest.mark.parametrize(
    ("columns", "why"),
    [({}, "the file has no outcomes"), ({"outcome": [1.0, 2.0, 3.0]}, "no hour of the week has ten posts")],
)
def test_a_map_of_numbers_of_posts_says_that_it_is_one(columns: dict[str, Any], why: str) -> None:
    pytest.importorskip("matplotlib")
    page = file_page(report(rows_at([7, 7, 9], **columns)))
    assert "It shows how many posts there are, not how they did: " + why in page
    assert "highest on" not in page


def claim(kind: Any, text: str) -> Claim:
    """A claim that says this."""
    return Claim(
        kind=kind,
        subject=kind,
        text=text,
        topic=None,
        effect=0.5,
        lower=0.2,
        upper=0.8,
        effect_in_unit=0.5,
        rows_with=10,
        rows_without=10,
        p_value=0.001,
        p_corrected=0.01,
        examples=(),
    )
