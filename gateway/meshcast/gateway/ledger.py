"""Ledger: the chunks of one caller's stream, where each of them lies, and the answers in the order of the chunks.

It knows nothing of calls: what arrives is told to it, and it says what is to be done.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple


class Chunk:
    """A chunk of the caller.

    Attributes:
        position: 0-based, in the order of arrival.
        sequence: the caller's number of it. Need not be unique.
        data: encoded; empty once it is answered.
        arrived: when it was read, on `time.perf_counter()`.
        sends: times that it was sent.
        copies: replicas that hold it and may still answer.
        avoid: replicas that have failed it.
        is_answered: whether an answer is there, or it has failed for good.
    """

    __slots__ = ("arrived", "avoid", "copies", "data", "is_answered", "position", "sends", "sequence")

    def __init__(self, position: int, sequence: int, data: bytes, arrived: float) -> None:
        self.position = position
        self.sequence = sequence
        self.data = data
        self.arrived = arrived
        self.sends = 0
        self.copies = 0
        self.avoid: tuple[Any, ...] = ()
        self.is_answered = False


class Sent:
    """A chunk as one replica holds it.

    Attributes:
        chunk: the chunk.
        since: when it was given to the replica, on `time.perf_counter()`.
        answered_before: answers of the stream until then.
        turn: of the replica's breaker when it was given; None once that has been told how it ended.
    """

    __slots__ = ("answered_before", "chunk", "since", "turn")

    def __init__(self, chunk: Chunk, since: float, answered_before: int) -> None:
        self.chunk = chunk
        self.since = since
        self.answered_before = answered_before
        self.turn: int | None = None


class Held:
    """The chunks that one replica holds, in the order in which they were given to it."""

    __slots__ = ("_sent",)

    def __init__(self) -> None:
        self._sent: deque[Sent] = deque()

    def __len__(self) -> int:
        return len(self._sent)

    def __iter__(self) -> Any:
        return iter(self._sent)

    @property
    def oldest(self) -> Sent:
        """The one that was given first; there must be one."""
        return self._sent[0]

    def add(self, chunk: Chunk, now: float, answered_before: int) -> Sent:
        """Notes that a chunk is given to the replica.

        Args:
            chunk: the chunk.
            now: on `time.perf_counter()`.
            answered_before: answers of the stream so far.
        """
        chunk.sends += 1
        chunk.copies += 1
        sent = Sent(chunk, now, answered_before)
        self._sent.append(sent)
        return sent

    def take(self, sequence: int) -> Sent | None:
        """The first chunk with this number, which is no longer held then; None where there is none.

        Args:
            sequence: of an answer.
        """
        held = self._sent
        if not held:
            return None
        if held[0].chunk.sequence == sequence:
            sent = held.popleft()
        else:
            found = next((sent for sent in held if sent.chunk.sequence == sequence), None)
            if found is None:
                return None
            held.remove(found)
            sent = found
        sent.chunk.copies -= 1
        return sent

    def drop(self, sent: Sent) -> None:
        """Forgets a chunk that the replica will not get after all."""
        self._sent.remove(sent)
        sent.chunk.copies -= 1

    def lose(self) -> list[Sent]:
        """All that are held; the replica answers none of them any more."""
        lost = list(self._sent)
        self._sent.clear()
        for sent in lost:
            sent.chunk.copies -= 1
        return lost


class Answered(NamedTuple):
    """An answer for the caller, and its chunk."""

    message: bytes
    chunk: Chunk
    by: Any


class Ledger:
    """The chunks of one stream and their answers.

    Attributes:
        taken: chunks read of the caller.
        given: answers that are with the caller.
        size_bytes: what unanswered chunks and answers that wait for their turn hold.
        failure: how the stream fails once the answers before have been given; None while it does not.
    """

    __slots__ = ("_answers", "_failed_at", "failure", "given", "size_bytes", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self.given = 0
        self.size_bytes = 0
        self.failure: Any = None
        self._failed_at = 0
        self._answers: dict[int, Answered] = {}

    @property
    def open(self) -> int:
        """Chunks whose answers are not with the caller yet."""
        return self.taken - self.given

    @property
    def has_failed(self) -> bool:
        """Whether the stream fails now: every answer before the failure has been given."""
        return self.failure is not None and self.given >= self._failed_at

    def take(self, data: bytes, sequence: int, now: float) -> Chunk:
        """A new chunk of the caller.

        Args:
            data: encoded.
            sequence: its number.
            now: on `time.perf_counter()`.
        """
        chunk = Chunk(self.taken, sequence, data, now)
        self.taken += 1
        self.size_bytes += len(data)
        return chunk

    def answer(self, chunk: Chunk, message: bytes, by: Any) -> bool:
        """Takes an answer; False where the chunk had one already.

        Args:
            chunk: that is answered.
            message: encoded.
            by: who answered, for whoever gives the answer.
        """
        if chunk.is_answered:
            return False
        chunk.is_answered = True
        self.size_bytes += len(message) - len(chunk.data)
        chunk.data = b""
        self._answers[chunk.position] = Answered(message, chunk, by)
        return True

    def next(self) -> Answered | None:
        """The next answer for the caller, in the order of the chunks; None while it is not there."""
        if self.has_failed:
            return None
        answer = self._answers.pop(self.given, None)
        if answer is not None:
            self.size_bytes -= len(answer.message)
            self.given += 1
        return answer

    def fail(self, position: int, failure: Any) -> None:
        """Fails the stream at a chunk; of several failures that of the first chunk counts.

        Args:
            position: of the chunk that will not be answered.
            failure: why.
        """
        if self.failure is None or position < self._failed_at:
            self.failure, self._failed_at = failure, position
