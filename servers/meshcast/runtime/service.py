"""Service: what a model service states about itself, and what its servicer gets to work with."""

import asyncio
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import NotFound
from meshcast.rpc.health import Health
from meshcast.runtime.batcher import Batcher
from meshcast.runtime.model import Model, Models
from meshcast.runtime.prediction_log import PredictionLog
from meshcast.runtime.settings import RuntimeSettings
from meshcast.runtime.signature import Arrays, Signature

__all__ = [
    "GROUP",
    "ExampleCall",
    "ModelSpec",
    "ServiceContext",
    "ServiceExample",
    "ServiceSpec",
    "find_example",
    "find_service",
    "find_services",
]

GROUP = "meshcast.services"
"""Entry-point group by which services are found; one may live in another distribution."""


@dataclass(frozen=True, kw_only=True)
class ServiceContext:
    """What a servicer gets.

    Attributes:
        model: the service's own model.
        models: every model of the process; `models.require` gives one that a call needs.
        log: where predictions are kept; it keeps nothing unless the service's `logs_predictions` says so.
        settings: of the table `[runtime]`.
        default_deadline_s: budget of a call whose caller set none.
        health: states by name.
        registry: for metrics of the service's own.
        draining: set when endless streams must end.
        table: what the service's own settings table says, of the type `ServiceSpec.settings`; None where it has none.
    """

    model: Model
    models: Models
    log: PredictionLog
    settings: RuntimeSettings
    default_deadline_s: float
    health: Health
    registry: CollectorRegistry
    draining: asyncio.Event
    table: Any = None

    @property
    def batcher(self) -> Batcher:
        """The batcher of the service's own model."""
        return self.model.batcher


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model of a service's process.

    Attributes:
        name: in the repository, at both doors, and in the health name `model/<name>`.
        model: the torch module as `module:Class`, which can be made without arguments; named, since a serving process
            never imports it.
        signature: of the model.
        shipped: a repository inside the package, for the first run; None where nothing ships.
        is_optional: True to serve without it as long as no repository has it.
        build_command: what builds an optional model, as a shell takes it; calls that need the model are told.
        build: what `meshcast models build` calls for it, as `module:function`; None where nothing builds it.
    """

    name: str
    model: str
    signature: Signature
    shipped: Path | None = None
    is_optional: bool = False
    build_command: str = ""
    build: str | None = None


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """A model service.

    Attributes:
        name: of the service and of its model, as in `predictor`.
        model: the torch module as `module:Class`, which can be made without arguments; named, since a serving process
            never imports it.
        signature: of the model.
        register: the stub's `add_…Servicer_to_server`.
        servicer: makes the servicer; it may be an async context manager, which is then entered before it serves.
        service_name: full gRPC name.
        port: that it listens on unless told otherwise.
        shipped: a repository inside the package, for the first run; None where nothing ships.
        train: what trains the model, as `module:function`; None where nothing does.
        example: a `ServiceExample`, as `module:name`; named, since serving needs none.
        logs_predictions: True when the servicer puts its predictions into `ServiceContext.log`, which is then opened.
        also: further models of the process, each with a batcher of its own.
        observed: what the drift service sees of a row of the service's own model: names of columns by the name of the
            input or output that holds them; None: every number that is not part of a sequence (see `TapColumns.of`).
        settings: dataclass of the service's own settings table, which has its name; all fields with defaults. None
            where it has none.
    """

    name: str
    model: str
    signature: Signature
    register: Callable[[Any, Any], None]
    servicer: Callable[[ServiceContext], Any]
    service_name: str
    port: int = 0
    shipped: Path | None = None
    train: str | None = None
    example: str | None = None
    logs_predictions: bool = False
    also: tuple[ModelSpec, ...] = ()
    observed: Mapping[str, tuple[str, ...]] | None = None
    settings: type[Any] | None = None

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """Every model of the process, the service's own first."""
        own = ModelSpec(name=self.name, model=self.model, signature=self.signature, shipped=self.shipped)
        return (own, *self.also)


@dataclass(frozen=True, kw_only=True)
class ExampleCall:
    """Made-up questions to one rpc of a service, and what they and their answers are in the graph's terms.

    Attributes:
        method: name of the rpc, as in `PredictEngagement`.
        request: a request of so many rows from a seed; the same two give the same request.
        tensors: the graph's inputs that a request becomes, by name.
        outputs: the graph's outputs that an answer states, by name; those that it states as the graph gave them.
        bad: a request that breaks a rule.
        bad_field: field that its refusal names first.
        rows_max: most rows of a request.
    """

    method: str
    request: Callable[[int, int], Message]
    tensors: Callable[[Any], Arrays]
    outputs: Callable[[Any], Arrays]
    bad: Callable[[], Message]
    bad_field: str
    rows_max: int = 1


@dataclass(frozen=True, kw_only=True)
class ServiceExample:
    """How a service is asked: for people who look for a first call, and for the contract suite, which makes it.

    What all contracts have in common is not repeated here: `request_id`, `model_version`, `priority` and, in streams,
    `sequence` in a request; `receipt` in an answer, and `status` in one of a stream.

    Attributes:
        single: the unary rpc.
        stream: the stream of the same; None where there is none.
    """

    single: ExampleCall
    stream: ExampleCall | None = None


def find_services() -> dict[str, metadata.EntryPoint]:
    """Every service that is installed, by name, in order; none is imported yet."""
    return {entry.name: entry for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)}


def find_service(name: str) -> ServiceSpec:
    """The service of this name.

    Raises:
        NotFound: none is installed under it; the message names those that are.
    """
    found = find_services()
    if name not in found:
        raise NotFound(
            f"There is no service {name!r}; installed: {', '.join(found) or 'none'}.",
            reason=error_reason_pb2.ERROR_REASON_MODEL_UNKNOWN,
            model=name[:128],
        )
    service = found[name].load()
    if not isinstance(service, ServiceSpec):
        raise NotFound(f"The entry point {name!r} of {GROUP} is no ServiceSpec.", model=name)
    return service


def find_example(service: ServiceSpec) -> ServiceExample:
    """The service's example.

    Raises:
        NotFound: it has none.
    """
    module, _, name = (service.example or "").partition(":")
    example = getattr(importlib.import_module(module), name, None) if module else None
    if not isinstance(example, ServiceExample):
        raise NotFound(f"The service {service.name!r} names no example that is a ServiceExample.", model=service.name)
    return example
