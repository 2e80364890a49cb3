"""Window: how many chunks of a stream may be unanswered, as its replicas' measured throughput asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass

_GAIN = 2.0  # twice what is needed by the last measure, so that more can be seen to help; as BBR probes
_DECAY = 0.01  # of the rate, forgotten with each answer: a measure is half gone after 70
_PROBE_EVERY = 256  # answers


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How streams of numbered chunks are spread over a route's replicas. The table `[gateway.streams]`."""

    spread: bool = True
    """Whether the chunks of one stream may go to several replicas. False relays a stream to one replica."""
    window_min: int = 4
    """Chunks of a caller's stream that may always be unanswered; two for each of its replicas where that is more."""
    window_max: int = 64
    """The most that may be, however fast they are answered."""
    window_bytes_max: int = 33_554_432
    """Bytes of unanswered chunks and of answers waiting for their turn, of one stream; one chunk may be always."""
    stall_s: float = 2.0
    """Silence of a replica that holds chunks, after which they are sent to another as well. Longer, by itself, where
    chunks are seen to take long."""
    sends_max: int = 3
    """Times that a chunk is sent, before its stream fails as the last replica failed."""

    def __post_init__(self) -> None:
        """Checks all values; raises ValueError naming the field."""
        for name in ("window_min", "window_bytes_max", "stall_s", "sends_max"):
            if not getattr(self, name) > 0:  # NaN is none
                raise ValueError(f"streams.{name} must be more than 0, is {getattr(self, name)}")
        if self.window_max < self.window_min:
            raise ValueError(f"streams.window_max must be at least window_min, is {self.window_max}")


class Window:
    """The room of one stream.

    By Little's law, replicas that answer `rate` chunks a second, each within `fastest_s` when it need not wait, work on
    `rate * fastest_s` chunks at a time. The window is twice that, so that it grows while growing helps. As chunks do
    wait in a full window, it is taken back to its least from time to time, and `fastest_s` is measured anew.

    Source: Cardwell et al., BBR: Congestion-Based Congestion Control (ACM Queue, 2016): delivery rate, round trip and
    the probing of both.

    Args:
        settings: the bounds.

    Attributes:
        answered: answers so far.
        size: chunks that may be unanswered now.
    """

    __slots__ = ("_drained_at", "_fastest_s", "_probe_at", "_rate", "_settings", "answered", "size")

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self._rate = 0.0
        self._fastest_s = math.inf
        self._probe_at = _PROBE_EVERY
        self._drained_at = -1
        self.answered = 0
        self.size = settings.window_min

    def record(self, latency_s: float, answered_before: int, replicas: int) -> None:
        """Takes an answer.

        Args:
            latency_s: seconds since its chunk was sent.
            answered_before: `answered` when that was.
            replicas: that the stream uses now.
        """
        self.answered += 1
        if latency_s <= 0:
            return
        settings = self._settings
        least = min(max(settings.window_min, 2 * replicas), settings.window_max)
        self._rate = max((self.answered - answered_before) / latency_s, self._rate * (1 - _DECAY))
        if self.answered >= self._probe_at:
            self._probe_at = self.answered + _PROBE_EVERY
            self._drained_at = self.answered + self.size  # then all that was sent under the wider window is answered
        if self.answered == self._drained_at:
            self._fastest_s = math.inf
        self._fastest_s = min(latency_s, self._fastest_s)
        if self.answered < self._drained_at + least and self._drained_at > 0:
            self.size = least
        else:
            wanted = min(_GAIN * self._rate * self._fastest_s, settings.window_max)
            self.size = max(math.ceil(wanted), least)

    def has_room(self, chunks: int, size_bytes: int) -> bool:
        """Whether another chunk may be taken.

        Args:
            chunks: that were taken and whose answers are not with the caller yet.
            size_bytes: what these hold.
        """
        return chunks < self.size and (size_bytes < self._settings.window_bytes_max or not chunks)
