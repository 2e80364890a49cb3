"""Resume tokens: as text and back; what is damaged, foreign or of another source is refused with what differs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.client.resume import STREAM_ID_MAX, ResumeToken, check_stream_id, source_digest
from meshcast.rpc import InvalidInput

TOKENS = st.builds(
    ResumeToken,
    stream_id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=STREAM_ID_MAX),
    next_row=st.integers(0, 2**62),
    model_version=st.integers(0, 2**62),
    source_digest=st.binary(max_size=16),
    chunk_rows=st.integers(1, 16_384),
)
TOKEN = ResumeToken(stream_id="nightly", next_row=512, model_version=3, source_digest=b"0123456789abcdef")


@given(TOKENS)
def test_a_token_is_its_text(token: ResumeToken) -> None:
    assert ResumeToken.parse(token.text) == token
    assert set(token.text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(st.text(max_size=40))
def test_a_text_that_is_no_token_is_refused(text: str) -> None:
    try:
        token = ResumeToken.parse(text)
    except InvalidInput as error:
        assert error.reason == error_reason_pb2.ERROR_REASON_TOKEN_INVALID
        assert error.message.startswith("the resume token is damaged")
    else:
        assert token.text == text.rstrip("=")


@given(st.integers(0, len(TOKEN.text) - 1))
def test_a_token_that_was_cut_is_not_taken_for_a_whole_one(length: int) -> None:
    cut = TOKEN.text[:length]
    try:
        assert ResumeToken.parse(cut).text == cut  # a shorter token, of another stream or source, which `checked` tells
    except InvalidInput as error:
        assert error.reason == error_reason_pb2.ERROR_REASON_TOKEN_INVALID


def test_what_differs_is_named_with_the_way_out() -> None:
    def refusal(
        stream_id: str | None = None, source: bytes = b"", chunk_rows: int | None = None, rows_total: int = 1_000
    ) -> str:
        with pytest.raises(InvalidInput) as caught:
            TOKEN.checked(
                stream_id=stream_id, source=source, chunk_rows=chunk_rows, rows_total=rows_total, where="rows.csv"
            )
        assert caught.value.reason == error_reason_pb2.ERROR_REASON_TOKEN_INVALID
        assert caught.value.message.startswith("rows.csv belongs to another stream: ")
        assert caught.value.message.endswith("or another sink")
        return caught.value.message

    assert "of the stream 'nightly', not of 'daily'" in refusal(stream_id="daily")
    assert "of another source, or were asked with other options" in refusal(source=b"x")
    assert "it has 512 rows, the source 511" in refusal(rows_total=511)
    assert "its chunks have 256 rows, not 128" in refusal(chunk_rows=128)
    both = refusal(stream_id="daily", chunk_rows=128)
    assert "'daily'; its chunks" in both


def test_the_token_of_the_same_stream_goes_on() -> None:
    same = {"source": TOKEN.source_digest, "rows_total": 512}
    assert TOKEN.checked(stream_id=None, chunk_rows=None, where="", **same) is TOKEN  # type: ignore[arg-type]
    assert TOKEN.checked(stream_id="nightly", chunk_rows=256, where="", **same) is TOKEN  # type: ignore[arg-type]
    after = TOKEN.after(256, 3)
    assert (after.next_row, after.model_version, after.stream_id) == (768, 3, "nightly")


def test_a_source_is_told_from_another_by_every_part() -> None:
    sources: list[list[Any]] = [
        [np.arange(3), "ab"],
        [np.arange(3), "a", "b"],
        [np.arange(3.0), "ab"],
        [np.arange(4), "ab"],
        [np.array(["a", "b"]), "ab"],
        [np.array(["a", "bc"]), "ab"],
        ["ab", np.arange(3)],
        [b"ab", np.arange(3)],
        [1, np.arange(3)],
        ["1", np.arange(3)],
        [],
    ]
    assert len({source_digest(parts) for parts in sources}) == len(sources)
    assert source_digest([np.arange(6)[::2], "a"]) == source_digest([np.array([0, 2, 4]), "a"])
    assert len(source_digest([])) == 16


@pytest.mark.parametrize("stream_id", ["", "x" * (STREAM_ID_MAX + 1)])
def test_an_id_that_is_too_long_or_empty_is_refused(stream_id: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_stream_id(stream_id)
    assert caught.value.violations[0].field == "stream_id"
