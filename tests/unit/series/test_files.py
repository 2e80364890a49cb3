"""Series files: read into sorted tables, every fault placed, round trips through both kinds."""

import gzip
import lzma
import tracemalloc
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshcast.rpc import InvalidInput, NotFound
from meshcast.series import SeriesTable, day_of, read_series, write_series

TODAY = date(2026, 11, 21)
DAILY = [date(2026, 1, 1) + timedelta(i) for i in range(40)]


def read(folder: Path, text: str, *, name: str = "visits.csv", nonnegative: bool = False) -> SeriesTable:
    (folder / name).write_text(text, encoding="utf-8")
    return read_series(folder / name, today=TODAY, nonnegative=nonnegative)


def refused(folder: Path, text: str, *, nonnegative: bool = False) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(folder, text, nonnegative=nonnegative)
    assert "visits.csv" in caught.value.message
    return caught.value.message


def test_rows_come_in_any_order_and_gaps_are_left_out(tmp_path: Path) -> None:
    text = "date,series,value\n2026-01-02,b,2\n\n2026-01-03,a,\n2026-01-01,b,-1.5e3\n2026-01-01T00:00:00,a,7\n"
    table = read(tmp_path, text)
    assert [(name, stop - start) for name, start, stop in table.ranges()] == [("a", 1), ("b", 2)]
    assert table.value.tolist() == [7, -1500, 2]
    assert table.day[0] == day_of(date(2026, 1, 1))


def test_one_series_needs_no_name_and_columns_any_order(tmp_path: Path) -> None:
    table = read(tmp_path, "\ufeffvalue,date\n" + "".join(f"{i},{day}\n" for i, day in enumerate(DAILY)))
    assert table.names.tolist() == [""]
    assert table.value.tolist() == list(range(40))


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_packed_file_is_read_and_one_cut_off_says_so(tmp_path: Path, suffix: str, pack: object) -> None:
    assert callable(pack)
    rng = np.random.default_rng(0)
    text = "date,value\n" + "".join(f"{day},{rng.random()}\n" for day in DAILY)
    path = tmp_path / f"visits.csv{suffix}"
    packed = pack(text.encode())
    path.write_bytes(packed)
    assert len(read_series(path, today=TODAY)) == 40
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InvalidInput, match="cut off or not a"):
        read_series(path, today=TODAY)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("2026-01-01,1\n5/31/2016,2\n", "row 2 (line 3), column 'date': must be a date as in 2016-05-31, is '5/31"),
        ("2026-01-01,1\n,2\n", "column 'date': is empty"),
        ("1026-01-01,1\n", "is 1026-01-01; the earliest is 1900-01-01"),
        ("2026-11-22,1\n2026-11-23,1\n", "row 2 (line 3), column 'date': is 2026-11-23, which lies in the future"),
        ("2026-01-01,inf\n", "column 'value': is infinite"),
        ("2026-01-01,1e300\n", "at most 1e+30 in size"),
        ("2026-01-01,NA\n", "must be a number, is 'NA'; leave it empty where it is unknown"),
        ('2026-01-01,"1,5"\n', "write the decimal point as '.'"),
        ("2026-01-01,1\n\n2026-01-01,2\n", "row 2 (line 4), column 'date': 2026-01-01 is there twice"),
        ("2026-01-01T08,1\n2026-01-01T09,2\n", "has several rows (another is row 1 (line 2)); sum the values by day"),
        ("2026-01-01,1,2\n", "row 1 (line 2): has 3 fields, the header 2; quote fields"),
        ("2026-01-01,1\n2026-01-02\n", "has 1 fields, the header 2; the file seems cut off"),
        ('2026-01-01,"1\n', "the file seems cut off"),
        ("", "has a header and no rows"),
        ("2026-01-01,\n", "no row has a value"),
    ],
)  # fmt: skip
def test_a_fault_is_placed(tmp_path: Path, rows: str, said: str) -> None:
    assert said in refused(tmp_path, "date,value\n" + rows)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("ds,y\n2026-01-01,1\n", "column 'date': the column is missing (found are 'ds', 'y'); rename 'ds' to 'date'"),
        ("date;value\n", "separate the columns with commas"),
        (
            "date,valeu\n",
            "column 'value': the column is missing (found are 'date', 'valeu'); rename 'valeu' to 'value'",
        ),
        ("date,series,visits\n", "(found are 'date', 'series', 'visits'); rename 'visits' to 'value'"),
        ("date,item\n", "column 'value': the column is missing (found are 'date', 'item'); the header is"),
        ("date,value,zzz\n", "column 'zzz': unknown column; known are date, series, value"),
        ("date,value,item\n", "column 'item': unknown column; did you mean 'series'?"),
        ("date,value,value\n", "the column is there twice"),
    ],
)
def test_columns_that_are_missing_or_unknown_are_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_every_fault_that_is_shown_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    path.write_text("date,value\n\n" + "".join(f"5/{day}/2016,1\n" for day in range(1, 31)))
    with pytest.raises(InvalidInput) as caught:
        read_series(path, today=TODAY)
    assert caught.value.facts["faults"] == "30"
    assert [one.field for one in caught.value.violations[:5]] == [
        f"row {row} (line {row + 2}), column 'date'" for row in range(1, 6)
    ]


def test_a_day_that_is_there_twice_may_mean_several_series(tmp_path: Path) -> None:
    hint = "; if the file holds several series, name them in a column 'series'"
    assert refused(tmp_path, "date,value\n2026-01-01,1\n2026-01-01,2\n").endswith("or sum them" + hint)
    assert refused(tmp_path, "date,series,value\n2026-01-01,a,1\n2026-01-01,a,2\n").endswith("or sum them")


def test_negative_values_are_refused_where_that_was_declared(tmp_path: Path) -> None:
    text = "date,value\n2026-01-01,-1\n"
    assert read(tmp_path, text).value.tolist() == [-1]
    assert "declared not to be negative" in refused(tmp_path, text, nonnegative=True)


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (
            [date(2020, 1, 1) + timedelta(7 * i) for i in range(20)],
            "row 2 (line 3), column 'date': a value every 7 days",
        ),
        (
            [date(2020, 1, 3) + timedelta(7 * i - (i % 6 == 4)) for i in range(29)],
            "row 2 (line 3), column 'date': a value about every 7 days from 2020-01-03 on",
        ),
        ([date(2020 + i // 12, i % 12 + 1, 1) for i in range(20)], "a value every month from 2020-01-01 on"),
        ([*DAILY, *(date(2026, 3, 1) + timedelta(7 * i) for i in range(10))], "row 42 (line 43)"),
    ],
)
def test_other_frequencies_are_refused(tmp_path: Path, days: list[date], said: str) -> None:
    found = refused(tmp_path, "date,series,value\n" + "".join(f"{day},a,1\n" for day in days))
    assert said in found
    assert "a daily series is needed" in found


def test_the_end_of_a_series_and_the_start_of_the_next_are_no_gap(tmp_path: Path) -> None:
    days = [f"{date(2026, 1, 1) + timedelta(7 * i)},s{i:02},1\n" for i in range(30)]
    assert len(read(tmp_path, "date,series,value\n" + "".join(days)).names) == 30


def test_a_series_of_too_many_days_or_no_value_is_named(tmp_path: Path) -> None:
    first = date(1990, 1, 1)
    rows = "".join(f"{first + timedelta(i)},long,1\n" for i in range(10_001))
    assert "10001 days in the series 'long', at most 10000" in refused(tmp_path, "date,series,value\n" + rows)
    assert "'b' has no value on any day" in refused(tmp_path, "date,series,value\n2026-01-01,a,1\n2026-01-01,b,\n")


def test_a_name_of_too_many_characters_is_placed(tmp_path: Path) -> None:
    text = f"date,series,value\n2026-01-01,a,1\n2026-01-01,{'b' * 257},1\n"
    assert "row 2 (line 3), column 'series': has 257 characters, at most 256" in refused(tmp_path, text)


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no such file"):
        read_series(tmp_path / "none.csv", today=TODAY)
    with pytest.raises(InvalidInput, match="the kind of file is not known"):
        read_series(tmp_path / "visits.xlsx", today=TODAY)
    (tmp_path / "latin.csv").write_bytes(b"date,series,value\n2026-01-01,Z\xfcrich,1\n")
    with pytest.raises(InvalidInput, match="line 2, byte 13: is not UTF-8"):
        read_series(tmp_path / "latin.csv", today=TODAY)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidInput, match="cut off or not a Parquet file"):
        read_series(tmp_path / "cut.parquet", today=TODAY)


def test_one_endless_line_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b"0" * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match="field larger than field limit"):
            read_series(path, today=TODAY)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_dates_of_parquet_files_may_be_times_dates_or_texts(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    days = np.array([str(day) for day in DAILY], dtype="datetime64[ms]")
    local = pyarrow.array(days.astype(np.int64) - 3_600_000, pyarrow.timestamp("ms", tz="Europe/Paris"))
    columns = {
        "date32": pyarrow.array(days.astype("datetime64[D]")),
        "times": pyarrow.array(days),
        "zoned": local,
        "texts": pyarrow.array([str(day) for day in DAILY]),
        "coded": pyarrow.array([str(day) for day in DAILY]).dictionary_encode(),
    }
    for dates in columns.values():
        parquet.write_table(pyarrow.table({"date": dates, "value": list(range(40))}), tmp_path / "a.parquet")
        table = read_series(tmp_path / "a.parquet", today=TODAY)
        assert table.day.tolist() == [day_of(day) for day in DAILY]
    for column, values, said in (
        ("value", ["x"] * 40, "column 'value': must hold numbers"),
        ("date", [1.5] * 40, "column 'date': must hold dates"),
        ("date", [None, *[str(day) for day in DAILY[1:]]], "row 1, column 'date': is empty"),
        ("date", ["May", *[str(day) for day in DAILY[1:]]], "row 1, column 'date': must be a date"),
    ):
        wrong = {"date": columns["texts"], "value": [1.0] * 40} | {column: values}
        parquet.write_table(pyarrow.table(wrong), tmp_path / "a.parquet")
        with pytest.raises(InvalidInput) as caught:
            read_series(tmp_path / "a.parquet", today=TODAY)
        assert said in caught.value.message


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=6),
        st.lists(st.one_of(st.just(0.0), st.floats(1e-30, 1e30), st.floats(-1e30, -1e-30)), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([".csv", ".parquet"]),
)
def test_a_written_table_is_read_back_as_it_was(tmp_path: Path, rows: dict[str, list[float]], suffix: str) -> None:
    first = day_of(TODAY) - 10
    day = [first + at for values in rows.values() for at in range(len(values))]
    value = [one for values in rows.values() for one in values]
    table = SeriesTable.of(day, value, [name for name, values in rows.items() for _ in values])
    path = tmp_path / f"written{suffix}"
    write_series(path, table)
    again = read_series(path, today=TODAY)
    assert again.names.tolist() == table.names.tolist()
    np.testing.assert_array_equal(again.bounds, table.bounds)
    np.testing.assert_array_equal(again.day, table.day)
    np.testing.assert_array_equal(again.value, table.value)


def test_unknown_values_are_written_as_gaps(tmp_path: Path) -> None:
    table = SeriesTable.of(["2026-01-01", "2026-01-02"], [np.nan, 2.5])
    write_series(tmp_path / "a.csv", table)
    assert (tmp_path / "a.csv").read_text() == "date,value\n2026-01-01,\n2026-01-02,2.5\n"
    with pytest.raises(InvalidInput, match="not written packed"):
        write_series(tmp_path / "a.csv.gz", table)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
