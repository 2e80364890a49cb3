"""The second door: `inference.GRPCInferenceService` over the models and batchers that the typed services use."""

import asyncio
from collections.abc import AsyncIterator
from importlib.metadata import version as release
from typing import Any

import grpc

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.oip.v2 import grpc_service_pb2_grpc as pb_grpc
from meshcast.rpc.deadline import Deadline
from meshcast.rpc.errors import NotFound
from meshcast.runtime.model import Models
from meshcast.runtime.oip.config import metadata
from meshcast.runtime.oip.control import Control
from meshcast.runtime.oip.inference import infer, version_of
from meshcast.runtime.oip.stream import stream_infer

__all__ = ["EXTENSIONS", "OIP_SERVICE", "OipServicer", "add_oip"]

OIP_SERVICE = "inference.GRPCInferenceService"
"""Full name of the service, and its health name."""

EXTENSIONS = ("model_configuration", "model_repository", "model_repository(unload_dependents)", "schedule_policy")
"""Extensions by their published names. What is listed must be there: clients call it ("statistics" is not)."""

Context = grpc.aio.ServicerContext[Any, Any]


class OipServicer(pb_grpc.GRPCInferenceServiceServicer):
    """Answers the Open Inference Protocol, with Triton's additions.

    Args:
        models: of the process.
        default_deadline_s: budget of a request whose caller sets none.
    """

    def __init__(self, models: Models, *, default_deadline_s: float, draining: asyncio.Event) -> None:
        self._models = models
        self._draining = draining
        self._default_deadline_s = default_deadline_s
        self._control = Control(models, default_deadline_s=default_deadline_s)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """True: the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """True when every model takes inference, but for an optional one that nobody has built."""
        return pb.ServerReadyResponse(ready=all(model.is_ready or model.is_missing for model in self._models))

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """True when the model, or the version named, takes inference; False, as with Triton, where none is such."""
        version = version_of(request.version)
        try:
            model = self._models.get(request.name)
        except NotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=model.is_ready and (not version or version in model.versions))

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """Name, release and extensions."""
        return pb.ServerMetadataResponse(name="meshcast", version=release("meshcast"), extensions=EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """Tensors and facts of a model."""
        return metadata(self._models.get(request.name), version_of(request.version))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """Configuration of a model."""
        config = await self._control.config(self._models.get(request.name), version_of(request.version))
        return pb.ModelConfigResponse(config=config)

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Runs a model once."""
        return await infer(self._models, request, Deadline.of(context, default_s=self._default_deadline_s))

    async def ModelStreamInfer(  # type: ignore[override]  # writes, does not yield
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> None:
        """Runs a model once a request; answers in order."""

        async def one(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
            return await infer(self._models, request, Deadline.of(context, default_s=self._default_deadline_s))

        await stream_infer(request_iterator, context, one, draining=self._draining)

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        """Models and versions, with their states."""
        return await self._control.index(request)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Loads a model; returns when it serves."""
        await self._control.load(request)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Unloads a model; returns when its memory has been given back."""
        await self._control.unload(request)
        return pb.RepositoryModelUnloadResponse()


def add_oip(
    server: grpc.aio.Server, models: Models, *, default_deadline_s: float, draining: asyncio.Event | None = None
) -> None:
    """Registers the Open Inference Protocol on a server.

    Args:
        server: before it starts.
        models: of the process.
        default_deadline_s: budget of a request whose caller sets none.
        draining: set when streams must take no further request; None: never.
    """
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(
        OipServicer(models, default_deadline_s=default_deadline_s, draining=draining or asyncio.Event()), server
    )
