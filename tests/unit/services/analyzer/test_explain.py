"""Explanations: every effect is the difference of two answers, all rounds ask one version, and few are needed."""

from typing import Any

import numpy as np
import pytest

from meshcast.contents import Contents
from meshcast.runtime import Answer, RunFacts
from meshcast.services.analyzer.explain import Explained, explain
from meshcast.services.analyzer.spans import TRIES_MAX, log_odds, without

WORTH = {"free": 1.5, "vote": -2.0, "now": 0.5}


class Words:
    """A model that counts words, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.contents: list[Contents] = []

    async def __call__(self, contents: Contents, version: int) -> Answer:
        self.asked.append((len(contents), version))
        self.contents.append(contents)
        facts = RunFacts("words", version or 4, "arithmetic", 5, 10, len(contents), 1, 1)
        return Answer({"viral": probabilities(contents), "above_median": probabilities(contents) / 2}, facts)


def probabilities(contents: Contents) -> Any:
    odds = [
        sum(WORTH.get(word.strip(".,!").lower(), 0.0) for word in f"{text} {title}".split()) - length / 1000
        for text, title, length in zip(contents.text, contents.title, contents.content_length.tolist(), strict=True)
    ]
    return (1 / (1 + np.exp(-np.array(odds)))).astype(np.float32)


async def of(model: Words, text: str, title: str = "", *, output: str = "viral", **arguments: Any) -> Explained:
    given = {"length_follows": True, "spans_max": 5, **arguments}
    return await explain(Contents.of([text], title=[title]), model, output=output, **given)


async def test_the_words_that_matter_are_found_with_their_effects() -> None:
    found = await of(Words(), "Come and vote for it. It is free for all of us", "Now or never")
    named = [(span.place.field, span.place.start, span.place.end) for span in found.spans[:3]]
    assert named[:2] == [(0, 9, 13), (0, 28, 32)]
    assert (1, 0, 3) in named
    # A word that goes takes its own length along.
    assert [span.effect for span in found.spans[:2]] == pytest.approx([-2.0 - 0.005, 1.5 - 0.005], abs=1e-4)


@pytest.mark.parametrize("output", ["viral", "above_median"])
async def test_every_effect_is_the_difference_of_two_answers(output: str) -> None:
    text = "Free! Vote now, it is free. " * 20
    found = await of(Words(), text, output=output, spans_max=32)
    (whole,) = (await Words()(Contents.of([text]), 0)).outputs[output]
    assert found.outputs[output][0] == whole
    for span in found.spans:
        left = without(text, span.place.start, span.place.end)
        (alone,) = (await Words()(Contents.of([left]), 0)).outputs[output]
        assert found.without[span.place] == pytest.approx(alone, abs=1e-6)
        assert span.effect == pytest.approx(float(log_odds(whole) - log_odds(alone)), abs=1e-4)


async def test_a_declared_length_stays_and_one_that_was_not_follows_the_text() -> None:
    following = await of(Words(), "plain words only")
    assert following.spans and following.spans[0].effect < 0  # less is better to this model
    assert (await of(Words(), "plain words only", length_follows=False)).spans == []


@pytest.mark.parametrize("text", ["one two three", "a b c d " * 300, "x" * 100_000])
async def test_all_rounds_ask_the_version_of_the_first_answer_and_are_few(text: str) -> None:
    model = Words()
    found = await of(model, text)
    assert [version for _, version in model.asked] == [0, *[4] * (len(model.asked) - 1)]
    assert len(model.asked) <= 3
    assert sum(rows for rows, _ in model.asked) - 1 == found.tried <= TRIES_MAX
    assert found.facts.compute_us == 10 * len(model.asked)
    assert found.facts.version == 4
    pinned = Words()
    await of(pinned, text, version=2)
    assert {version for _, version in pinned.asked} == {2}


async def test_a_text_of_one_word_and_one_of_none_are_explained() -> None:
    found = await of(Words(), "vote")
    assert [(span.place.start, span.place.end) for span in found.spans] == [(0, 4)]
    model = Words()
    nothing = await of(model, "...")
    assert (nothing.spans, nothing.tried, nothing.typical) == ([], 0, 0.0)
    assert len(model.asked) == 1
