"""`meshcast models`: the repository's models over the Open Inference Protocol."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.oip.v2 import grpc_service_pb2_grpc as pb_grpc
from meshcast.cli.settings import connect
from meshcast.rpc import ChannelSettings, channel, mesh_errors

__all__ = ["list_models", "load_model", "show_metadata", "unload_model"]

Answer = TypeVar("Answer", bound=Message)
_STATE_COLORS = {"READY": "green", "LOADING": "yellow", "UNLOADING": "yellow", "UNAVAILABLE": "red"}


def list_models(
    *, target: str | None, config: Path | None, state_dir: Path | None, timeout_s: float, as_json: bool
) -> None:
    """Prints name, version and state of every model in the repository."""
    answer = _ask(
        lambda stub: stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=timeout_s), target, config, state_dir
    )
    if as_json:
        _print_json(answer)
        return
    table = Table("model", "version", "state", "reason")
    for model in sorted(answer.models, key=lambda model: (model.name, int(model.version or 0))):
        color = _STATE_COLORS.get(model.state, "default")
        table.add_row(model.name, model.version or "-", f"[{color}]{model.state.lower()}[/]", model.reason)
    Console().print(table)


def show_metadata(
    name: str,
    version: str,
    *,
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Prints inputs and outputs of one model."""
    request = pb.ModelMetadataRequest(name=name, version=version)
    answer = _ask(lambda stub: stub.ModelMetadata(request, timeout=timeout_s), target, config, state_dir)
    if as_json:
        _print_json(answer)
        return
    console = Console()
    console.print(f"[bold]{answer.name}[/bold] · versions {', '.join(answer.versions)} · {answer.platform}")
    table = Table("", "tensor", "datatype", "shape")
    for kind, tensors in (("input", answer.inputs), ("output", answer.outputs)):
        for tensor in tensors:
            table.add_row(kind, tensor.name, tensor.datatype, " x ".join(map(str, tensor.shape)))
    console.print(table)


def load_model(name: str, *, target: str | None, config: Path | None, state_dir: Path | None, timeout_s: float) -> None:
    """Loads a model, or brings it to the repository's latest version, and says how long that took."""
    began = time.monotonic()
    request = pb.RepositoryModelLoadRequest(model_name=name)
    _ask(lambda stub: stub.RepositoryModelLoad(request, timeout=timeout_s), target, config, state_dir)
    seconds = time.monotonic() - began
    index = pb.RepositoryIndexRequest(ready=True)
    answer = _ask(lambda stub: stub.RepositoryIndex(index, timeout=timeout_s), target, config, state_dir)
    versions = sorted(int(model.version) for model in answer.models if model.name == name and model.version)
    serving = f"serving version {', '.join(map(str, versions))}" if versions else "no version serves yet"
    Console().print(f"[green]loaded[/green] {name} in {seconds:.1f} s: {serving}", highlight=False)


def unload_model(
    name: str, *, target: str | None, config: Path | None, state_dir: Path | None, timeout_s: float
) -> None:
    """Unloads a model."""
    request = pb.RepositoryModelUnloadRequest(model_name=name)
    _ask(lambda stub: stub.RepositoryModelUnload(request, timeout=timeout_s), target, config, state_dir)
    Console().print(f"[green]unloaded[/green] {name}")


def _ask(
    question: Callable[["pb_grpc.GRPCInferenceServiceStub"], Awaitable[Answer]],
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
) -> Answer:
    connection = connect(target, config=config, state_dir=state_dir)

    async def ask() -> Answer:
        async with channel(connection.target, settings=ChannelSettings(plain=True), tls=connection.tls) as opened:
            with mesh_errors():
                return await question(pb_grpc.GRPCInferenceServiceStub(opened))

    return asyncio.run(ask())


def _print_json(message: Message) -> None:
    print(json.dumps(json_format.MessageToDict(message, preserving_proto_field_name=True), indent=2))
