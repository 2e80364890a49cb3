"""`meshcast drift` without a mesh: its words, its files, what it prints and the page."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.cli.drift_found import (
    DriftFound,
    OverWindows,
    WindowPoint,
    document,
    headline,
    joint_texts,
    number,
    p_text,
)
from meshcast.cli.drift_html import drift_page
from meshcast.cli.drift_input import Columns, Rows, importances_of, opened, window_size
from meshcast.cli.drift_plots import shares_of
from meshcast.cli.drift_print import alarm_table, print_drift
from meshcast.cli.problem import ExitCode, Problem
from meshcast.client import DriftAlarm, DriftEvidence, DriftReport
from meshcast.observations import CategoryColumn, Observations

ATTACK = "<script>alert(1)</script>"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def rows(shift: float, seed: int, *, count: int = 300) -> Observations:
    rng = np.random.default_rng(seed)
    numeric = {
        "income": rng.lognormal(10 + shift, 1, count).astype(np.float32),
        ATTACK: rng.normal(shift, 1, count).astype(np.float32),
        "children": rng.integers(0, 4, count).astype(np.float32),
        "gone": np.full(count, np.nan if shift else 1.0, dtype=np.float32),
    }
    towns = ("Oslo", "Bergen", "Bodø") if not shift else ("Oslo", "Narvik")
    return Observations(
        count, numeric, {"town": CategoryColumn(rng.integers(-1, len(towns), count).astype(np.int32), towns)}
    )


def report(*, is_drift: bool = True) -> DriftReport:
    message = pb.DriftReport(
        is_drift=is_drift,
        severity=pb.SEVERITY_HIGH if is_drift else pb.SEVERITY_NONE,
        p_value=1e-12 if is_drift else 0.43,
        summary=f"What {ATTACK} was.",
        advice=["Check the model."],
        notes=["a note of the service"],
    )
    for name, kind, distance in (
        ("children", pb.FEATURE_KIND_NUMERIC, 0.03),
        ("income", pb.FEATURE_KIND_NUMERIC, 0.5),
        (ATTACK, pb.FEATURE_KIND_NUMERIC, 0.4),
        ("town", pb.FEATURE_KIND_CATEGORICAL, 0.6),
        ("gone", pb.FEATURE_KIND_NUMERIC, 0.7),
    ):
        message.features.add(
            name=name,
            kind=kind,
            role=pb.FEATURE_ROLE_OUTPUT if name == "town" else pb.FEATURE_ROLE_INPUT,
            importance=3 if name == "income" else 1,
            is_drifted=is_drift and distance > 0.1,
            blame=distance / 2,
            severity=pb.SEVERITY_HIGH,
            effects=pb.Effects(kolmogorov_smirnov=distance, population_stability=distance**2),
            tests=[pb.FeatureTest(name="kolmogorov_smirnov", p_value=10 ** (-30 * distance))],
            what=f"moved by {distance}",
            reference=pb.FeatureFacts(rows=300),
            window=pb.FeatureFacts(rows=300, nulls=30, unseen=7 if name == "town" else 0),
        )
    message.features.add(name="energy.distance", role=pb.FEATURE_ROLE_DERIVED, is_drifted=True)
    message.joint_tests.add(name="energy", is_present=True, statistic=0.3, p_value=0.002, what="rows as a whole")
    message.joint_tests.add(
        name="outputs", is_present=True, evidence=pb.Evidence(log_value=-1.0, log_threshold=np.log(10) - 1.0)
    )
    message.joint_tests.add(name="autoencoder_error", why="pip install 'meshcast[train]'")
    return DriftReport.of(message)


def over(*, with_alarm: bool = True, with_times: bool = True) -> OverWindows:
    start = datetime(2015, 1, 1, tzinfo=UTC)
    points = tuple(
        WindowPoint(
            number=at,
            end_at=start + timedelta(days=7 * at) if with_times else None,
            evidence=DriftEvidence(log_value=at - 6.0, log_threshold=3.0, false_alarms_a_year=0.05),
        )
        for at in range(1, 13)
    )
    message = pb.DriftAlarm(
        alarm_id=3,
        kind=pb.ALARM_KIND_RAISED,
        severity=pb.SEVERITY_CRITICAL,
        blamed=[pb.Blamed(name=ATTACK, share=0.7), pb.Blamed(name="town", share=0.001)],
        onset=pb.Onset(window=5),
        position=9,
        text="Drift.",
    )
    if with_times:
        message.observed_time.FromDatetime(start + timedelta(days=63))
        message.onset.start_time.FromDatetime(start + timedelta(days=28, hours=6))
    alarms = (DriftAlarm.of(message),) if with_alarm else ()
    return OverWindows(windows=12, size="7 days", alarms=alarms, points=points)


def found(**fields: Any) -> DriftFound:
    defaults: dict[str, Any] = {
        "reference_source": "old.csv",
        "window_source": f"{ATTACK}.csv",
        "reference_rows": 300,
        "window_rows": 300,
        "report": report(),
        "chance": 0.01,
        "over": None,
        "reference": rows(0.0, 1),
        "window": rows(1.0, 2),
        "notes": ("column 'id' is not looked at: it counts the rows",),
    }
    return DriftFound(**{**defaults, **fields})


def printed(given: DriftFound) -> str:
    console = Console(file=io.StringIO(), width=140)
    print_drift(console, given)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_verdict_comes_first() -> None:
    shown = printed(found()).splitlines()
    assert shown[0] == "DRIFT, high: 4 of 5 features moved; the chance of it without drift: 1e-12"
    assert shown[1].endswith("(300 rows) against old.csv (300 rows)")
    quiet = found(report=report(is_drift=False), chance=0.05)
    assert printed(quiet).splitlines()[0] == (
        "no drift: nothing in 5 features that chance does not explain (p 0.43; drift is called below 0.05)"
    )
    assert (found().severity, quiet.severity) == ("high", "none")


def test_a_drift_too_small_to_matter_and_rows_too_few_are_said_first() -> None:
    small = replace(report(), severity="none")
    assert headline(found(report=small)).startswith("DRIFT, too small to matter: 4 of 5 features moved")
    few = found(report=report(is_drift=False), window_rows=1)
    assert headline(few) == "too few rows for a verdict: 1 row, at least 5 are needed"
    assert document(few)["is_too_small"] and not document(found())["is_too_small"]


def test_what_moved_is_told_with_those_to_blame_first() -> None:
    shown = printed(found())
    places = [shown.index(text) for text in ("town (output)", "income", "children")]
    assert places == sorted(places)
    assert "energy.distance" not in shown
    for text in (
        "30 %",
        "moved by 0.6",
        "energy distance: 0.3, p 0.002",
        "outputs: evidence -1.0",
        "autoencoder: absent: two files are compared without",
    ):
        assert text in shown
    for text in ("- Check the model.", "note: column 'id' is not looked at", "note: a note of the service"):
        assert text in shown


def test_windows_are_told_by_their_alarm() -> None:
    assert headline(found(over=over())) == (
        "DRIFT, critical: alarm at window 9 (2015-03-05), since window 5 (2015-01-29 06:00)"
    )
    quiet = found(over=over(with_alarm=False), report=report(is_drift=False))
    assert headline(quiet) == "no drift: no alarm in 12 windows of 7 days"
    assert not quiet.is_drift and found(over=over()).is_drift
    assert "70 %" in printed(found(over=over())) and "< 1 %" in printed(found(over=over()))


def test_a_report_that_was_kept_is_told_without_its_rows() -> None:
    given = DriftFound.kept(replace(report(), subject="loans", report_id="loans.1.9", reference_version=1))
    assert headline(given).startswith("DRIFT, high: 4 of 5 features moved")
    shown = printed(given)
    assert "report loans.1.9" in shown and "against reference 1 of loans" in shown
    quiet = replace(
        report(is_drift=False), subject="loans", report_id="loans.1.9", window=replace(report().window, rows=9)
    )
    assert headline(DriftFound.kept(quiet)).endswith("(p 0.43)")


def test_tests_that_are_absent_for_one_reason_are_one_line() -> None:
    message = pb.DriftReport()
    for name in ("autoencoder_error", "autoencoder_code", "outputs"):
        message.joint_tests.add(name=name, why="there is none")
    kept = DriftFound.kept(DriftReport.of(message))
    assert joint_texts(kept) == [("autoencoder, error; autoencoder, code; outputs", "absent: there is none")]
    names = [name for name, _ in joint_texts(found(report=DriftReport.of(message)))]
    assert names == ["autoencoder", "outputs"]


def test_the_document_is_json_without_pictures() -> None:
    told = json.loads(json.dumps(document(found(over=over()))))
    assert told["is_drift"] and told["severity"] == "critical" and len(told["over_windows"]["evidence"]) == 12
    assert told["over_windows"]["alarms"][0]["observed_at"] == "2015-03-05T00:00:00+00:00"
    assert "plot_png" not in told["report"]["features"][0]
    assert document(found())["over_windows"] is None


@pytest.mark.parametrize(
    ("went", "is_drift"),
    [(None, True), (over(), True), (over(with_alarm=False), False), (over(with_times=False), True)],
)
def test_the_page_is_strict_and_runs_nothing(went: OverWindows | None, is_drift: bool) -> None:
    pytest.importorskip("matplotlib")
    given = found(over=went, report=report(is_drift=is_drift))
    page = drift_page(given)
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert not [one for one in root.iter() if one.tag == "script" or any(name.startswith("on") for name in one.attrib)]
    assert "http:" not in page and "https:" not in page
    verdict = next(one for one in root.iter("p") if "verdict" in one.get("class", ""))
    assert verdict.text == headline(given)
    assert ("none" in verdict.get("class", "")) is not given.is_drift
    assert len([*root.iter("figure")]) == 3 + 1 + (went is not None)
    assert "gone: no values to draw" in page


def test_shares_add_up_whatever_the_values() -> None:
    one, other = rows(0.0, 1), rows(1.0, 2)
    for name in ("income", "children", "town"):
        shares = shares_of(name, one, other)
        assert shares is not None
        assert shares.reference.sum() == pytest.approx(1) and shares.window.sum() == pytest.approx(1)
        assert len(shares.labels) == len(shares.reference) == len(shares.window)
    assert shares_of("gone", one, other) is None
    town = shares_of("town", one, other)
    assert town is not None and "Narvik (new)" in town.labels
    infinite = Observations(4, {"x": np.array([np.inf, -np.inf, 1, 1])}, {})
    shares = shares_of("x", infinite, infinite)
    assert shares is not None and shares.labels == ("1",)


@pytest.mark.parametrize(
    ("word", "size"),
    [("1000", "1,000 rows"), ("1d", "1 day"), ("36h", "36 hours"), ("90 min", "90 minutes"), ("2w", "2 weeks")],
)
def test_sizes_of_windows(word: str, size: str) -> None:
    assert str(window_size(word)) == size


@pytest.mark.parametrize("word", ["", "0", "-1", "1.5", "2000000", "1y", "d", "0s", "1000000w"])
def test_sizes_that_are_none(word: str) -> None:
    with pytest.raises(Problem, match="neither a number of rows nor a time") as caught:
        window_size(word)
    assert caught.value.exit_code is ExitCode.USAGE


def test_weights() -> None:
    assert importances_of(["a=3", "b=c=0.5"]) == {"a": 3, "b=c": 0.5}
    for word in ("a", "=3", "a=", "a=x", "a=-1", "a=1001", "a=nan"):
        with pytest.raises(Problem, match="a column and its weight"):
            importances_of([word])


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0.12345, 123456.7, 1e12, None)] == ["0.123", "123,457", "1e+12", "-"]
    assert [p_text(p) for p in (0.0312, 1e-9, 0.0)] == ["0.031", "1e-09", "< 1e-99"]


REFERENCE = "id,x,code,town,note\n" + "".join(
    f"{at},{at % 7}.5,{at % 3},{'Oslo' if at % 2 else 'Bergen'},text {at}\n" for at in range(200)
)


def test_files_are_read_alike_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    reference = write(tmp_path, "old.csv", REFERENCE)
    now = write(tmp_path, "now.csv", "town,x,code,new\nOslo,1,2,3\n5,2,A,4\n")
    files = opened(reference, now, Columns(categories=["code"], importance=["x=2"]))
    assert dict(files.window.kinds) == {"x": "number", "code": "category", "town": "category"}
    notes = files.notes()
    assert notes[0] == "column 'id' is not looked at: it counts the rows"
    assert "'note'" in notes[1] and notes[2] == "columns of now.csv that the reference does not have: 'new'"
    held = Rows(files.window).held(1_000)
    assert held is not None and held.rows == 2
    chosen = opened(reference, now, Columns(only=["x"], ignore=["code", "new"]))
    assert chosen.notes() == ["columns of now.csv that the reference does not have: 'new'"]
    assert Rows(files.reference).held(1_000) is None


@pytest.mark.parametrize(
    ("header", "columns", "said", "way_out"),
    [
        ("x,code", Columns(), "'town': the column of the reference is missing", "--ignore town compares without it"),
        ("x,code,town", Columns(importance=["y=2"]), "--importance y: is none of its columns", "has 'x'"),
        ("x,code,town", Columns(outputs=["id"]), "--output id: is not looked at: it counts the rows", "has 'x'"),
        ("x,code,town", Columns(only=["towm"]), "did you mean 'town'", ""),
        ("x,code,town", Columns(ignore=["twon"]), "--ignore twon: neither file has such a column", "'town'"),
        ("x,code,town", Columns(time="at"), "'at': there is no such column", ""),
    ],
)
def test_wrong_columns_are_named_with_the_way_out(
    tmp_path: Path, header: str, columns: Columns, said: str, way_out: str
) -> None:
    reference = write(tmp_path, "old.csv", REFERENCE)
    now = write(tmp_path, "now.csv", f"{header}\n{','.join('1' * len(header.split(',')))}\n")
    with pytest.raises(Problem) as caught:
        opened(reference, now, columns)
    assert said in caught.value.message and way_out in caught.value.way_out
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_bad_value_names_the_options_that_lead_out(tmp_path: Path) -> None:
    reference = write(tmp_path, "old.csv", REFERENCE)
    now = write(tmp_path, "now.csv", "x,code,town\nmany,1,Oslo\n")
    with pytest.raises(Problem, match=r"now.csv, row 1 \(line 2\), column 'x': must be a number, is 'many'") as caught:
        Rows(opened(reference, now, Columns()).window).held(1_000)
    assert caught.value.way_out == "--category x or --ignore x"
    assert caught.value.details == ()
    (tmp_path / "latin.csv").write_bytes("x,code,town\n1,1,Bodø\n".encode("latin-1"))
    with pytest.raises(Problem, match="latin") as caught:
        Rows(opened(reference, tmp_path / "latin.csv", Columns()).window).held(1_000)
    assert "UTF-8" in caught.value.way_out and "--" not in caught.value.way_out


def test_rows_are_put_into_the_order_of_their_times(tmp_path: Path) -> None:
    reference = write(tmp_path, "old.csv", REFERENCE)
    now = write(tmp_path, "now.csv", "x,code,town,at\n3,1,Oslo,2015-07-03\n1,1,Oslo,2015-07-01\n2,1,Oslo,2015-07-02\n")
    table = Rows(opened(reference, now, Columns(time="at")).window).in_order()
    assert table.numeric["x"].tolist() == [1, 2, 3]


def test_a_sample_is_spread_over_the_file_evenly(tmp_path: Path) -> None:
    count = 5_000
    lines = "\n".join(f"{at},{at % 10}" for at in range(count))
    path = write(tmp_path, "many.csv", f"x,y\n{lines}\n")
    files = opened(path, path, Columns(numbers=["x"]))
    seen = Rows(files.window, sample_rows=1_000)
    assert sum(part.rows for part in seen.chunks()) == seen.rows == count
    assert seen.sample is not None and 1_000 <= seen.sample.rows <= 2_000
    assert set(np.diff(seen.sample.numeric["x"]).tolist()) == {4.0}


def test_an_alarm_that_is_over_says_why() -> None:
    text = "loans: the drift called in window 9 is over: the reference was replaced."
    message = pb.DriftAlarm(subject="loans", kind=pb.ALARM_KIND_RESOLVED, text=text, position=12)
    console = Console(file=io.StringIO(), width=120)
    console.print(alarm_table((DriftAlarm.of(message),), with_subject=True))
    assert isinstance(console.file, io.StringIO) and "the reference was replaced" in console.file.getvalue()
