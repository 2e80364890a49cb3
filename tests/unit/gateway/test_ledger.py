"""Ledger: whatever order answers, losses and duplicates come in, each chunk is answered once, in its order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshcast.gateway.ledger import Held, Ledger


def given_out(ledger: Ledger) -> list[bytes]:
    answers = []
    while (answer := ledger.next()) is not None:
        answers.append(answer.message)
    return answers


def test_answers_wait_for_those_before_them() -> None:
    ledger, held = Ledger(), Held()
    for number in range(3):
        held.add(ledger.take(b"chunk", 10 + number, 0.0), 0.0, 0)
    for sequence in (12, 11):
        sent = held.take(sequence)
        assert sent is not None and ledger.answer(sent.chunk, b"%d" % sequence, None)
    assert given_out(ledger) == []
    first = held.take(10)
    assert first is not None and ledger.answer(first.chunk, b"10", None)
    assert given_out(ledger) == [b"10", b"11", b"12"]
    assert (ledger.open, ledger.size_bytes, len(held)) == (0, 0, 0)


def test_chunks_with_one_number_are_answered_in_the_order_in_which_they_were_given() -> None:
    ledger, held = Ledger(), Held()
    chunks = [ledger.take(b"", 0, 0.0) for _ in range(3)]
    for chunk in chunks:
        held.add(chunk, 0.0, 0)
    assert [getattr(held.take(0), "chunk", None) for _ in range(4)] == [*chunks, None]


def test_a_number_that_nobody_holds_is_no_answer() -> None:
    ledger, held = Ledger(), Held()
    assert held.take(1) is None
    held.add(ledger.take(b"", 1, 0.0), 0.0, 0)
    assert held.take(2) is None
    assert held.take(1) is not None
    assert held.take(1) is None


def test_of_several_failures_that_of_the_first_chunk_counts_once_the_answers_before_are_given() -> None:
    ledger, held = Ledger(), Held()
    for number in range(4):
        held.add(ledger.take(b"", number, 0.0), 0.0, 0)
    ledger.fail(3, "later")
    ledger.fail(1, "first")
    ledger.fail(2, "between")
    assert not ledger.has_failed
    for sequence in (0, 2):
        sent = held.take(sequence)
        assert sent is not None and ledger.answer(sent.chunk, b"%d" % sequence, None)
    assert given_out(ledger) == [b"0"]
    assert (ledger.has_failed, ledger.failure) == (True, "first")


@given(data=st.data(), chunks=st.integers(1, 20), lanes=st.integers(1, 4))
def test_each_chunk_is_answered_once_in_order_whatever_is_lost_or_answered_twice(
    data: st.DataObject, chunks: int, lanes: int
) -> None:
    ledger, helds = Ledger(), [Held() for _ in range(lanes)]
    out: list[bytes] = []
    unsent = [ledger.take(b"chunk", number % 3, 0.0) for number in range(chunks)]  # numbers need not be unique
    everything = tuple(unsent)
    while ledger.open:
        holding = [held for held in helds if len(held)]
        acts = [*(("send",) if unsent else ()), *(("answer", "lose", "copy") if holding else ())]
        match data.draw(st.sampled_from(acts)):
            case "send":
                data.draw(st.sampled_from(helds)).add(unsent.pop(0), 0.0, 0)
            case "answer":
                held = data.draw(st.sampled_from(holding))
                chunk = data.draw(st.sampled_from([sent.chunk for sent in held]))
                sent = held.take(chunk.sequence)
                assert sent is not None and sent.chunk.sequence == chunk.sequence
                was_answered = sent.chunk.is_answered
                assert ledger.answer(sent.chunk, b"%d" % sent.chunk.position, held) is not was_answered
            case "lose":
                for sent in data.draw(st.sampled_from(holding)).lose():
                    if not (sent.chunk.copies or sent.chunk.is_answered):
                        unsent.append(sent.chunk)
            case "copy":
                chunk = data.draw(st.sampled_from([sent.chunk for held in holding for sent in held]))
                if not chunk.is_answered and chunk.sends < 4:
                    data.draw(st.sampled_from(helds)).add(chunk, 0.0, 0)
        assert sum(chunk.copies for chunk in everything) == sum(len(held) for held in helds)
        out += given_out(ledger)
    assert out == [b"%d" % position for position in range(chunks)]
    assert ledger.size_bytes == 0
