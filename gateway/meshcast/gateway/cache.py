"""Cache: answers that were given before, for methods that have a time to live, by question and serving versions.

A question is the request's bytes without its `request_id`. What else decides an answer must not vary between callers: a
method that answers by its caller's metadata, or by what it was told before, needs a time to live of 0.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from meshcast.api.type.v1 import receipt_pb2

from .exchange import Answer, Exchange, Stage
from .wire import without_string_field

_MIB = 1024 * 1024
_ENTRY_BYTES = 330  # what an entry takes beside its answer: key, record and its place in the order (measured)
_SHARE_MAX = 8  # an answer larger than this part of the cache is not kept: it would push out too much


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """How much the response cache may hold; the table `[gateway.cache]`.

    Which methods are cached, and how long their answers count as fresh, is said a route, in `cached_s`.
    """

    bytes_max: int = 64 * _MIB
    """Answers and what it takes to keep them, in bytes; those that were not asked for the longest go first."""
    entries_max: int = 20_000
    """Answers."""
    stale_s: float = 3600.0
    """Seconds for which an answer is kept past its time to live, where the fallbacks of its method name the cache."""

    def __post_init__(self) -> None:
        """Checks all values; raises ValueError naming the field."""
        for name in ("bytes_max", "entries_max", "stale_s"):
            if not getattr(self, name) >= 0:  # NaN is none
                raise ValueError(f"cache.{name} must be 0 or more, is {getattr(self, name)}")


@dataclass(slots=True)
class _Entry:
    """An answer that is kept; times on the cache's clock."""

    response: bytes
    versions: str
    stored: float
    fresh_until: float
    kept_until: float


def question_key(exchange: Exchange) -> bytes:
    """What equal questions to one method of one route have in common: 32 bytes, the same for equal requests whatever
    their `request_id`."""
    policy = exchange.policy
    number = policy.contract.request_id_field
    request = exchange.request if number is None else without_string_field(exchange.request, number)
    digest = hashlib.sha256(f"{exchange.backend.name}\0{policy.path}\0".encode())
    digest.update(request)
    return digest.digest()


class ResponseCache:
    """Answers of all routes, bounded in bytes, number and age; what was not asked for the longest goes first.

    An answer is fresh for its method's time to live and while the route's replicas serve the versions that they served
    when it was given. A change of versions is seen when the replicas' models are listed next (`models_poll_s`).

    Args:
        settings: the bounds.
        clock: gives seconds that never go back.

    Attributes:
        bytes: that are held now, what it takes to keep the answers included.
    """

    def __init__(self, settings: CacheSettings, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.bytes = 0
        self._settings = settings
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        """Answers that are held."""
        return len(self._entries)

    def fresh(self, exchange: Exchange, key: bytes | None = None) -> Answer | None:
        """The kept answer to a question while it is fresh, with the id of its first computation; else None.

        Args:
            exchange: the question.
            key: its `question_key`, where it is known.
        """
        entry = self._entry(key or question_key(exchange))
        if entry is None or not self._is_fresh(entry, exchange):
            return None
        return Answer(entry.response, from_cache=True)

    def stale(self, exchange: Exchange) -> Answer | None:
        """The kept answer to a question, labelled as degraded where it is fresh no more; None when none is kept.

        Args:
            exchange: the question.
        """
        entry = self._entry(question_key(exchange))
        if entry is None:
            return None
        if self._is_fresh(entry, exchange):
            return Answer(entry.response, from_cache=True)
        note = f"an answer given {self._clock() - entry.stored:.0f} s ago stands in"
        return Answer(entry.response, from_cache=True, fallback=receipt_pb2.FALLBACK_CACHE, notes=(note,))

    def keep(self, exchange: Exchange, key: bytes, answer: Answer) -> None:
        """Keeps an answer that a replica has just given to this very call.

        Args:
            exchange: the question.
            key: its `question_key`.
            answer: to be kept; its metadata, which is of the call, is not.
        """
        self._drop(key)
        policy = exchange.policy
        now = self._clock()
        fresh_until = now + policy.cache_ttl_s
        kept_until = fresh_until + (self._settings.stale_s if "cache" in policy.fallbacks else 0.0)
        size = _size(answer.response)
        if kept_until <= now or size > self._settings.bytes_max // _SHARE_MAX:
            return
        self._entries[key] = _Entry(answer.response, exchange.backend.versions_tag, now, fresh_until, kept_until)
        self.bytes += size
        self._make_room(now)

    def _is_fresh(self, entry: _Entry, exchange: Exchange) -> bool:
        return self._clock() < entry.fresh_until and entry.versions == exchange.backend.versions_tag

    def _entry(self, key: bytes) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry.kept_until:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def _make_room(self, now: float) -> None:
        """Drops what is over a bound, and the two oldest where their time is over, so that no sweep is needed."""
        settings, entries = self._settings, self._entries
        while entries and (self.bytes > settings.bytes_max or len(entries) > settings.entries_max):
            self._drop(next(iter(entries)))
        for _ in range(2):
            oldest = next(iter(entries), None)
            if oldest is None or now < entries[oldest].kept_until:
                return
            self._drop(oldest)

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= _size(entry.response)


class Cache:
    """Stage: answers from the cache, and keeps what the next stage answers.

    Neither failures nor degraded answers are kept, nor what was computed while the serving versions changed. Counts
    hits and misses. For a method whose fallbacks name the cache but which has no time to live it only keeps answers.

    Args:
        inner: the next stage.
        cache: of all routes.
    """

    def __init__(self, inner: Stage, cache: ResponseCache) -> None:
        self._inner = inner
        self._cache = cache

    async def __call__(self, exchange: Exchange) -> Answer:
        """Answers the call."""
        key = question_key(exchange)
        backend = exchange.backend
        if exchange.policy.cache_ttl_s > 0:
            kept = self._cache.fresh(exchange, key)
            if kept is not None:
                backend.load.counts.cache_hits += 1
                return kept
            backend.load.counts.cache_misses += 1
        versions = backend.versions_tag
        answer = await self._inner(exchange)
        if not answer.fallback and not answer.from_cache and versions == backend.versions_tag:
            self._cache.keep(exchange, key, answer)
        return answer


def _size(response: bytes) -> int:
    return len(response) + _ENTRY_BYTES
