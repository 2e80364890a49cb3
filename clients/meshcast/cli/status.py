"""`meshcast status`: services, replicas and models as the gateway sees them, with the processes where it runs here."""

import asyncio
import json
from pathlib import Path

from google.protobuf import json_format
from rich.console import Console
from rich.table import Table

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.gateway.v1 import gateway_pb2_grpc as pb_grpc
from meshcast.cli.mesh_history import load_of
from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.settings import Connection, connect, state_folder
from meshcast.cli.state import MeshState
from meshcast.rpc import ChannelSettings, channel, mesh_errors

__all__ = ["status"]

_COLORS = {"SERVING": "green", "NOT SERVING": "yellow", "UNREACHABLE": "red"}


def status(*, target: str | None, config: Path | None, state_dir: Path | None, timeout_s: float, as_json: bool) -> None:
    """Prints the state of the mesh.

    Raises:
        MeshError: the gateway cannot be reached.
        Problem: nothing in the mesh can be asked.
    """
    connection = connect(target, config=config, state_dir=state_dir)
    health = asyncio.run(_read(connection, timeout_s))
    if as_json:
        print(json.dumps(json_format.MessageToDict(health, preserving_proto_field_name=True), indent=2))
    else:
        running = state_folder(state_dir, config).running() if target is None else None
        _print(health, connection.target, running)
    if not health.serving:
        raise Problem(f"{connection.target}: no service of the mesh can be asked", exit_code=ExitCode.REFUSED)


async def _read(connection: Connection, timeout_s: float) -> pb.MeshHealth:
    async with channel(connection.target, settings=ChannelSettings(plain=True), tls=connection.tls) as open_channel:
        stub = pb_grpc.GatewayServiceStub(open_channel)
        with mesh_errors():
            return (await stub.ReadMeshHealth(pb.ReadMeshHealthRequest(), timeout=timeout_s)).health


def _print(health: pb.MeshHealth, target: str, running: MeshState | None) -> None:
    console = Console()
    table = Table(title=f"Mesh at {target} · meshcast {health.meshcast_version}", title_justify="left")
    for heading in ("service", "state", "replica, models", "calls", "calls/s", "p50 ms", "p99 ms"):
        is_number = heading in ("calls", "calls/s", "p50 ms", "p99 ms")
        # What has room to give is the column whose words may stand below each other.
        wraps = heading == "replica, models"
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=not wraps, overflow="fold")
    for service in health.services:
        calls = sum(service.calls_by_code.values())
        failed = calls - service.calls_by_code.get("OK", 0)
        figures = (
            f"{calls:,}" + (f"\n{failed:,} not OK" if failed else ""),
            f"{service.calls_per_s:,.1f}"
            + (f"\n[red]{service.error_share:.1%} fail[/]" if service.error_share else ""),
            f"{service.latency_ms_p50:.2f}" if service.HasField("latency_ms_p50") else "-",
            f"{service.latency_ms_p99:.2f}" if service.HasField("latency_ms_p99") else "-",
        )
        if not service.replicas:
            table.add_row(service.name, _word(service.state), "none", *figures)
        for index, replica in enumerate(service.replicas):
            models = ", ".join(
                name.removeprefix("model/")
                for name, state in sorted(replica.models.items())
                if state == pb.SERVING_STATE_SERVING and name.count("/") == 2  # model/<name>/<version>
            )
            where = f"{replica.endpoint}\n{_word(replica.state)} {models}".rstrip()
            if replica.breaker == pb.BREAKER_STATE_OPEN:
                where += "\n[red]breaker open: it failed too often lately[/red]"
            elif replica.breaker == pb.BREAKER_STATE_HALF_OPEN:
                where += "\n[yellow]breaker half open: a few calls try it[/yellow]"
            load = load_of(health, replica)
            if load is not None:
                where += f"\nload {load.utilization:.0%}"
                where += f", {load.queue_rows:,.0f} rows wait" if load.queue_rows else ""
            if replica.problem:
                where += f"\n[red]{replica.problem}[/red]"
            first = index == 0
            table.add_row(
                service.name if first else "", _word(service.state) if first else "", where,
                *(figures if first else ("", "", "", "")),
            )  # fmt: skip
    console.print(table)
    if running is None:
        return
    processes = Table(title=f"Processes of `meshcast up` (pid {running.supervisor_pid})", title_justify="left")
    for heading in ("process", "state", "address", "metrics", "pid", "restarts"):
        processes.add_column(heading, no_wrap=True)
    for part in running.parts:
        metrics = str(part.metrics_port) if part.metrics_port else "-"
        processes.add_row(part.name, part.state, part.address, metrics, str(part.pid), str(part.restarts))
    console.print(processes)
    for part in running.parts:
        if part.http_address:
            console.print(f"HTTP: {part.http_address}", highlight=False, soft_wrap=True)


def _word(state: pb.ServingState.ValueType) -> str:
    word = pb.ServingState.Name(state).removeprefix("SERVING_STATE_").replace("_", " ")
    return f"[{_COLORS.get(word, 'default')}]{word.lower()}[/]"
