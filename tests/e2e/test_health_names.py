"""Health names of a server and of a gateway before it, as buf, our own probe and a plain client see them, through a
load, a swap and a drain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshcast.api.oip.v2 import grpc_service_pb2 as oip
from meshcast.rpc import NotReady, mesh_errors

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
GATEWAY = "meshcast.api.gateway.v1.GatewayService"
OIP = "inference.GRPCInferenceService"
UNKNOWN = ("nobody", "model/nobody", "model/predictor/9")

Expected = Mapping[str, str]
"""Status by health name; UNKNOWN where there is none."""

DRAIN_DELAY_S = "8.0"
"""Long enough for three clients, two of them processes, to ask for every name while a server drains."""

LOADED: Expected = {
    "": "SERVING",
    PREDICTOR: "SERVING",
    OIP: "SERVING",
    "model/predictor": "SERVING",
    "model/predictor/1": "SERVING",
    "model/predictor/2": "UNKNOWN",
    **dict.fromkeys(UNKNOWN, "UNKNOWN"),
}
UNLOADED: Expected = {
    **LOADED,
    PREDICTOR: "NOT_SERVING",
    "model/predictor": "NOT_SERVING",
    "model/predictor/1": "UNKNOWN",
}
SWAPPED: Expected = {**LOADED, "model/predictor/1": "UNKNOWN", "model/predictor/2": "SERVING"}


class PlainHealth:
    """grpc.health.v1 as anybody's client speaks it, without a line of ours."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = health_pb2_grpc.HealthStub(channel)

    async def check(self, name: str) -> str:
        """The status; UNKNOWN for NOT_FOUND."""
        try:
            answer = await self._stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND, error
            return "UNKNOWN"
        return status_name(answer)

    async def listed(self) -> dict[str, str]:
        """Status of every name."""
        answer = await self._stub.List(health_pb2.HealthListRequest(), timeout=5)
        return {name: status_name(response) for name, response in answer.statuses.items()}

    @asynccontextmanager
    async def watching(self, *names: str) -> Any:
        """What Watch has said of each name so far; "END" once it has ended."""
        seen: dict[str, list[str]] = {name: [] for name in names}

        async def watch(name: str) -> None:
            try:
                async for answer in self._stub.Watch(health_pb2.HealthCheckRequest(service=name)):
                    seen[name].append(status_name(answer))
            except grpc.aio.AioRpcError as error:
                seen[name].append(error.code().name)
            else:
                seen[name].append("END")

        tasks = [asyncio.create_task(watch(name), name=f"watch:{name}") for name in names]
        try:
            yield seen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def status_name(answer: Any) -> str:
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def output_of(*words: str, folder: Path) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr of a command."""
    process = await asyncio.create_subprocess_exec(
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=os.environ | {"XDG_CACHE_HOME": str(folder), "MESHCAST_RUNTIME_STATE_DIR": str(folder)},
    )
    out, errors = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode(), errors.decode()


async def buf(address: str, name: str, folder: Path) -> str:
    """The status that `buf curl` gets; it learns the service by the server's reflection."""
    code, out, errors = await output_of(
        str(Path(sys.executable).with_name("buf")),
        *("curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", json.dumps({"service": name})),
        f"http://{address}/grpc.health.v1.Health/Check",
        folder=folder,
    )
    if code:
        assert json.loads(errors)["code"] == "not_found", errors
        return "UNKNOWN"
    return str(json.loads(out)["status"])


async def own_probe(address: str, name: str, folder: Path) -> str:
    """The status that `meshcast probe` prints; its exit code is 0 for SERVING alone."""
    code, out, errors = await output_of(
        *(sys.executable, "-m", "meshcast.cli", "probe", address, "--service", name), folder=folder
    )
    if code == 0:
        assert out.strip() == "SERVING"
        return "SERVING"
    assert code == 1 and not out
    assert errors.startswith(f"error: {address}: {name or 'the server'} is ")
    status = errors.split(" is ")[1].strip()
    return "UNKNOWN" if status == "SERVICE_UNKNOWN" else status


async def everybody_sees(address: str, expected: Expected, folder: Path) -> None:
    """All three clients get the expected status of every name, and List agrees."""
    at_once = asyncio.Semaphore(4)

    async def ask(how: Callable[..., Any], name: str) -> tuple[str, str]:
        async with at_once:
            return name, await how(address, name, folder)

    async with grpc.aio.insecure_channel(address) as channel:
        health = PlainHealth(channel)
        assert {name: await health.check(name) for name in expected} == expected
        listed = await health.listed()
    assert {name: listed.get(name, "UNKNOWN") for name in expected} == expected
    for how in (buf, own_probe):
        assert dict(await asyncio.gather(*(ask(how, name) for name in expected))) == expected, how.__name__


async def until(holds: Callable[[], bool], what: Callable[[], object]) -> None:
    """Waits for something that another process brings about."""
    try:
        async with asyncio.timeout(15):
            while not holds():  # noqa: ASYNC110  # another process tells nobody here
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"still {what()}")


async def until_listed(address: str, expected: Expected) -> None:
    """Waits until a gateway has learnt the expected names."""
    async with grpc.aio.insecure_channel(address) as channel:
        found: dict[str, str] = {}
        async with asyncio.timeout(15):
            while found != expected:
                listed = await PlainHealth(channel).listed()
                found = {name: listed.get(name, "UNKNOWN") for name in expected}
                await asyncio.sleep(0.02)


@pytest.fixture
def mesh(mesh_of: Any, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """A predictor with versions 1 and 2 of which 1 is loaded, and a gateway; both drain for long enough to look."""
    root = mesh_of.repository(tmp_path, 1)
    settings = {"RUNTIME_MODEL_REPOSITORY": str(root), "RPC_DRAIN_DELAY_S": DRAIN_DELAY_S}
    with (
        mesh_of.predictor(tmp_path, **settings) as server,
        mesh_of.gateway(tmp_path, server.address, RPC_DRAIN_DELAY_S=DRAIN_DELAY_S) as gateway,
    ):
        mesh_of.copy_version(root, 2)
        yield server, gateway


@pytest.mark.slow
async def test_every_client_sees_every_name_through_an_unload_a_load_and_a_swap(
    mesh: tuple[Any, Any], mesh_of: Any, tmp_path: Path
) -> None:
    addresses = [process.address for process in mesh]
    expected = {GATEWAY: "SERVING"}
    own = dict(zip(addresses, ({GATEWAY: "UNKNOWN"}, expected), strict=True))
    names = ("", PREDICTOR, "model/predictor", "model/predictor/1", "model/predictor/2", "nobody")
    async with (
        grpc.aio.insecure_channel(addresses[0]) as direct,
        grpc.aio.insecure_channel(addresses[1]) as through,
        PlainHealth(direct).watching(*names) as server_seen,
        PlainHealth(through).watching(*names) as gateway_seen,
        mesh_of.peer(addresses[1]) as asked,
    ):

        async def all_see(state: Expected) -> None:
            await until_listed(addresses[1], state)
            for address in addresses:
                await everybody_sees(address, {**state, **own[address]}, tmp_path)

        await all_see(LOADED)
        await asked.oip.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="predictor"), timeout=20)
        await all_see(UNLOADED)
        await mesh_of.load(asked, 1)
        await all_see(LOADED)
        await mesh_of.load(asked, 2)
        await all_see(SWAPPED)
        await mesh_of.still_serves(*addresses, version=2)

    went = ["SERVING", "NOT_SERVING", "SERVING"]
    for seen in (server_seen, gateway_seen):
        assert seen[""] == ["SERVING"]
        # The swap is no event to those that watch the model: it serves all along.
        assert seen[PREDICTOR] == went
        assert seen["model/predictor"] == went
        assert seen["model/predictor/1"] == ["SERVING", "SERVICE_UNKNOWN", "SERVING", "SERVICE_UNKNOWN"]
        assert seen["model/predictor/2"] == ["SERVICE_UNKNOWN", "SERVING"]
        assert seen["nobody"] == ["SERVICE_UNKNOWN"]


async def test_a_drain_of_the_server_is_seen_by_everybody_while_the_port_still_answers(
    mesh: tuple[Any, Any], mesh_of: Any, tmp_path: Path
) -> None:
    server, gateway = mesh
    names = ("", PREDICTOR, OIP, "model/predictor", "model/predictor/1")
    async with (
        grpc.aio.insecure_channel(server.address) as direct,
        grpc.aio.insecure_channel(gateway.address) as through,
        PlainHealth(direct).watching(*names) as server_seen,
        PlainHealth(through).watching(*names, GATEWAY) as gateway_seen,
    ):
        await until(lambda: all(server_seen.values()) and all(gateway_seen.values()), lambda: gateway_seen)
        server.popen.send_signal(signal.SIGTERM)
        await until(lambda: all(len(seen) > 1 for seen in server_seen.values()), lambda: server_seen)
        # Watchers know, and the port answers still: whoever comes now gets a word, not a refused connection.
        assert server.popen.poll() is None
        await everybody_sees(server.address, dict.fromkeys(names, "NOT_SERVING"), tmp_path)
        await until(lambda: all(gateway_seen[name][-1] == "NOT_SERVING" for name in names), lambda: gateway_seen)
        assert server.popen.wait(20) == 0
        await until(lambda: all(seen[-1] == "END" for seen in server_seen.values()), lambda: server_seen)
        assert set(map(tuple, server_seen.values())) == {("SERVING", "NOT_SERVING", "END")}
        for name in names:
            assert gateway_seen[name] == ["SERVING", "NOT_SERVING"], name
        assert gateway_seen[GATEWAY] == ["SERVING"]
        async with mesh_of.peer(gateway.address) as asked:
            with pytest.raises(NotReady), mesh_errors():
                await asked.typed.PredictEngagement(mesh_of.question(), timeout=5)

        # A server that comes back at the same address is found again, without anybody's help.
        folder = server.log.parent
        settings = {"RUNTIME_MODEL_REPOSITORY": str(folder / "repository")}
        with mesh_of.predictor(folder, server.port, **settings) as again:
            assert again.address == server.address
            await until(
                lambda: all(gateway_seen[name][-1] == "SERVING" for name in ("", PREDICTOR, OIP, "model/predictor")),
                lambda: gateway_seen,
            )
            await mesh_of.still_serves(gateway.address, version=2)


async def test_a_drain_of_the_gateway_is_seen_by_everybody_while_the_port_still_answers(
    mesh: tuple[Any, Any], tmp_path: Path
) -> None:
    server, gateway = mesh
    names = ("", PREDICTOR, OIP, GATEWAY, "model/predictor", "model/predictor/1")
    async with (
        grpc.aio.insecure_channel(gateway.address) as channel,
        PlainHealth(channel).watching(*names) as seen,
    ):
        await until(lambda: all(seen.values()), lambda: seen)
        gateway.popen.send_signal(signal.SIGTERM)
        await until(lambda: all(len(states) > 1 for states in seen.values()), lambda: seen)
        assert gateway.popen.poll() is None
        await everybody_sees(gateway.address, dict.fromkeys(names, "NOT_SERVING"), tmp_path)
        assert gateway.popen.wait(20) == 0
        await until(lambda: all(states[-1] == "END" for states in seen.values()), lambda: seen)
    assert set(map(tuple, seen.values())) == {("SERVING", "NOT_SERVING", "END")}
    async with grpc.aio.insecure_channel(server.address) as direct:
        assert await PlainHealth(direct).check("") == "SERVING"
