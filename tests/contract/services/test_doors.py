"""Both doors of a served model: equal answers, torch's answers, receipts, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message

from meshcast.api.oip.v2 import grpc_service_pb2 as oip_pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import InvalidInput, NotFound, Overloaded, from_item, prediction_id
from meshcast.runtime.evidence import PROOF_ROWS

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 2**20


def rows_of(call: Any) -> list[int]:
    """The batches of the parity gate that a request of this rpc can hold."""
    return [rows for rows in PROOF_ROWS if rows <= call.rows_max]


async def answer_of(served: Any, call: Any, request: Message) -> Any:
    """The one answer to a request of either rpc."""
    if call is served.case.example.single:
        return await served.peer.ask(call.method, request)
    (answer,) = await served.peer.stream(request)
    return answer


# --- equal answers ---


@pytest.mark.parametrize("rows", PROOF_ROWS)
async def test_tensors_get_what_torch_gives(served: Any, artefacts: Any, rows: int) -> None:
    tensors = served.case.tensors(rows, seed=rows)
    given = await served.peer.outputs(tensors)
    assert list(given) == list(served.case.signature.output_names)
    assert served.case.difference(given, artefacts.torch.run(tensors)) <= served.case.signature.tolerance


async def test_typed_answers_are_those_of_the_tensors_that_the_questions_become(served: Any) -> None:
    case = served.case
    for call in case.calls:
        for rows in rows_of(call):
            request = call.request(rows, 100 + rows)
            tensors = call.tensors(request)
            assert case.signature.check(tensors) == rows
            given = call.outputs(await answer_of(served, call, request))
            expected = await served.peer.outputs(tensors)
            assert case.difference(given, expected) <= case.signature.tolerance, (call.method, rows)


async def test_a_row_asked_for_alone_has_the_answer_that_it_has_in_a_crowd(served: Any) -> None:
    tensors = served.case.tensors(7, seed=3)
    crowd = await served.peer.outputs(tensors)
    for row in range(7):
        own = {name: array[row : row + 1] for name, array in tensors.items()}
        expected = {name: array[row : row + 1] for name, array in crowd.items()}
        assert served.case.difference(await served.peer.outputs(own), expected) <= served.case.signature.tolerance


async def test_tensor_streams_answer_in_order(served: Any) -> None:
    peer, batches = served.peer, [served.case.tensors(rows, seed=rows) for rows in PROOF_ROWS]
    requests = [peer.tensor_request(tensors, id=str(at)) for at, tensors in enumerate(batches)]
    answers = [answer async for answer in peer.oip.ModelStreamInfer(iter(requests), timeout=20)]
    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2", "3"]
    for tensors, answer in zip(batches, answers, strict=True):
        assert not answer.error_message
        expected = await peer.outputs(tensors)
        given = peer.arrays_of(answer.infer_response)
        assert served.case.difference(given, expected) <= served.case.signature.tolerance


async def test_chunks_are_answered_in_their_order_and_a_bad_one_in_its_place(served: Any, suite: Any) -> None:
    call = served.case.example.stream
    if call is None:
        pytest.skip("it has no stream")
    requests = [suite.changed(call.request(2, at), sequence=at) for at in range(6)]
    requests[3] = suite.changed(call.bad(), sequence=3)
    answers = await served.peer.stream(*requests)
    assert [answer.sequence for answer in answers] == list(range(6))
    assert [answer.sequence for answer in answers if answer.status.code] == [3]
    refusal = from_item(answers[3].status)
    assert isinstance(refusal, InvalidInput)
    assert refusal.violations[0].field == call.bad_field


# --- receipts ---


def complete(receipt: receipt_pb2.Receipt, served: Any, rows: int) -> None:
    """The receipt states everything that the design promises of an answer that a model gave."""
    assert len(receipt.prediction_id) == 32
    assert (receipt.model, receipt.model_version) == (served.case.spec.name, served.context.model.live)
    assert receipt.backend == served.case.backend
    assert receipt.queue_us >= 0
    assert receipt.compute_us > 0
    # Rows of different lengths run apart.
    assert receipt.batch_rows >= (1 if served.case.signature.is_ragged else rows)
    assert receipt.batch_doors in (1, 2)
    assert receipt.batch_close in receipt_pb2.BatchClose.values()
    assert receipt.batch_close != receipt_pb2.BATCH_CLOSE_UNSPECIFIED
    # Experiments and the gateway have had no part in it.
    assert not receipt.arm and not receipt.HasField("propensity") and not receipt.HasField("gateway")


async def test_every_answer_carries_its_receipt_and_its_deadline(served: Any) -> None:
    for call in served.case.calls:
        answer = await answer_of(served, call, call.request(1, 0))
        complete(answer.receipt, served, 1)
        assert not answer.receipt.deadline_default
        assert 19_000 <= answer.receipt.deadline_ms <= 20_200  # gRPC rounds the caller's up, by at most 1 %


async def test_a_call_without_a_deadline_gets_the_default_and_is_told_so(served: Any) -> None:
    default_ms = round(served.context.default_deadline_s * 1e3)
    single = await served.peer.single(timeout_s=None)
    assert (single.receipt.deadline_default, single.receipt.deadline_ms) == (True, default_ms)
    if (call := served.case.example.stream) is not None:
        (chunk,) = await served.peer.stream(call.request(2, 0), timeout_s=None)
        assert (chunk.receipt.deadline_default, chunk.receipt.deadline_ms) == (True, default_ms)
    told = (await served.peer.infer(served.peer.tensor_request(served.case.tensors(1)), timeout_s=None)).parameters
    assert told["meshcast_deadline_default"].bool_param
    assert told["meshcast_deadline_ms"].int64_param == default_ms
    described = await served.peer.ask("DescribeModel", served.peer.request_of("DescribeModel"), timeout_s=None)
    assert (described.receipt.deadline_default, described.receipt.deadline_ms) == (True, default_ms)
    assert not described.receipt.prediction_id  # no prediction


async def test_a_stream_has_a_receipt_a_chunk(served: Any) -> None:
    call = served.case.example.stream
    if call is None:
        pytest.skip("it has no stream")
    answers = await served.peer.stream(*(call.request(3, at) for at in range(4)))
    for answer in answers:
        complete(answer.receipt, served, 3)
    assert len({answer.receipt.prediction_id for answer in answers}) == 4


async def test_the_tensor_door_tells_the_same_in_its_parameters(served: Any) -> None:
    answer = await served.peer.infer(served.peer.tensor_request(served.case.tensors(2), id="one"))
    told = answer.parameters
    receipt = receipt_pb2.Receipt(
        prediction_id=told["meshcast_prediction_id"].string_param,
        model=answer.model_name,
        model_version=int(answer.model_version),
        backend=told["meshcast_backend"].string_param,
        queue_us=told["meshcast_queue_us"].int64_param,
        compute_us=told["meshcast_compute_us"].int64_param,
        batch_rows=told["meshcast_batch_rows"].int64_param,
        batch_doors=told["meshcast_batch_doors"].int64_param,
        batch_close=told["meshcast_batch_close"].string_param,
    )
    complete(receipt, served, 2)
    assert not told["meshcast_deadline_default"].bool_param
    assert 19_000 <= told["meshcast_deadline_ms"].int64_param <= 20_200


async def test_a_retry_has_the_id_of_the_first_try_and_other_questions_have_others(served: Any, suite: Any) -> None:
    for call in served.case.calls:
        request = suite.changed(call.request(1, 0), request_id="a question")
        ids = [(await answer_of(served, call, request)).receipt.prediction_id for _ in range(2)]
        assert ids == [prediction_id("a question")] * 2
        unnamed = {(await answer_of(served, call, call.request(1, 0))).receipt.prediction_id for _ in range(2)}
        assert len(unnamed) == 2
    tensors = served.case.tensors(1)
    answer = await served.peer.infer(served.peer.tensor_request(tensors, id="a question"))
    assert answer.parameters["meshcast_prediction_id"].string_param == prediction_id("a question")


# --- refusals ---


async def test_a_typed_question_that_breaks_a_rule_is_refused_by_the_name_of_its_field(served: Any, suite: Any) -> None:
    single = served.case.example.single
    for request, field in (
        (single.bad(), single.bad_field),
        (suite.changed(single.request(1, 0), request_id="x" * 129), "request_id"),
        (type(single.request(1, 0))(), None),  # nothing at all
    ):
        with pytest.raises(InvalidInput) as caught:
            await served.peer.single(request)
        assert caught.value.violations
        assert field is None or caught.value.violations[0].field == field
    assert (await served.peer.single()).receipt.model_version


async def test_a_wrong_tensor_is_refused_by_its_name(served: Any) -> None:
    for tensor, request in served.peer.wrong_tensors():
        with pytest.raises(InvalidInput) as caught:
            await served.peer.infer(request)
        assert caught.value.reason == ErrorReason.ERROR_REASON_TENSOR_MISMATCH
        assert caught.value.facts["tensor"] == tensor
        assert caught.value.violations[0].field == tensor
        assert served.case.spec.name == caught.value.facts["model"]


async def test_rows_that_do_not_match_and_no_rows_at_all_are_refused(served: Any) -> None:
    tensors = served.case.tensors(2)
    names = served.case.signature.input_names
    uneven = [{**tensors, name: tensors[name][:1]} for name in names if len(names) > 1]
    for wrong in (*uneven, {name: array[:0] for name, array in tensors.items()}):
        with pytest.raises(InvalidInput) as caught:
            await served.peer.infer(served.peer.tensor_request(wrong))
        assert caught.value.facts["tensor"] in served.case.signature.input_names


async def test_a_version_that_is_not_loaded_is_not_found_at_either_door(served: Any) -> None:
    live = served.context.model.live
    assert (await served.peer.single(model_version=live)).receipt.model_version == live
    tensors = served.case.tensors(1)
    with pytest.raises(NotFound) as typed:
        await served.peer.single(model_version=live + 7)
    with pytest.raises(NotFound) as foreign:
        await served.peer.infer(served.peer.tensor_request(tensors, model_version=str(live + 7)))
    with pytest.raises(NotFound) as described:
        await served.peer.describe(model_version=live + 7)
    refusals = [typed, foreign, described]
    if (call := served.case.example.stream) is not None:
        (answer,) = await served.peer.stream(changed_version(call.request(1, 0), live + 7))
        assert answer.status.reason == ErrorReason.ERROR_REASON_VERSION_UNKNOWN
    for caught in refusals:
        assert caught.value.reason == ErrorReason.ERROR_REASON_VERSION_UNKNOWN
        assert caught.value.facts["version"] == str(live + 7)


def changed_version(request: Any, version: int) -> Any:
    """The request, asking for a version."""
    request.model_version = version
    return request


async def test_priorities_that_are_known_and_those_that_are_not_are_answered(served: Any) -> None:
    expected = served.case.example.single.outputs(await served.peer.single())
    for priority in (0, 1, 2, 3, 99):  # an enum of proto3 is open: an unknown value is the default
        given = served.case.example.single.outputs(await served.peer.single(priority=priority))
        for name, array in given.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=served.case.signature.tolerance)


async def test_a_priority_that_is_no_number_is_refused_at_the_tensor_door(served: Any) -> None:
    request = served.peer.tensor_request(served.case.tensors(1))
    for parameter in (oip_pb.InferParameter(string_param="high"), oip_pb.InferParameter(int64_param=-1)):
        request.parameters["priority"].CopyFrom(parameter)
        with pytest.raises(InvalidInput) as caught:
            await served.peer.infer(request)
        assert caught.value.violations[0].field == "parameters[priority]"


async def test_a_message_over_the_limit_is_refused_with_the_limit(served: Any, suite: Any) -> None:
    single, settings = served.case.example.single, served.server.settings
    large = suite.changed(single.request(1, 0), request_id="x" * (settings.control_message_bytes_max + 1))
    with pytest.raises(Overloaded) as caught:
        await served.peer.single(large)
    assert caught.value.reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE
    assert caught.value.facts["limit_bytes"] == str(settings.control_message_bytes_max)
    request = served.peer.tensor_request(served.case.tensors(1), id="x" * (settings.message_bytes_max + 1))
    with pytest.raises(Overloaded) as caught:
        await served.peer.infer(request)
    assert caught.value.reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE
    if (call := served.case.example.stream) is not None:
        chunk = suite.changed(call.request(1, 0), request_id="x" * (settings.message_bytes_max + 1))
        with pytest.raises(Overloaded):
            await served.peer.stream(chunk)
    assert (await served.peer.single()).receipt.model_version
