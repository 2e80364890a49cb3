import numpy as np
import pytest

from meshcast.rpc.errors import CorruptData, InvalidInput
from meshcast.services.drift.sketches import Sketches

RANKS = np.array([0.0, 0.1, 0.5, 0.9, 1.0])


def of(*columns: np.ndarray, k: int = 200) -> Sketches:
    return Sketches(k, [np.sort(column.astype(np.float32)) for column in columns])


def test_sketches_of_rows_that_were_never_merged_are_exact() -> None:
    x = np.random.default_rng(0).standard_normal(3_000)
    sketches = of(x)
    assert sketches.is_exact
    assert sketches.quantiles(RANKS)[0] == pytest.approx(
        np.quantile(x.astype(np.float32), RANKS, method="inverted_cdf")
    )


def test_merged_sketches_are_within_their_error_of_rank() -> None:
    rng = np.random.default_rng(0)
    parts = rng.random((50, 2, 2_000))
    whole = of(*parts[0], k=800)
    for part in parts[1:]:
        whole.add(of(*part, k=800))
    assert not whole.is_exact
    assert np.abs(whole.quantiles(RANKS) - RANKS).max() < 0.01
    assert whole.state_bytes < 2 * 20_000


def test_poured_sketches_merge_too() -> None:
    a, b = of(np.zeros(500)), of(np.ones(1_500))
    b.pour()
    a.add(b)
    assert a.quantiles(np.array([0.2, 0.3])).tolist() == [[0.0, 1.0]]


def test_a_feature_without_values_has_no_quantiles() -> None:
    for sketches in (of(np.empty(0), np.ones(3)), Sketches.from_bytes(of(np.empty(0), np.ones(3)).to_bytes())):
        found = sketches.quantiles(RANKS)
        assert np.isnan(found[0]).all() and (found[1] == 1).all()


def test_a_copy_goes_its_own_way() -> None:
    for poured in (False, True):
        first = of(np.zeros(10))
        if poured:
            first.pour()
        twin = first.copy()
        twin.add(of(np.ones(1_000)))
        assert first.quantiles(np.array([1.0])).item() == 0


def test_other_features_or_another_accuracy_do_not_merge() -> None:
    with pytest.raises(InvalidInput):
        of(np.zeros(1)).add(of(np.zeros(1), np.zeros(1)))
    with pytest.raises(InvalidInput):
        of(np.zeros(1)).add(of(np.zeros(1), k=100))


def test_packed_sketches_come_back_and_damaged_ones_do_not() -> None:
    sketches = of(np.arange(1_000.0), np.arange(10.0))
    data = sketches.to_bytes()
    again = Sketches.from_bytes(data)
    assert len(again) == 2 and again.k == 200
    assert (again.quantiles(RANKS) == sketches.quantiles(RANKS)).all()
    with pytest.raises(CorruptData):
        Sketches.from_bytes(data[:-3])
    with pytest.raises(CorruptData):
        Sketches.from_bytes(b"")
    assert len(Sketches.from_bytes(Sketches(200, []).to_bytes())) == 0
