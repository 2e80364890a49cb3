"""`meshcast analyze` as a person runs it: a process of its own, asking the shipped models through the gateway."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

THEMES = {
    "weather": "Rain and wind all week, take an umbrella and a warm coat",
    "music": "Free concert tonight, the band plays its new album at the old theatre",
    "sport": "The team won the final match after a goal in the last minute",
    "food": "Our bakery has fresh bread, cheese and apple cake this morning",
}


@pytest.fixture(scope="module")
def mesh(mesh_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a gateway before an analyzer."""
    folder = tmp_path_factory.mktemp("mesh")
    with (
        mesh_of.analyzer(folder) as analyzer,
        mesh_of.gateway(folder, analyzers=[analyzer.address]) as gateway,
    ):
        yield gateway.address


@pytest.fixture
def cli(mesh: str, tmp_path: Path) -> Cli:
    """Runs `meshcast analyze` in an empty folder."""

    def run(*words: str, code: int = 0, given: bytes = b"", target: str = mesh) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "meshcast.cli", "analyze", *words, "--target", target]
        environ = os.environ | {"COLUMNS": "120", "MESHCAST_RUNTIME_STATE_DIR": str(tmp_path / "state")}
        done = subprocess.run(command, input=given, capture_output=True, cwd=tmp_path, env=environ, timeout=120)
        found = subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert found.returncode == code, f"{found.returncode}\n{found.stdout}\n{found.stderr}"
        return found

    return run


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 600 made-up posts of four themes, of which music does a good deal better."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("posts") / "posts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "published_at", "has_media", "reactions"])
        for row in range(600):
            theme = str(rng.choice(list(THEMES)))
            words = rng.permutation(THEMES[theme].replace(",", "").split()).tolist()
            day, hour = divmod(8 * row + int(rng.integers(0, 8)), 24)
            at = np.datetime64("2016-01-01") + day
            reactions = round(float(np.exp(4 + 1.5 * (theme == "music") + rng.normal())))
            writer.writerow([" ".join(words), f"{at}T{hour:02}:00:00Z", int(rng.integers(0, 2)), reactions])
    return path


def test_one_text_is_judged_and_its_spans_hold_when_they_are_taken_out(cli: Cli) -> None:
    text = "We won, and thank you all for coming! https://example.org #thanks 🎉"
    told = json.loads(cli("--text", text, "--hour", "18", "--json").stdout)
    assert 0 < told["judgement"]["viral"] < told["judgement"]["above_median"] < 1
    assert told["features"]["links"] == ["https://example.org"]
    assert told["features"]["hashtags"] == ["#thanks"]
    assert told["features"]["language"]["code"] == "en"
    for span in told["spans"]:
        assert text[span["start"] : span["end"]] == span["text"]
        assert span["effect"] == pytest.approx(told["probability"] - span["probability_without"], abs=1e-5)
    printed = cli("-", "--hour", "18", given=text.encode()).stdout
    assert "in the channel's top tenth" in printed


def test_a_file_is_judged_and_its_topics_and_effects_are_found(cli: Cli, posts: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = cli(str(posts), "--json", "--html", "report.html", "--out", "judged.jsonl")
    told = json.loads(done.stdout)
    assert "page written to report.html" in done.stderr
    assert len(told["rows"]) == 600
    claims = [claim for claim in told["patterns"]["claims"] if claim["kind"] == "topic"]
    best = max(claims, key=lambda claim: claim["effect"])
    words = next(topic["words"] for topic in told["patterns"]["topics"] if topic["topic"] == best["topic"])
    assert set(words) & {"concert", "band", "album", "theatre"}
    assert best["lower"] > 0.5
    assert not [claim for claim in told["patterns"]["claims"] if claim["kind"] in ("media", "weekday")]
    assert told["calibration"]["above_median"]["rows"] > 500
    rows = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text("utf-8").splitlines()]
    assert [row["viral"] for row in rows] == [row["viral"] for row in told["rows"]]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("<figure>") == 5
    assert "<script" not in page and "http:" not in page and "https:" not in page


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("none.csv",), 2, "there is no such file"),
        (("--text", " "), 2, "holds no text"),
        (("bad.csv",), 2, "bad.csv, line 2, byte 2: is not UTF-8"),
        (("--text", "x", "--hour", "24"), 2, "--hour"),
        ((), 2, "nothing to analyze"),
    ],
)
def test_bad_input_ends_with_its_code_and_one_line(
    cli: Cli, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "bad.csv").write_bytes(b"text\nv\xe9lo\n")
    done = cli(*words, code=code)
    assert said in done.stderr
    assert done.stdout == ""


def test_a_mesh_that_is_not_there_is_said(cli: Cli) -> None:
    done = cli("--text", "x", code=3, target="127.0.0.1:1")
    assert "meshcast up" in done.stderr


def test_ctrl_c_ends_an_analysis_at_once_and_leaves_no_file(mesh: str, tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text("text\n" + "A fine day in the park and rain tomorrow\n" * 200_000)
    words = ["analyze", "long.csv", "--target", mesh, "--out", "out.csv", "--no-patterns"]
    environ = os.environ | {
        "MESHCAST_RUNTIME_STATE_DIR": str(tmp_path / "state"),
        "COLUMNS": "120",
        "TERM": "xterm",
    }
    terminal, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "meshcast.cli", *words], cwd=tmp_path, env=environ, stdout=its, stderr=subprocess.PIPE
    ) as running:
        os.close(its)
        shown = b""
        while re.search(rb"[1-9][0-9]*/200000", shown) is None:  # the bar: rows have been answered
            shown += os.read(terminal, 65_536)
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 130
        assert running.stderr is not None and b"Traceback" not in running.stderr.read()
    os.close(terminal)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.csv"]
