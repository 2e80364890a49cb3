import numpy as np
import pytest

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc import InvalidInput
from meshcast.runtime import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", shape=(2,), description="points"), TensorSpec(name="n", dtype="INT64")),
    outputs=(TensorSpec(name="y"),),
    tolerance=1e-4,
    rows_max=8,
    tolerance_reduced=0.5,
    relative=True,
)


def arrays(rows: int = 3) -> dict[str, np.ndarray]:
    return {"x": np.zeros((rows, 2), np.float32), "n": np.zeros(rows, np.int64)}


def test_fitting_arrays_give_their_rows() -> None:
    assert SIGNATURE.check(arrays(3)) == 3


@pytest.mark.parametrize(
    ("change", "tensor", "words"),
    [
        ({"x": None}, "x", "is missing"),
        ({"x": np.zeros((3, 2), np.float64)}, "x", "float64"),
        ({"x": np.zeros((3, 4), np.float32)}, "x", "[rows, 2]"),
        ({"x": np.zeros(3, np.float32)}, "x", "shape [3]"),
        ({"n": np.zeros(4, np.int64)}, "n", "4 rows"),
        ({"z": np.zeros(3)}, "z", "is not an input"),
        ({"x": np.array([[0, 0], [0, np.nan], [0, 0]], np.float32)}, "x", "holds nan at [1, 1]"),
        ({"x": np.full((3, 2), np.inf, np.float32)}, "x", "holds inf at [0, 0]"),
        ({"x": np.zeros((0, 2), np.float32), "n": np.zeros(0, np.int64)}, "x", "no rows"),
    ],
)
def test_a_tensor_at_fault_is_named(change: dict[str, np.ndarray | None], tensor: str, words: str) -> None:
    given = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
    with pytest.raises(InvalidInput) as caught:
        SIGNATURE.check(given, model="m")
    assert caught.value.reason == error_reason_pb2.ERROR_REASON_TENSOR_MISMATCH
    assert caught.value.facts == {"model": "m", "tensor": tensor}
    assert caught.value.violations[0].field == tensor
    assert words in caught.value.message


def test_an_input_in_which_nan_means_something_takes_it() -> None:
    signature = Signature(inputs=(TensorSpec(name="x", takes_nonfinite=True),), outputs=(TensorSpec(name="y"),))
    assert signature.check({"x": np.array([np.nan], np.float32)}) == 1
    assert Signature.from_dict(signature.to_dict()) == signature


@pytest.mark.parametrize(("value", "words"), [(-1, "holds -1 at [0, 1]"), (10, "holds 10 at [0, 1]")])
def test_an_index_beyond_its_table_is_refused(value: int, words: str) -> None:
    signature = Signature(
        inputs=(TensorSpec(name="ids", dtype="INT32", shape=(2,), value_max=9),), outputs=(TensorSpec(name="y"),)
    )
    assert signature.check({"ids": np.array([[0, 9]], np.int32)}) == 1
    with pytest.raises(InvalidInput, match="values are 0 to 9") as caught:
        signature.check({"ids": np.array([[0, value]], np.int32)})
    assert words in caught.value.message
    assert Signature.from_dict(signature.to_dict()) == signature


def test_a_signature_survives_json() -> None:
    assert Signature.from_dict(SIGNATURE.to_dict()) == SIGNATURE


def test_descriptions_do_not_make_another_signature() -> None:
    other = Signature(
        inputs=(TensorSpec(name="x", shape=(2,)), TensorSpec(name="n", dtype="INT64")), outputs=(TensorSpec(name="y"),)
    )
    assert SIGNATURE.same_tensors(other)
    assert not SIGNATURE.same_tensors(Signature(inputs=other.inputs[::-1], outputs=other.outputs))


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InvalidInput, match="FP31"):
        TensorSpec(name="x", dtype="FP31")
