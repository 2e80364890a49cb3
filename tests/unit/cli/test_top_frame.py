"""The frame of `meshcast top`: what it says, and that it fits."""

import io

import pytest
from rich.console import Console

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.cli.mesh_history import MeshHistory
from meshcast.cli.top_frame import frame, sparkline


def mesh(at_s: int = 100_000) -> pb.MeshHealth:
    health = pb.MeshHealth(serving=True, meshcast_version="0.1.0", calls_in_flight=3, rss_bytes=80_000_000)
    health.read_time.FromSeconds(at_s)
    health.started_time.FromSeconds(100)
    service = health.services.add(
        name="predictor",
        state=pb.SERVING_STATE_SERVING,
        calls_in_flight=12,
        limit=20,
        calls_waiting=5,
        latency_ms_p50=4.321,
        latency_ms_p99=1_234.5,
        calls_per_s=87.6,
        error_share=0.004,
        counts=pb.PipelineCounts(hedges=4 * (at_s - 100_000)),
    )
    seconds = at_s - 100_000
    service.calls_by_code.update({"OK": 87 * seconds, "UNAVAILABLE": seconds // 2, "INVALID_ARGUMENT": seconds // 10})
    one = service.replicas.add(
        endpoint="127.0.0.1:8101",
        state=pb.SERVING_STATE_SERVING,
        breaker=pb.BREAKER_STATE_HALF_OPEN,
        load=pb.ReplicaLoad(utilization=0.42, queue_rows=7),
        models={
            "model/predictor/2": pb.SERVING_STATE_SERVING,
            "model/predictor/10": pb.SERVING_STATE_SERVING,
            "model/predictor/1": pb.SERVING_STATE_NOT_SERVING,
            "model/predictor": pb.SERVING_STATE_SERVING,
        },
    )
    one.tries_by_code["OK"] = 100
    one.load.reported_time.FromSeconds(at_s - 3)
    service.replicas.add(
        endpoint="127.0.0.1:8111",
        state=pb.SERVING_STATE_UNREACHABLE,
        breaker=pb.BREAKER_STATE_OPEN,
        problem="UNAVAILABLE: [brackets] refused",
    )
    health.services.add(name="drift", state=pb.SERVING_STATE_NOT_SERVING)
    return health


def drawn(width: int, *, problem: str = "", is_ascii: bool = False) -> str:
    history = MeshHistory()
    history.update(mesh())
    health = mesh(100_010)
    history.update(health)
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    console.print(frame(health, history, target="host:8001", width=width, problem=problem, is_ascii=is_ascii))
    return out.getvalue()


def test_a_wide_frame_says_everything() -> None:
    text = drawn(200)
    for words in (
        "Mesh at host:8001 · up 1 d 3 h · 3 calls under way · 80 MB · meshcast 0.1.0",
        "87.6",
        "0.57 %",
        "rates and errors of the last 10 s",
        "4.32",
        "1,234",
        "12 of 20 +5",
        "half open",
        "open",
        "not serving",
        "unreachable",
        "42%",
        "predictor 10, 2",
        "127.0.0.1:8111: UNAVAILABLE: [brackets] refused",
    ):
        assert words in text, words
    (row,) = [line for line in text.splitlines() if line.startswith("predictor") and "87.6" in line]
    assert " 4.0 " in row  # hedges a second
    assert "…" not in text
    assert "left out" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 150])
def test_a_frame_is_never_wider_than_its_terminal(width: int) -> None:
    lines = drawn(width).splitlines()
    assert max(map(len, lines)) <= width
    assert any("87.6" in line for line in lines)


def test_eighty_columns_hold_the_names_states_rates_and_latencies() -> None:
    text = drawn(80)
    assert "…" not in text
    for heading in ("service", "state", "calls/s", "errors", "p50 ms", "p99 ms", "replica", "breaker"):
        assert heading in text
    tables, left_out = text.split("left out: ")
    assert "resent/s" not in tables and "resent/s" in left_out and "models" in left_out and "--json" in left_out
    assert text.splitlines()[0].startswith("Mesh at host:8001") and text.splitlines()[1] == ""
    assert [heading for heading in left_out.split() if heading.strip(",;") in ("state", "errors", "breaker")] == []


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_first_line_stays_one_line(width: int) -> None:
    assert drawn(width).splitlines()[1] == ""


def test_a_single_message_has_no_rates_and_says_so() -> None:
    history = MeshHistory()
    history.update(mesh())
    out = io.StringIO()
    Console(file=out, width=120).print(frame(mesh(), history, target="host:1", width=120))
    assert "rates from the next look on" in out.getvalue() and "87.6" not in out.getvalue()


def test_why_a_replica_cannot_be_reached_is_said_without_grpcs_wrappings() -> None:
    health = mesh()
    health.services[0].replicas[1].problem = (
        "UNAVAILABLE: failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:8111: "
        "Failed to connect to remote host: Connection refused"
    )
    history = MeshHistory()
    history.update(health)
    out = io.StringIO()
    Console(file=out, width=80).print(frame(health, history, target="host:1", width=80))
    assert "! predictor 127.0.0.1:8111: connection refused\n" in out.getvalue()


def test_a_problem_is_said_above_what_was_known_last() -> None:
    lines = drawn(120, problem="no word from the gateway for 7 s").splitlines()
    assert lines[1] == "no word from the gateway for 7 s"
    assert any("87.6" in line for line in lines)


def test_a_terminal_without_unicode_gets_ascii_figures() -> None:
    body = drawn(200, is_ascii=True).split("service", 1)[1]
    assert "▁" not in body and "·" not in body


def test_a_mesh_without_services_is_a_frame_too() -> None:
    history = MeshHistory()
    history.update(pb.MeshHealth())
    out = io.StringIO()
    Console(file=out, width=80).print(frame(pb.MeshHealth(), history, target="host:1", width=80))
    assert "nothing can be asked" in out.getvalue()


def test_sparklines_show_the_smallest_of_what_is_there() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([0.0, 0.001, 50.0, 100.0]) == "▁▂▅█"
    assert sparkline([0.0, 1.0], is_ascii=True) == "_@"
