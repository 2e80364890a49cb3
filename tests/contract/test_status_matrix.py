"""Every error class over every call kind: the client sees the class, reason, facts and details that were raised."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import (
    AlreadyExists,
    Cancelled,
    Conflict,
    CorruptData,
    DeadlineExceeded,
    Internal,
    InvalidInput,
    MeshError,
    NotFound,
    NotReady,
    Overloaded,
    Precondition,
    Server,
    Unimplemented,
    channel,
    mesh_errors,
)

KINDS = ("Unary", "ClientStream", "ServerStream", "BidiStream")
ERRORS: dict[str, MeshError] = {
    "InvalidInput": InvalidInput(
        "two fields are wrong", violations=[("history[3].hour_of_day", "0 to 23, is 24"), ("planned", "is missing")]
    ),
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
}

Reach = Callable[..., Awaitable[str]]


@pytest.fixture(params=["server"])
async def reach(request: pytest.FixtureRequest, serve: Callable[..., Awaitable[Server]]) -> Reach:
    """Target under which a service is reached: at its server; the gateway is a second path to the same service."""

    async def direct(registrar: Callable[[grpc.aio.Server], None]) -> str:
        return (await serve(registrar)).address

    paths: dict[str, Reach] = {"server": direct}
    return paths[request.param]


def test_the_matrix_has_every_error_class_that_a_handler_may_raise() -> None:
    assert {*MeshError.__subclasses__()} - {Internal} <= {
        ancestor for error in ERRORS.values() for ancestor in type(error).__mro__
    }


@pytest.mark.parametrize("writes", [False, True], ids=["generator", "coroutine"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ERRORS)
async def test_the_client_sees_the_error_that_the_handler_raised(
    reach: Reach, kinds_service: Any, ask: Any, name: str, kind: str, writes: bool
) -> None:
    raised = ERRORS[name]

    async def act(text: str, context: object) -> str:
        raise raised

    async with channel(await reach(kinds_service(act, writes=writes))) as to_service:
        with pytest.raises(type(raised)) as caught, mesh_errors():
            await ask(to_service, kind)
    seen = caught.value
    assert type(seen) is type(raised)
    assert seen.message == raised.message
    assert seen.reason == raised.reason
    assert seen.facts == raised.facts
    assert seen.violations == raised.violations
    assert seen.retry_after_s == raised.retry_after_s


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bug_says_nothing_of_the_inside_but_a_request_id(
    reach: Reach, kinds_service: Any, ask: Any, kind: str
) -> None:
    async def act(text: str, context: object) -> str:
        raise ValueError("secret db password")

    async with channel(await reach(kinds_service(act))) as to_service:
        with pytest.raises(Internal) as caught, mesh_errors():
            await ask(to_service, kind, metadata=(("x-request-id", "mine"),))
    assert caught.value.message == "internal error"
    assert caught.value.facts == {"request_id": "mine"}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_comes_through_with_no_error(reach: Reach, kinds_service: Any, ask: Any, kind: str) -> None:
    async def act(text: str, context: object) -> str:
        return text.upper()

    async with channel(await reach(kinds_service(act))) as to_service:
        with mesh_errors():
            answers = await ask(to_service, kind, ["a", "b"])
    expected = {"Unary": ["A"], "ClientStream": ["A B"], "ServerStream": ["A", "A"], "BidiStream": ["A", "B"]}
    assert answers == expected[kind]
