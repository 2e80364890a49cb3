"""Services as users start them: a process of its own, and a gateway before it with a route in a settings file."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from meshcast.gateway import GatewaySettings
from meshcast.gateway import serving as gateway_serving
from meshcast.rpc import ChannelSettings, InvalidInput, RpcSettings, channel, load, prediction_id

pytestmark = pytest.mark.asyncio(loop_scope="session")

# What `python -m meshcast.services` does, and a last word on what was imported.
STARTED = """
import atexit, json, runpy, sys

heavy = ("torch", "onnx", "onnxscript", "pandas", "sklearn", "matplotlib")
atexit.register(lambda: print(json.dumps([name for name in heavy if name in sys.modules]), flush=True))
runpy.run_module("meshcast.services", run_name="__main__", alter_sys=True)
"""

GATEWAY = """
[gateway]
first_contact_s = 5.0

[gateway.routes.{name}]
services = ["{service}", "inference.GRPCInferenceService"]
endpoints = ["{address}"]
"""


async def test_a_serving_process_never_imports_torch(
    service: Any, artefacts_of: Any, environ: dict[str, str], tmp_path: Path, suite: Any
) -> None:
    artefacts_of(service).repository(tmp_path / "repository", suite.FIRST)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTED, service.spec.name, "--port", "0"),
        *("--model-repository", str(tmp_path / "repository")),
        env={
            **environ,
            "MESHCAST_RPC_METRICS": "false",
            "MESHCAST_LOGS_FORMAT": "json",
            "MESHCAST_RUNTIME_STATE_DIR": str(tmp_path),
            "MESHCAST_RUNTIME_CHOOSE_S": "0.05",
        },
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines: list[str] = []
    port = 0
    try:
        async with asyncio.timeout(60):
            while not port:
                line = (await process.stdout.readline()).decode()
                assert line, "".join(lines)
                lines.append(line)
                event = json.loads(line) if line.startswith("{") else {}
                port = event.get("port", 0) if event.get("event") == "ready" else 0
        async with channel(f"127.0.0.1:{port}", settings=ChannelSettings(plain=True)) as opened:
            peer = suite.Peer(service, opened)
            receipts = [(await peer.single()).receipt]
            if service.example.stream is not None:
                receipts += [answer.receipt for answer in await peer.stream(service.example.stream.request(2, 0))]
            assert {receipt.model_version for receipt in receipts} == {suite.FIRST}
            await peer.outputs(service.tensors(2))
            assert (await peer.describe()).model.name == service.spec.name
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            rest = (await process.stdout.read()).decode()
            assert await process.wait() == 0, rest
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert json.loads(rest.splitlines()[-1]) == []


@pytest_asyncio.fixture(loop_scope="session")
async def routed(service: Any, artefacts_of: Any, tmp_path: Path, suite: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A server of the service, and a peer that asks a gateway with a route to it in its settings file."""
    repository = artefacts_of(service).repository(tmp_path / "repository", suite.SECOND)
    async with suite.running(service, repository, tmp_path / "state", rows_max=suite.ROWS_MAX) as server:
        path = tmp_path / "meshcast.toml"
        spec = service.spec
        path.write_text(
            GATEWAY.format(name=spec.name, service=spec.service_name, address=server.server.address), "utf-8"
        )
        settings: GatewaySettings = load({"gateway": GatewaySettings}, path=path, environ={})["gateway"]
        # The other routes that a gateway has by itself lead nowhere here.
        settings = suite.replace(settings, routes={spec.name: settings.routes[spec.name]})
        rpc = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0)
        async with (
            gateway_serving(settings, rpc) as gateway,
            channel(gateway.address, settings=ChannelSettings(plain=True)) as opened,
        ):
            yield server, suite.Peer(service, opened)


async def test_a_gateway_with_a_route_in_its_settings_file_gives_the_service_s_answers(
    routed: tuple[Any, Any], suite: Any
) -> None:
    server, through = routed
    case, single = server.case, server.case.example.single
    direct = await server.peer.single(request_id="a question")
    answer = await through.single(request_id="a question")
    assert case.difference(single.outputs(answer), single.outputs(direct)) <= case.signature.tolerance
    receipt = answer.receipt
    assert receipt.prediction_id == direct.receipt.prediction_id == prediction_id("a question")
    assert (receipt.model, receipt.model_version) == (case.spec.name, suite.SECOND)
    assert (receipt.gateway.attempts, receipt.gateway.hedged) == (1, False)
    assert receipt.gateway.endpoint == server.server.address
    assert receipt.gateway.elapsed_us > 0
    if case.example.stream is not None:
        chunks = [case.example.stream.request(2, at) for at in range(3)]
        answers = await through.stream(*chunks)
        assert [answer.receipt.gateway.attempts for answer in answers] == [1, 1, 1]
    with pytest.raises(InvalidInput) as caught:
        await through.single(single.bad())
    assert caught.value.violations[0].field == single.bad_field


async def test_a_gateway_shows_the_service_s_tensors_health_and_description(
    routed: tuple[Any, Any], suite: Any
) -> None:
    server, through = routed
    spec, tensors = server.case.spec, server.case.tensors(7)
    expected = await server.peer.outputs(tensors)
    given = await through.outputs(tensors)
    assert server.case.difference(given, expected) <= server.case.signature.tolerance
    assert (await through.describe()).model == (await server.peer.describe()).model
    for name in ("", spec.service_name, f"model/{spec.name}", f"model/{spec.name}/{suite.SECOND}"):
        assert await through.check(name) == "SERVING"
    await server.peer.unload()
    async with through.watching(spec.service_name) as seen:
        await suite.until(lambda: seen[spec.service_name][-1] == "NOT_SERVING")
