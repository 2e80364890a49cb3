"""Tensors of the Open Inference Protocol between JSON, its binary extension and the messages of gRPC.

Source: KServe's Open Inference Protocol, "Inference" over HTTP/REST, and Triton's extension "binary tensor data".
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import InvalidInput

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
"""Elements by datatype, little-endian; `BYTES` has none."""

_BYTES = "BYTES"
_LENGTH = struct.Struct("<I")
_SLICE = 8_192  # elements that are written at a time, so that other threads get their turn in between
_INT64 = 1 << 63


def read_request(
    body: bytes, header_bytes: int | None, *, model: str, version: str
) -> tuple[pb.ModelInferRequest, Wanted]:
    """The request message of a body, and which outputs are wanted as binary.

    Args:
        body: JSON, and after it the binary tensors, where there are any.
        header_bytes: size of the JSON (`Inference-Header-Content-Length`); None where all of it is.
        model: name in the path.
        version: in the path; empty where it names none.

    Raises:
        InvalidInput: the body is no request of the protocol; TENSOR_MISMATCH where a tensor is not as it says.
    """
    head, rest = (body, b"") if header_bytes is None else (body[:header_bytes], body[header_bytes:])
    if header_bytes is not None and header_bytes > len(body):
        raise InvalidInput(f"the JSON shall have {header_bytes} bytes, the body has {len(body)}", field="body")
    document = read_object(head)
    with _texts():
        return _request_of(document, rest, model, version)


@contextmanager
def _texts() -> Iterator[None]:
    """Halves of a pair of surrogates are JSON and no text, which protobuf says by a Python error."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise InvalidInput(
            "the body holds a text that is no Unicode: half a pair of surrogates", field="body"
        ) from error


def _request_of(
    document: Mapping[str, Any], rest: bytes, model: str, version: str
) -> tuple[pb.ModelInferRequest, Wanted]:
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=_text(document, "id", ""))
    parameters = dict(_object(document, "parameters"))
    wanted = Wanted(all=bool(parameters.pop("binary_data_output", False)))
    _set(request.parameters, parameters, "parameters")
    for at, tensor in enumerate(_list(document, "inputs")):
        rest = _add_input(request, tensor, rest, f"inputs[{at}]", model)
    if rest:
        raise InvalidInput(f"the body has {len(rest)} bytes past the last binary tensor", field="body")
    for at, output in enumerate(_list(document, "outputs")):
        where = f"outputs[{at}]"
        asked = dict(_object(output, "parameters", where))
        name = _text(output, "name", None, where)
        if "binary_data" in asked:
            wanted.by_name[name] = bool(asked.pop("binary_data"))
        _set(request.outputs.add(name=name).parameters, asked, f"{where}.parameters")
    return request, wanted


class Wanted:
    """Which outputs a request wants as binary.

    Attributes:
        all: those that it does not name.
        by_name: those that it names.
    """

    def __init__(self, *, all: bool) -> None:
        self.all = all
        self.by_name: dict[str, bool] = {}

    def __contains__(self, name: str) -> bool:
        return self.by_name.get(name, self.all)


def write_response(response: pb.ModelInferResponse, wanted: Wanted) -> tuple[bytes, int | None]:
    """The body of an answer, and the size of its JSON where binary tensors follow it.

    Numbers that JSON does not have are the texts "NaN", "Infinity" and "-Infinity", as in protobuf's JSON.
    """
    head: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        head["id"] = response.id
    if response.parameters:
        head["parameters"] = {name: value_of(one) for name, one in sorted(response.parameters.items())}
    outputs, binary = [], []
    for at, output in enumerate(response.outputs):
        told: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        parameters = {name: value_of(one) for name, one in sorted(output.parameters.items())}
        raw = response.raw_output_contents[at] if response.raw_output_contents else _raw_of(output)
        if output.name in wanted:
            parameters["binary_data_size"] = len(raw)
            binary.append(raw)
        if parameters:
            told["parameters"] = parameters
        text = json.dumps(told, ensure_ascii=False)
        if output.name not in wanted:
            text = f'{text[:-1]}, "data": [{",".join(_elements(output.datatype, raw))}]}}'
        outputs.append(text)
    text = json.dumps(head, ensure_ascii=False)
    encoded = f'{text[:-1]}, "outputs": [{", ".join(outputs)}]}}'.encode()
    if not binary:
        return encoded, None
    return b"".join((encoded, *binary)), len(encoded)


def read_object(text: bytes) -> dict[str, Any]:
    """A JSON object; an empty text is an empty one.

    Raises:
        InvalidInput: it is none.
    """
    try:
        document = json.loads(text.decode() or "{}")
    except RecursionError as error:
        raise InvalidInput("the body is no JSON that can be read: it is nested too deeply", field="body") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput(f"the body is no JSON: {str(error)[:200]}", field="body") from error
    except ValueError as error:
        raise InvalidInput(
            "the body is no JSON that can be read: a number has too many digits", field="body"
        ) from error
    if not isinstance(document, dict):
        raise InvalidInput("the body is no JSON object", field="body")
    return document


def set_parameters(target: Any, document: Mapping[str, Any]) -> None:
    """Copies the parameters of a JSON object into a message's map.

    Raises:
        InvalidInput: one is no text, number or boolean.
    """
    with _texts():
        _set(target, _object(document, "parameters"), "parameters")


def value_of(parameter: Any) -> Any:
    """The value of a parameter message."""
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _add_input(request: pb.ModelInferRequest, tensor: Any, rest: bytes, where: str, model: str) -> bytes:
    """Adds an input; returns what is left of the binary tensors."""
    name, datatype = _text(tensor, "name", None, where), _text(tensor, "datatype", None, where)
    shape = _list(tensor, "shape", where)
    if not all(type(size) is int and -_INT64 <= size < _INT64 for size in shape):
        raise InvalidInput(f"{where}.shape is a list of whole numbers", field=f"{where}.shape")
    parameters = dict(_object(tensor, "parameters", where))
    size = parameters.pop("binary_data_size", None)
    if size is None:
        raw = _raw(tensor.get("data"), datatype, shape, model, name)
    else:
        if type(size) is not int or not 0 <= size <= len(rest):
            raise _mismatch(model, name, f"has binary_data_size {str(size)[:32]}, the body has {len(rest)} bytes left")
        raw, rest = rest[:size], rest[size:]
    message = request.inputs.add(name=name, datatype=datatype, shape=shape)
    _set(message.parameters, parameters, f"{where}.parameters")
    request.raw_input_contents.append(raw)
    return rest


def _raw(data: Any, datatype: str, shape: list[int], model: str, name: str) -> bytes:
    """Raw contents of elements in JSON, nested by rows or flat."""
    if not isinstance(data, list):
        raise _mismatch(model, name, "has no data, which is a list, and no parameter binary_data_size")
    try:
        flat: list[Any] = np.array(data, dtype=object).ravel().tolist()  # as objects, so that no number is changed
    except (ValueError, RecursionError) as error:
        raise _mismatch(model, name, "has rows of different lengths") from error
    if any(type(element) is list for element in flat):
        raise _mismatch(model, name, "has rows of different lengths")
    if min(shape, default=0) >= 0 and len(flat) != math.prod(shape):
        raise _mismatch(model, name, f"has {len(flat)} elements, its shape {shape} claims {math.prod(shape)}")
    if datatype == _BYTES:
        if not all(type(element) is str for element in flat):
            raise _mismatch(model, name, "is BYTES and has an element that is no text")
        texts = [element.encode() for element in flat]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    dtype = DTYPES.get(datatype)
    if dtype is None:
        known = ", ".join((*DTYPES, _BYTES))
        raise _mismatch(model, name, f"has the datatype {datatype[:32]!r}, which JSON cannot hold; known: {known}")
    try:
        return _cast(flat, dtype).tobytes()
    except (ValueError, OverflowError, TypeError) as error:
        raise _mismatch(model, name, f"has an element that is no {datatype}") from error


def _cast(elements: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The elements in their datatype, none of them changed but for a float's precision.

    Whole numbers past 2**53, which not every JSON keeps, and numbers that JSON has not may come as texts.

    Raises:
        ValueError: an element is none of the datatype; or OverflowError, TypeError.
    """
    kinds = {type(element) for element in elements}
    if dtype.kind == "b":
        if not kinds <= {bool}:
            raise ValueError
        return np.array(elements, dtype)
    if dtype.kind == "f":
        if not kinds <= {int, float, str}:
            raise ValueError
        wide = np.array([float(_plain(element)) for element in elements], np.float64)
        with np.errstate(over="ignore"):
            cast = wide.astype(dtype)
        if np.any(np.isinf(cast) & ~np.isinf(wide)):
            raise ValueError
        return cast
    if not kinds <= {int, str}:
        raise ValueError
    return np.array([int(_plain(element)) for element in elements] if str in kinds else elements, dtype)


def _plain(element: Any) -> Any:
    """A number, or its text as in JSON: Python would read more than that."""
    if type(element) is str and ("_" in element or not element.isascii() or element != element.strip()):
        raise ValueError
    return element


def _elements(datatype: str, raw: bytes) -> Iterator[str]:
    """The elements of raw contents as JSON, a slice at a time, without the brackets."""
    if datatype == _BYTES:
        texts, at = [], 0
        while at < len(raw):
            start = at + _LENGTH.size
            at = start + _LENGTH.unpack_from(raw, at)[0]
            texts.append(raw[start:at].decode(errors="replace"))
        yield from (
            json.dumps(texts[at : at + _SLICE], ensure_ascii=False)[1:-1] for at in range(0, len(texts), _SLICE)
        )
        return
    if datatype == "BF16":  # the upper half of a float
        array = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        array = np.frombuffer(raw, DTYPES[datatype])
    for at in range(0, len(array), _SLICE):
        part = array[at : at + _SLICE]
        values: list[Any] = part.tolist()
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            values = [value if math.isfinite(value) else _not_finite(value) for value in values]
        yield json.dumps(values)[1:-1]


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _raw_of(output: pb.ModelInferResponse.InferOutputTensor) -> bytes:
    """Raw contents of an output that came with typed ones."""
    for field, values in output.contents.ListFields():
        if field.name == "bytes_contents":
            return b"".join(part for value in values for part in (_LENGTH.pack(len(value)), value))
        return np.array(values, DTYPES[output.datatype]).tobytes()
    return b""


def _set(target: Any, parameters: Mapping[str, Any], where: str) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int) and -_INT64 <= value < _INT64:
            target[name].int64_param = value
        elif isinstance(value, str):
            target[name].string_param = value
        elif isinstance(value, float) and hasattr(target[name], "double_param"):
            target[name].double_param = value
        else:
            raise InvalidInput(f"{where}.{name} is no text, number or boolean", field=f"{where}[{name}]")


def _object(document: Any, name: str, where: str = "") -> Mapping[str, Any]:
    return _typed(document, name, dict, {}, where, "an object")  # type: ignore[no-any-return]


def _list(document: Any, name: str, where: str = "") -> list[Any]:
    return _typed(document, name, list, [], where, "a list")  # type: ignore[no-any-return]


def _text(document: Any, name: str, default: str | None, where: str = "") -> str:
    return _typed(document, name, str, default, where, "a text")  # type: ignore[no-any-return]


def _typed(document: Any, name: str, kind: type[Any], default: Any, where: str, word: str) -> Any:
    if not isinstance(document, dict):
        raise InvalidInput(f"{where} is an object", field=where)
    value = document.get(name)
    value = default if value is None else value
    if not isinstance(value, kind):
        path = f"{where}.{name}" if where else name
        raise InvalidInput(f"{path} is {word}", field=path)
    return value


def _mismatch(model: str, tensor: str, what: str) -> InvalidInput:
    return InvalidInput(
        f"Tensor {tensor[:128]} {what}.",
        violations=[(tensor[:128], what)],
        reason=ErrorReason.ERROR_REASON_TENSOR_MISMATCH,
        model=model[:128],
        tensor=tensor[:128],
    )
