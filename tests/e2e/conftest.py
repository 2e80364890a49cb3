"""Real processes as a mesh runs them, services of the shipped models and a gateway, and questions to ask them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.api.analyzer.v1 import analyzer_pb2, analyzer_pb2_grpc
from meshcast.api.drift.v1 import drift_pb2_grpc
from meshcast.api.forecaster.v1 import forecaster_pb2, forecaster_pb2_grpc
from meshcast.api.gateway.v1 import gateway_pb2_grpc
from meshcast.api.oip.v2 import grpc_service_pb2 as oip_pb
from meshcast.api.oip.v2 import grpc_service_pb2_grpc as oip_grpc
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2_grpc as pb_grpc
from meshcast.posts import PLAN_COLUMNS, Planned, PostTable, pack_posts
from meshcast.rpc import ChannelSettings, channel, mesh_errors
from meshcast.services.predictor import SERVICE

START_S = 60.0
DAY_S = 86_400
LAST_DAY = 18_261
"""2019-12-31, the last day of the made-up series, in days since 1970-01-01."""


@dataclass(frozen=True)
class Process:
    """A process of the mesh that has said "ready", or has ended before."""

    popen: subprocess.Popen[bytes]
    log: Path
    port: int

    @property
    def address(self) -> str:
        """`host:port` of its gRPC server."""
        return f"127.0.0.1:{self.port}"

    @property
    def http_address(self) -> str:
        """`http://host:port` of a gateway's HTTP door."""
        return next(str(event["http_address"]) for event in self.events() if event.get("event") == "ready")

    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return _events(self.log)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signals it, and waits for its exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(30)


def _events(log: Path) -> list[dict[str, Any]]:
    found = []
    for line in log.read_text("utf-8", errors="replace").splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:  # the last line may be half written
                continue
    return found


@contextmanager
def _running(words: Sequence[str], folder: Path, settings: Mapping[str, str]) -> Iterator[Process]:
    """Starts `python -m WORDS`, waits for its "ready", and drains it with the block."""
    environ = os.environ | {
        "MESHCAST_RPC_PORT": "0",
        "MESHCAST_GATEWAY_PORT": "0",
        "MESHCAST_RPC_METRICS": "false",
        "MESHCAST_LOGS_FORMAT": "json",
        "MESHCAST_RUNTIME_STATE_DIR": str(folder / "state"),
        **{f"MESHCAST_{name}": value for name, value in settings.items()},
    }
    log = folder / f"{words[-1]}-{time.monotonic_ns()}.log"
    with log.open("wb") as out:
        popen = subprocess.Popen([sys.executable, "-m", *words], env=environ, stdout=out, stderr=out, cwd=folder)
    try:
        until = time.monotonic() + START_S
        while True:
            ready = next((event for event in _events(log) if event.get("event") == "ready"), None)
            if ready is not None:
                break
            assert popen.poll() is None, f"ended with {popen.returncode}: {log.read_text()}"
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        yield Process(popen, log, ready["port"])
    finally:
        if popen.poll() is None:
            popen.send_signal(signal.SIGTERM)
        try:
            popen.wait(30)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


def service(name: str, folder: Path, port: int = 0, **settings: str) -> Any:
    """A model service's process with its state in `folder`; settings as RUNTIME_WAIT_MS_MAX="5"."""
    # A short measurement: which back-end serves does not matter to these tests.
    settings = {"RUNTIME_CHOOSE_S": "0.05", **settings}
    return _running(["meshcast.services", name, "--port", str(port)], folder, settings)


def predictor(folder: Path, port: int = 0, **settings: str) -> Any:
    """A predictor's process; arguments as `service`."""
    return service("predictor", folder, port, **settings)


def forecaster(folder: Path, port: int = 0, **settings: str) -> Any:
    """A forecaster's process; arguments as `service`."""
    return service("forecaster", folder, port, **settings)


def analyzer(folder: Path, port: int = 0, **settings: str) -> Any:
    """An analyzer's process; arguments as `service`."""
    return service("analyzer", folder, port, **settings)


def drift(folder: Path, port: int = 0, **settings: str) -> Any:
    """A drift service's process, which trains nothing; arguments as `service`."""
    return service("drift", folder, port, **{"DRIFT_TRAINS_AUTOENCODER": "false", **settings})


def gateway(
    folder: Path,
    *backends: str,
    forecasters: Sequence[str] = (),
    analyzers: Sequence[str] = (),
    drifts: Sequence[str] = (),
    **settings: str,
) -> Any:
    """A gateway's process in front of predictors at `backends`, of forecasters, of analyzers and of drift services."""
    endpoints = {"PREDICTOR": backends, "FORECASTER": forecasters, "ANALYZER": analyzers, "DRIFT": drifts}
    # A port that nobody has: the default one may be that of a mesh which runs beside the tests.
    routes = {f"GATEWAY_ROUTES_{name}_ENDPOINTS": ",".join(at) or "127.0.0.1:1" for name, at in endpoints.items()}
    return _running(["meshcast.gateway", "--port", "0"], folder, {**routes, **settings})


def repository(folder: Path, *versions: int) -> Path:
    """A model repository whose versions are copies of the one that ships; the highest is loaded."""
    assert SERVICE.shipped is not None
    root = folder / "repository"
    for version in versions:
        copy_version(root, version)
    return root


def copy_version(root: Path, version: int) -> None:
    """Puts a copy of the shipped version 1 into a repository."""
    assert SERVICE.shipped is not None
    models, meta = root / "models" / "predictor", root / "meta" / "predictor"
    models.mkdir(parents=True, exist_ok=True)
    shutil.copy(SERVICE.shipped / "models" / "predictor" / "config.pbtxt", models)
    shutil.copytree(SERVICE.shipped / "meta" / "predictor" / "1", meta / str(version))
    shutil.copytree(SERVICE.shipped / "models" / "predictor" / "1", models / str(version))


def made_up_posts(posts: int = 160, seed: int = 7) -> PostTable:
    """One made-up channel, a post every eight hours."""
    rng = np.random.default_rng(seed)
    hours = np.arange(posts) * 8
    return PostTable.of(
        {
            "published_unix_s": 1_400_000_000 + hours * 3_600,
            "hour_of_day": hours % 24,
            "day_of_week": hours // 24 % 7,
            "content_length": rng.integers(0, 300, posts),
            "has_media": rng.integers(0, 2, posts),
            "forwards": rng.lognormal(6, 1, posts).astype(int),
            "replies": rng.lognormal(4, 1, posts).astype(int),
            "reactions": rng.lognormal(7, 1, posts).astype(int),
        }
    )


def question(seed: int = 7, **fields: Any) -> pb.PredictEngagementRequest:
    """A question that every server answers."""
    history = made_up_posts(60, seed)
    request = pb.PredictEngagementRequest(history_columns=pack_posts(history), **fields)
    request.planned.published_time.FromSeconds(int(history.published_unix_s[-1]) + 2 * DAY_S)
    request.planned.hour_of_day, request.planned.day_of_week, request.planned.content_length = 9, 2, 120
    return request


def made_up_days(days: int = 120, seed: int = 7) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A made-up series up to the end of 2019: days since 1970-01-01, and values with a week's season and noise."""
    rng = np.random.default_rng(seed)
    day = LAST_DAY - np.arange(days)[::-1]
    week = 1 + 0.5 * np.sin(2 * np.pi * day / 7)
    return day, 1_000 * week * rng.lognormal(0, 0.1, days)


def growth_question(seed: int = 7, **fields: Any) -> forecaster_pb2.ForecastGrowthRequest:
    """A question to the forecaster that every one answers."""
    day, value = made_up_days(seed=seed)
    columns = forecaster_pb2.DayColumns(
        days=len(day), day=day.astype("<i4").tobytes(), value=value.astype("<f8").tobytes()
    )
    return forecaster_pb2.ForecastGrowthRequest(history_columns=columns, **{"nonnegative": True, **fields})


def content_question(
    text: str = "We won, and thank you all for coming!", **fields: Any
) -> analyzer_pb2.AnalyzeContentRequest:
    """A question to the analyzer that every one answers."""
    return analyzer_pb2.AnalyzeContentRequest(content=analyzer_pb2.Content(text=text, hour_of_day=18), **fields)


def planned_of(table: PostTable, rows: Any) -> Planned:
    """The table's posts at `rows` as if they were planned."""
    return Planned(**{name: getattr(table, name)[rows] for name in PLAN_COLUMNS})


@dataclass(frozen=True)
class Peer:
    """Stubs to one address; the stubs' synchronous base hides the calls of grpc.aio from the types."""

    channel: grpc.aio.Channel
    typed: Any
    growth: Any
    content: Any
    drift: Any
    mesh: Any
    oip: Any


@asynccontextmanager
async def peer(address: str, *, message_bytes_max: int = 64 * 2**20) -> AsyncIterator[Peer]:
    """A plain client of one server; its own limit is above the servers', so that theirs are seen."""
    settings = ChannelSettings(plain=True, message_bytes_max=message_bytes_max)
    async with channel(address, settings=settings) as opened:
        yield Peer(
            opened,
            typed=pb_grpc.PredictorServiceStub(opened),
            growth=forecaster_pb2_grpc.ForecasterServiceStub(opened),
            content=analyzer_pb2_grpc.AnalyzerServiceStub(opened),
            drift=drift_pb2_grpc.DriftServiceStub(opened),
            mesh=gateway_pb2_grpc.GatewayServiceStub(opened),
            oip=oip_grpc.GRPCInferenceServiceStub(opened),
        )


async def load(asked: Peer, *versions: int) -> None:
    """Loads these versions of the predictor, by a policy that comes along; without versions, by the repository's."""
    request = oip_pb.RepositoryModelLoadRequest(model_name="predictor")
    if versions:
        policy = {"version_policy": {"specific": {"versions": list(versions)}}}
        request.parameters["config"].string_param = json.dumps(policy)
    with mesh_errors():
        await asked.oip.RepositoryModelLoad(request, timeout=60)


async def still_serves(*addresses: str, version: int = 1) -> None:
    """A good question gets its answer at every address."""
    for address in addresses:
        async with peer(address) as asked:
            with mesh_errors():
                answer = await asked.typed.PredictEngagement(question(), timeout=10)
        assert answer.receipt.model_version == version
        assert 0 < answer.prediction.log_engagement < 20


async def still_forecasts(*addresses: str) -> None:
    """A good question to the forecaster gets its answer at every address."""
    for address in addresses:
        async with peer(address) as asked:
            with mesh_errors():
                answer = await asked.growth.ForecastGrowth(growth_question(), timeout=10)
        assert len(answer.forecast.median) == 30
        assert all(100 < value < 10_000 for value in answer.forecast.median)


@pytest.fixture(scope="session")
def mesh_of() -> Any:
    """What tests need to start processes and to ask them; the names of this module."""
    return sys.modules[__name__]
