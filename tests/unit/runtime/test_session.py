import pytest

from meshcast.rpc import InvalidInput
from meshcast.runtime import Backend


def test_a_back_end_is_read_from_its_name_and_what_is_left_out_is_the_cpu_at_f32() -> None:
    assert str(Backend.parse("openvino")) == "openvino/cpu/f32"
    assert str(Backend.parse("onnxruntime/cuda")) == "onnxruntime/cuda/f32"
    assert Backend.parse("openvino/cpu/bf16").precision == "bf16"


@pytest.mark.parametrize("text", ["", "tensorrt", "onnxruntime/gpu", "onnxruntime/cpu/bf16", "openvino/cpu/f32/x"])
def test_a_back_end_that_is_not_there_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(InvalidInput, match="onnxruntime/cpu/f32"):
        Backend.parse(text)
