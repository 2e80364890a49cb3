"""Preparation: a question has the same tensors alone, in a crowd, and as a row of a chunk."""

import numpy as np
import pytest

from meshcast.contents import Contents
from meshcast.services.analyzer.embedder import EMBEDDER
from meshcast.services.analyzer.features import READ_CHARS, READ_TITLE_CHARS
from meshcast.services.analyzer.prepare import (
    Prepared,
    content_preparer,
    prepare_contents,
    prepare_texts,
    text_preparer,
)
from meshcast.services.analyzer.questions import Question
from meshcast.services.analyzer.signature import SIGNATURE

TEXTS = ("short", "a good word " * 30, "🎉", "x" * 3_000, "word " * 150)


def question(*texts: str, bad: tuple[int, ...] = ()) -> Question:
    contents = Contents.of(list(texts), title=["a title"] * len(texts), hour_of_day=list(range(len(texts))))
    return Question(contents=contents, violations={row: [("text", "is bad")] for row in bad})


def row_of(prepared: Prepared, row: int) -> dict[str, list[float]]:
    """One row's tensors without their padding."""
    (found,) = [
        {name: np.trim_zeros(array[at], "b") if name != "extras" else array[at] for name, array in group.arrays.items()}
        for group in prepared.groups
        for at, position in enumerate(group.positions.tolist())
        if position == row
    ]
    return {name: array.tolist() for name, array in found.items()}


def test_questions_that_share_a_pass_are_prepared_as_if_alone() -> None:
    asked = [question(text) for text in TEXTS]
    together = prepare_contents(asked)
    for text, crowd in zip(TEXTS, together, strict=True):
        (alone,) = prepare_contents([question(text)])
        assert row_of(crowd, 0) == row_of(alone, 0)
        assert [group.arrays["tokens"].shape for group in crowd.groups] == [
            group.arrays["tokens"].shape for group in alone.groups
        ]
        assert crowd.read_chars.tolist() == alone.read_chars.tolist()


def test_a_chunk_s_rows_are_grouped_by_shape_and_each_is_there_once() -> None:
    (prepared,) = prepare_contents([question(*TEXTS)])
    positions = np.concatenate([group.positions for group in prepared.groups])
    assert sorted(positions.tolist()) == list(range(len(TEXTS)))
    assert len(prepared.groups) > 1
    for group in prepared.groups:
        assert SIGNATURE.check(group.arrays) == len(group.positions)
        assert SIGNATURE.lengths(group.arrays) == tuple(
            group.arrays[name].shape[1] for name in ("tokens", "grams")
        )  # nothing is left for the runtime to pad
    for row, text in enumerate(TEXTS):
        contents = question(*TEXTS).contents[row : row + 1]
        (alone,) = prepare_contents([Question(contents=contents, violations={})])
        assert row_of(prepared, row) == row_of(alone, 0), text[:20]


def test_rows_at_fault_are_left_out() -> None:
    (prepared,) = prepare_contents([question(*TEXTS, bad=(0, 3))])
    assert prepared.sound.tolist() == [1, 2, 4]
    assert sum(len(group.positions) for group in prepared.groups) == 3
    assert row_of(prepared, 1) == row_of(prepare_contents([question(*TEXTS)])[0], 2)
    (nothing,) = prepare_contents([question("a", bad=(0,))])
    assert not len(nothing.sound) and not nothing.groups


def test_what_is_read_is_told() -> None:
    contents = Contents.of(["x" * 5_000, "y" * 10, ""], title=["", "t" * 500, "title"])
    (prepared,) = prepare_contents([Question(contents=contents, violations={})])
    assert prepared.read_chars.tolist() == [READ_CHARS, 10 + READ_TITLE_CHARS, 5]
    assert prepared.was_cut.tolist() == [True, True, False]


def test_tokens_that_end_before_the_characters_do_are_told() -> None:
    texts = ["word " * 150, "ข่าว" * 100, "short", "word " * 250]
    contents = Contents.of(texts, title=["", "", "ข่าว" * 30, ""])
    (prepared,) = prepare_contents([Question(contents=contents, violations={})])
    assert prepared.tokens_cut.tolist() == [False, True, True, True]
    (one,) = prepare_contents([Question(contents=contents[1:2], violations={})])
    assert one.tokens_cut.tolist() == [True]


def test_what_is_dear_to_read_does_not_share_a_pass() -> None:
    rows_of = content_preparer()._rows_of
    plain = rows_of(question("word " * 200))
    assert rows_of(question("\ufdfa" * 1_000)) > 1.5 * plain > 1.5 * rows_of(question("word"))
    titled = Question(contents=Contents.of(["word"], title=["word " * 40]), violations={})
    assert rows_of(titled) > rows_of(question("word"))


def test_an_empty_rest_of_a_text_can_be_asked_about() -> None:
    (prepared,) = prepare_contents([Question(contents=Contents.of([""]), violations={})])
    (group,) = prepared.groups
    assert SIGNATURE.check(group.arrays) == 1


def test_texts_for_the_embedder_keep_their_places() -> None:
    alone = prepare_texts([TEXTS])[0]
    first, second = prepare_texts([TEXTS[:2], TEXTS[2:]])
    for prepared, texts in ((alone, TEXTS), (first, TEXTS[:2]), (second, TEXTS[2:])):
        positions = np.concatenate([group.positions for group in prepared.groups])
        assert sorted(positions.tolist()) == list(range(len(texts)))
        for group in prepared.groups:
            assert EMBEDDER.signature.check(group.arrays) == len(group.positions)
    assert alone.was_cut.tolist() == [*first.was_cut.tolist(), *second.was_cut.tolist()]


def test_tables_are_joined_in_their_order() -> None:
    whole = Contents.joined([question("a", "b").contents, question("c").contents])
    assert whole.text == ("a", "b", "c")
    assert whole.hour_of_day.tolist() == [0, 1, 0]


@pytest.mark.parametrize("count", [1, 200])
async def test_few_and_many_rows_are_prepared_alike(count: int) -> None:
    async with content_preparer() as preparer, text_preparer() as texts:
        prepared = await preparer.prepare(question(*["a word"] * count))
        assert len(prepared.sound) == count
        assert len((await texts.prepare(["a word"] * count)).was_cut) == count
