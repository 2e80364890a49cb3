"""Texts of strangers: nothing in them steers a terminal or a page, and places in them stay."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from meshcast.cli.shown_text import excerpt, shown

STEERING = {"Cc", "Cs", "Zl", "Zp"}
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_no_control_is_left_and_no_place_moves(text: str) -> None:
    found = shown(text)
    assert len(found) == len(text)
    assert {unicodedata.category(one) for one in found if one != "\n"}.isdisjoint(STEERING)
    assert {unicodedata.bidirectional(one) for one in found}.isdisjoint(DIRECTIONS)
    assert shown(found) == found


@given(st.text(max_size=60), st.integers(1, 20))
def test_an_excerpt_is_one_line_of_at_most_so_many_characters(text: str, most: int) -> None:
    found = excerpt(text, most)
    assert len(found) <= most
    assert "\n" not in found


def test_line_ends_of_windows_are_line_ends() -> None:
    assert shown("a\r\nb\rc") == "a \nb␍c"


def test_joined_emoji_and_other_scripts_stay_as_they_are() -> None:
    text = "👩‍👩‍👧 привет, مرحبا, 日本 <b>&amp;</b>"  # other scripts are what is tested
    assert shown(text) == text
