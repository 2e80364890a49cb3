"""`meshcast status`: services, replicas and models as the gateway sees them, with the processes where it runs here."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf import json_format
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.gateway.v1 import gateway_pb2_grpc as pb_grpc
from meshcast.cli.mesh_history import brief, load_of
from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.settings import Connection, connect, state_folder
from meshcast.cli.state import MeshState
from meshcast.gateway.load import MESH_FAILURES
from meshcast.rpc import ChannelSettings, channel, mesh_errors

__all__ = ["print_status", "status"]

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
        print_status(health, connection.target, running)
    if not health.serving:
        raise Problem(f"{connection.target}: no service of the mesh can be asked", exit_code=ExitCode.REFUSED)


async def _read(connection: Connection, timeout_s: float) -> pb.MeshHealth:
    async with channel(connection.target, settings=ChannelSettings(plain=True), tls=connection.tls) as open_channel:
        stub = pb_grpc.GatewayServiceStub(open_channel)
        with mesh_errors():
            return (await stub.ReadMeshHealth(pb.ReadMeshHealthRequest(), timeout=timeout_s)).health


def print_status(health: pb.MeshHealth, target: str, running: MeshState | None) -> None:
    """Prints what the gateway tells, and the processes of a mesh that runs here; None for none."""
    console = Console()
    console.print(f"Mesh at {target} · meshcast {health.meshcast_version}", highlight=False, soft_wrap=True)
    rows: list[dict[str, str]] = []
    for service in health.services:
        calls = sum(service.calls_by_code.values())
        failed = sum(number for code, number in service.calls_by_code.items() if code in MESH_FAILURES)
        row = {
            "service": service.name,
            "state": _word(service.state),
            "replica, models": "none",
            "calls": f"{calls:,}" + (f"\n[red]{failed:,} failed[/]" if failed else ""),
            "calls/s": f"{service.calls_per_s:,.1f}"
            + (f"\n[red]{service.error_share:.1%} fail[/]" if service.error_share else ""),
            "p50 ms": f"{service.latency_ms_p50:,.2f}" if service.HasField("latency_ms_p50") else "-",
            "p99 ms": f"{service.latency_ms_p99:,.2f}" if service.HasField("latency_ms_p99") else "-",
        }
        if not service.replicas:
            rows.append(row)
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
                where += f"\n[red]{escape(brief(replica.problem))}[/red]"
            rows.append({**(row if index == 0 else dict.fromkeys(row, "")), "replica, models": where})
    _print_table(console, rows, numbers=("calls", "calls/s", "p50 ms", "p99 ms"), spare=("calls", "p50 ms", "calls/s"))
    if running is None:
        return
    console.print(f"\nProcesses of `meshcast up` (pid {running.supervisor_pid})", highlight=False, soft_wrap=True)
    processes = [
        {
            "process": part.name,
            "state": part.state,
            "address": part.address,
            "metrics": str(part.metrics_port or "-"),
            "pid": str(part.pid),
            "restarts": str(part.restarts),
        }
        for part in running.parts
    ]
    _print_table(console, processes, numbers=("metrics", "pid", "restarts"), spare=("metrics", "restarts"))
    for part in running.parts:
        if part.http_address:
            console.print(f"HTTP: {part.http_address}", highlight=False, soft_wrap=True)


def _word(state: pb.ServingState.ValueType) -> str:
    word = pb.ServingState.Name(state).removeprefix("SERVING_STATE_").replace("_", " ")
    return f"[{_COLORS.get(word, 'default')}]{word.lower()}[/]"


def _print_table(
    console: Console, rows: Sequence[Mapping[str, str]], *, numbers: Sequence[str], spare: Sequence[str]
) -> None:
    """Prints rows whose names, addresses and pids stand whole, and says which columns a narrow terminal left out.

    Args:
        console: where to.
        rows: cells by heading, in markup.
        numbers: headings of columns that are aligned to the right.
        spare: headings of columns that may be left out, the first one first.
    """
    for count in range(len(spare) + 1):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        kept = [heading for heading in (rows[0] if rows else ()) if heading not in spare[:count]]
        for heading in kept:
            table.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*(row[heading] for heading in kept))
        wanted = Measurement.get(console, console.options.update(width=1_000), table).minimum
        if wanted <= console.width:
            break
    console.print(table)
    if count:
        console.print(f"left out for want of width: {', '.join(spare[:count])}", style="dim", highlight=False)
