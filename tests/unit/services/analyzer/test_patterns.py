"""Content patterns: planted topics and hours are claimed, chance is not, and every limit is told."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from meshcast.contents import UNKNOWN_TIME, ContentRows, Contents
from meshcast.rpc.errors import Cancelled
from meshcast.services.analyzer.patterns import Patterns, analyze

SUBJECTS = (
    "mayor council election vote party senate".split(),
    "goal match league striker penalty keeper".split(),
    "planet rocket orbit telescope galaxy moon".split(),
    "recipe oven butter flour sugar cake".split(),
)
START_S = 1_700_000_000


def made(n: int = 600, seed: int = 0, **columns: Any) -> tuple[ContentRows, np.ndarray]:
    """Posts on four subjects, every three hours, with outcomes that depend on nothing; and the subjects."""
    rng = np.random.default_rng(seed)
    subject = rng.integers(0, len(SUBJECTS), n)
    text = [" ".join(rng.choice(SUBJECTS[at], 4)) for at in subject]
    time = START_S + 10_800 * np.arange(n) + rng.integers(0, 10_800, n)
    told: dict[str, Any] = {
        "channel": np.array(["a", "b"])[rng.integers(0, 2, n)],
        "published_unix_s": time,
        "day_of_week": (time // 86_400 + 3) % 7,
        "outcome": rng.standard_normal(n),
    }
    contents = Contents.of(text, hour_of_day=time // 3_600 % 24, has_media=rng.random(n) < 0.3)
    return ContentRows.of(contents, **(told | columns)), subject


def kinds(found: Patterns) -> set[str]:
    return {claim.kind for claim in found.claims}


def test_a_planted_topic_is_claimed_with_its_words_rows_and_sign() -> None:
    rows, subject = made()
    found = analyze(replace(rows, outcome=rows.outcome - 0.8 * (subject == 2)))
    claims = [claim for claim in found.claims if claim.kind == "topic" and claim.effect < 0]
    assert claims
    topic = claims[0].topic
    assert topic is not None
    assert (subject[found.row_topics == topic] == 2).mean() > 0.9
    assert found.topics[topic].words[0].split()[0] in SUBJECTS[2]
    assert claims[0].subject == f"topic {topic}"
    assert "worse than the others of their channel" in claims[0].text
    assert claims[0].upper < 0
    assert claims[0].p_corrected <= 0.05
    assert (found.row_topics[list(claims[0].examples)] == topic).all()


def test_a_planted_hour_media_and_weekday_are_claimed() -> None:
    rows, _ = made(1_200)
    hour = rows.contents.hour_of_day
    early = (hour >= 8) & (hour < 12)
    found = analyze(replace(rows, outcome=rows.outcome + early + rows.contents.has_media + (rows.day_of_week == 6)))
    subjects = [claim.subject for claim in found.claims if claim.effect > 0]
    assert {"08:00-12:00", "has a photo or a video", "Sunday"} <= set(subjects)
    assert any(claim.text.startswith("Posts published on a Sunday do") for claim in found.claims)


def test_a_mark_in_the_text_is_claimed_in_words() -> None:
    rows, _ = made()
    asks = np.arange(600) % 3 == 0
    text = [f"{one}?" if ask else one for one, ask in zip(rows.contents.text, asks, strict=True)]
    rows = replace(rows, contents=replace(rows.contents, text=tuple(text)), outcome=rows.outcome + asks)
    claims = [claim for claim in analyze(rows).claims if claim.subject == "asks a question"]
    assert claims[0].text.startswith("Posts that ask a question do")
    assert claims[0].effect == pytest.approx(1, abs=0.3)
    assert claims[0].rows_with == 200


def test_chance_is_claimed_in_few_reports() -> None:
    reports = [analyze(made(200, seed)[0]) for seed in range(20)]
    assert sum(bool(found.claims) for found in reports) <= 3
    assert all(found.others for found in reports)
    assert all("may be chance" in claim.text for found in reports for claim in found.others)


def test_claims_and_others_together_are_all_that_was_compared_strongest_first() -> None:
    rows, subject = made()
    found = analyze(replace(rows, outcome=rows.outcome + (subject == 1)))
    corrected = [claim.p_corrected for claim in (*found.claims, *found.others)]
    assert corrected == sorted(corrected)
    topics = [claim.topic for claim in (*found.claims, *found.others) if claim.topic is not None]
    assert len(topics) == len(set(topics))


def test_a_trend_does_not_become_a_claim_about_hours() -> None:
    claimed = 0
    for seed in range(20):
        rows, _ = made(300, seed)
        place = np.arange(300) / 300
        hour = np.random.default_rng(seed).integers(0, 12, 300) + (12 * place).astype(np.int64)
        rows = replace(rows, contents=replace(rows.contents, hour_of_day=hour), outcome=rows.outcome + 5 * place)
        claimed += "hour" in kinds(analyze(rows))
    assert claimed <= 2


def test_unknown_outcomes_help_to_find_topics_alone() -> None:
    rows, _ = made()
    outcome = rows.outcome.copy()
    outcome[::2] = np.nan
    found = analyze(replace(rows, outcome=outcome))
    assert len(found.row_topics) == 600
    assert all(claim.rows_with + claim.rows_without <= 300 for claim in found.others)
    assert all(np.isfinite(outcome[list(claim.examples)]).all() for claim in found.others)
    assert any("300 of 600 posts have no outcome" in note for note in found.notes)


def test_nothing_known_is_told_and_not_guessed() -> None:
    rows, _ = made(50)
    found = analyze(replace(rows, outcome=np.full(50, np.nan)))
    assert (found.claims, found.others) == ((), ())
    assert "Nothing was compared" in found.notes[0]
    undated = replace(
        rows,
        published_unix_s=np.full(50, UNKNOWN_TIME),
        day_of_week=np.full(50, -1),
        contents=replace(rows.contents, hour_of_day=np.full(50, -1)),
    )
    notes = " ".join(analyze(undated).notes)
    assert "No time of publication is known" in notes
    assert "Nothing is said of the hour" in notes


def test_few_days_say_nothing_about_weekdays() -> None:
    rows, _ = made(100)
    found = analyze(rows)
    assert "weekday" not in {claim.kind for claim in found.others}
    assert any("Days of the week were not compared" in note for note in found.notes)


def test_posts_of_unknown_time_are_told_and_weekdays_are_compared_all_the_same() -> None:
    rows, _ = made(600)
    time = rows.published_unix_s.copy()
    time[:2] = UNKNOWN_TIME
    found = analyze(replace(rows, published_unix_s=time))
    assert "weekday" in {claim.kind for claim in (*found.claims, *found.others)}
    assert any("2 posts have no time" in note and "share days as often" in note for note in found.notes)


def test_of_few_days_posts_are_compared_within_their_day_and_that_is_told() -> None:
    rows, subject = made(150)
    time = rows.published_unix_s.copy()
    time[:20] = UNKNOWN_TIME
    found = analyze(replace(rows, published_unix_s=time, outcome=rows.outcome + 2 * (subject == 1)), topics_max=4)
    notes = " ".join(found.notes)
    assert "fewer than 20 days, so each is compared with others of its channel and day alone" in notes
    assert "20 posts have no time of publication; they are compared with nothing" in notes
    assert "topic" in kinds(found)


def test_of_a_few_known_days_the_many_undated_posts_count_as_independent() -> None:
    rows, _ = made(150)
    time = rows.published_unix_s.copy()
    time[20:] = UNKNOWN_TIME
    notes = " ".join(analyze(replace(rows, published_unix_s=time)).notes)
    assert "130 posts have no time of publication; they are compared with each other and count as independent" in notes


def test_posts_of_one_day_count_as_independent_and_that_is_told() -> None:
    rows, _ = made(100)
    found = analyze(replace(rows, published_unix_s=START_S + np.arange(100)))
    assert any("All known times are of one day" in note for note in found.notes)


def test_one_post_a_day_is_analysed() -> None:
    rows, subject = made(200)
    time = START_S + 86_400 * np.arange(200)
    found = analyze(
        replace(rows, published_unix_s=time, day_of_week=np.arange(200) % 7, outcome=rows.outcome + (subject == 0))
    )
    assert "topic" in kinds(found)
    assert "weekday" in {claim.kind for claim in (*found.claims, *found.others)}


def test_the_same_rows_get_the_same_report_and_embeddings_are_taken() -> None:
    rows, subject = made(300)
    vectors = np.eye(8, dtype=np.float32)[subject]
    first, second = (analyze(rows, embeddings=vectors, topics_max=4) for _ in range(2))
    assert first.claims == second.claims
    assert first.others == second.others
    assert sorted(topic.rows for topic in first.topics) == sorted(np.bincount(subject).tolist())


@pytest.mark.parametrize("text", ["", "😀", "\x00\u200b", "love " * 400, "<b>hi</b>", "שלום"])
def test_texts_that_are_all_alike_are_analysed_all_the_same(text: str) -> None:
    rows = ContentRows.of(Contents.of([text] * 40), outcome=np.arange(40.0))
    found = analyze(rows)
    assert found.row_topics.tolist() == [0] * 40
    assert found.claims == ()


def test_an_analysis_that_is_stopped_ends() -> None:
    with pytest.raises(Cancelled):
        analyze(made()[0], stop=lambda: True)


def test_an_analysis_asks_often_whether_it_is_to_stop() -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    with pytest.raises(Cancelled):
        analyze(made()[0], stop=stop)
    assert asked == 6
