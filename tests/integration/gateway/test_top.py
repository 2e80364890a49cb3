"""`meshcast top` before a gateway that answers, refuses, goes away and comes back."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from meshcast.api.predictor.v1 import predictor_pb2
from meshcast.cli.top import top
from meshcast.gateway import GatewaySettings, RouteSettings, serving
from meshcast.rpc import NotReady, RpcSettings, Unimplemented

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"


async def watched(address: str, folder: Path, **options: Any) -> None:
    given: dict[str, Any] = {"interval_s": 0.2, "count": 1, "figure": "calls", "svg": None, "as_json": False, **options}
    await asyncio.to_thread(top, target=address, config=None, state_dir=folder, timeout_s=5.0, **given)


async def test_one_look_shows_service_and_replica(
    run_predictor: Any, run_gateway: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        await gateway.predictor.PredictEngagement(predictor_pb2.PredictEngagementRequest(), timeout=5)
        capsys.readouterr()
        await watched(gateway.server.address, tmp_path)
        text = capsys.readouterr().out
    assert f"Mesh at {gateway.server.address}" in text
    assert replica.address in text
    assert "predictor" in text and "serving" in text and "closed" in text
    assert "\x1b" not in text


async def test_json_is_a_line_a_look_with_what_happened_a_second(
    run_predictor: Any, run_gateway: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        capsys.readouterr()
        await watched(gateway.server.address, tmp_path, as_json=True, count=2)
        lines = capsys.readouterr().out.splitlines()
    looks = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(looks) == 2
    (service,) = looks[1]["services"]
    assert service["name"] == "predictor"
    assert service["per_s"]["hedges"] == 0.0


async def test_the_last_look_is_a_picture_that_needs_nothing_from_elsewhere(
    run_predictor: Any, run_gateway: Any, tmp_path: Path
) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        await watched(gateway.server.address, tmp_path, svg=tmp_path / "top.svg")
    picture = (tmp_path / "top.svg").read_text("utf-8")
    assert picture.startswith("<svg") and "predictor" in picture
    assert "@font-face" not in picture and "url(https" not in picture


async def test_a_gateway_that_restarts_is_waited_for(
    run_predictor: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with run_predictor() as replica:
        route = RouteSettings(services=(PREDICTOR,), endpoints=(replica.address,))
        settings = GatewaySettings(routes={"predictor": route})
        rpc = RpcSettings(port=port, metrics=False, drain_delay_s=0.0, drain_s=0.2)
        async with serving(settings, rpc) as server:
            capsys.readouterr()
            watching = asyncio.create_task(watched(server.address, tmp_path, as_json=True, count=8), name="top")
            out = ""
            while '"read_time"' not in out:
                await asyncio.sleep(0.02)
                out += capsys.readouterr().out
        await asyncio.sleep(0.3)
        async with serving(settings, rpc):
            await asyncio.wait_for(watching, 20)
    told = capsys.readouterr()
    looks = [json.loads(line) for line in (out + told.out).splitlines() if line.startswith("{")]
    assert len(looks) == 8
    assert len({look["started_time"] for look in looks}) == 2
    assert "no word from the gateway" in told.err and "trying again" in told.err


async def test_an_address_where_nobody_is_ends_it(tmp_path: Path) -> None:
    with pytest.raises(NotReady):
        await watched("127.0.0.1:1", tmp_path)


async def test_a_service_is_no_gateway(run_predictor: Any, tmp_path: Path) -> None:
    async with run_predictor() as replica:
        with pytest.raises(Unimplemented):
            await watched(replica.address, tmp_path)
