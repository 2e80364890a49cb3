"""Files of contents: every kind is read alike, other columns are let be, and every fault is named with the way out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.contents import UNKNOWN_TIME, ContentRows, blank_rows, read_contents, rows_from_columns
from meshcast.rpc import InvalidInput, NotFound

GOOD = (
    "text,title,channel,published_at,has_media,forwards,replies,reactions,status\n"
    'We won!,,a,2016-05-10T23:30:00-05:00,1,1,,2,x\n"two\nlines",Head,a,,no,,,,y\n  ,,b,2016-05-11T07:00:00Z,,0,0,0,z\n'
)


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        read_contents(path)
    assert path.name in caught.value.message
    return caught.value


def test_a_file_is_read_in_its_order(tmp_path: Path) -> None:
    rows = read_contents(write(tmp_path, "posts.csv", GOOD))
    contents = rows.contents
    assert contents.text == ("We won!", "two\nlines", "  ")
    assert contents.title == ("", "Head", "")
    assert contents.content_length.tolist() == [7, 9, 2]
    assert contents.has_media.tolist() == [True, False, False]
    assert contents.hour_of_day.tolist() == [23, -1, 7]
    assert rows.day_of_week.tolist() == [1, -1, 2]
    assert rows.published_unix_s.tolist() == [1_462_941_000, UNKNOWN_TIME, 1_462_950_000]
    assert rows.channel.tolist() == ["a", "a", "b"]
    np.testing.assert_allclose(rows.outcome, [np.log1p(3), np.nan, 0.0])
    assert blank_rows(contents).tolist() == [False, False, True]


def same(one: ContentRows, other: ContentRows) -> bool:
    return (one.contents.text, one.contents.title) == (other.contents.text, other.contents.title) and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name == "outcome")
        for name in ("channel", "published_unix_s", "day_of_week", "outcome")
    )


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns: dict[str, list[Any]] = {
        "text": ["a\x00b", "", "مرحبا 🎉"],
        "title": ["", "x", ""],
        "published_at": ["2016-05-10T00:00:00Z", None, "2016-05-11T00:00:00Z"],
        "outcome": [1.5, None, -2.0],
        "hour_of_day": [3, None, None],
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    by_json = read_contents(write(tmp_path, "posts.jsonl", "\n".join(map(json.dumps, rows))))
    parquet.write_table(arrow.table(columns), tmp_path / "posts.parquet")
    assert same(by_json, read_contents(tmp_path / "posts.parquet"))
    assert same(by_json, rows_from_columns(columns))
    assert by_json.contents.hour_of_day.tolist() == [3, -1, 0]
    assert by_json.day_of_week.tolist() == [1, -1, 2]


@pytest.mark.parametrize(
    ("header", "column", "said"),
    [
        ("body,outcome", "text", "the column is missing; rename 'body' to 'text'"),
        ("a,b", "text", "the column is missing; the header holds 'a', 'b'"),
        ("text;title", "text", "separate the columns with commas"),
        ("text,comments", "comments", "did you mean 'replies'? Rename it or leave it out"),
        ("text,Shares", "Shares", "did you mean 'forwards'"),
        ("text,has_medai", "has_medai", "did you mean 'has_media'"),
        ("text,text", "text", "there twice"),
    ],
)
def test_a_misnamed_column_is_named_with_what_it_seems_to_be(
    tmp_path: Path, header: str, column: str, said: str
) -> None:
    error = refusal(write(tmp_path, "posts.csv", header + "\n1,2\n"))
    assert f"column {column!r}" in error.message
    assert said in error.message


@pytest.mark.parametrize(
    "header", ["text,likes,reactions", "text,comments,outcome", "text,id", "text,engagement,reactions"]
)
def test_columns_that_take_nothing_away_are_let_be(tmp_path: Path, header: str) -> None:
    values = ",".join(["1"] * header.count(","))
    assert len(read_contents(write(tmp_path, "posts.csv", f"{header}\nx,{values}\n"))) == 1


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("hour_of_day", "24", "from 0 to 23, is '24'"),
        ("day_of_week", "7", "from 0 = Monday to 6"),
        ("content_length", "2.5", "whole number"),
        ("has_media", "maybe", "0 or 1, is 'maybe'"),
        ("reactions", "-1", "a count from 0"),
        ("outcome", "nan", "a number from -1e+15 to 1e+15"),
        ("outcome", "inf", "a number from -1e+15 to 1e+15"),
        ("outcome", "1.7e308", "a number from -1e+15 to 1e+15, or left out when it is unknown, is '1.7e308'"),
        ("reactions", "1e300", "a count from 0 to 1e+15"),
        ("content_length", "16777217", "from 0 to 16,777,216, is '16777217'"),
        ("published_at", "yesterday", "as in 2016-05-10T12:30:00Z"),
        ("published_unix_s", "1e15", "milliseconds are not taken"),
        ("channel", "x" * 257, "at most 256 characters, has 257"),
        ("text", "ж" * 600_000, "has 1200001 bytes of UTF-8 with its title, at most 1048576"),
    ],
)
def test_a_bad_value_is_named_with_its_place(tmp_path: Path, column: str, value: str, said: str) -> None:
    names = ["title", column]
    error = refusal(write(tmp_path, "posts.csv", f'{",".join(names)}\n"a\nb",\n"c",{value}\n'))
    assert error.message.startswith(f"posts.csv, row 2 (line 4), column {column!r}: ")
    assert said in error.message


def test_bytes_that_are_no_text_are_placed_or_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, "posts.csv", b"text\nfine\nv\xe9lo\n")
    assert refusal(path).message == "posts.csv, line 3, byte 2: is not UTF-8; save the file as UTF-8"
    assert read_contents(path, encoding="latin-1").contents.text[1] == "vélo"
    assert read_contents(path, replace_invalid=True).contents.text[1] == "v\ufffdlo"
    wide = write(tmp_path, "wide.csv", "text\nvélo\n".encode("utf-16"))
    assert read_contents(wide, encoding="utf-16").contents.text == ("vélo",)
    lone = write(tmp_path, "posts.jsonl", '{"text": "a\\ud83d"}\n{"text": "b\\ud83c\\udf89"}')
    assert "row 1 (line 1), column 'text': character 1 is a lone surrogate" in refusal(lone).message
    assert read_contents(lone, replace_invalid=True).contents.text == ("a\ufffd", "b🎉")


def test_a_lone_surrogate_in_a_channel_is_placed_or_replaced(tmp_path: Path) -> None:
    lone = write(tmp_path, "posts.jsonl", '{"text": "a", "channel": "b"}\n{"text": "a", "channel": "b\\ud83d"}')
    assert "row 2 (line 2), column 'channel': character 1 is a lone surrogate" in refusal(lone).message
    assert read_contents(lone, replace_invalid=True).channel.tolist() == ["b", "b\ufffd"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"text": "a", "outcome": 1' + "0" * 400 + "}", "column 'outcome': must be a number from"),
        ('{"text": "a", "has_media": 1' + "0" * 400 + "}", "column 'has_media': must be 0 or 1"),
        ('{"text": "a", "published_at": 1' + "0" * 400 + "}", "column 'published_at': must be a time"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "posts.jsonl, line 2: has objects within objects too deep"),
        ('{"text": {"a": 1}}', "column 'text': must be a text, is \"{'a': 1}\""),
        ('{"text": ["x"]}', "column 'text': must be a text"),
        ('{"text": true}', "column 'text': must be a text, is 'True'"),
        ('{"text": "a", "title": {}}', "column 'title': must be a text"),
    ],
)
def test_values_that_no_column_holds_are_placed(tmp_path: Path, row: str, said: str) -> None:
    error = refusal(write(tmp_path, "posts.jsonl", '{"text": "a", "outcome": 1}\n' + row))
    assert said in error.message
    assert "line 2" in error.message


def test_numbers_are_texts(tmp_path: Path) -> None:
    assert read_contents(write(tmp_path, "posts.jsonl", '{"text": 7}\n{"text": 2.5}')).contents.text == ("7", "2.5")


def test_parquet_of_bytes_that_are_no_text_is_refused(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    column = arrow.array([b"fine", b"\xff"]).view(arrow.string())
    parquet.write_table(arrow.table({"text": column}), tmp_path / "posts.parquet")
    assert "column 'text': holds bytes that are not UTF-8" in refusal(tmp_path / "posts.parquet").message
    assert read_contents(tmp_path / "posts.parquet", replace_invalid=True).contents.text == ("fine", "\ufffd")


@pytest.mark.parametrize("name", ["posts.xlsx", "posts", "posts.txt"])
def test_other_kinds_of_file_are_refused(tmp_path: Path, name: str) -> None:
    assert "give .csv" in refusal(write(tmp_path, name, "x")).message
    with pytest.raises(NotFound):
        read_contents(tmp_path / "none.csv")
