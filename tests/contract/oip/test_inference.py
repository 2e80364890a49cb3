"""ModelInfer and ModelStreamInfer: what goes in, what comes back, and what is refused with which words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import (
    Deadline,
    DeadlineExceeded,
    InvalidInput,
    MeshError,
    NotFound,
    NotReady,
    Precondition,
    Unimplemented,
    mesh_errors,
    prediction_id,
)


def same(response: pb.ModelInferResponse, arrays: Any, version: int, oip: Any) -> None:
    """The answer is that of the version."""
    expected = oip.outputs_of(arrays, version)
    given = oip.arrays_of(response)
    assert list(given) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(given[name], array, rtol=0, atol=1e-4)
    assert response.model_version == str(version)


async def refusal(door: Any, request: pb.ModelInferRequest) -> MeshError:
    """The error that a unary call ends with."""
    with pytest.raises(MeshError) as caught, mesh_errors():
        await door.stub.ModelInfer(request, timeout=10)
    return caught.value


async def test_an_answer_echoes_the_id_names_its_version_and_carries_its_receipt(door: Any, oip: Any) -> None:
    arrays = oip.inputs_of(3)
    response = await door.infer(arrays, id="question 1")
    same(response, arrays, 2, oip)
    assert (response.id, response.model_name) == ("question 1", "sums")
    parameters = response.parameters
    assert parameters["meshcast_prediction_id"].string_param == prediction_id("question 1")
    assert parameters["meshcast_backend"].string_param == "onnxruntime/cpu/f32"
    assert parameters["meshcast_batch_rows"].int64_param == 3
    assert parameters["meshcast_batch_doors"].int64_param == 1
    assert parameters["meshcast_batch_close"].string_param == "BATCH_CLOSE_IDLE"
    assert parameters["meshcast_queue_us"].int64_param >= 0
    assert parameters["meshcast_compute_us"].int64_param > 0
    assert not parameters["meshcast_deadline_default"].bool_param


async def test_typed_contents_give_what_raw_contents_give(door: Any, oip: Any) -> None:
    arrays = oip.inputs_of(2)
    request = pb.ModelInferRequest(model_name="sums")
    for name, field in (("history", "fp32_contents"), ("scale", "fp32_contents"), ("tag", "int64_contents")):
        tensor = request.inputs.add(name=name, datatype="INT64" if name == "tag" else "FP32", shape=arrays[name].shape)
        getattr(tensor.contents, field).extend(arrays[name].ravel().tolist())
    typed = await door.stub.ModelInfer(request, timeout=10)
    raw = await door.infer(arrays)
    assert list(typed.raw_output_contents) == list(raw.raw_output_contents)


async def test_only_the_outputs_that_are_wanted_come_in_the_order_wanted(door: Any, oip: Any) -> None:
    request = oip.request_of(oip.inputs_of(2))
    request.outputs.add(name="pair")
    request.outputs.add(name="score")
    response = await door.stub.ModelInfer(request, timeout=10)
    assert [output.name for output in response.outputs] == ["pair", "score"]
    assert list(oip.arrays_of(response)["pair"].shape) == [2, 2]
    del request.outputs[1]
    response = await door.stub.ModelInfer(request, timeout=10)
    assert [output.name for output in response.outputs] == ["pair"]
    assert len(response.raw_output_contents) == 1


async def test_a_version_that_is_named_answers_and_an_empty_one_leaves_it_to_the_policy(
    open_door: Any, oip: Any
) -> None:
    door = await open_door(load=False)
    await door.stub.RepositoryModelLoad(
        pb.RepositoryModelLoadRequest(
            model_name="sums",
            parameters={"config": pb.ModelRepositoryParameter(string_param='{"version_policy": {"all": {}}}')},
        ),
        timeout=20,
    )
    arrays = oip.inputs_of(2)
    same(await door.infer(arrays, model_version="1"), arrays, 1, oip)
    same(await door.infer(arrays, model_version="2"), arrays, 2, oip)
    same(await door.infer(arrays), arrays, 2, oip)


async def test_more_rows_than_a_run_holds_come_back_whole_and_in_order(open_door: Any, oip: Any) -> None:
    door = await open_door(rows_max=8)
    arrays = oip.inputs_of(50)
    same(await door.infer(arrays), arrays, 2, oip)


async def test_rows_of_both_doors_share_a_run(open_door: Any, oip: Any) -> None:
    door = await open_door(rows_max=2, wait_ms_max=5_000.0)
    arrays = oip.inputs_of(1)
    typed, foreign = await asyncio.gather(
        door.model.batcher.submit(arrays, rows=1, deadline=Deadline.after(10), door="typed"), door.infer(arrays)
    )
    assert foreign.parameters["meshcast_batch_rows"].int64_param == typed.facts.batch_rows == 2
    assert foreign.parameters["meshcast_batch_doors"].int64_param == typed.facts.batch_doors == 2
    given = oip.arrays_of(foreign)
    assert all(np.array_equal(given[name], typed.outputs[name]) for name in given)


async def test_a_lower_priority_value_goes_first(open_door: Any, oip: Any) -> None:
    # A run takes two rows; a single row waits for another one, so the two rows that come second go first only by right.
    door = await open_door(rows_max=2, wait_ms_max=2_000.0)
    door.runs.clear()
    late, first = oip.request_of(oip.inputs_of(1)), oip.request_of(oip.inputs_of(2))
    late.parameters["priority"].uint64_param = 3
    first.parameters["priority"].int64_param = 1
    slow = asyncio.create_task(door.infer(oip.inputs_of(1), parameters=late.parameters))
    await oip.until(lambda: door.model.batcher.queued_rows == 1)
    await door.stub.ModelInfer(first, timeout=10)
    assert not slow.done()
    await slow
    assert [run.rows for run in door.runs] == [2, 1]


async def test_the_timeout_parameter_is_a_deadline_in_microseconds(open_door: Any, oip: Any) -> None:
    door = await open_door(rows_max=8, wait_ms_max=5_000.0)
    request = oip.request_of(oip.inputs_of(1))
    request.parameters["timeout"].int64_param = 1
    assert isinstance(await refusal(door, request), DeadlineExceeded)
    request.parameters["timeout"].uint64_param = 60_000_000
    answer, *_ = await asyncio.gather(door.stub.ModelInfer(request), *(door.infer(oip.inputs_of(1)) for _ in range(7)))
    assert answer.parameters["meshcast_deadline_ms"].int64_param == 60_000
    assert not answer.parameters["meshcast_deadline_default"].bool_param
    for name in ("timeout", "priority"):
        for value in (pb.InferParameter(int64_param=-1), pb.InferParameter(string_param="3"), pb.InferParameter()):
            request = oip.request_of(oip.inputs_of(1), parameters={name: value})
            error = await refusal(door, request)
            assert isinstance(error, InvalidInput)
            assert error.violations[0].field == f"parameters[{name}]"


async def test_a_call_without_a_deadline_gets_the_default_and_is_told_so(door: Any, oip: Any) -> None:
    answer = await door.stub.ModelInfer(oip.request_of(oip.inputs_of(1)))
    assert answer.parameters["meshcast_deadline_ms"].int64_param == 10_000
    assert answer.parameters["meshcast_deadline_default"].bool_param


async def test_names_versions_and_states_are_told_apart(open_door: Any, oip: Any) -> None:
    door = await open_door(load=False)
    request = oip.request_of(oip.inputs_of(1))
    loading = await refusal(door, request)
    assert isinstance(loading, NotReady)
    assert loading.reason == ErrorReason.ERROR_REASON_MODEL_LOADING
    assert loading.retry_after_s is not None
    await door.model.load()
    request.model_version = "7"
    version = await refusal(door, request)
    assert isinstance(version, NotFound)
    assert version.facts == {"model": "sums", "version": "7"}
    for text in ("latest", "-1", "0", "1.0", "9" * 30, " 1", "²"):
        request.model_version = text
        assert isinstance(await refusal(door, request), InvalidInput), text
    request.model_version = ""
    request.model_name = "nobody"
    assert (await refusal(door, request)).reason == ErrorReason.ERROR_REASON_MODEL_UNKNOWN
    request.model_name = "sums"
    await door.model.unload()
    unloaded = await refusal(door, request)
    assert isinstance(unloaded, Precondition)
    assert unloaded.reason == ErrorReason.ERROR_REASON_MODEL_STATE


Change = Callable[[pb.ModelInferRequest], object]

WRONG: dict[str, tuple[Change, str]] = {
    "a tensor that the model does not take": (lambda r: setattr(r.inputs[0], "name", "past"), "past"),
    "a tensor too few": (lambda r: (r.inputs.pop(), r.raw_input_contents.pop()), "tag"),
    "no tensors": (lambda r: r.CopyFrom(pb.ModelInferRequest(model_name="sums")), "history"),
    "a tensor twice": (lambda r: setattr(r.inputs[1], "name", "history"), "history"),
    "another datatype": (lambda r: setattr(r.inputs[0], "datatype", "FP64"), "history"),
    "a datatype of nobody's": (lambda r: setattr(r.inputs[0], "datatype", "FP33"), "history"),
    "another width": (lambda r: r.inputs[0].shape.__setitem__(2, 3), "history"),
    "a dimension too many": (lambda r: r.inputs[1].shape.append(1), "scale"),
    "no dimensions": (lambda r: r.inputs[1].ClearField("shape"), "scale"),
    "a negative row count": (lambda r: r.inputs[1].shape.__setitem__(0, -2), "scale"),
    "a row count that overflows": (lambda r: r.inputs[0].shape.__setitem__(0, 1 << 62), "history"),
    "more rows than bytes": (lambda r: r.inputs[0].shape.__setitem__(0, 3), "history"),
    "fewer rows than bytes": (lambda r: r.inputs[0].shape.__setitem__(0, 1), "history"),
    "rows that differ between tensors": (
        lambda r: (r.inputs[1].shape.__setitem__(0, 1), r.raw_input_contents.__setitem__(1, b"\0" * 4)),
        "scale",
    ),
    "no rows": (
        lambda r: [
            (r.inputs[at].shape.__setitem__(0, 0), r.raw_input_contents.__setitem__(at, b"")) for at in range(3)
        ],
        "history",
    ),
    "truncated contents": (lambda r: r.raw_input_contents.__setitem__(0, r.raw_input_contents[0][:-1]), "history"),
    "an empty content": (lambda r: r.raw_input_contents.__setitem__(2, b""), "tag"),
    "contents beside raw ones": (lambda r: r.inputs[0].contents.fp32_contents.append(1.0), "history"),
    "an output that the model does not give": (lambda r: r.outputs.add(name="prediction"), "prediction"),
    "an output twice": (lambda r: (r.outputs.add(name="pair"), r.outputs.add(name="pair")), "pair"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_tensor_that_does_not_fit_is_named(door: Any, oip: Any, wrong: str) -> None:
    change, tensor = WRONG[wrong]
    request = oip.request_of(oip.inputs_of(2))
    change(request)
    error = await refusal(door, request)
    assert isinstance(error, InvalidInput)
    assert error.reason == ErrorReason.ERROR_REASON_TENSOR_MISMATCH
    assert error.facts == {"model": "sums", "tensor": tensor}
    same(await door.infer(oip.inputs_of(1)), oip.inputs_of(1), 2, oip)


async def test_raw_contents_are_for_every_input_or_for_none(door: Any, oip: Any) -> None:
    request = oip.request_of(oip.inputs_of(2))
    del request.raw_input_contents[2]
    error = await refusal(door, request)
    assert isinstance(error, InvalidInput)
    assert error.violations[0].field == "raw_input_contents"


async def test_what_is_not_here_is_refused_and_not_passed_over(door: Any, oip: Any) -> None:
    shared = oip.request_of(oip.inputs_of(1))
    shared.inputs[0].parameters["shared_memory_region"].string_param = "region"
    labels = oip.request_of(oip.inputs_of(1))
    labels.outputs.add(name="score").parameters["classification"].int64_param = 3
    for request in (shared, labels):
        error = await refusal(door, request)
        assert isinstance(error, Unimplemented)
        assert error.reason == ErrorReason.ERROR_REASON_FEATURE_MISSING


async def test_a_stream_answers_in_order_and_goes_on_after_a_bad_request(door: Any, oip: Any) -> None:
    async def requests() -> AsyncIterator[pb.ModelInferRequest]:
        for number in range(60):
            request = oip.request_of(oip.inputs_of(1 + number % 5, seed=number), id=str(number))
            if number % 7 == 3:
                request.inputs[0].datatype = "INT8"
            yield request

    number = 0
    async for answer in door.stub.ModelStreamInfer(requests(), timeout=20):
        response = answer.infer_response
        assert response.id == str(number)
        assert response.parameters["triton_final_response"].bool_param
        if number % 7 == 3:
            assert "history" in answer.error_message
            assert response.parameters["meshcast_code"].string_param == "INVALID_ARGUMENT"
            assert response.parameters["meshcast_reason"].string_param == "ERROR_REASON_TENSOR_MISMATCH"
            assert response.parameters["meshcast_tensor"].string_param == "history"
            assert not response.outputs
        else:
            assert not answer.error_message
            same(response, oip.inputs_of(1 + number % 5, seed=number), 2, oip)
        number += 1
    assert number == 60


async def test_the_header_makes_the_first_bad_request_end_the_stream_with_its_status(door: Any, oip: Any) -> None:
    def requests() -> list[pb.ModelInferRequest]:
        found = [oip.request_of(oip.inputs_of(1, seed=number), id=str(number)) for number in range(6)]
        found[4].model_name = "nobody"
        return found

    answers = []
    with pytest.raises(NotFound) as caught, mesh_errors():
        async for answer in door.stub.ModelStreamInfer(
            iter(requests()), metadata=(("triton_grpc_error", "true"),), timeout=20
        ):
            answers.append(answer.infer_response.id)
    assert answers == ["0", "1", "2", "3"]
    assert caught.value.reason == ErrorReason.ERROR_REASON_MODEL_UNKNOWN


async def test_requests_of_one_stream_share_runs(open_door: Any, oip: Any) -> None:
    door = await open_door(rows_max=8, wait_ms_max=5_000.0)
    requests = [oip.request_of(oip.inputs_of(1, seed=number)) for number in range(8)]
    answers = [answer async for answer in door.stub.ModelStreamInfer(iter(requests), timeout=20)]
    assert [answer.infer_response.parameters["meshcast_batch_rows"].int64_param for answer in answers] == [8] * 8


async def test_a_stream_that_its_caller_leaves_leaves_nothing_behind(open_door: Any, oip: Any) -> None:
    door = await open_door(rows_max=64, wait_ms_max=30_000.0)
    call = door.stub.ModelStreamInfer(timeout=20)
    for _ in range(5):
        await call.write(oip.request_of(oip.inputs_of(1)))
    await oip.until(lambda: door.model.batcher.queued_rows == 5)
    call.cancel()
    await oip.until(lambda: door.model.batcher.queued_rows == 0)
    with pytest.raises((asyncio.CancelledError, grpc.RpcError)):
        await call.read()
