"""Texts become the same tensors alone and in company, within bounds, whatever they hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcast.contents import Contents
from meshcast.services.analyzer import features
from meshcast.services.analyzer.features import (
    EXTRAS,
    GRAMS_MAX,
    READ_CHARS,
    READ_TITLE_CHARS,
    TITLE_TOKEN,
    TOKENS_MAX,
    Tokenized,
    groups,
    padded,
    rows,
    tokenizer,
)
from meshcast.services.analyzer.signature import SIGNATURE


def test_text_and_title_stand_on_either_side_of_a_token_of_its_own() -> None:
    tensors = padded(rows(Contents.of(["We won"], title=["Final"], hour_of_day=[7], has_media=[True])))
    tokens = tensors["tokens"][0]
    real = tokens[tokens > 0].tolist()
    place = real.index(TITLE_TOKEN)
    assert tokenizer().decode(real[:place]).strip() == "We won"
    assert tokenizer().decode(real[place + 1 :]).strip() == "Final"
    assert dict(zip(EXTRAS, tensors["extras"][0].tolist(), strict=True)) == {
        "content_length": 6,
        "has_media": 1,
        "hour_of_day": 7,
        "text_length": 6,
        "title_length": 5,
    }
    assert tuple(tensors) == features.INPUTS


def test_an_unknown_hour_is_minus_one() -> None:
    assert rows(Contents.of(["a"])).extras[0, EXTRAS.index("hour_of_day")] == -1


def test_a_text_without_a_character_is_a_row_like_others() -> None:
    tokenized = rows(Contents.of([""]))
    assert tokenized.tokens.tolist() == [TITLE_TOKEN]
    assert SIGNATURE.check(padded(tokenized)) == 1


def test_what_stands_past_the_head_changes_nothing_but_the_length() -> None:
    head, title = "ab " * 400, "cd " * 90
    long, short = (rows(Contents.of([head + more], title=[title + more])) for more in ("tail", "another tail"))
    assert long.tokens.tolist() == short.tokens.tolist() and long.grams.tolist() == short.grams.tolist()
    assert long.read_chars.tolist() == [READ_CHARS + READ_TITLE_CHARS]
    assert long.extras[0, 0] == len(head) + 4


def test_compatible_letters_read_alike_and_case_counts_for_tokens_alone() -> None:
    plain, wide, upper = rows(Contents.of(["win"])), rows(Contents.of(["ｗｉｎ"])), rows(Contents.of(["WIN"]))  # noqa: RUF001
    assert plain.tokens.tolist() == wide.tokens.tolist() and plain.grams.tolist() == wide.grams.tolist()
    assert plain.tokens.tolist() != upper.tokens.tolist() and plain.grams.tolist() == upper.grams.tolist()


ODD = (
    "",
    "\ud800 lone",
    "\x00\x07\x1b",
    "\u200d" * 3_000,
    "word " * 100_000,
    "x" * 1_048_576,
    "😀👩‍👩‍👧" * 500,
    "שלום עולם",
    "ﷺ" * 1_000,  # one code point that is composed of eighteen
    "<b>bold</b>",
    "ß" * 1_000,  # folds to two
)


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_texts_fit_the_signature(text: str) -> None:
    tokenized = rows(Contents.of([text], title=[text]))
    assert 0 < len(tokenized.tokens) <= TOKENS_MAX
    assert len(tokenized.grams) <= GRAMS_MAX
    assert SIGNATURE.check(padded(tokenized)) == 1


def test_no_text_gives_more_n_grams_than_there_is_room_for() -> None:
    rng = np.random.default_rng(0)
    letters = [chr(0x4E00 + int(one)) for one in rng.permutation(20_000)[: READ_CHARS + READ_TITLE_CHARS]]
    for step in (1, 2, 3, READ_CHARS):
        text = " ".join("".join(letters[at : at + step]) for at in range(0, len(letters), step))
        assert len(rows(Contents.of([text], title=[text[::-1]])).grams) <= GRAMS_MAX


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_a_row_is_the_same_alone_as_in_company(texts: list[str]) -> None:
    together = rows(Contents.of(texts))
    parts = Tokenized.joined([rows(Contents.of([text])) for text in texts])
    for name in ("tokens", "token_starts", "grams", "gram_starts", "extras", "read_chars"):
        np.testing.assert_array_equal(getattr(together, name), getattr(parts, name))
    for group in groups(together, 2):
        assert 1 <= len(group.positions) <= 2
        assert SIGNATURE.check(group.arrays) == len(group.positions)
        for row, position in enumerate(group.positions):
            alone = padded(together.take(np.array([position])))
            for name, array in group.arrays.items():
                np.testing.assert_array_equal(array[row], alone[name][0])


def test_groups_hold_every_row_once_and_few_shapes_come_up() -> None:
    texts = [" ".join(f"word{k}" for k in range(size)) for size in range(0, 160)]
    found = list(groups(rows(Contents.of(texts)), 64))
    assert sorted(np.concatenate([group.positions for group in found]).tolist()) == list(range(len(texts)))
    assert len({(group.arrays["tokens"].shape[1], group.arrays["grams"].shape[1]) for group in found}) <= 8


def test_there_may_be_no_rows() -> None:
    nothing = rows(Contents.of([]))
    assert len(nothing) == 0 and list(groups(nothing, 8)) == []
