"""Counts: what the stages of the pipeline did for a route since the gateway started."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class PipelineCounts:
    """The numbers of `meshcast.api.gateway.v1.PipelineCounts`; only the gateway's event loop changes them.

    Attributes:
        hedges: second tries beside a first one that had not answered.
        hedges_won: hedges whose answer came first.
        retries: tries after one that had failed.
        cache_hits: answers from the cache.
        cache_misses: questions to cached methods that were not in the cache.
        shared: calls that shared the answer of an equal one under way.
        shed: calls refused by the limit, by priority, as in `low`.
        broken: calls refused because every replica's breaker was open.
        late: calls refused because their deadline could not be kept.
        fallbacks: degraded answers by what stood in: `version`, `cache` or `baseline`.
        chunks_resent: chunks that were sent to another replica since the first one was lost.
    """

    hedges: int = 0
    hedges_won: int = 0
    retries: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    shared: int = 0
    shed: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    late: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)
    chunks_resent: int = 0
