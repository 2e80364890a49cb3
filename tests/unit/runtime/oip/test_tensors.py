"""Codecs of the Open Inference Protocol: every datatype there and back, and no claim that is believed unchecked."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.rpc import InvalidInput
from meshcast.runtime.oip.tensors import CONTENTS, from_contents, from_raw, to_raw
from meshcast.runtime.signature import DTYPES

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@given(data=st.data(), datatype=st.sampled_from(sorted(DTYPES)), shape=shapes)
def test_raw_contents_come_back_bit_for_bit(data: st.DataObject, datatype: str, shape: tuple[int, ...]) -> None:
    array = data.draw(hnp.arrays(DTYPES[datatype], shape))
    back = from_raw(datatype, shape, to_raw(array, datatype))
    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == np.ascontiguousarray(array).tobytes()


@given(data=st.data(), datatype=st.sampled_from(sorted(set(CONTENTS) - {"BYTES"})), shape=shapes)
def test_typed_contents_come_back_as_they_were(data: st.DataObject, datatype: str, shape: tuple[int, ...]) -> None:
    array = data.draw(hnp.arrays(DTYPES[datatype], shape))
    contents = pb.InferTensorContents(**{CONTENTS[datatype]: array.ravel().tolist()})
    back = from_contents(datatype, shape, contents)
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)


@given(elements=st.lists(st.binary(max_size=6), max_size=6))
def test_bytes_come_back_in_both_forms(elements: list[bytes]) -> None:
    shape = (len(elements),)
    raw = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    back = from_raw("BYTES", shape, raw)
    assert list(back) == elements
    assert to_raw(back, "BYTES") == raw
    assert list(from_contents("BYTES", shape, pb.InferTensorContents(bytes_contents=elements))) == elements


@given(
    datatype=st.sampled_from([*sorted(DTYPES), "BYTES", "BF16", ""]),
    shape=st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-1, 3), max_size=40),
    raw=st.binary(max_size=40),
)
def test_a_shape_that_lies_is_refused_before_anything_is_reserved(datatype: str, shape: list[int], raw: bytes) -> None:
    contents = pb.InferTensorContents(int_contents=list(raw))
    reads: tuple[Callable[[], NDArray[Any]], ...] = (
        lambda: from_raw(datatype, shape, raw),
        lambda: from_contents(datatype, shape, contents),
    )
    for read in reads:
        try:
            array = read()
        except InvalidInput as error:
            assert error.violations
        else:
            assert list(array.shape) == shape
            assert array.size == math.prod(shape)


@pytest.mark.parametrize(
    ("datatype", "raw"),
    [
        ("BYTES", b""),
        ("BYTES", b"\x01\x00\x00"),
        ("BYTES", b"\xff\xff\xff\xff" + b"x" * 8),
        ("BYTES", b"\x00\x00\x00\x00" * 3),
        ("BYTES", b"\x08\x00\x00\x00" + b"x" * 8),
        ("BOOL", b"\x01\x02"),
        ("FP32", b"\x00" * 9),
        ("FP32", b"\x00" * 7),
    ],
)
def test_raw_contents_that_are_not_two_elements_are_refused(datatype: str, raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        from_raw(datatype, (2,), raw, model="m", tensor="t")


@pytest.mark.parametrize(
    ("datatype", "fields"),
    [
        ("INT8", {"int_contents": [1, 128]}),
        ("INT16", {"int_contents": [1, -40_000]}),
        ("UINT8", {"uint_contents": [1, 256]}),
        ("UINT16", {"uint_contents": [1, 70_000]}),
        ("FP32", {"fp64_contents": [1.0, 2.0]}),
        ("INT32", {"int64_contents": [1, 2]}),
        ("FP16", {"fp32_contents": [1.0, 2.0]}),
        ("FP32", {"fp32_contents": [1.0]}),
    ],
)
def test_typed_contents_that_do_not_fit_the_datatype_are_refused(datatype: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_contents(datatype, (2,), pb.InferTensorContents(**fields), model="m", tensor="t")
    assert caught.value.facts == {"model": "m", "tensor": "t"}


def test_the_bounds_of_every_datatype_fit() -> None:
    for datatype, dtype in DTYPES.items():
        if dtype.kind in "iu":
            bounds = np.iinfo(dtype)
            fields: dict[str, Any] = {CONTENTS[datatype]: [bounds.min, bounds.max]}
            contents = pb.InferTensorContents(**fields)
            assert from_contents(datatype, (2,), contents).tolist() == [bounds.min, bounds.max]


def test_raw_contents_are_read_without_a_copy_and_cannot_be_written() -> None:
    raw = np.arange(6, dtype=np.float32).tobytes()
    array = from_raw("FP32", (2, 3), raw)
    assert not array.flags.writeable
    assert np.shares_memory(array, np.frombuffer(raw, dtype=np.uint8))
