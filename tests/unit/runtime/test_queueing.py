"""The queue of a batcher, without threads: which rows go together, and in which order."""

import random
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meshcast.runtime import Signature, TensorSpec
from meshcast.runtime.queueing import Batch, Item, RowQueue

RAGGED = Signature(
    inputs=(TensorSpec(name="tokens", dtype="INT32", shape=(-1,), multiple_of=4, length_max=32),),
    outputs=(TensorSpec(name="y"),),
    rows_max=8,
    cells_max=64,
)
LEASE: Any = object()
LIVE: Any = object()


def item_of(number: int, *, rows: int, length: int, priority: int = 1, lease: Any = None, at: float = 1e9) -> Item:
    arrays = {"tokens": np.zeros((rows, length), np.int32)}
    future: Any = None
    return Item(arrays, rows, at, priority, "typed", lease, future, float(number), RAGGED.lengths(arrays))


def batch_of(queue: RowQueue, now: float = 0.0) -> Batch | None:
    """The next batch, as a run slot takes it."""
    found = queue.next(now, 1e-6)
    if found is None:
        return None
    head, due, close = found
    if due > now:
        return None
    batch = Batch(head.lease or LIVE, head.lane, head.lane.rows_max)
    batch.close = close
    queue.fill(batch, LIVE)
    return batch


questions = st.lists(
    st.tuples(
        st.integers(1, 20),  # rows
        st.integers(0, 32),  # length
        st.integers(0, 2),  # priority
        st.booleans(),  # asks for a version
    ),
    max_size=60,
)


@given(questions, st.randoms(use_true_random=False))
def test_nothing_is_lost_and_no_batch_mixes_shapes_or_exceeds_its_cells(
    asked: list[tuple[int, int, int, bool]], rng: random.Random
) -> None:
    queue = RowQueue(RAGGED, rows_max=8, wait_s=0.0)
    waiting = [
        item_of(number, rows=rows, length=length, priority=priority, lease=LEASE if leased else None)
        for number, (rows, length, priority, leased) in enumerate(asked)
    ]
    items, went = list(waiting), dict.fromkeys(waiting, 0)
    while waiting or queue.rows:
        for _ in range(rng.randrange(4)):
            if waiting:
                queue.put(waiting.pop(0))
        first = queue.head()
        batch = batch_of(queue)
        if batch is None:
            continue
        assert batch.parts[0].item is first
        places = [(part.item.priority, part.item.queued_at) for part in batch.parts]
        assert places == sorted(places)
        shapes = {part.item.lengths for part in batch.parts}
        assert len(shapes) == 1 and len({part.item.lease or LIVE for part in batch.parts}) == 1
        assert 1 <= batch.rows <= 8 and batch.rows * max(shapes.pop()) <= 64
        for item, start, stop in batch.parts:
            assert start == went[item]
            went[item] = stop
    assert all(went[item] == item.rows for item in items)
    assert queue.rows == queue.cells == queue.batches == 0


@given(questions)
def test_the_oldest_of_the_highest_class_always_goes_next(asked: list[tuple[int, int, int, bool]]) -> None:
    queue = RowQueue(RAGGED, rows_max=8, wait_s=0.0)
    for number, (rows, length, priority, _) in enumerate(asked):
        queue.put(item_of(number, rows=rows, length=length, priority=priority))
    left = {(priority, float(number)) for number, (_, _, priority, _) in enumerate(asked)}
    while left:
        head = queue.head()
        assert head is not None and (head.priority, head.queued_at) == min(left)
        batch = batch_of(queue)
        assert batch is not None
        left -= {(part.item.priority, part.item.queued_at) for part in batch.parts if part.stop == part.item.rows}


def test_a_steady_stream_of_one_shape_does_not_hold_up_another() -> None:
    queue = RowQueue(RAGGED, rows_max=8, wait_s=0.0)
    queue.put(item_of(0, rows=8, length=4))
    queue.put(item_of(1, rows=1, length=32))
    seen = []
    for number in range(2, 12):
        queue.put(item_of(number, rows=8, length=4))
        batch = batch_of(queue)
        assert batch is not None
        seen.append(batch.parts[0].item.lengths)
    assert seen[:2] == [(4,), (32,)]


def test_a_shape_that_is_full_does_not_wait_and_one_that_is_late_goes_before_it() -> None:
    queue = RowQueue(RAGGED, rows_max=8, wait_s=1.0)
    queue.put(item_of(0, rows=1, length=32))
    assert batch_of(queue, now=0.5) is None
    for number in range(1, 3):
        queue.put(item_of(number, rows=4, length=4))
    full = batch_of(queue, now=0.5)
    assert full is not None and full.rows == 8 and full.parts[0].item.lengths == (4,)
    queue.put(item_of(3, rows=8, length=4))
    late = batch_of(queue, now=1.5)
    assert late is not None and late.parts[0].item.lengths == (32,)


def test_the_tightest_deadline_of_any_shape_decides_when_a_batch_is_due() -> None:
    queue = RowQueue(RAGGED, rows_max=8, wait_s=60.0)
    queue.put(item_of(0, rows=1, length=4))
    queue.put(item_of(1, rows=1, length=32, at=10.0))
    found = queue.next(2.0, 0.01)
    assert found is not None and found[0].lengths == (32,)
    assert found[1] == 10.0 - 64 * 0.01  # a full run of these rows takes so long


def test_a_forgotten_item_leaves_its_shape_and_its_count() -> None:
    queue = RowQueue(RAGGED, rows_max=8, wait_s=0.0)
    gone, stays = item_of(0, rows=5, length=20), item_of(1, rows=2, length=3)
    queue.put(gone)
    queue.put(stays)
    assert (queue.rows, queue.cells, queue.batches) == (7, 5 * 20 + 2 * 4, 3)
    queue.forget(gone)
    assert queue.head() is stays and (queue.rows, queue.cells) == (2, 8)
