"""Process of a model service: settings to a serving model, and back down in order."""

import argparse
import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from meshcast.rpc import (
    Health,
    LoadMeter,
    LogSettings,
    MeshError,
    RpcSettings,
    Server,
    ServingStatus,
    TlsSettings,
    Tracing,
    TracingSettings,
    load,
    run,
    setup_logs,
    setup_tracing,
)
from meshcast.rpc.errors import CorruptData, Precondition
from meshcast.runtime.counts import BatcherMetrics
from meshcast.runtime.drift_feed import drift_feed
from meshcast.runtime.model import Model, Models
from meshcast.runtime.oip import OIP_SERVICE, add_oip
from meshcast.runtime.prediction_log import NoPredictionLog, PredictionLog, SqlitePredictionLog
from meshcast.runtime.repository import Repository
from meshcast.runtime.service import ModelSpec, ServiceContext, ServiceSpec, find_service, find_services
from meshcast.runtime.settings import RuntimeSettings, TapSettings
from meshcast.runtime.tap import TapColumns, TapRecord

__all__ = ["main", "serving"]

log = structlog.get_logger()

SWITCH_S = 0.0005

_TABLES: dict[str, type[Any]] = {
    "runtime": RuntimeSettings,
    "tap": TapSettings,
    "rpc": RpcSettings,
    "tls": TlsSettings,
    "logs": LogSettings,
    "tracing": TracingSettings,
}


@contextlib.asynccontextmanager
async def serving(
    spec: ServiceSpec,
    settings: RuntimeSettings,
    rpc: RpcSettings,
    *,
    tls: TlsSettings | None = None,
    logs: LogSettings | None = None,
    tracing: Tracing | None = None,
    table: Any = None,
    tap: TapSettings | None = None,
) -> AsyncIterator[tuple[Server, ServiceContext]]:
    """A model service that serves until the block is left, then drains: health, calls, queue, prediction log, sessions.

    A model whose artefacts are damaged does not keep the process from starting: its health names say NOT_SERVING, calls
    say why, and another version can be loaded.

    Args:
        spec: the service.
        settings: of the table `[runtime]`.
        rpc: of the table `[rpc]`, with the port.
        tls: of the server.
        logs: which calls get a log line.
        tracing: spans of the server.
        table: of the service's own table; None takes its defaults.
        tap: of the table `[tap]`: what the drift service gets to see.

    Raises:
        NotFound: no repository has the model.
        PortInUse: the address cannot be listened on.
    """
    tracing = tracing or Tracing()
    if table is None and spec.settings is not None:
        table = spec.settings()
    health, registry = Health(), CollectorRegistry()

    def on_health(name: str, serves: bool | None) -> None:
        if serves is None:
            health.remove(name)
            return
        status = ServingStatus.SERVING if serves else ServingStatus.NOT_SERVING
        health.set(name, status)
        if name == f"model/{spec.name}":
            health.set(spec.service_name, status)

    async with contextlib.AsyncExitStack() as stack:
        predictions: PredictionLog = NoPredictionLog()
        if settings.log_predictions and spec.logs_predictions:
            path = settings.state / "predictions" / f"{spec.name}.sqlite"
            predictions = await stack.enter_async_context(SqlitePredictionLog(path, registry=registry))
        columns = TapColumns.of(spec.signature, spec.observed)
        feed = drift_feed(tap or TapSettings(), subject=spec.name, columns=columns, tls=tls, registry=registry)
        taps = [] if feed is None else [(await stack.enter_async_context(feed)).tap]
        models = Models(
            [
                await stack.enter_async_context(_model(one, settings, on_health, taps if one.name == spec.name else ()))
                for one in spec.models
            ]
        )
        model = models.get(spec.name)
        registry.register(BatcherMetrics([(one.batcher.counts, partial(_queued, one)) for one in models]))
        for described in spec.models:
            await _load(models.get(described.name), described)
        server = Server(
            rpc,
            services=[
                lambda grpc_server: spec.register(servicer, grpc_server),
                lambda grpc_server: add_oip(
                    grpc_server, models, default_deadline_s=rpc.default_deadline_s, draining=server.draining
                ),
            ],
            service_names=[spec.service_name, OIP_SERVICE],
            health=health,
            registry=registry,
            tls=tls,
            access=(logs or LogSettings()).access,
            observers=tracing.observers,
            meter=LoadMeter(lambda: [one.batcher.work for one in models]),
        )
        context = ServiceContext(
            model=model,
            models=models,
            log=predictions,
            settings=settings,
            default_deadline_s=rpc.default_deadline_s,
            health=health,
            registry=registry,
            draining=server.draining,
            table=table,
        )
        servicer = spec.servicer(context)
        if hasattr(servicer, "__aenter__"):
            servicer = await stack.enter_async_context(servicer)
        # A thread that waits for the interpreter's lock gets it after this time; 5 ms, the default, is the time that
        # a loading version could hold an answer up.
        sys.setswitchinterval(SWITCH_S)
        async with server:
            # What start-up made lives as long as the process: the collector need not walk it again.
            gc.collect()
            gc.freeze()
            health.set(OIP_SERVICE, ServingStatus.SERVING)
            health.set("", ServingStatus.SERVING)
            following = [
                asyncio.create_task(one.follow(), name=f"follow:{one.name}")
                for one in models
                if settings.control_mode == "poll"
            ]
            try:
                yield server, context
            finally:
                for task in following:
                    task.cancel()
                await server.drain()
                gc.unfreeze()  # what is frozen at exit looks like a leak to libraries that count their objects


def _model(
    spec: ModelSpec,
    settings: RuntimeSettings,
    on_health: Callable[[str, bool | None], None],
    taps: Sequence[Callable[[TapRecord], None]],
) -> Model:
    return Model(
        name=spec.name,
        signature=spec.signature,
        repository=Repository(settings.repository, shipped=spec.shipped),
        settings=settings,
        build_command=spec.build_command if spec.is_optional else "",
        on_health=on_health,
        taps=taps,
    )


def _queued(model: Model) -> int:
    return model.batcher.queued_rows


async def _load(model: Model, spec: ModelSpec) -> None:
    """Loads a model for the start: damaged artefacts and an optional model that is missing are told, not raised."""
    try:
        await model.load(falls_back=True)
    except CorruptData as error:
        log.error("the model does not serve", model=spec.name, why=error.message)
    except Precondition:
        if not model.is_missing:
            raise
        log.info("an optional model is missing", model=spec.name, command=spec.build_command)


async def serve(spec: ServiceSpec, loaded: Mapping[str, Any]) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        spec: the service.
        loaded: settings by table.

    Raises:
        NotFound: no repository has the model.
        PortInUse: the address cannot be listened on.
    """
    with setup_tracing(loaded["tracing"], spec.name) as tracing:
        setup_logs(loaded["logs"], service=spec.name, processors=tracing.log_processors)
        async with serving(
            spec,
            loaded["runtime"],
            loaded["rpc"],
            tls=loaded["tls"],
            logs=loaded["logs"],
            tracing=tracing,
            table=loaded.get(spec.name),
            tap=loaded["tap"],
        ) as (server, context):
            log.info(
                "ready",
                port=server.port,
                metrics_port=server.metrics_port,
                address=server.address,
                model_version=context.model.live,
                backend=context.model.candidates[0].backend if context.model.candidates else None,
            )
            await server.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one model service: `python -m meshcast.services NAME`. Returns the process's exit code.

    Args:
        arguments: of the command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m meshcast.services", description=f"Serves a model. Installed: {', '.join(find_services())}."
    )
    parser.add_argument("service", help="name of the service")
    parser.add_argument("--config", type=Path, help="settings file (meshcast.toml)")
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="gRPC port; 0 takes a free one")
    parser.add_argument("--metrics-port", type=int, help="port of /metrics; 0 takes a free one")
    parser.add_argument("--model-repository", type=Path, help="folder with models/ and meta/")
    parser.add_argument("--check", action="store_true", help="read the settings, say what is wrong, serve nothing")
    options = parser.parse_args(arguments)
    try:
        spec = find_service(options.service)
        own = {} if spec.settings is None else {spec.name: spec.settings}
        loaded = load({**_TABLES, **own}, path=options.config, environ=os.environ)
        rpc: RpcSettings = loaded["rpc"]
        port = (rpc.port or spec.port) if options.port is None else options.port
        metrics_port = rpc.metrics_port if options.metrics_port is None else options.metrics_port
        loaded["rpc"] = replace(rpc, host=options.host or rpc.host, port=port, metrics_port=metrics_port)
        if options.model_repository is not None:
            loaded["runtime"] = replace(loaded["runtime"], model_repository=options.model_repository)
        if options.check:
            return 0
        run(serve(spec, loaded))
    except MeshError as error:
        print(f"{options.service}: {error.message}", file=sys.stderr)
        return 2
    return 0
