"""Store of heads: versions that count up, appear whole and survive; damage that is told; retries."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import CorruptData, NotFound, Precondition
from meshcast.services.analyzer import head_store
from meshcast.services.analyzer.head_store import HeadRecord, HeadStore, examples_digest
from meshcast.services.analyzer.heads import HeadWeights, Trained


def a_head(seed: int = 0, labels: tuple[str, ...] = ("a", "b")) -> Trained:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(len(labels), 8)).astype(np.float32)
    return Trained(
        labels=labels,
        head=HeadWeights(weights=weights, bias=np.zeros(len(labels), dtype=np.float32)),
        examples=10,
        accuracy=0.75,
        majority=0.5,
        strength=1.0,
    )


def keep(store: HeadStore, name: str = "topic", seed: int = 0, **facts: Any) -> HeadRecord:
    given: dict[str, Any] = {
        "embedder_version": 3,
        "trained_unix_us": 1_700_000_000_000_000,
        "request_id": "",
        "digest": "d",
        **facts,
    }
    return store.keep(name, a_head(seed), **given)


def test_versions_count_up_and_are_read_back_by_another_process(tmp_path: Path) -> None:
    store = HeadStore(tmp_path / "heads")
    assert [keep(store, seed=seed).version for seed in range(3)] == [1, 2, 3]
    assert keep(store, "other").version == 1
    again = HeadStore(tmp_path / "heads")
    assert [(record.name, record.version) for record in again.newest()] == [("other", 1), ("topic", 3)]
    record = again.find("topic", 2)
    assert (record.labels, record.examples, record.accuracy, record.majority) == (("a", "b"), 10, 0.75, 0.5)
    assert record.embedder_version == 3
    np.testing.assert_array_equal(again.weights(record).weights, a_head(1).head.weights)
    assert again.find("topic").version == 3


def test_a_head_that_another_process_keeps_is_found_at_once(tmp_path: Path) -> None:
    ours, theirs = HeadStore(tmp_path), HeadStore(tmp_path)
    keep(ours)
    assert theirs.find("topic").version == 1
    assert keep(theirs, seed=1).version == 2
    assert ours.find("topic").version == 2
    np.testing.assert_array_equal(ours.weights(ours.find("topic")).weights, a_head(1).head.weights)


def test_processes_that_keep_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    got: list[int] = []

    def several(seed: int) -> None:
        store = HeadStore(tmp_path)
        got.extend(keep(store, seed=seed).version for _ in range(5))

    threads = [threading.Thread(target=several, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, 31))
    kept = sorted(int(path.name) for path in (tmp_path / "topic").iterdir())
    assert kept == list(range(31 - head_store.VERSIONS_MAX, 31))


def test_an_unknown_head_is_refused_with_those_that_are_kept(tmp_path: Path) -> None:
    store = HeadStore(tmp_path / "none")
    with pytest.raises(NotFound, match="kept are: none"):
        store.find("topic")
    keep(store)
    with pytest.raises(NotFound, match="kept are: topic") as caught:
        store.find("other")
    assert caught.value.reason == ErrorReason.ERROR_REASON_HEAD_UNKNOWN
    assert caught.value.facts == {"head": "other", "version": "0"}
    with pytest.raises(NotFound, match="versions 1 of it are kept"):
        store.find("topic", 7)


def test_a_retry_is_told_by_its_request_id(tmp_path: Path) -> None:
    store = HeadStore(tmp_path)
    keep(store, request_id="one", digest="x")
    keep(store, request_id="two")
    for reader in (store, HeadStore(tmp_path)):
        found = reader.made_by("topic", "one")
        assert found is not None and (found.version, found.examples_digest) == (1, "x")
        assert reader.made_by("topic", "three") is None
        assert reader.made_by("topic", "") is None
        assert reader.made_by("other", "one") is None


def damage(folder: Path, how: str) -> None:
    facts, weights = folder / "head.json", folder / "head.npz"
    if how == "no facts":
        facts.unlink()
    elif how == "cut facts":
        facts.write_bytes(facts.read_bytes()[:40])
    elif how == "other facts":
        facts.write_text(json.dumps({**json.loads(facts.read_text("utf-8")), "name": "other"}), "utf-8")
    elif how == "more facts":
        facts.write_text(json.dumps({**json.loads(facts.read_text("utf-8")), "surprise": 1}), "utf-8")
    elif how == "no weights":
        weights.unlink()
    else:
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)


@pytest.mark.parametrize("how", ["no facts", "cut facts", "other facts", "more facts"])
def test_a_damaged_version_is_left_out_and_an_older_one_stands_in(tmp_path: Path, how: str) -> None:
    keep(HeadStore(tmp_path))
    keep(HeadStore(tmp_path), seed=1)
    damage(tmp_path / "topic" / "2", how)
    store = HeadStore(tmp_path)
    assert [record.version for record in store.newest()] == [1]
    with pytest.raises(CorruptData, match=r"Version 2 of the head 'topic' is damaged.*train it again"):
        store.find("topic", 2)
    assert store.damaged_after(store.find("topic")) == [2]
    damage(tmp_path / "topic" / "1", how)
    with pytest.raises(CorruptData, match="Version 2"):
        HeadStore(tmp_path).find("topic")
    assert keep(store).version == 3
    assert store.damaged_after(store.find("topic")) == []


@pytest.mark.parametrize("how", ["no weights", "altered weights"])
def test_damaged_weights_never_answer(tmp_path: Path, how: str) -> None:
    keep(HeadStore(tmp_path))
    damage(tmp_path / "topic" / "1", how)
    store = HeadStore(tmp_path)
    with pytest.raises(CorruptData, match="train it again"):
        store.weights(store.find("topic"))


def test_what_a_crash_left_half_written_is_not_a_version(tmp_path: Path) -> None:
    (tmp_path / "topic" / ".part-abc").mkdir(parents=True)
    (tmp_path / "topic" / ".part-abc" / "head.npz").write_bytes(b"half")
    store = HeadStore(tmp_path)
    assert store.newest() == []
    assert keep(store).version == 1


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "heads").write_text("a file")
    with pytest.raises(Precondition, match="cannot be kept"):
        keep(HeadStore(tmp_path / "heads"))


def test_weights_in_memory_are_bounded(tmp_path: Path) -> None:
    store = HeadStore(tmp_path)
    for at in range(head_store.OPEN_MAX + 3):
        store.weights(keep(store, f"head{at}", seed=at))
    assert len(store._weights) == head_store.OPEN_MAX


def test_old_versions_go_when_new_ones_are_kept(tmp_path: Path) -> None:
    store, other = HeadStore(tmp_path), HeadStore(tmp_path)
    for seed in range(head_store.VERSIONS_MAX + 2):
        keep(store, seed=seed)
        other.find("topic", 1 if seed < head_store.VERSIONS_MAX else seed + 1)
    for reader in (store, other):
        assert reader.find("topic").version == head_store.VERSIONS_MAX + 2
        assert reader.find("topic", 3).version == 3
        with pytest.raises(NotFound):
            reader.find("topic", 2)
    assert len(list((tmp_path / "topic").iterdir())) == head_store.VERSIONS_MAX


def test_one_name_too_many_is_refused_with_the_way_to_remove_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_store, "NAMES_MAX", 4)
    store = HeadStore(tmp_path)
    for at in range(head_store.NAMES_MAX):
        keep(store, f"head{at}")
    with pytest.raises(Precondition, match="delete its folder in"):
        keep(store, "more")
    assert not (tmp_path / "more").exists()
    assert keep(store, "head3").version == 2
    shutil.rmtree(tmp_path / "head3")
    assert keep(store, "more").version == 1
    with pytest.raises(NotFound):
        store.find("head3")


def test_a_head_that_was_removed_and_trained_anew_is_the_new_one_everywhere(tmp_path: Path) -> None:
    ours, theirs = HeadStore(tmp_path), HeadStore(tmp_path)
    ours.weights(keep(ours))
    theirs.weights(theirs.find("topic"))
    shutil.rmtree(tmp_path / "topic")
    keep(ours, seed=1)
    for store in (ours, theirs):
        np.testing.assert_array_equal(store.weights(store.find("topic")).weights, a_head(1).head.weights)


def test_a_failure_to_read_that_passes_is_forgotten(tmp_path: Path) -> None:
    keep(HeadStore(tmp_path))
    facts = tmp_path / "topic" / "1" / "head.json"
    text = facts.read_text("utf-8")
    changed = facts.parent.stat()
    facts.unlink()
    facts.mkdir()  # what cannot be read as a file, whoever runs the test
    store = HeadStore(tmp_path)
    with pytest.raises(CorruptData):
        store.find("topic", 1)
    facts.rmdir()
    facts.write_text(text, "utf-8")
    os.utime(facts.parent, ns=(changed.st_atime_ns, changed.st_mtime_ns))
    assert store.find("topic", 1).version == 1


def test_a_digest_tells_examples_apart() -> None:
    same = examples_digest(["a", "b"], ["x", "y"])
    assert same == examples_digest(["a", "b"], ["x", "y"])
    others = [(["b", "a"], ["y", "x"]), (["ab", ""], ["x", "y"]), (["a", "b"], ["x", "z"]), (["a"], ["x"])]
    assert same not in {examples_digest(*one) for one in others}
