import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcast.services.analyzer.embedder.signature import SIGNATURE, TOKENS_MAX
from meshcast.services.analyzer.embedder.tokens import READ_CHARS, WORDS_FILE, embedded_text, group, tokenize

CLS, SEP, UNKNOWN = 101, 102, 100


def tokens_of(text: str) -> list[int]:
    rows: list[int] = tokenize([text]).tokens[0].tolist()
    return rows


def test_words_are_the_lines_of_the_vocabulary() -> None:
    words = WORDS_FILE.read_text("utf-8").split("\n")
    assert tokens_of("Hello, wörld!") == [CLS, *(words.index(word) for word in ("hello", ",", "world", "!")), SEP]
    assert [words[token] for token in tokens_of("embeddings")[1:-1]] == ["em", "##bed", "##ding", "##s"]


def test_an_empty_text_is_its_two_ends() -> None:
    for text in ("", " \n\t", "\x00\x07", "\u200d", "\ud800"):
        assert tokens_of(text) == [CLS, SEP]


def test_a_text_and_its_title_are_two_lines_and_what_is_missing_leaves_none() -> None:
    assert embedded_text("text", "title") == "text\ntitle"
    assert embedded_text("text", "") == "text" and embedded_text("", "title") == "title" and embedded_text("", "") == ""
    assert tokens_of(embedded_text("a text", "a title")) == tokens_of("a text a title")


def test_a_text_cannot_spell_the_tokens_that_mean_something_to_the_model() -> None:
    found = tokens_of("[PAD] [CLS] [SEP]")
    assert not {0, CLS, SEP} & set(found[1:-1])


def test_a_lone_surrogate_takes_nothing_else_with_it() -> None:
    assert tokens_of("hello \udc80world") == tokens_of("hello world")


def test_long_texts_are_cut_and_say_so() -> None:
    fits, long = "word " * (TOKENS_MAX - 2), "word " * (TOKENS_MAX - 1)
    found = tokenize([fits, long, "short"])
    assert [len(row) for row in found.tokens] == [TOKENS_MAX, TOKENS_MAX, 3]
    assert found.tokens[1][-1] == SEP
    assert found.was_cut.tolist() == [False, True, False]


def test_runs_of_spaces_do_not_push_the_rest_of_a_text_out() -> None:
    page = ("   \n\t" * 1_000 + "news") * 3
    found = tokenize([page])
    assert len(page) > READ_CHARS
    assert found.tokens[0].tolist() == tokens_of("news news news")
    assert not found.was_cut[0]


@pytest.mark.parametrize(
    "text",
    [
        "word " * 100_000,
        "a" * 1_000_000,
        "漢" * 300_000,
        "!" * 1_000_000,
        "e\u0301" * 500_000,
        "a\u200d" * 500_000,
        "👩‍👩‍👧" * 100_000,
        " " * 1_000_000,
        "<div>" * 200_000,
        "שלום عالم " * 50_000,
        "\ud800" * 300_000,
    ],
    ids=lambda text: ascii(text[:6]),
)
def test_a_megabyte_of_anything_takes_bounded_time(text: str) -> None:
    began = time.perf_counter()
    found = tokenize([text])
    assert time.perf_counter() - began < 5.0  # about 10 ms; a tokenizer that reads it all takes minutes for some
    assert 2 <= len(found.tokens[0]) <= TOKENS_MAX
    assert found.was_cut[0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=20))
def test_any_text_becomes_tokens_that_the_signature_takes(texts: list[str]) -> None:
    for row in tokenize(texts).tokens:
        assert row.dtype == np.int32 and row[0] == CLS and row[-1] == SEP
        assert 0 < row.min() and row.max() < 30_522


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(2, TOKENS_MAX), max_size=300))
def test_groups_hold_every_text_once_and_pad_it_to_its_own_length_only(lengths: list[int]) -> None:
    tokens = [np.full(length, 7, np.int32) for length in lengths]
    groups = group(tokens)
    positions = [position for rows in groups for position in rows.positions.tolist()]
    assert sorted(positions) == list(range(len(tokens)))
    widths = []
    for rows in groups:
        array = rows.arrays["tokens"]
        SIGNATURE.check(rows.arrays)
        assert array.size <= (SIGNATURE.cells_max or 0) and len(array) <= SIGNATURE.rows_max
        for row, position in zip(array, rows.positions.tolist(), strict=True):
            assert row.tolist() == tokens[position].tolist() + [0] * (len(row) - len(tokens[position]))
            assert len(row) - len(tokens[position]) < (16 if len(row) <= 128 else 32)
        widths.append(array.shape[1])
    assert widths == sorted(widths)
