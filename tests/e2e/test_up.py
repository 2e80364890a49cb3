"""The mesh as `meshcast up` starts it: processes, seen through the command line alone."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from meshcast.sinks import open_sink

pytestmark = pytest.mark.slow

POSTS = 300
SERVICES = ["analyzer", "drift", "forecaster", "predictor"]
PROCESSES = (*SERVICES, "gateway")


@dataclass(frozen=True)
class Mesh:
    """A state folder and the commands that work on it."""

    folder: Path

    def run(self, *words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """Runs a command to its end and holds its exit code against `code`."""
        command = [sys.executable, "-m", "meshcast.cli", *words, "--state-dir", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=self.folder, check=False)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.run(*words).stdout)

    def state(self) -> dict[str, Any]:
        """The state file's parts by name."""
        document = json.loads((self.folder / "mesh" / "state.json").read_text("utf-8"))
        return {part["name"]: part for part in document["parts"]} | {"supervisor": document["supervisor_pid"]}


@pytest.fixture(scope="module")
def posts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One channel's posts, three a day; the last one is planned, so its counts are unknown."""
    path = tmp_path_factory.mktemp("posts") / "posts.csv"
    first = datetime(2024, 1, 1, 6, tzinfo=UTC)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("published_at", "content_length", "has_media", "forwards", "replies", "reactions"))
        for post in range(POSTS):
            counts = ("", "", "") if post == POSTS - 1 else (10 + post % 7, 3 + post % 3, 200 + 40 * (post % 5))
            writer.writerow(((first + timedelta(hours=8 * post)).isoformat(), 20 + post % 200, post % 2, *counts))
    return path


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    mesh = Mesh(tmp_path_factory.mktemp("state"))
    mesh.run("up", "--detach", "--free-ports")
    yield mesh
    mesh.run("down")


def test_status_shows_that_every_service_serves(mesh: Mesh) -> None:
    status = mesh.json("status", "--json")
    assert status["serving"] is True
    states = {service["name"]: service["state"] for service in status["services"]}
    assert states == dict.fromkeys(SERVICES, "SERVING_STATE_SERVING")
    shown = mesh.run("status").stdout
    assert all(f"{name}/1" in shown for name in SERVICES)


def test_every_process_has_its_own_log_and_address(mesh: Mesh) -> None:
    parts = mesh.state()
    for name in PROCESSES:
        assert parts[name]["state"] == "serving"
        assert Path(parts[name]["log"]).stat().st_size > 0
    assert len({parts[name]["address"] for name in PROCESSES}) == len(PROCESSES)


def test_doctor_lists_the_services_with_their_ports(mesh: Mesh) -> None:
    found = mesh.json("doctor", "--json")
    assert found["services"] == SERVICES
    assert {"forecaster", "forecaster's metrics", "predictor"} <= {port["purpose"] for port in found["ports"]}
    assert sorted(choice["model"] for choice in found["choices"]) == SERVICES
    assert all(len(choice["rows_per_s"]) > 1 for choice in found["choices"])


def test_a_serving_process_has_not_loaded_torch(mesh: Mesh) -> None:
    parts = mesh.state()
    for name in PROCESSES:
        loaded = {Path(mapped.path).name for mapped in psutil.Process(parts[name]["pid"]).memory_maps()}
        assert not [library for library in loaded if library.startswith("libtorch")], name


def test_the_probe_answers_for_server_service_and_model(mesh: Mesh) -> None:
    predictor = mesh.state()["predictor"]["address"]
    mesh.run("probe")
    mesh.run("probe", predictor, "--service", "meshcast.api.predictor.v1.PredictorService")
    mesh.run("probe", predictor, "--service", "model/predictor")
    assert "SERVICE_UNKNOWN" in mesh.run("probe", predictor, "--service", "model/other", code=1).stderr


def test_call_describes_the_model_through_the_gateway(mesh: Mesh) -> None:
    assert "meshcast.api.predictor.v1.PredictorService" in mesh.run("call", "list").stdout.split()
    described = mesh.json("call", "PredictorService/DescribeModel")
    assert described["model"]["name"] == "predictor"
    assert described["receipt"]["gateway"]["attempts"] == 1
    refused = mesh.run("call", "PredictorService/DescribeModel", "-d", '{"model_version": 999}', code=1)
    assert "999" in refused.stderr


def test_call_names_the_field_that_is_wrong(mesh: Mesh) -> None:
    post = {"hour_of_day": 1, "day_of_week": 1, "reactions": 5}
    wrong = {
        "planned": {"published_time": "2024-05-01T00:00:00Z", "hour_of_day": 24, "day_of_week": 1},
        "history": [{"published_time": f"2024-03-{day:02d}T00:00:00Z", **post} for day in range(1, 31)],
    }
    refused = mesh.run("call", "PredictorService/PredictEngagement", "-d", json.dumps(wrong), code=2)
    assert "planned.hour_of_day" in refused.stderr


def test_models_are_listed_described_and_loaded_through_the_gateway(mesh: Mesh) -> None:
    listed = mesh.json("models", "list", "--json")
    ready = [model["name"] for model in listed["models"] if model.get("state") == "READY"]
    assert sorted(ready) == SERVICES
    metadata = mesh.json("models", "metadata", "predictor", "--json")
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["history", "mask", "planned"]
    assert mesh.json("models", "metadata", "forecaster", "--json")["name"] == "forecaster"
    for name in SERVICES:
        assert "serving version 1" in mesh.run("models", "load", name).stdout
    assert "other" in mesh.run("models", "metadata", "other", code=1).stderr


def test_predict_shows_the_planned_post_and_what_happened_to_those_before(mesh: Mesh, posts_file: Path) -> None:
    rows = mesh.json("predict", str(posts_file), "--posts", "3", "--json")
    assert len(rows) == 3
    assert [row["actual_engagement"] is None for row in rows] == [False, False, True]
    assert all(row["lower_80"] <= row["engagement"] <= row["upper_80"] for row in rows)
    shown = mesh.json(
        "call", "PredictorService/ReadPrediction", "-d", json.dumps({"prediction_id": rows[-1]["prediction_id"]})
    )
    assert shown["prediction"]["engagement"] == pytest.approx(rows[-1]["engagement"], rel=1e-4)


def test_stream_writes_every_row_and_scores_them(mesh: Mesh, posts_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    found = mesh.json("stream", str(posts_file), "--out", str(out), "--chunk-rows", "64", "--json")
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found["rows"] > POSTS - 30
    assert found["scored_rows"] == found["rows"] - 1
    assert set(found["baseline_mae"]) == {"last value", "median of last 20", "median of last 100"}
    assert found["receipts"]["rows"] == found["rows"]
    assert rows[-1]["actual_engagement"] == ""


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.sqlite"])
def test_stream_stores_each_row_once_however_often_it_is_run(
    mesh: Mesh, posts_file: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    command = ("stream", str(posts_file), "--out", str(out), "--resume", "--json")
    first, again = mesh.json(*command), mesh.json(*command)
    assert (first["rows_before"], again["rows_before"]) == (0, first["rows"])
    assert again["mae"] == first["mae"] and again["coverage"] == first["coverage"] and again["receipts"]["rows"] == 0
    with closing(open_sink(out)) as sink:
        sink.open(None)
        rows = [row for block in sink.read() for row in np.asarray(block["row"]).tolist()]
    assert rows == list(range(first["rows"]))


def test_a_stream_that_stands_is_said_to_and_no_other_takes_its_place(
    mesh: Mesh, posts_file: Path, tmp_path: Path
) -> None:
    command = ("stream", str(posts_file), "--out", str(tmp_path / "rows.csv"))
    mesh.run(*command, "--resume", "--chunk-rows", "64")
    shown = mesh.run(*command, "--resume").stdout
    assert "rows stood there already" in shown and "mean absolute error" in shown
    assert "--resume" in mesh.run(*command, code=2).stderr
    other = mesh.run(*command, "--resume", "--chunk-rows", "32", code=2).stderr
    assert "its chunks have 64 rows, not 32" in other and "another sink" in other


def test_resume_needs_a_place(mesh: Mesh, posts_file: Path, tmp_path: Path) -> None:
    assert "--out FILE" in mesh.run("stream", str(posts_file), "--resume", code=2).stderr
    for name in ("rows.txt", "missing/rows.csv"):
        mesh.run("stream", str(posts_file), "--resume", "--out", str(tmp_path / name), code=2)


def test_a_second_mesh_from_the_same_folder_is_refused(mesh: Mesh) -> None:
    assert "runs already" in mesh.run("up", "--free-ports", code=1).stderr
    assert "runs already" in mesh.run("up", "--detach", "--free-ports", code=1).stderr


def test_forecast_shows_a_series_with_its_intervals(mesh: Mesh, tmp_path: Path) -> None:
    path = tmp_path / "daily.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("date", "value"))
        for day in range(120):
            writer.writerow(((datetime(2024, 1, 1) + timedelta(days=day)).date().isoformat(), 100 + 10 * (day % 7)))
    done = mesh.run("forecast", str(path), "--horizon", "7")
    assert "forecaster version 1" in done.stdout and "day 7" in done.stdout
    described = mesh.json("call", "ForecasterService/DescribeModel")
    assert described["model"]["name"] == "forecaster" and described["horizon_days_max"] == 90
    wrong = {"history": [{"date": "2024-02-30", "value": 1}]}
    refused = mesh.run("call", "ForecasterService/ForecastGrowth", "-d", json.dumps(wrong), code=2)
    assert "history[0].date" in refused.stderr


def test_a_killed_predictor_is_started_again_and_answers(mesh: Mesh, posts_file: Path) -> None:
    before = mesh.state()["predictor"]
    os.kill(before["pid"], signal.SIGKILL)
    psutil.wait_procs([psutil.Process(before["pid"])] if psutil.pid_exists(before["pid"]) else [], timeout=20)
    for _ in range(200):
        part = mesh.state()["predictor"]
        if part["state"] == "serving" and part["pid"] != before["pid"]:
            break
        mesh.run("doctor", "--json")  # takes a while, and must work in the middle of a restart
    assert part["restarts"] == before["restarts"] + 1
    for _ in range(20):
        if mesh.json("call", "GatewayService/ReadMeshHealth")["health"].get("serving"):
            break
    assert len(mesh.json("predict", str(posts_file), "--json")) == 1


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = Mesh(tmp_path).run("up", "--port", f"gateway={port}", "--free-ports", code=1)
    assert f"127.0.0.1:{port} for gateway" in refused.stderr
    assert not list((tmp_path / "mesh" / "logs").glob("*.log"))


def test_down_without_a_mesh_is_no_error(tmp_path: Path) -> None:
    assert "no mesh runs here" in Mesh(tmp_path).run("down").stdout


def test_a_mesh_that_nobody_runs_cannot_be_reached(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    refused = Mesh(tmp_path).run("status", "--target", f"127.0.0.1:{port}", code=3)
    assert refused.stderr.startswith(f"error: cannot reach 127.0.0.1:{port}")
    assert "Traceback" not in refused.stderr
