"""Files of observations: columns are told apart, both kinds of file are read alike, and every fault is placed."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.observations import Choices, Observations, open_observations, read_observations
from meshcast.rpc import InvalidInput, NotFound

ROWS = 200


def write(folder: Path, text: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def columns(rows: int = ROWS) -> dict[str, list[Any]]:
    """Columns of every kind, by name."""
    rng = np.random.default_rng(5)
    return {
        "id": list(range(rows)),
        "income": rng.lognormal(10, 1, rows).round(2).tolist(),
        "children": rng.integers(0, 4, rows).tolist(),
        "town": rng.choice(["Oslo", "Bergen", "Bodø, north"], rows).tolist(),
        "insured": [bool(one) for one in rng.integers(0, 2, rows)],
        "name": [f"person {at}" for at in range(rows)],
        "at": [f"2015-07-{1 + at // 10 % 30:02}T12:00:00" for at in range(rows)],
        "empty": [None] * rows,
    }


def csv_of(given: dict[str, list[Any]]) -> str:
    lines = [",".join(given)]
    for row in zip(*given.values(), strict=True):
        lines.append(",".join("" if one is None else f'"{one}"' if isinstance(one, str) else str(one) for one in row))
    return "\n".join(lines) + "\n"


def test_columns_are_told_apart(tmp_path: Path) -> None:
    file = open_observations(write(tmp_path, csv_of(columns())))
    assert dict(file.kinds) == {"income": "number", "children": "number", "town": "category", "insured": "boolean"}
    assert file.left_out["id"] == "counts the rows"
    assert "names or free texts" in file.left_out["name"]
    assert file.left_out["empty"] == "holds no value"
    assert file.time_columns == ("at",)
    rows = file.read()
    np.testing.assert_allclose(rows.numeric["income"], columns()["income"], rtol=1e-6)
    assert rows.numeric["income"].dtype == np.float32
    assert rows.categorical["insured"].names == ("false", "true")
    assert rows.unix_us is None


def same(one: Observations, other: Observations) -> None:
    assert one.names == other.names
    for name in one.numeric:
        np.testing.assert_array_equal(one.numeric[name], other.numeric[name])
    for name, column in one.categorical.items():
        assert column.names == other.categorical[name].names
        np.testing.assert_array_equal(column.codes, other.categorical[name].codes)
    np.testing.assert_array_equal(one.unix_us, other.unix_us)


def test_both_kinds_of_file_give_the_same_rows(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    given = columns()
    given["income"][3] = given["town"][4] = given["insured"][5] = None
    choices = Choices(time="at", numeric=("id",))
    csv_path = write(tmp_path, gzip.compress(csv_of(given).encode()), "rows.csv.gz")
    table = arrow.table(given)
    at = table.schema.get_field_index("at")
    times = arrow.array(np.array(given["at"], dtype="datetime64[ms]"))
    town = table.schema.get_field_index("town")
    table = table.set_column(at, "at", times).set_column(town, "town", table["town"].dictionary_encode())
    parquet.write_table(table, tmp_path / "rows.parquet")
    by_csv, by_parquet = (read_observations(path, choices) for path in (csv_path, tmp_path / "rows.parquet"))
    same(by_csv, by_parquet)
    assert by_csv.unix_us is not None and by_csv.unix_us[10] == 1_435_838_400_000_000
    assert np.isnan(by_csv.numeric["income"][3])
    assert by_csv.categorical["town"].codes[4] == by_csv.categorical["insured"].codes[5] == -1


def test_chunks_are_the_rows_in_their_order_whatever_their_size(tmp_path: Path) -> None:
    path = write(tmp_path, csv_of(columns(9_000)))
    file = open_observations(path, Choices(time="at", only=("income", "town")))
    whole = file.read()
    for size in (1_000, 5_000):
        parts = list(file.chunks(size))
        assert max(part.rows for part in parts) <= size
        same(whole, Observations.concat(parts))
    told: list[tuple[int, int | None]] = []
    file.read(progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (9_000, None)


def test_usual_spellings_of_no_value_are_nulls(tmp_path: Path) -> None:
    spellings = ["", " ", "NA", "n/a", "NaN", "null", "NULL", "None", "-", "?"]
    lines = [f"{one},{one},1" for one in spellings] + ["1.5,a,1", "-inf, b ,1", "1e3,b,1"]
    rows = read_observations(write(tmp_path, "x,t,keep\n" + "\n".join(lines)))
    np.testing.assert_array_equal(rows.numeric["x"], [*[np.nan] * 10, 1.5, -np.inf, 1000])
    assert rows.categorical["t"].codes.tolist() == [*[-1] * 10, 0, 1, 1]
    assert rows.categorical["t"].names == ("a", "b")


def test_columns_are_read_as_those_of_the_reference(tmp_path: Path) -> None:
    reference = open_observations(write(tmp_path, "code,x,flag\n" + "A,1,true\n7,2,false\n8,3,\n"))
    assert dict(reference.kinds) == {"code": "category", "x": "number", "flag": "boolean"}
    path = write(tmp_path, "x,extra,flag,code\n1,5,TRUE,7\n,6,no value,8\n", "now.csv")
    now = open_observations(path, kinds=reference.kinds)
    assert now.left_out == {"extra": "is not in the reference"}
    with pytest.raises(InvalidInput, match=r"row 2 \(line 3\), column 'flag': must be true or false, is 'no value'"):
        now.read()
    path = write(tmp_path, "x,flag,code\n1,TRUE,7\n,,8\n", "now.csv")
    rows = open_observations(path, kinds=reference.kinds).read()
    assert rows.names == ("x", "code", "flag") and rows.categorical["code"].names == ("7", "8")
    assert rows.categorical["flag"].codes.tolist() == [1, -1]


def test_codes_are_categories_where_they_are_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, "code,x\n1,1\n2,2\n1.0,3\n")
    rows = read_observations(path, Choices(categorical=("code",)))
    assert rows.categorical["code"].names == ("1", "2", "1.0")


def test_numbers_that_single_precision_would_merge_stay_double(tmp_path: Path) -> None:
    path = write(
        tmp_path, "x,y\n" + "\n".join(f"{1e9 + at / 7},{at / 7}" for at in np.random.default_rng(1).permutation(300))
    )
    file = open_observations(path)
    assert dict(file.kinds) == {"x": "double", "y": "number"}
    assert file.read().numeric["x"].dtype == np.float64


def test_identifiers_are_left_out(tmp_path: Path) -> None:
    lines = [f"{10**17 + 700 * at * at},{at}_{at},{5 + 2 * at},{at % 7}" for at in range(100)]
    file = open_observations(write(tmp_path, "post,key,step,x\n" + "\n".join(lines)))
    assert list(file.kinds) == ["x"]
    assert "different whole number" in file.left_out["post"] and "counts the rows" in file.left_out["step"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("a,b\n", "has a header and no rows"),
        ("a,b\n1\n", r"row 1 \(line 2\): has 1 fields, the header 2"),
        ("a,a\n1,2\n", "column 'a': the column is there 2 times"),
        ("a;b\n1;2\n", "separate the columns with commas"),
        ("a,b\n,\n", "no column is left to look at: 'a' holds no value"),
        (b"a,b\n1,v\xe9\n", "line 2, byte 4: is not UTF-8"),
        ("x\n" + "\n".join([*(str(at * 0.37) for at in range(99)), "1,5".replace(",", ";"), "2.5"]), "row 100"),
    ],
)
def test_faults_are_placed(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        read_observations(write(tmp_path, text))
    assert "rows.csv" in caught.value.message


def test_a_late_fault_is_placed_too(tmp_path: Path) -> None:
    path = write(tmp_path, "x\n" + "1.5\n2.5\n" * 30_000 + "oops\n")
    with pytest.raises(InvalidInput, match=r"row 60001 \(line 60002\), column 'x': must be a number, is 'oops'"):
        read_observations(path)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        (Choices(only=("incme",)), "'incme': there is no such column; did you mean 'income'"),
        (Choices(time="zzz"), "'zzz': there is no such column; found are 'income', 'at'"),
        (Choices(numeric=("income",), categorical=("income",)), "as numbers and as categories"),
        (Choices(ignore=("income",)), "no column is left"),
        (Choices(only=("at",)), "column 'at': cannot be read: holds times"),
    ],
)
def test_wrong_choices_are_named(tmp_path: Path, choices: Choices, said: str) -> None:
    path = write(tmp_path, "income,at\n1,2015-07-01\n2,2015-07-02\n")
    with pytest.raises(InvalidInput, match=said):
        open_observations(path, choices)


def test_a_row_without_a_time_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "x,at\n1,2015-07-01\n2,\n3,soon\n")
    with pytest.raises(InvalidInput, match=r"row 2 \(line 3\), column 'at': is empty; every row needs a time"):
        read_observations(path, Choices(time="at"))


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000])
def test_times_may_be_numbers(tmp_path: Path, unit: int) -> None:
    path = write(tmp_path, f"x,at\n1,{1_435_838_400 * unit}\n2,{1_435_838_401 * unit}\n")
    rows = read_observations(path, Choices(time="at"))
    assert rows.unix_us is not None and rows.unix_us.tolist() == [1_435_838_400_000_000, 1_435_838_401_000_000]


def test_a_missing_column_of_the_reference_is_named(tmp_path: Path) -> None:
    reference = open_observations(write(tmp_path, "x,y\n1,2\n3,4\n"))
    with pytest.raises(InvalidInput, match="column 'y': the column of the reference is missing"):
        open_observations(write(tmp_path, "x\n1\n", "now.csv"), kinds=reference.kinds)


def test_no_file_and_a_file_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_observations(tmp_path / "none.csv")
    with pytest.raises(InvalidInput, match=r"give \.csv"):
        read_observations(tmp_path / "rows.xlsx")
    pytest.importorskip("pyarrow")
    with pytest.raises(NotFound):
        read_observations(tmp_path / "none.parquet")
    with pytest.raises(InvalidInput, match="cut off or not a Parquet file"):
        read_observations(write(tmp_path, b"PAR1", "cut.parquet"))


def test_ids_with_gaps_and_dates_of_other_forms_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rising = np.cumsum(rng.integers(1, 9, 1_000)) + 5_000
    columns = {
        "order": rising,
        "customer": rng.permutation(rising),
        "cents": rng.choice(10_000_000, 1_000, replace=False),
        "german": [f"{1 + row % 28:02}.{1 + row % 12:02}.2024" for row in range(1_000)],
        "american": [f"{1 + row % 12}/{1 + row % 28}/2024 10:{row % 60:02}" for row in range(1_000)],
        "asian": [f"2024/{1 + row % 12:02}/{1 + row % 28:02}" for row in range(1_000)],
        "release": [f"{row % 3}.{row % 5}.{row % 40}" for row in range(1_000)],
    }
    path = tmp_path / "rows.csv"
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]))
    file = open_observations(path)
    assert dict(file.kinds) == {"cents": "number", "release": "category"}
    assert "rises or falls" in file.left_out["order"] and "few are skipped" in file.left_out["customer"]
    assert all("holds dates" in file.left_out[name] for name in ("german", "american", "asian"))
    assert open_observations(path, Choices(numeric=["order"])).kinds["order"] in ("number", "double")
