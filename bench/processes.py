"""Processes under measurement: real services and the gateway on free ports of 127.0.0.1, ended with their block."""

import asyncio
import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshcast.rpc import MeshError, ServingStatus, probe

START_S = 60.0
PREDICTOR = "meshcast.api.predictor.v1.PredictorService"


@dataclass(frozen=True)
class Running:
    """A process and where it listens."""

    process: subprocess.Popen[bytes]
    target: str

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def machine() -> dict[str, Any]:
    """What the figures were measured on, and of which commit."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    model = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {"cores": os.cpu_count(), "cpu": model, "python": platform.python_version(), "commit": commit}


@contextlib.asynccontextmanager
async def predictor(state: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    """A predictor with its state in `state`; `settings` are MESHCAST_… variables."""
    async with model_service("predictor", PREDICTOR, state, settings) as running:
        yield running


@contextlib.asynccontextmanager
async def model_service(
    name: str, service_name: str, state: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """Any model service that is installed, by its name and its full gRPC name, as `predictor` of the predictor."""
    command = [sys.executable, "-m", "meshcast.services", name]
    async with _running(command, free_port(), service_name, state, settings or {}) as running:
        yield running


@contextlib.asynccontextmanager
async def gateway(backend: str, state: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    """A gateway in front of one predictor at `backend`."""
    config = state / "gateway.toml"
    config.write_text(
        "[gateway.routes.predictor]\n"
        f'services = ["{PREDICTOR}", "inference.GRPCInferenceService"]\nendpoints = ["{backend}"]\n'
    )
    port = free_port()
    command = [sys.executable, "-m", "meshcast.gateway", "--config", str(config)]
    extra = {"MESHCAST_GATEWAY_PORT": str(port), "MESHCAST_GATEWAY_HTTP_PORT": "", **(settings or {})}
    async with _running(command, port, PREDICTOR, state, extra) as running:
        yield running


class Restartable:
    """A process at a port of its own that can be killed at any time and started again as it was.

    Args:
        command: what is run.
        port: where it listens.
        service: health name that tells that it serves.
        state: folder of its state and its log.
        settings: MESHCAST_… variables.
    """

    def __init__(self, command: list[str], port: int, service: str, state: Path, settings: Mapping[str, str]) -> None:
        self.target = f"127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = command
        self._service = service
        self._log = state / f"log-{port}.txt"
        self._environment = _environment(port, state, settings)

    async def start(self) -> None:
        """Starts it and returns once it serves."""
        self.process = _started(self._command, self._environment, self._log)
        await _serving(self.process, self.target, self._service, self._log)

    def kill(self) -> None:
        """Ends it with SIGKILL, as a machine that is lost would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def end(self) -> None:
        """Ends it in peace."""
        if self.process is not None:
            await asyncio.to_thread(_end, self.process)


def restartable_predictor(state: Path, settings: Mapping[str, str]) -> Restartable:
    """A predictor, not started yet; its state is in `state`."""
    command = [sys.executable, "-m", "meshcast.services", "predictor"]
    return Restartable(command, free_port(), PREDICTOR, state, settings)


def restartable_gateway(backends: Sequence[str], state: Path, settings: Mapping[str, str] | None = None) -> Restartable:
    """A gateway in front of several predictors, not started yet; `settings` are MESHCAST_… variables."""
    config = state / "gateway.toml"
    endpoints = ", ".join(f'"{backend}"' for backend in backends)
    config.write_text(
        "[gateway.http]\nport = 0\n[gateway.routes.predictor]\n"
        f'services = ["{PREDICTOR}", "inference.GRPCInferenceService"]\nendpoints = [{endpoints}]\n'
    )
    port = free_port()
    command = [sys.executable, "-m", "meshcast.gateway", "--config", str(config)]
    return Restartable(command, port, PREDICTOR, state, {"MESHCAST_GATEWAY_PORT": str(port), **(settings or {})})


@contextlib.asynccontextmanager
async def _running(
    command: list[str], port: int, service: str, state: Path, settings: Mapping[str, str]
) -> AsyncIterator[Running]:
    log = state / f"log-{port}.txt"
    process = _started(command, _environment(port, state, settings), log)
    try:
        target = f"127.0.0.1:{port}"
        await _serving(process, target, service, log)
        yield Running(process, target)
    finally:
        await asyncio.to_thread(_end, process)


def _environment(port: int, state: Path, settings: Mapping[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        "MESHCAST_RPC_PORT": str(port),
        "MESHCAST_RPC_METRICS": "false",
        "MESHCAST_RUNTIME_STATE_DIR": str(state),
        **settings,
    }


def _started(command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _serving(process: subprocess.Popen[bytes], target: str, service: str, log: Path) -> None:
    async with asyncio.timeout(START_S):
        while True:
            if process.poll() is not None:
                said = await asyncio.to_thread(log.read_text)
                raise RuntimeError(f"the process ended with {process.returncode}:\n{said[-2000:]}")
            with contextlib.suppress(MeshError):
                if await probe(target, service, timeout_s=1.0) is ServingStatus.SERVING:
                    return
            await asyncio.sleep(0.02)
