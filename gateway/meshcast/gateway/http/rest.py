"""REST of the Open Inference Protocol, over the handlers that answer it by gRPC.

Source: KServe's Open Inference Protocol over HTTP/REST, with Triton's extensions for repositories, configurations and
binary tensors.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from google.protobuf import json_format

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import InvalidInput, MeshError, Unimplemented, from_status
from meshcast.rpc.status import message_too_large

from .answers import Send, context_of, send_body, send_failure, send_json, while_there
from .calls import Calls
from .context import DoorContext
from .errors import CallFailed
from .intake import Intake
from .methods import OFFLOAD_BYTES
from .settings import HttpSettings
from .tensors import Wanted, read_object, read_request, set_parameters, write_response

_SERVICE = "/inference.GRPCInferenceService/"
_HEADER = "inference-header-content-length"
_NOT_READY = 400  # the protocol asks for 4xx
_TOO_LARGE = 413


class RestDoor:
    """Answers `/v2` and what is below it.

    Args:
        calls: runs the handlers.
        settings: of the door.
    """

    def __init__(self, calls: Calls, settings: HttpSettings) -> None:
        self._calls = calls
        self._settings = settings

    async def answer(self, scope: Any, headers: Mapping[str, str], intake: Intake, send: Send) -> None:
        """Answers one request; failures are `{"error": …}` with the status of `HTTP_STATUS`.

        Raises:
            Left: the caller has left.
        """
        path = scope.get("raw_path") or scope["path"].encode()
        segments = [unquote(segment) for segment in path.decode("ascii", "replace").strip("/").split("/")][1:]
        try:
            wanted = "POST" if _is_posted(segments) else "GET"
            if scope["method"] != wanted and not (wanted == "GET" and scope["method"] == "HEAD"):
                told = CallFailed.of(InvalidInput(f"ask by {wanted}"))
                await send_json(send, 405, told.to_rest(), [(b"allow", wanted.encode())])
                return
            context = context_of(scope)
            body = await intake.body()
            await while_there(intake, self._route(segments, headers, body, context, send))
        except CallFailed as failure:
            await send_failure(send, failure, failure.to_rest(), _status_of(failure))
        except MeshError as error:
            told = CallFailed.of(error)
            await send_failure(send, told, told.to_rest(), 404 if isinstance(error, _NoRoute) else _status_of(told))

    async def _route(
        self, segments: Sequence[str], headers: Mapping[str, str], body: bytes, context: DoorContext, send: Send
    ) -> None:
        match segments:
            case []:
                await self._server(context, send)
            case ["health", "live"]:
                await send_json(send, 200, {"live": True})
            case ["health", "ready"]:
                await self._server_ready(context, send)
            case ["repository", "index"]:
                await self._index(body, context, send)
            case ["repository", "models", model, ("load" | "unload") as verb]:
                await self._control(verb, model, body, context, send)
            case ["models", model, "versions", version, *rest]:
                await self._model(model, version, rest, headers, body, context, send)
            case ["models", model, *rest]:
                await self._model(model, "", rest, headers, body, context, send)
            case _:
                raise _no_route(segments)

    async def _model(
        self,
        model: str,
        version: str,
        rest: Sequence[str],
        headers: Mapping[str, str],
        body: bytes,
        context: DoorContext,
        send: Send,
    ) -> None:
        match rest:
            case []:
                await self._metadata(model, version, context, send)
            case ["ready"]:
                ready = await self._ask(
                    "ModelReady", pb.ModelReadyRequest(name=model, version=version), pb.ModelReadyResponse, context
                )
                content = {"name": model, "ready": ready.ready}
                await send_json(send, 200 if ready.ready else _NOT_READY, content)
            case ["config"]:
                request = pb.ModelConfigRequest(name=model, version=version)
                config = await self._ask("ModelConfig", request, pb.ModelConfigResponse, context)
                told = json_format.MessageToDict(config.config, preserving_proto_field_name=True)
                await send_json(send, 200, told)
            case ["infer"]:
                await self._infer(model, version, headers, body, context, send)
            case _:
                raise _no_route(["models", model, *rest])

    async def _server(self, context: DoorContext, send: Send) -> None:
        server = await self._ask("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse, context)
        extensions = [*server.extensions, "binary_tensor_data"]  # this door's own
        await send_json(send, 200, {"name": server.name, "version": server.version, "extensions": extensions})

    async def _server_ready(self, context: DoorContext, send: Send) -> None:
        try:
            ready = await self._ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse, context)
        except CallFailed as failure:
            await send_failure(send, failure, {"ready": False} | failure.to_rest(), _NOT_READY)
            return
        await send_json(send, 200 if ready.ready else _NOT_READY, {"ready": ready.ready})

    async def _metadata(self, model: str, version: str, context: DoorContext, send: Send) -> None:
        request = pb.ModelMetadataRequest(name=model, version=version)
        found = await self._ask("ModelMetadata", request, pb.ModelMetadataResponse, context)

        def told(tensors: Any) -> list[dict[str, Any]]:
            return [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in tensors]

        content = {
            "name": found.name,
            "versions": list(found.versions),
            "platform": found.platform,
            "inputs": told(found.inputs),
            "outputs": told(found.outputs),
        }
        if found.properties:
            content["properties"] = dict(sorted(found.properties.items()))
        await send_json(send, 200, content)

    async def _index(self, body: bytes, context: DoorContext, send: Send) -> None:
        document = read_object(body)
        request = pb.RepositoryIndexRequest(ready=document.get("ready") is True)
        index = await self._ask("RepositoryIndex", request, pb.RepositoryIndexResponse, context)
        told = [
            {"name": one.name, "version": one.version, "state": one.state, "reason": one.reason} for one in index.models
        ]
        await send_json(send, 200, told)

    async def _control(self, verb: str, model: str, body: bytes, context: DoorContext, send: Send) -> None:
        document = read_object(body)
        if verb == "load":
            load = pb.RepositoryModelLoadRequest(model_name=model)
            set_parameters(load.parameters, document)
            await self._ask("RepositoryModelLoad", load, pb.RepositoryModelLoadResponse, context)
        else:
            unload = pb.RepositoryModelUnloadRequest(model_name=model)
            set_parameters(unload.parameters, document)
            await self._ask("RepositoryModelUnload", unload, pb.RepositoryModelUnloadResponse, context)
        await send_json(send, 200, {})

    async def _infer(
        self,
        model: str,
        version: str,
        headers: Mapping[str, str],
        body: bytes,
        context: DoorContext,
        send: Send,
    ) -> None:
        given = headers.get(_HEADER, "")
        if given and not (given.isascii() and given.isdigit() and len(given) < 12):
            raise InvalidInput(f"{_HEADER} is no number of bytes: {given[:32]!r}", field="headers")
        header_bytes = int(given) if given else None
        text_bytes = len(body) if header_bytes is None else header_bytes
        if text_bytes > self._settings.json_bytes_max:
            raise message_too_large(text_bytes, self._settings.json_bytes_max, "gateway.http.json_bytes_max")

        def read() -> tuple[bytes, Wanted]:
            request, wanted = read_request(body, header_bytes, model=model, version=version)
            return request.SerializeToString(), wanted

        request, wanted = await (asyncio.to_thread(read) if len(body) > OFFLOAD_BYTES else _now(read))
        answer = await self._calls.unary(f"{_SERVICE}ModelInfer", request, context)

        def write() -> tuple[bytes, int | None]:
            return write_response(pb.ModelInferResponse.FromString(answer), wanted)

        told, size = await (asyncio.to_thread(write) if len(answer) > OFFLOAD_BYTES else _now(write))
        if size is None:
            await send_body(send, 200, told)
            return
        kinds = [(b"content-type", b"application/octet-stream"), (_HEADER.encode(), str(size).encode())]
        await send_body(send, 200, told, kinds)

    async def _ask(self, name: str, request: Any, kind: Any, context: DoorContext) -> Any:
        return kind.FromString(await self._calls.unary(f"{_SERVICE}{name}", request.SerializeToString(), context))


async def _now(work: Any) -> Any:
    return work()


def _status_of(failure: CallFailed) -> int | None:
    """HTTP's own status where it says more than the one of the table, as Connect has that; None elsewhere."""
    is_too_large = from_status(failure.status).reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE
    return _TOO_LARGE if is_too_large else None


def _is_posted(segments: Sequence[str]) -> bool:
    match segments:
        case ["models", _, "infer"] | ["models", _, "versions", _, "infer"]:
            return True
        case ["repository", "index"] | ["repository", "models", _, "load" | "unload"]:
            return True
    return False


class _NoRoute(Unimplemented):
    """The path names nothing here."""


def _no_route(segments: Sequence[str]) -> _NoRoute:
    path = "/".join(("/v2", *segments))[:200]
    return _NoRoute(
        f"there is no route {json.dumps(path, ensure_ascii=False)} here; GET / lists what there is",
        reason=ErrorReason.ERROR_REASON_METHOD_UNKNOWN,
        method=path,
    )
