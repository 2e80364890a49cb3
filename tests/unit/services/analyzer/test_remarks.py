"""Remarks name what is unusual, and nothing else."""

from typing import Any

import pytest

from meshcast.services.analyzer.remarks import remarks


def told(text: str, title: str = "", **given: Any) -> str:
    found = remarks(text, title, field=lambda column: f"content.{column}", **given)
    return "; ".join(f"{field} {remark}" for field, remark in found)


def test_an_ordinary_post_has_no_remarks() -> None:
    text = "The mayor opens the new bridge over the river today 😍 https://example.com #bridge"
    assert told(text, characters_read=len(text)) == ""


@pytest.mark.parametrize(
    ("text", "given", "remark"),
    [
        ("a long text", {"characters_read": 4}, "the model reads the first 4"),
        ("a long text", {"content_length": 4}, "content.content_length is 4, less than the 11"),
        ("<b>hi</b> you", {}, "2 HTML tags (b)"),
        ("a\x00b", {}, "1 control character, which"),
        ("\u200b" * 5 + "a", {}, "5 characters without width"),
        ("caf\ufffd", {}, "wrong encoding"),
        ("p\u0430ypal", {}, "Latin and Cyrillic"),
        ("love " * 100, {}, "mostly one word: 100 % of its 100 words"),
        ("😀😀", {}, "only emoji"),
        ("https://example.com", {}, "only links"),
        ("?!", {}, "only signs"),
    ],
)
def test_what_is_unusual_is_remarked(text: str, given: dict[str, Any], remark: str) -> None:
    assert remark in told(text, **given)
