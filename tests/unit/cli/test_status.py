"""What `meshcast status` and `meshcast up` print on a terminal of 80 columns."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.cli.state import MeshState, PartState
from meshcast.cli.status import print_status
from meshcast.cli.up import print_mesh

ADDRESSES = ["127.0.0.1:48101", "127.0.0.1:48111", "192.168.100.200:58101"]


def running() -> MeshState:
    names = ("predictor-1", "predictor-2", "forecaster")
    parts = tuple(
        PartState(name=name, address=address, metrics_port=49_101, pid=4_194_303, state="restarting", restarts=12)
        for name, address in zip(names, ADDRESSES, strict=True)
    )
    gateway = PartState(name="gateway", address="127.0.0.1:8001", metrics_port=8002, http_address="http://h:8000")
    return MeshState(supervisor_pid=os.getpid(), supervisor_birth="", config="", parts=(*parts, gateway), notes=("n",))


def health() -> pb.MeshHealth:
    found = pb.MeshHealth(serving=True, meshcast_version="0.1.0")
    service = found.services.add(
        name="predictor",
        state=pb.SERVING_STATE_SERVING,
        latency_ms_p50=1_234.56,
        latency_ms_p99=12_345.67,
        calls_per_s=1_234.5,
        error_share=0.123,
    )
    service.calls_by_code.update({"OK": 1_234_567, "UNAVAILABLE": 7, "INVALID_ARGUMENT": 13, "NOT_FOUND": 1})
    for address in ADDRESSES:
        service.replicas.add(endpoint=address, state=pb.SERVING_STATE_SERVING)
    service.replicas[0].problem = (
        "UNAVAILABLE: failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:48101: "
        "Failed to connect to remote host: connect: Connection refused (111)"
    )
    return found


def test_status_cuts_no_address_name_or_pid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_status(health(), "127.0.0.1:8001", running())
    text = capsys.readouterr().out
    for words in (*ADDRESSES, "predictor-1", "predictor-2", "forecaster", "4194303", "HTTP: http://h:8000"):
        assert words in text, words
    assert "left out for want of width: calls\n" in text
    assert all(text.count(address) == 2 for address in ADDRESSES)
    assert "…" not in text and max(map(len, text.splitlines())) <= 80


def test_only_what_the_mesh_failed_counts_as_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    print_status(health(), "127.0.0.1:8001", None)
    text = capsys.readouterr().out
    assert "7 failed" in text and "not OK" not in text and "21" not in text
    assert "connection refused" in text and "failed to connect" not in text


def test_up_cuts_no_address_name_or_pid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_mesh(Console(width=80), running())
    text = capsys.readouterr().out
    for words in (*ADDRESSES, "predictor-1", "predictor-2", "4194303", "49101", "\nn\n", "HTTP: http://h:8000"):
        assert words in text, words
