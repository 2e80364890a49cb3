"""`meshcast drift` as a person runs it: a process of its own, asking a drift service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def mesh(mesh_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a drift service."""
    with mesh_of.service("drift", tmp_path_factory.mktemp("mesh")) as drift:
        yield drift.address


@pytest.fixture
def cli(mesh: str, tmp_path: Path) -> Cli:
    """Runs `meshcast` in an empty folder."""

    def run(*words: str, code: int = 0, target: str = mesh) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "meshcast.cli", *words, "--target", target]
        environ = os.environ | {"COLUMNS": "140", "MESHCAST_RUNTIME_STATE_DIR": str(tmp_path / "state")}
        done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environ, timeout=120)
        found = subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert found.returncode == code, f"{found.returncode}\n{found.stdout}\n{found.stderr}"
        return found

    return run


def write(folder: Path, name: str, rows: int, seed: int, *, shift: float = 0.0, from_row: int = 0) -> Path:
    """A file of loans, an hour apart, whose incomes are higher by `shift` standard deviations from a row on."""
    rng = np.random.default_rng(seed)
    income = rng.normal(0, 1, rows)
    income[from_row:] += shift
    debt, town = rng.normal(0, 1, rows), rng.choice(["Oslo", "Bergen", "Narvik"], rows)
    at = np.datetime64("2015-01-01T00:00:00") + np.arange(rows) * np.timedelta64(1, "h")
    lines = [
        f"{row},{when},{a:.4f},{b:.4f},{where}"
        for row, (when, a, b, where) in enumerate(zip(at.tolist(), income, debt, town, strict=True))
    ]
    path = folder / name
    path.write_text("id,at,income,debt,town\n" + "\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files: a reference, rows like it, and rows that moved."""
    folder = tmp_path_factory.mktemp("files")
    write(folder, "reference.csv", 4_000, 1)
    write(folder, "quiet.csv", 2_000, 2)
    write(folder, "moved.csv", 2_000, 3, shift=0.5)
    write(folder, "turning.csv", 8_000, 4, shift=0.7, from_row=4_000)
    return folder


def test_rows_that_moved_are_called_and_the_column_to_blame_is_named(cli: Cli, files: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ("drift", str(files / "reference.csv"), str(files / "moved.csv"))
    shown = cli(*words, "--html", "report.html", code=5).stdout
    assert shown.startswith("DRIFT, ")
    assert "and --fail-on is low" in shown and "exit code 5" in shown
    assert "page written to report.html" in shown and "note: column 'id' is not looked at" in shown
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<figure>" in page and "<script" not in page and "http:" not in page and "https:" not in page
    told = json.loads(cli(*words, "--json", "--fail-on", "never").stdout)
    assert told["is_drift"] and told["verdict"] == shown.splitlines()[0]
    first = told["report"]["features"][0]
    assert (first["name"], first["is_drifted"]) == ("income", True) and first["blame"] > 0.8
    assert first["effects"]["mean_shift_sd"] == pytest.approx(0.5, abs=0.1)
    cli(*words, "--ignore", "income")


def test_rows_that_did_not_move_are_no_drift(cli: Cli, files: Path) -> None:
    shown = cli("drift", str(files / "reference.csv"), str(files / "quiet.csv"), "--chance", "0.001").stdout
    assert shown.startswith("no drift: nothing in 3 features")


def test_windows_in_order_tell_when_it_began(cli: Cli, files: Path) -> None:
    words = ("drift", str(files / "reference.csv"), str(files / "turning.csv"), "--time", "at", "--window", "500")
    told = json.loads(cli(*words, "--json", "--subject", "loans", code=5).stdout)
    over = told["over_windows"]
    assert over["windows"] == 16 and over["size"] == "500 rows"
    raised = over["alarms"][0]
    assert raised["kind"] == "raised" and 9 <= raised["position"] <= 12
    assert raised["onset"]["window"] in (8, 9, 10) and next(iter(raised["blamed"])) == "income"
    assert raised["observed_at"].startswith("2015-0")
    evidence = [point["evidence"]["log_value"] for point in over["evidence"]]
    assert [point["number"] for point in over["evidence"]] == list(range(1, 17))
    assert max(evidence[8:]) > max(evidence[:8])
    shown = cli("alarms", "loans").stdout
    assert "raised" in shown and "income" in shown
    alarm = json.loads(cli("alarms", "loans", "--json").stdout.splitlines()[0])
    assert alarm["alarm_id"] >= 1 and alarm["report_id"]
    report = json.loads(cli("reports", "loans", "-n", "1", "--json").stdout)
    assert report["subject"] == "loans" and report["is_drift"]
    assert alarm["report_id"] in cli("reports", "loans").stdout
    shown = cli("reports", "--id", alarm["report_id"]).stdout
    assert shown.startswith("DRIFT, ") and "income" in shown and "What moved" in shown
    told = json.loads(cli("reports", "--id", alarm["report_id"], "--json").stdout)
    assert told["report"]["report_id"] == alarm["report_id"] and told["window"]["rows"] == 500
    assert "is kept" in cli("reports", "--id", "nobody.1.1", code=1).stderr
    assert "loans" in cli("reports", "--subjects").stdout
    watched = [json.loads(line) for line in cli("reports", "--subjects", "--json").stdout.splitlines()]
    assert {"subject": "loans", "windows": "16"}.items() <= next(w for w in watched if w["subject"] == "loans").items()
    quiet = cli("drift", str(files / "reference.csv"), str(files / "quiet.csv"), "--window", "500").stdout
    assert quiet.startswith("no drift: no alarm in 4 windows of 500 rows")


def test_files_that_no_call_holds_are_streamed(cli: Cli, tmp_path: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rng = np.random.default_rng(5)
    for name, shift in (("old.parquet", 0.0), ("now.parquet", 0.1)):
        columns = {f"x{at}": rng.normal(shift * (at == 3), 1, 60_000) for at in range(20)}
        parquet.write_table(arrow.table(columns), tmp_path / name)
    told = json.loads(cli("drift", "old.parquet", "now.parquet", "--json", code=5).stdout)
    assert told["report"]["features"][0]["name"] == "x3"
    assert told["reference"]["rows"] == told["window"]["rows"] == 60_000


@pytest.mark.parametrize(
    ("header", "row", "options", "said"),
    [
        ("income,debt", "1,2", (), "column 'town': the column of the reference is missing"),
        ("income,debt,town", "many,2,Oslo", (), "row 1 (line 2), column 'income': must be a number, is 'many'"),
        ("income,debt,town", "1,2,Oslo", ("--window", "100"), "do not fill one window of 100 rows"),
    ],
)
def test_bad_input_ends_with_its_code_and_one_line(
    cli: Cli, files: Path, tmp_path: Path, header: str, row: str, options: tuple[str, ...], said: str
) -> None:
    (tmp_path / "now.csv").write_text(f"{header}\n{row}\n", "utf-8")
    done = cli("drift", str(files / "reference.csv"), "now.csv", *options, code=2)
    assert said in done.stderr.replace("\n", " ")
    assert done.stdout == ""


def test_one_row_and_rows_without_values_are_answered(cli: Cli, files: Path, tmp_path: Path) -> None:
    (tmp_path / "now.csv").write_text("income,debt,town\n0.1,0.2,Oslo\n", "utf-8")
    shown = cli("drift", str(files / "reference.csv"), "now.csv").stdout
    assert shown.startswith("too few rows for a verdict: 1 row,")
    (tmp_path / "now.csv").write_text("income,debt,town\n" + ",,\n" * 200, "utf-8")
    told = json.loads(cli("drift", str(files / "reference.csv"), "now.csv", "--json", code=5).stdout)
    assert all(one["is_drifted"] for one in told["report"]["features"] if one["role"] == "input")


def test_a_mesh_that_is_not_there_is_said(cli: Cli, files: Path) -> None:
    done = cli("drift", str(files / "reference.csv"), str(files / "quiet.csv"), code=3, target="127.0.0.1:1")
    assert "meshcast up" in done.stderr
