"""`meshcast forecast` and `meshcast actuals` against a real server: tables, files, pictures, refusals."""

import asyncio
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.cli.actuals import actuals
from meshcast.cli.forecast import forecast
from meshcast.cli.problem import ExitCode, Problem, translate
from meshcast.rpc import MeshError
from meshcast.series import SeriesTable, write_series

Run = Callable[..., Any]


@pytest.fixture
def run(target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command; it has a loop of its own, so it gets a thread of its own. Gives what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    async def run(command: Callable[..., None], file: Path, **options: Any) -> str:
        capsys.readouterr()
        defaults: dict[str, Any] = {
            "series": [],
            "target": target,
            "config": None,
            "state_dir": tmp_path / "state",
            "timeout_s": 20.0,
            "as_json": False,
        }
        if command is forecast:
            defaults |= dict.fromkeys(("plot", "out"))
            defaults |= {"horizon_days": 30, "levels": [], "nonnegative": False, "analyze": False}
        await asyncio.to_thread(command, file, **{**defaults, **options})
        return capsys.readouterr().out

    return run


@pytest.fixture
def visits(kit: Any, tmp_path: Path) -> tuple[Path, SeriesTable]:
    """A file of five series, and what it holds."""
    table = kit.many_series()
    write_series(tmp_path / "visits.csv", table)
    return tmp_path / "visits.csv", table


async def test_every_series_has_a_row_that_fits_a_terminal(run: Run, visits: tuple[Path, SeriesTable]) -> None:
    file, table = visits
    printed = await run(forecast, file, levels=[0.95, 0.5])
    for name in table.names.tolist():
        assert name in printed
    assert "…" not in printed, "a column was cut"
    for heading in ("mean of", "next 7 days", "day 30", "50 % interval"):
        assert heading in printed, "a heading was broken"
    assert "where that one misses days" not in " ".join(printed.split())
    printed = await run(forecast, file, horizon_days=5)
    assert "where that one misses days" in " ".join(printed.split())
    assert "forecaster version 1 on arithmetic" in printed
    assert "known up to 2026-09-03" in printed


async def test_the_forecasts_are_written_and_printed_for_programs(
    run: Run, visits: tuple[Path, SeriesTable], kit: Any, tmp_path: Path
) -> None:
    file, table = visits
    out = tmp_path / "forecasts.csv"
    printed = json.loads(await run(forecast, file, out=out, horizon_days=7, as_json=True, series=["s003", "s001"]))
    assert [one["series"] for one in printed] == ["s003", "s001"]
    with out.open() as text:
        rows = list(csv.DictReader(text))
    assert len(rows) == 14
    part = table["s003"]
    wanted = kit.arithmetic(part.day, part.value, 7)
    np.testing.assert_allclose([float(row["median"]) for row in rows[:7]], wanted, rtol=1e-6)
    np.testing.assert_allclose(printed[0]["median"], wanted, rtol=1e-6)
    np.testing.assert_allclose([float(row["upper_95"]) for row in rows[:7]], wanted + 0.95, rtol=1e-6)
    assert rows[0]["date"] == printed[0]["first_date"] == "2026-09-04"
    assert rows[7]["forecast_id"] == printed[1]["forecast_id"]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
async def test_a_picture_is_drawn_without_a_window(
    run: Run, visits: tuple[Path, SeriesTable], tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / f"out.{kind}"
    printed = await run(forecast, visits[0], plot=out, analyze=True, nonnegative=True)
    assert "picture drawn to" in printed
    head = out.read_bytes()[:5]
    assert head.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    if kind == "svg":
        text = out.read_text()
        for said in ("s000", "s004", "history", "forecast (median)", "80 % interval", "change", "unusual day", "date"):
            assert f"<!-- {said} -->" in text, said


async def test_a_picture_of_strange_names_and_lone_days_is_drawn(run: Run, kit: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    day = np.arange(kit.today - 60, kit.today, 2)
    names = ["$x$ & <b>", "каналы", "日本", "a" * 200, "[red]b[/red]", *(f"more {i:02}" for i in range(9))]
    table = SeriesTable.of(np.tile(day, 14), np.arange(14.0 * len(day)) * 1e7, np.repeat(names, len(day)))
    write_series(tmp_path / "strange.csv", table)
    printed = await run(forecast, tmp_path / "strange.csv", plot=tmp_path / "out.png")
    assert "the first 12 of 14 series are drawn" in printed
    assert "[red]b[/red]" in printed
    assert "…" not in printed, "a column was cut"
    assert (tmp_path / "out.png").stat().st_size > 10_000


async def test_patterns_are_told_and_shown(run: Run, visits: tuple[Path, SeriesTable]) -> None:
    printed = await run(forecast, visits[0], analyze=True, series=["s002"])
    assert "▲ +2.0%" in printed
    assert "growing since" in printed
    assert "level changed on" in printed
    assert "unusual on 2026-09-03: 9, expected about 3" in printed
    (document,) = json.loads(await run(forecast, visits[0], analyze=True, series=["s002"], as_json=True))
    assert document["patterns"]["weekly"]["effects"] == [1.0] * 7
    assert document["patterns"]["change_points"][0]["kind"] == "level"
    assert document["patterns"]["yearly"] is None


async def test_series_that_are_refused_are_told_beside_the_others(run: Run, kit: Any, tmp_path: Path) -> None:
    table = kit.many_series(3)
    short = table["s001"][:5]
    parts = [table["s000"], short, table["s002"]]
    day, value, names = (np.concatenate([getattr(part, what) for part in parts]) for what in ("day", "value", "day"))
    names = np.repeat(["s000", "s001", "s002"], [len(part) for part in parts])
    write_series(tmp_path / "some.csv", SeriesTable.of(day, value, names))
    with pytest.raises(Problem) as caught:
        await run(forecast, tmp_path / "some.csv", out=tmp_path / "out.csv")
    assert caught.value.message == "1 of 3 series were refused"
    assert caught.value.exit_code is ExitCode.REFUSED
    assert caught.value.details == ("s001: needs a value on 14 of its last 112 days, has 5",)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 61


async def test_one_unnamed_series_may_be_given_a_name(run: Run, forecaster: Any, kit: Any, tmp_path: Path) -> None:
    table = kit.many_series(1)
    write_series(tmp_path / "one.csv", SeriesTable.of(table.day, table.value))
    assert "(unnamed)" in await run(forecast, tmp_path / "one.csv")
    assert list(forecaster.chunks[-1].series) == []
    await run(forecast, tmp_path / "one.csv", series=["berlin"])
    assert list(forecaster.chunks[-1].series) == ["berlin"]
    with pytest.raises(Problem, match="names no series"):
        await run(actuals, tmp_path / "one.csv")
    assert "berlin" in await run(actuals, tmp_path / "one.csv", series=["berlin"])
    assert len(forecaster.recorded["berlin"]) == len(table)


async def test_actual_values_are_recorded_and_counted(
    run: Run, forecaster: Any, visits: tuple[Path, SeriesTable]
) -> None:
    file, table = visits
    printed = await run(actuals, file)
    assert "…" not in printed, "a column was cut"
    assert "50.0%" in printed
    assert "│  1.25 │" in printed, "how much wider the intervals are drawn"
    assert sorted(forecaster.recorded) == table.names.tolist()
    documents = json.loads(await run(actuals, file, series=["s001"], as_json=True))
    assert documents[0]["unchanged"] == len(table["s001"])
    assert documents[0]["evidence"][1] == {"level": 0.95, "compared": 0, "coverage": None, "width_factor": 1.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"series": ["s001", "x"]}, "holds no series 'x'"),
        ({"plot": Path("out.gif")}, "unknown kind of picture"),
        ({"plot": Path("nowhere/out.png")}, "there is no folder nowhere"),
        ({"out": Path("out.txt")}, "unknown kind of file"),
        ({"target": "127.0.0.1"}, "names no port"),
        ({"horizon_days": 100}, "a forecast has 1 to 90 days"),
        ({"levels": [0.5, 80.0]}, "--level 80: a level lies between 0.01 and 0.99"),
        ({"timeout_s": 1e-6}, "0 of 5 series were answered within 1e-06 s"),
    ],
)
async def test_what_is_wrong_with_a_command_is_said(
    run: Run, visits: tuple[Path, SeriesTable], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(Problem) as caught:
        await run(forecast, visits[0], **options)
    assert said in caught.value.message
    assert caught.value.exit_code is ExitCode.USAGE


async def test_a_level_in_percent_is_told_as_a_share(run: Run, visits: tuple[Path, SeriesTable]) -> None:
    with pytest.raises(Problem) as caught:
        await run(forecast, visits[0], levels=[80.0])
    assert caught.value.way_out == "write 80 % as 0.8"


async def test_a_fault_of_the_file_is_bad_input(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("date,value\n2026-01-01,x\n")
    for command in (forecast, actuals):
        for file, said in (("bad.csv", "row 1 (line 2), column 'value'"), ("none.csv", "there is no such file")):
            with pytest.raises(Problem) as caught:
                await run(command, tmp_path / file)
            assert said in caught.value.message
            assert caught.value.exit_code is ExitCode.USAGE


async def test_a_mesh_that_cannot_be_reached_says_how_to_start_one(run: Run, visits: tuple[Path, SeriesTable]) -> None:
    with pytest.raises(MeshError) as caught:
        await run(forecast, visits[0], target="127.0.0.1:1")
    problem = translate(caught.value)
    assert problem.exit_code is ExitCode.UNREACHABLE
    assert "meshcast up" in problem.way_out


def test_a_missing_matplotlib_is_answered_with_the_pip_line() -> None:
    problem = translate(ModuleNotFoundError("no", name="matplotlib.figure"))
    assert problem.exit_code is ExitCode.EXTRA_MISSING
    assert problem.way_out == "pip install 'meshcast[plot]'"
