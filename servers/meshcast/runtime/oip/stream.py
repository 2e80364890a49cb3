"""ModelStreamInfer: several requests of one stream under way, answered in order, each with its own outcome."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.rpc.call import current_call
from meshcast.rpc.errors import Internal, MeshError
from meshcast.runtime.ordered import answer_in_order

__all__ = ["REQUESTS_AT_ONCE", "ends_on_error", "stream_infer"]

log = structlog.get_logger()

REQUESTS_AT_ONCE = 16
"""Requests of one stream under way: enough for small ones to share runs, few enough that large ones stay bounded."""

Context = grpc.aio.ServicerContext[Any, Any]
Infer = Callable[[pb.ModelInferRequest], Awaitable[pb.ModelInferResponse]]


async def stream_infer(
    requests: AsyncIterator[pb.ModelInferRequest], context: Context, infer: Infer, *, draining: asyncio.Event
) -> None:
    """Answers a stream, in the order of its requests.

    A request that fails is answered as such and the stream goes on; where the caller has asked for statuses, what went
    before is answered and the first failure ends the stream.

    Args:
        requests: what the caller sends.
        context: of the call.
        infer: answers one request.
        draining: once set, no further request is taken.

    Raises:
        MeshError: the first failure, where the caller asked for statuses; NotReady when the server drains.
    """
    is_strict = ends_on_error(context)

    async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse | Exception:
        try:
            response = await infer(request)
        except Exception as error:  # a model that fails on one request must not fail those behind it
            return error if is_strict else _failed(request, error)
        response.parameters["triton_final_response"].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=response)

    async def write(outcome: pb.ModelStreamInferResponse | Exception) -> None:
        if isinstance(outcome, Exception):
            raise outcome
        await context.write(outcome)

    await answer_in_order(requests, answer, write, window=REQUESTS_AT_ONCE, draining=draining)


def ends_on_error(context: Context) -> bool:
    """True when the caller wants a failed request to end the stream with its status, by Triton's header."""
    metadata = context.invocation_metadata() or ()
    return any(key == "triton_grpc_error" and value == "true" for key, value in metadata)


def _failed(request: pb.ModelInferRequest, error: Exception) -> pb.ModelStreamInferResponse:
    """The answer to a request that failed; the message is all that Triton's clients read, the rest says why."""
    if isinstance(error, MeshError) and not isinstance(error, Internal):
        refusal: MeshError = error
    else:
        call = current_call()
        request_id = "" if call is None else call.request_id
        log.error("bug in a stream's request", request_id=request_id, model=request.model_name[:128], exc_info=error)
        refusal = Internal("internal error", request_id=request_id)
    failed = pb.ModelStreamInferResponse(error_message=refusal.message or refusal.code.name)
    response = failed.infer_response
    response.id, response.model_name = request.id, request.model_name
    response.parameters["triton_final_response"].bool_param = True
    response.parameters["meshcast_code"].string_param = refusal.code.name
    response.parameters["meshcast_reason"].string_param = refusal.reason_name
    for key, value in refusal.facts.items():
        response.parameters[f"meshcast_{key}"].string_param = value
    if refusal.retry_after_s is not None:
        response.parameters["meshcast_retry_after_ms"].int64_param = round(refusal.retry_after_s * 1e3)
    return failed
