import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.packing import pack, unpack


@given(
    head=st.dictionaries(st.text(max_size=5).filter(lambda key: key != "arrays"), st.integers() | st.text(max_size=5)),
    array=hnp.arrays(
        st.sampled_from(["<u2", "<i8", "<f4", "<f8"]), hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=4)
    ),
)
def test_what_is_packed_comes_back(head: dict[str, object], array: np.ndarray) -> None:
    found_head, arrays = unpack(b"TST1", pack(b"TST1", head, {"one": array, "none": np.empty((0, 3))}))
    assert found_head == head
    assert arrays["one"].dtype == array.dtype and arrays["one"].shape == array.shape
    assert arrays["one"].tobytes() == array.tobytes()
    assert arrays["none"].shape == (0, 3)


def test_every_truncation_and_every_altered_byte_is_noticed() -> None:
    data = pack(b"TST1", {"rows": 3}, {"counts": np.arange(4)})
    for end in range(len(data)):
        with pytest.raises(CorruptData):
            unpack(b"TST1", data[:end])
    for at in range(len(data)):
        with pytest.raises(CorruptData):
            unpack(b"TST1", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_state_of_another_kind_is_refused() -> None:
    with pytest.raises(CorruptData, match="kind"):
        unpack(b"TST2", pack(b"TST1", {}, {}))


def test_unpacked_arrays_can_be_written_to() -> None:
    _, arrays = unpack(b"TST1", pack(b"TST1", {}, {"counts": np.arange(4)}))
    arrays["counts"] += 1
    assert arrays["counts"].tolist() == [1, 2, 3, 4]
