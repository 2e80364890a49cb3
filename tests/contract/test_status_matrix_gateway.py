"""Every error class over every call kind through the gateway: nothing of the error is lost on the way.

The gateway may know a method's kind, from the backend's reflection, or not, and then relays it as a stream both ways.
"""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import wrappers_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.gateway import GatewaySettings, RouteSettings, serving
from meshcast.rpc import (
    AlreadyExists,
    Cancelled,
    Conflict,
    CorruptData,
    DeadlineExceeded,
    Descriptions,
    Internal,
    InvalidInput,
    MeshError,
    NotFound,
    NotReady,
    Overloaded,
    Precondition,
    RpcSettings,
    Unimplemented,
    channel,
    mesh_errors,
)

SERVICE = "meshcast.test.KindsService"
KINDS = ("Unary", "ClientStream", "ServerStream", "BidiStream")
ERRORS: dict[str, MeshError] = {
    "InvalidInput": InvalidInput("planned is wrong", violations=[("planned.hour_of_day", "0 to 23, is 24")]),
    "NotFound": NotFound("no model fox", reason=ErrorReason.ERROR_REASON_MODEL_UNKNOWN, model="fox"),
    "AlreadyExists": AlreadyExists("version 3 is there with other content", name="models/fox/versions/3"),
    "Conflict": Conflict("the champion changed", name="champion"),
    "NotReady": NotReady("fox is loading", retry_after_s=1.5, model="fox"),
    "Overloaded": Overloaded("the queue is full", retry_after_s=0.25, model="fox", rows_max=8192),
    "Precondition": Precondition("fox was unloaded", model="fox"),
    "DeadlineExceeded": DeadlineExceeded("no time left before the model run", where="queue"),
    "Cancelled": Cancelled("the caller went away"),
    "Unimplemented": Unimplemented("no such feature", feature="sequence batching"),
    "CorruptData": CorruptData("model.onnx is truncated", model="fox", version=3, why="sha256 differs"),
    "Internal": ValueError("secret db password"),  # type: ignore[dict-item]  # a bug: no class of ours
}


def described() -> Descriptions:
    file = FileDescriptorProto(name="kinds.proto", package="meshcast.test", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    service = file.service.add(name="KindsService")
    for name in KINDS:
        service.method.add(
            name=name,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            client_streaming=name in ("ClientStream", "BidiStream"),
            server_streaming=name in ("ServerStream", "BidiStream"),
        )
    descriptions = Descriptions()
    descriptions.add([file])
    return descriptions


@pytest.mark.parametrize("is_described", [True, False], ids=["kinds known", "kinds unknown"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_client_sees_through_the_gateway_what_it_sees_at_the_server(
    serve: Any, kinds_service: Any, ask: Any, kind: str, is_described: bool
) -> None:
    async def act(text: str, context: object) -> str:
        raise ERRORS[text]

    backend = await serve(kinds_service(act), descriptions=described() if is_described else Descriptions())
    route = RouteSettings(services=(SERVICE,), endpoints=(backend.address,))
    rpc = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0)
    async with (
        serving(GatewaySettings(routes={"kinds": route}), rpc) as gateway,
        channel(backend.address) as direct,
        channel(gateway.address) as routed,
    ):
        for name in ERRORS:
            seen = []
            for way in (direct, routed):
                with pytest.raises(MeshError) as caught, mesh_errors():
                    await ask(way, kind, [name], metadata=(("x-request-id", "mine"),))
                seen.append(caught.value)
            at_server, at_gateway = seen
            assert type(at_gateway) is type(at_server)
            assert type(at_gateway).__name__ == name
            assert at_gateway.message == at_server.message
            assert at_gateway.reason == at_server.reason
            assert at_gateway.facts == at_server.facts
            assert at_gateway.violations == at_server.violations
            assert at_gateway.retry_after_s == at_server.retry_after_s


def test_the_matrix_has_every_class_that_a_caller_may_see() -> None:
    assert {kind.__name__ for kind in MeshError.__subclasses__() if not kind.__name__.startswith("_")} <= {*ERRORS}
    assert Internal.__name__ in ERRORS
