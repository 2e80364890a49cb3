"""Control of the repository by the Open Inference Protocol: what is there, load it, unload it."""

import asyncio
from collections.abc import Mapping

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.oip.v2 import model_config_pb2
from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import InvalidInput, MeshError, Unimplemented
from meshcast.runtime.model import Model, Models, ModelState
from meshcast.runtime.oip.config import model_config, overriding_policy
from meshcast.runtime.repository import VersionPolicy

__all__ = ["Control"]

Parameters = Mapping[str, pb.ModelRepositoryParameter]


class Control:
    """Loads and unloads the models of a process.

    Args:
        models: of the process.
        default_deadline_s: budget of a request that sets none, for the configuration.
    """

    def __init__(self, models: Models, *, default_deadline_s: float) -> None:
        self._models = models
        self._default_deadline_s = default_deadline_s
        self._asked: dict[str, VersionPolicy] = {}  # policies that loads brought along, until the next load

    async def config(self, model: Model, version: int) -> model_config_pb2.ModelConfig:
        """The configuration that a version serves under; 0 is the live one.

        Raises:
            NotFound: the version is not loaded.
            NotReady: none is.
            Precondition: the model was unloaded.
        """
        backend = model.describe(version).backend
        policy = await asyncio.to_thread(self._policy, model)
        return model_config(model, policy, backend=backend, default_deadline_s=self._default_deadline_s)

    async def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Every version on disk or in memory, of every model of the process, with its state.

        Raises:
            Unimplemented: a repository is named.
        """
        _refuse_repository(request.repository_name)
        answer = pb.RepositoryIndexResponse()
        for name in self._models.names():
            model = self._models.get(name)
            stored, wanted = await asyncio.to_thread(self._on_disk, model)
            loaded = model.versions
            for version in sorted({*stored, *loaded}):
                state, reason = _state(model, version in loaded, version in wanted)
                if state == "READY" or not request.ready:
                    answer.models.add(name=name, version=str(version), state=state, reason=reason)
            if not stored and not loaded and not request.ready:
                answer.models.add(name=name, state=model.state.value, reason=model.reason)
        return answer

    async def load(self, request: pb.RepositoryModelLoadRequest) -> None:
        """Loads a model, or brings it in line with its repository; returns when it serves.

        Raises:
            InvalidInput: an unknown parameter, or a configuration that a load cannot follow.
            NotFound: the model, or a version that is asked for.
            CorruptData: a version cannot be loaded; what served goes on.
            Unimplemented: a repository is named, or files come along.
        """
        _refuse_repository(request.repository_name)
        model = self._models.get(request.model_name)
        for name in request.parameters:
            if name.startswith("file:"):
                raise Unimplemented(
                    "Files cannot come along with a load; install the version in the repository.",
                    reason=error_reason_pb2.ERROR_REASON_FEATURE_MISSING,
                    feature="file override",
                )
            if name != "config":
                raise _unknown_parameter(name, "config")
        policy = None
        if "config" in request.parameters:
            if request.parameters["config"].WhichOneof("parameter_choice") != "string_param":
                raise InvalidInput("The parameter config is a JSON text.", field="parameters[config]")
            text = request.parameters["config"].string_param
            stored, known = await asyncio.to_thread(self._known, model)
            policy = overriding_policy(text, model=model.name, known=known)
            missing = sorted(set(policy.specific) - set(stored))
            if missing:
                raise model.repository.version_unknown(model.name, missing[0])
        await model.load(policy)
        if policy is None:
            self._asked.pop(model.name, None)
        else:
            self._asked[model.name] = policy

    async def unload(self, request: pb.RepositoryModelUnloadRequest) -> None:
        """Unloads a model once what waits has been answered; returns when its memory has been given back.

        Raises:
            InvalidInput: an unknown parameter.
            NotFound: the model.
            Unimplemented: a repository is named.
        """
        _refuse_repository(request.repository_name)
        model = self._models.get(request.model_name)
        for name, parameter in request.parameters.items():
            if name != "unload_dependents":
                raise _unknown_parameter(name, "unload_dependents")
            if parameter.WhichOneof("parameter_choice") != "bool_param":
                raise InvalidInput("The parameter unload_dependents is a boolean.", field=f"parameters[{name}]")
        unloading = asyncio.create_task(model.unload(), name=f"unload:{model.name}")
        try:
            await asyncio.shield(unloading)
        except asyncio.CancelledError:
            # Half an unload would leave a model that is in memory and answers nobody.
            await asyncio.wait([unloading])
            raise

    def _policy(self, model: Model) -> VersionPolicy:
        return self._asked.get(model.name) or model.repository.policy(model.name)

    def _on_disk(self, model: Model) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Versions in the repository, and those of them that the policy asks for."""
        stored = model.repository.versions(model.name)
        try:
            return stored, self._policy(model).pick(stored)
        except MeshError:  # an unreadable configuration asks for nothing; the load says why
            return stored, ()

    def _known(self, model: Model) -> tuple[tuple[int, ...], list[model_config_pb2.ModelConfig]]:
        """Versions in the repository, and configurations that the model has."""
        stored = model.repository.versions(model.name)
        backend = model.candidates[0].backend if model.candidates else ""
        known = [model_config(model, VersionPolicy(), backend=backend, default_deadline_s=self._default_deadline_s)]
        try:
            known.append(model.repository.config(model.name))
        except MeshError:  # an unreadable one is no reason to refuse a better one
            pass
        return stored, known


def _state(model: Model, is_loaded: bool, is_wanted: bool) -> tuple[str, str]:
    """State of one version, in Triton's words, and why."""
    if is_loaded:
        unloads = model.state is ModelState.UNLOADING
        return ("UNLOADING", model.reason) if unloads else ("READY", "")
    if not is_wanted and model.is_ready:
        return "UNAVAILABLE", "the version policy does not ask for it"
    if model.state is ModelState.LOADING and is_wanted:
        return "LOADING", ""
    return "UNAVAILABLE", model.reason or "not loaded"


def _refuse_repository(name: str) -> None:
    if name:
        raise Unimplemented(
            "repository_name must be empty: a process has one repository a model.",
            reason=error_reason_pb2.ERROR_REASON_FEATURE_MISSING,
            feature="repository_name",
        )


def _unknown_parameter(name: str, known: str) -> InvalidInput:
    return InvalidInput(f"There is no parameter {name[:64]!r} here; known: {known}.", field=f"parameters[{name[:64]}]")
