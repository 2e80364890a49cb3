"""Inference by the Open Inference Protocol: one request to one answer, through the batcher that every door shares."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.type.v1 import error_reason_pb2, receipt_pb2
from meshcast.rpc.deadline import Deadline
from meshcast.rpc.errors import InvalidInput, Unimplemented
from meshcast.rpc.ids import prediction_id
from meshcast.runtime.batcher import HIGH, LOW, NORMAL
from meshcast.runtime.model import Model, Models
from meshcast.runtime.oip.tensors import from_contents, from_raw, mismatch, to_raw
from meshcast.runtime.queueing import RunFacts
from meshcast.runtime.signature import TensorSpec

__all__ = ["PRIORITY_DEFAULT", "PRIORITY_LEVELS", "infer", "version_of"]

PRIORITY_LEVELS = 3
"""Values of the parameter `priority`: 1 goes first. Others, and none, mean the default."""

PRIORITY_DEFAULT = 2

_PRIORITIES = {1: HIGH, 2: NORMAL, 3: LOW}
_CLOSES = {value.number: value.name for value in receipt_pb2.BatchClose.DESCRIPTOR.values}
_VERSION_DIGITS_MAX = 18  # what an int64 surely holds
_MICROSECONDS = 1e-6

# Parameters of a tensor that ask for something which is not here; ignoring them would answer another question.
_TENSOR_FEATURES = ("shared_memory_region", "classification")


async def infer(models: Models, request: pb.ModelInferRequest, deadline: Deadline) -> pb.ModelInferResponse:
    """The answer to one request, with its receipt in the parameters.

    Args:
        models: of the process.
        request: as it came.
        deadline: of the call; the parameter `timeout` may shorten it, or stand in for a default.

    Raises:
        InvalidInput: the request does not fit the model's signature or the protocol.
        NotFound: MODEL_UNKNOWN or VERSION_UNKNOWN.
        NotReady: the model loads.
        Precondition: the model was unloaded.
        Unimplemented: shared memory, classification.
        Overloaded: the queue is full.
        DeadlineExceeded: before a run took the rows.
    """
    model = models.get(request.model_name)
    version = version_of(request.model_version)
    model.require(version)
    priority = NORMAL
    if request.parameters:
        deadline, priority = _deadline_of(request, deadline), _priority_of(request)
    wanted = _outputs_of(request, model)
    arrays = _inputs_of(request, model)
    rows = model.signature.check(arrays, model=model.name)
    answer = await model.batcher.submit(
        arrays, rows=rows, deadline=deadline, priority=priority, door="oip", version=version
    )
    facts = answer.facts
    response = pb.ModelInferResponse(model_name=model.name, model_version=str(facts.version), id=request.id)
    for spec in wanted:
        array = answer.outputs[spec.name]
        response.outputs.add(name=spec.name, datatype=spec.dtype, shape=array.shape)
        response.raw_output_contents.append(to_raw(array, spec.dtype))
    _write_receipt(response, prediction_id(request.id), facts, deadline)
    return response


def version_of(text: str) -> int:
    """The version that a request names; 0 where it leaves the choice to the policy.

    Raises:
        InvalidInput: it is no whole number above 0.
    """
    if not text:
        return 0
    if text.isascii() and text.isdigit() and len(text) <= _VERSION_DIGITS_MAX and int(text) > 0:
        return int(text)
    raise InvalidInput(
        f"The version {text[:64]!r} is no whole number above 0; leave it empty for the version that serves.",
        field="model_version",
    )


def _deadline_of(request: pb.ModelInferRequest, deadline: Deadline) -> Deadline:
    timeout_us = _whole(request, "timeout")
    if not timeout_us:
        return deadline
    asked = Deadline.after(timeout_us * _MICROSECONDS)
    return asked if deadline.default or asked.at < deadline.at else deadline


def _priority_of(request: pb.ModelInferRequest) -> int:
    return _PRIORITIES.get(_whole(request, "priority"), NORMAL)


def _whole(request: pb.ModelInferRequest, name: str) -> int:
    """A parameter that is a whole number, 0 or more; 0 where it is absent."""
    if name not in request.parameters:
        return 0
    parameter = request.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value = int(getattr(parameter, kind)) if kind in ("int64_param", "uint64_param") else -1
    if value < 0:
        raise InvalidInput(f"The parameter {name} is a whole number, 0 or more.", field=f"parameters[{name}]")
    return value


def _inputs_of(request: pb.ModelInferRequest, model: Model) -> dict[str, NDArray[Any]]:
    specs = {spec.name: spec for spec in model.signature.inputs}
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raws)} entries for {len(request.inputs)} inputs: raw contents are for every "
            "input or for none.",
            field="raw_input_contents",
        )
    arrays: dict[str, NDArray[Any]] = {}
    for at, tensor in enumerate(request.inputs):
        name, shape = tensor.name, tensor.shape
        spec = specs.get(name)
        if spec is None:
            raise mismatch(model.name, name, f"is not an input; the model takes {', '.join(specs)}")
        if name in arrays:
            raise mismatch(model.name, name, "is given twice")
        if tensor.parameters:
            _refuse_features(tensor.parameters, f"inputs[{at}].parameters")
        if tensor.datatype != spec.dtype:
            raise mismatch(model.name, name, f"is {tensor.datatype[:32]!r}, the model takes {spec.dtype}")
        if tuple(shape[1:]) != spec.shape and not spec.takes(shape):
            given = str(list(shape[:8])) + ("…" if len(shape) > 8 else "")
            raise mismatch(model.name, name, f"has shape {given}, the model takes {spec.shape_text}")
        if not raws:
            arrays[name] = from_contents(spec.dtype, shape, tensor.contents, model=model.name, tensor=name)
        elif tensor.HasField("contents"):
            raise mismatch(model.name, name, "has contents beside raw_input_contents; give one of them")
        else:
            arrays[name] = from_raw(spec.dtype, shape, raws[at], model=model.name, tensor=name)
    return arrays


def _outputs_of(request: pb.ModelInferRequest, model: Model) -> tuple[TensorSpec, ...]:
    """The outputs that are wanted, in the order wanted."""
    if not request.outputs:
        return model.signature.outputs
    specs = {spec.name: spec for spec in model.signature.outputs}
    wanted: dict[str, TensorSpec] = {}
    for at, output in enumerate(request.outputs):
        spec = specs.get(output.name)
        if spec is None:
            raise mismatch(model.name, output.name, f"is not an output; the model gives {', '.join(specs)}")
        if output.name in wanted:
            raise mismatch(model.name, output.name, "is wanted twice")
        if output.parameters:
            _refuse_features(output.parameters, f"outputs[{at}].parameters")
        wanted[output.name] = spec
    return tuple(wanted.values())


def _refuse_features(parameters: Mapping[str, pb.InferParameter], field: str) -> None:
    for feature in _TENSOR_FEATURES:
        if feature in parameters:
            raise Unimplemented(
                f"{field}: {feature} is not part of this server.",
                reason=error_reason_pb2.ERROR_REASON_FEATURE_MISSING,
                feature=feature,
            )


def _write_receipt(response: pb.ModelInferResponse, prediction_id: str, facts: RunFacts, deadline: Deadline) -> None:
    """The fields of `meshcast.api.type.v1.Receipt` that the answer itself does not hold, as parameters."""
    parameters = response.parameters
    parameters["meshcast_prediction_id"].string_param = prediction_id
    parameters["meshcast_backend"].string_param = facts.backend
    parameters["meshcast_queue_us"].int64_param = facts.queue_us
    parameters["meshcast_compute_us"].int64_param = facts.compute_us
    parameters["meshcast_batch_rows"].int64_param = facts.batch_rows
    parameters["meshcast_batch_doors"].int64_param = facts.batch_doors
    parameters["meshcast_batch_close"].string_param = _CLOSES[facts.batch_close]
    parameters["meshcast_deadline_ms"].int64_param = round(deadline.budget_s * 1e3)
    parameters["meshcast_deadline_default"].bool_param = deadline.default
