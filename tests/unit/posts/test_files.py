"""Posts files: what is written is read back, and every fault is named with its place and the way out."""

import gzip
import json
import lzma
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshcast.posts import POST_COLUMNS, PostTable, read_posts, write_posts
from meshcast.rpc import InvalidInput, NotFound

HEADER = "channel,published_at,content_length,has_media,forwards,replies,reactions\n"
GOOD = HEADER + "a,2016-05-10T23:30:00-05:00,12,1,3,,40\na,2016-05-09T10:00:00Z,0,0,0,1,2\n"


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        read_posts(path)
    assert path.name in caught.value.message
    return caught.value


counts = st.one_of(st.just(math.nan), st.integers(0, 2**24).map(float))


@st.composite
def tables(draw: st.DrawFn) -> PostTable:
    n = draw(st.integers(1, 30))

    def column(values: st.SearchStrategy[float]) -> list[float]:
        return draw(st.lists(values, min_size=n, max_size=n))

    names = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=5)
    return PostTable.of(
        {
            "channel": draw(st.lists(names, min_size=n, max_size=n)),
            "published_unix_s": draw(st.lists(st.integers(0, 4_000_000_000), min_size=n, max_size=n)),
            "hour_of_day": column(st.integers(0, 23).map(float)),
            "day_of_week": column(st.integers(0, 6).map(float)),
            "content_length": column(st.integers(0, 10_000).map(float)),
            "has_media": column(st.integers(0, 1).map(float)),
            "views": column(counts),
            "forwards": column(counts),
            "replies": column(counts),
            "reactions": column(counts),
        }
    )


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables())
def test_a_written_table_is_read_back_as_it_was(kind: str, table: PostTable, tmp_path: Path) -> None:
    path = tmp_path / f"posts.{kind}"
    write_posts(path, table)
    again = read_posts(path)
    assert again.channel.tolist() == table.channel.tolist()
    for name in POST_COLUMNS:
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name), err_msg=name)


def test_hour_and_weekday_come_from_the_clock_of_the_post_itself(tmp_path: Path) -> None:
    posts = read_posts(write(tmp_path, "posts.csv", GOOD))
    assert posts.hour_of_day.tolist() == [10, 23]
    assert posts.day_of_week.tolist() == [0, 1]
    assert posts.published_unix_s.tolist() == [1_462_788_000, 1_462_941_000]


def test_an_empty_count_is_unknown_and_not_zero(tmp_path: Path) -> None:
    posts = read_posts(write(tmp_path, "posts.csv", GOOD))
    assert posts.forwards.tolist() == [0, 3]
    assert np.isnan(posts.replies).tolist() == [False, True]
    assert np.isnan(posts.views).all()


def test_the_length_is_taken_from_the_text_where_it_is_missing(tmp_path: Path) -> None:
    text = 'published_at,text,title,post_id\n2016-05-10,"two\nlines, one post",t,7\n2016-05-11,,t,8\n'
    assert read_posts(write(tmp_path, "posts.csv", text)).content_length.tolist() == [19, 0]


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_packed_files_are_read_and_cut_off_ones_are_refused(tmp_path: Path, suffix: str, pack: object) -> None:
    assert callable(pack)
    packed: bytes = pack(GOOD.encode())
    assert len(read_posts(write(tmp_path, f"posts.csv.{suffix}", packed))) == 2
    assert "cut off" in refusal(write(tmp_path, f"cut.csv.{suffix}", packed[:-12])).message


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("hour_of_day", "24", "from 0 to 23, is '24'"),
        ("hour_of_day", "7.5", "whole number"),
        ("day_of_week", "7", "from 0 = Monday to 6"),
        ("reactions", "-1", "0 or more"),
        ("reactions", "nan", "left out when it is unknown, is 'nan'"),
        ("reactions", "many", "is 'many'"),
        ("views", "inf", "is 'inf'"),
        ("content_length", "-5", "0 or more"),
        ("has_media", "2", "0 or 1, is '2'"),
        ("published_at", "yesterday", "as in 2016-05-10T12:30:00Z, is 'yesterday'"),
        ("published_at", "", "is required"),
    ],
)
def test_a_bad_value_is_named_with_file_row_line_and_column(
    tmp_path: Path, column: str, value: str, words: str
) -> None:
    good = {"published_at": "2016-05-10", "hour_of_day": "1", "day_of_week": "1", "content_length": "1"}
    good |= {"has_media": "0", "views": "1", "reactions": "1", "text": '"a\nb"'}
    rows = [",".join(good), ",".join(good.values()), ",".join((good | {column: value}).values())]
    error = refusal(write(tmp_path, "posts.csv", "\n".join(rows) + "\n"))
    # The text of the first row holds a line break: the second row starts in line 4.
    assert error.message.startswith(f"posts.csv, row 2 (line 4), column {column!r}: ")
    assert words in error.message
    assert "Correct the value or remove the row" in error.message
    assert [violation.field for violation in error.violations] == [f"rows[2].{column}"]
    assert error.facts["row"] == "2"
    assert error.facts["column"] == column


@pytest.mark.parametrize("number", ["NaN", "-3", "1e999"])
def test_json_lines_refuse_the_same_values(tmp_path: Path, number: str) -> None:
    text = '{"published_at": "2016-05-10", "reactions": 1}\n\n{"published_at": "2016-05-11", "reactions": %s}\n'
    error = refusal(write(tmp_path, "posts.jsonl", text % number))
    assert error.message.startswith("posts.jsonl, row 2 (line 3), column 'reactions'")


@pytest.mark.parametrize(
    ("given_name", "nearest"), [("reaction", "reactions"), ("shares", "forwards"), ("Published_At", "published_at")]
)
def test_an_unknown_column_is_named_with_the_nearest_known_one(tmp_path: Path, given_name: str, nearest: str) -> None:
    error = refusal(write(tmp_path, "posts.csv", f"published_unix_s,{given_name}\n1,1\n"))
    assert f"column {given_name!r}: unknown column; did you mean {nearest}?" in error.message


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    assert "twice" in refusal(write(tmp_path, "posts.csv", "published_at,views,views\n2016-05-10,1,2\n")).message


def test_a_time_without_a_clock_needs_hour_and_weekday(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, "posts.csv", "published_unix_s,day_of_week\n1,1\n"))
    assert "'hour_of_day'" in error.message
    assert "published_at" in error.message


def test_a_missing_time_column_is_named(tmp_path: Path) -> None:
    assert "'published_at'" in refusal(write(tmp_path, "posts.csv", "channel,views\na,1\n")).message


@pytest.mark.parametrize("name", ["posts.csv", "posts.jsonl", "posts.parquet"])
def test_an_empty_file_says_so(tmp_path: Path, name: str) -> None:
    assert "is empty" in refusal(write(tmp_path, name, "")).message


def test_a_header_alone_says_so(tmp_path: Path) -> None:
    assert "has a header and no posts" in refusal(write(tmp_path, "posts.csv", HEADER)).message


@pytest.mark.parametrize("cut", range(len(HEADER) + 1, len(GOOD.splitlines()[1]) + len(HEADER), 3))
def test_a_file_cut_off_in_a_line_never_becomes_a_wrong_table(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path, "posts.csv", GOOD[:cut])
    try:
        posts = read_posts(path)
    except InvalidInput as error:
        assert "row 1" in error.message
    else:
        # Only a cut inside of the last field leaves a line that is whole to the eye.
        assert GOOD[:cut].count(",") == 2 * HEADER.count(",")
        assert len(posts) == 1


def test_a_line_cut_in_half_is_named_as_a_cut(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, "posts.csv", GOOD[: len(GOOD) - 12]))
    assert error.message.startswith("posts.csv, row 2 (line 3): has")
    assert "cut off" in error.message


def test_a_quote_that_is_never_closed_is_named_as_a_cut(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, "posts.csv", 'published_at,text\n2016-05-10,"half a te'))
    assert "cut off" in error.message


def test_a_json_line_cut_in_half_is_named_with_its_line(tmp_path: Path) -> None:
    line = json.dumps({"published_at": "2016-05-10", "views": 3})
    error = refusal(write(tmp_path, "posts.jsonl", f"{line}\n{line[:-6]}"))
    assert error.message.startswith("posts.jsonl, line 2: is not JSON")
    assert "cut off" in error.message


def test_a_json_line_that_is_no_object_is_refused(tmp_path: Path) -> None:
    assert "is not a JSON object" in refusal(write(tmp_path, "posts.jsonl", "[1]\n")).message


def test_bytes_that_are_not_utf8_are_named_with_line_and_byte(tmp_path: Path) -> None:
    text = GOOD.encode().replace(b"a,2016-05-09", b"\xff\xfe,2016-05-09")
    error = refusal(write(tmp_path, "posts.csv", text))
    assert "line 3, byte 1: is not UTF-8" in error.message


def test_a_byte_order_mark_is_let_be(tmp_path: Path) -> None:
    assert len(read_posts(write(tmp_path, "posts.csv", b"\xef\xbb\xbf" + GOOD.encode()))) == 2


def test_a_truncated_parquet_file_says_so(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    write_posts(whole, read_posts(write(tmp_path, "posts.csv", GOOD)))
    error = refusal(write(tmp_path, "posts.parquet", whole.read_bytes()[:-20]))
    assert "cut off or not a Parquet file" in error.message


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(NotFound, match="no such file"):
            read_posts(tmp_path / name)


def test_a_file_of_no_known_kind_says_which_are_known(tmp_path: Path) -> None:
    assert ".jsonl" in refusal(write(tmp_path, "posts.xlsx", "x")).message
    with pytest.raises(InvalidInput, match=r"\.parquet"):
        write_posts(tmp_path / "posts.txt", read_posts(write(tmp_path, "posts.csv", GOOD)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["posts.csv", "posts.xlsx"]


def test_parquet_without_its_extra_answers_with_the_pip_line(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["pyarrow"] = None  # what an installation without the extra looks like
from meshcast.posts import read_posts
from meshcast.rpc import Precondition
try:
    read_posts(sys.argv[1])
except Precondition as error:
    print(error.message, error.facts, error.reason_name)
"""
    path = write(tmp_path, "posts.parquet", "PAR1")
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "pip install 'meshcast[parquet]'" in run.stdout
    assert "'extra': 'parquet'" in run.stdout
    assert "ERROR_REASON_EXTRA_MISSING" in run.stdout


def test_faults_in_many_rows_are_counted_and_at_most_fifty_are_listed(tmp_path: Path) -> None:
    rows = "".join(f"2016-05-10,{-1 - n}\n" for n in range(80))
    error = refusal(write(tmp_path, "posts.csv", "published_at,views\n" + rows))
    assert "79 more rows" in error.message
    assert len(error.violations) == 50
