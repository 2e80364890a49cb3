from dataclasses import replace

import numpy as np
import pytest
import torch

from meshcast.rpc import InvalidInput
from meshcast.runtime import Backend, Signature, TensorSpec
from meshcast.runtime.session import parity_error
from meshcast.runtime.torch import open_session

ABSOLUTE = Signature(inputs=(TensorSpec(name="x", shape=(2,)),), outputs=(TensorSpec(name="y", shape=(2,)),))
RELATIVE = replace(ABSOLUTE, relative=True)


def test_a_back_end_is_read_from_its_name_and_what_is_left_out_is_the_cpu_at_f32() -> None:
    assert str(Backend.parse("openvino")) == "openvino/cpu/f32"
    assert str(Backend.parse("onnxruntime/cuda")) == "onnxruntime/cuda/f32"
    assert Backend.parse("openvino/cpu/bf16").precision == "bf16"


@pytest.mark.parametrize("text", ["", "tensorrt", "onnxruntime/gpu", "onnxruntime/cpu/bf16", "openvino/cpu/f32/x"])
def test_a_back_end_that_is_not_there_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(InvalidInput, match="onnxruntime/cpu/f32"):
        Backend.parse(text)


def test_a_relative_error_is_a_share_of_the_rows_own_largest_value() -> None:
    session = open_session(torch.nn.Identity(), ABSOLUTE)
    given = {"x": np.array([[1e12, 0.0], [1e-6, 1e-6]], np.float32)}
    near = {"y": np.array([[1.001e12, 0.0], [1e-6, 1e-6]], np.float32)}
    far = {"y": np.array([[1e12, 0.0], [1e-6, 2e-6]], np.float32)}
    assert parity_error(session, ABSOLUTE, given, near, (2,)) == pytest.approx(1e9, rel=0.1)
    assert parity_error(session, RELATIVE, given, near, (2,)) == pytest.approx(1e-3, rel=0.01)
    assert parity_error(session, ABSOLUTE, given, far, (2,)) < 1e-5
    assert parity_error(session, RELATIVE, given, far, (2,)) == pytest.approx(0.5, rel=0.01)


def test_a_relative_error_of_a_row_of_zeros_is_the_difference_itself() -> None:
    session = open_session(torch.nn.Identity(), RELATIVE)
    given = {"x": np.array([[0.0, 0.25]], np.float32)}
    assert parity_error(session, RELATIVE, given, {"y": np.zeros((1, 2), np.float32)}, (1,)) == 0.25
    assert parity_error(session, RELATIVE, given, {"y": np.array([[0.0, np.inf]], np.float32)}, (1,)) == np.inf
