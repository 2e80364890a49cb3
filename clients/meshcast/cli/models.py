"""`meshcast models`: the repository's models over the Open Inference Protocol."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.oip.v2 import grpc_service_pb2_grpc as pb_grpc
from meshcast.api.type.v1.model_pb2 import ModelDescription
from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.reflected import Reflected
from meshcast.cli.settings import Connection, connect
from meshcast.rpc import ChannelSettings, MeshError, channel, mesh_errors

__all__ = ["list_models", "load_model", "show_card", "show_metadata", "unload_model"]

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


def load_model(
    name: str, version: int, *, target: str | None, config: Path | None, state_dir: Path | None, timeout_s: float
) -> None:
    """Loads a model and says how long that took.

    Args:
        name: of the model.
        version: the only one that is to serve, as an older one to go back to; 0: what the repository's policy says,
            which is the latest as a rule.
        target: as in `connect`.
        config: as in `connect`.
        state_dir: as in `connect`.
        timeout_s: longest wait.
    """
    began = time.monotonic()
    request = pb.RepositoryModelLoadRequest(model_name=name)
    if version:
        policy = {"version_policy": {"specific": {"versions": [version]}}}
        request.parameters["config"].string_param = json.dumps(policy)
    _ask(lambda stub: stub.RepositoryModelLoad(request, timeout=timeout_s), target, config, state_dir)
    seconds = time.monotonic() - began
    index = pb.RepositoryIndexRequest(ready=True)
    answer = _ask(lambda stub: stub.RepositoryIndex(index, timeout=timeout_s), target, config, state_dir)
    versions = sorted(int(model.version) for model in answer.models if model.name == name and model.version)
    serving = f"serving version {', '.join(map(str, versions))}" if versions else "no version serves yet"
    console = Console()
    console.print(f"[green]loaded[/green] {name} in {seconds:.1f} s: {serving}", highlight=False)
    if version:
        text = f"until the next load or start; `meshcast models load {name}` goes back to the repository's choice"
        console.print(text, style="dim", highlight=False)


def show_card(
    name: str, *, target: str | None, config: Path | None, state_dir: Path | None, timeout_s: float, as_json: bool
) -> None:
    """Prints the model card of the version that serves.

    Raises:
        Problem: no service behind the target describes a model of this name, or the model has no card.
        MeshError: the call failed.
    """
    connection = connect(target, config=config, state_dir=state_dir)
    model = asyncio.run(_described(connection, name, timeout_s))
    if as_json:
        _print_json(model)
        return
    if not model.card:
        raise Problem(f"version {model.version} of {name} has no model card", exit_code=ExitCode.REFUSED)
    Console().print(Markdown(model.card))


async def _described(connection: Connection, name: str, timeout_s: float) -> ModelDescription:
    """What the service of a model says of the version that serves.

    The service is found by reflection, so it may be anybody's: one whose method DescribeModel answers with a
    ModelDescription of this name. Services named after the model are asked first.
    """
    async with channel(connection.target, settings=ChannelSettings(plain=True), tls=connection.tls) as opened:
        reflected = Reflected(opened, timeout_s=timeout_s)
        services = await reflected.services()
        failed: MeshError | None = None
        told: list[str] = []
        for service in sorted(services, key=lambda one: name.lower() not in one.lower()):
            if service.startswith("grpc."):
                continue
            method = (await reflected.service(service)).methods_by_name.get("DescribeModel")
            if method is None:
                continue
            field = method.output_type.fields_by_name.get("model")
            if field is None or field.message_type is None:
                continue
            if field.message_type.full_name != ModelDescription.DESCRIPTOR.full_name:
                continue
            request = GetMessageClass(method.input_type)()
            try:
                answer: Any  # its class was made from the server's own descriptor
                async for answer in reflected.call(method, [request], timeout_s=timeout_s):
                    # The same message of another pool: it travels as bytes.
                    found = ModelDescription.FromString(answer.model.SerializeToString())
                    if found.name == name:
                        return found
                    told.append(found.name)
            except MeshError as error:
                if name.lower() in service.lower():
                    raise
                failed = error
    if failed is not None and not told:
        raise failed
    raise Problem(
        f"no service on {connection.target} describes a model {name!r}",
        exit_code=ExitCode.REFUSED,
        details=[f"described are: {', '.join(sorted(told))}"] if told else [],
        way_out="meshcast models list",
    )


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
