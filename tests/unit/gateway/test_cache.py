"""The response cache: what it takes for the same question, how long it answers, and what it never keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.gateway import Backend, RouteSettings
from meshcast.gateway.cache import Cache, CacheSettings, ResponseCache, question_key
from meshcast.gateway.contracts import Idempotency, MethodContract, MethodKind
from meshcast.gateway.exchange import Answer, Exchange
from meshcast.gateway.policy import MethodPolicy, Tries

CONTRACT = MethodContract(
    path="/meshcast.api.analyzer.v1.AnalyzerService/EmbedTexts",
    kind=MethodKind.UNARY,
    has_receipt=True,
    idempotency=Idempotency.NO_SIDE_EFFECTS,
    request_id_field=pb.EmbedTextsRequest.DESCRIPTOR.fields_by_name["request_id"].number,
)
ENTRY_BYTES = 330


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Service:
    """The next stage: numbers its answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.answer: Answer | None = None
        self.during: Callable[[], None] = lambda: None

    async def __call__(self, exchange: Exchange) -> Answer:
        self.calls += 1
        self.during()
        return self.answer or Answer(b"answer %d" % self.calls, head=(("h", "1"),), trailers=(("t", "1"),))


def backend(name: str = "analyzer") -> Backend:
    made = Backend(name, RouteSettings(services=("meshcast.api.analyzer.v1.AnalyzerService",), endpoints=("a:1",)))
    made.versions_tag = "model/embedder/1"
    return made


def exchange(
    request: bytes,
    to: Backend,
    *,
    ttl_s: float = 60.0,
    fallbacks: tuple[str, ...] = (),
    contract: MethodContract = CONTRACT,
) -> Exchange:
    policy = MethodPolicy(contract=contract, tries=Tries.HEDGED, deadline_s=1.0, cache_ttl_s=ttl_s, fallbacks=fallbacks)
    return Exchange(policy, to, request, (), 0.0, 1.0, 0)


def embed(text: str, request_id: str = "") -> bytes:
    return pb.EmbedTextsRequest(texts=[text], request_id=request_id).SerializeToString()


async def test_the_same_question_is_answered_once_while_the_answer_is_fresh() -> None:
    clock, service, route = Clock(), Service(), backend()
    stage = Cache(service, ResponseCache(CacheSettings(), clock=clock))
    assert (await stage(exchange(embed("a", "one"), route))).response == b"answer 1"
    again = await stage(exchange(embed("a", "two"), route))
    assert (again.response, again.from_cache, again.fallback) == (b"answer 1", True, 0)
    assert not again.head and not again.trailers  # they were of the call
    assert (await stage(exchange(embed("b"), route))).response == b"answer 2"
    clock.now += 59.9
    assert (await stage(exchange(embed("a"), route))).from_cache
    clock.now += 0.1
    assert (await stage(exchange(embed("a"), route))).response == b"answer 3"
    assert (route.load.counts.cache_hits, route.load.counts.cache_misses) == (2, 3)


async def test_another_version_asks_anew() -> None:
    service, route = Service(), backend()
    stage = Cache(service, ResponseCache(CacheSettings()))
    await stage(exchange(b"", route))
    route.versions_tag = "model/embedder/1 model/embedder/2"
    assert not (await stage(exchange(b"", route))).from_cache
    assert (await stage(exchange(b"", route))).from_cache


async def test_an_answer_given_while_the_versions_changed_is_not_kept() -> None:
    service, route = Service(), backend()
    cache = ResponseCache(CacheSettings())

    def swap() -> None:
        route.versions_tag = "model/embedder/2"

    service.during = swap
    await Cache(service, cache)(exchange(b"", route))
    assert len(cache) == 0


async def test_degraded_answers_are_not_kept() -> None:
    service, route = Service(), backend()
    cache = ResponseCache(CacheSettings())
    service.answer = Answer(b"baseline", fallback=receipt_pb2.FALLBACK_BASELINE)
    await Cache(service, cache)(exchange(b"", route))
    service.answer = Answer(b"shared", from_cache=True)
    await Cache(service, cache)(exchange(b"", route))
    assert len(cache) == 0


async def test_failures_are_not_kept() -> None:
    service, route = Service(), backend()
    cache = ResponseCache(CacheSettings())

    def fail() -> None:
        raise ValueError("no answer")

    service.during = fail
    with pytest.raises(ValueError, match="no answer"):
        await Cache(service, cache)(exchange(b"", route))
    assert len(cache) == 0


async def test_a_stale_answer_stands_in_where_the_fallbacks_ask_for_it() -> None:
    clock, service, route = Clock(), Service(), backend()
    cache = ResponseCache(CacheSettings(stale_s=600.0), clock=clock)
    stage = Cache(service, cache)
    question = exchange(b"", route, fallbacks=("version", "cache"))
    await stage(question)
    fresh = cache.stale(question)
    assert fresh is not None and fresh.from_cache and not fresh.fallback
    clock.now += 90.0
    route.versions_tag = "model/embedder/2"
    assert cache.fresh(question) is None
    stale = cache.stale(question)
    assert stale is not None
    assert (stale.response, stale.from_cache, stale.fallback) == (b"answer 1", True, receipt_pb2.FALLBACK_CACHE)
    assert stale.notes == ("an answer given 90 s ago stands in",)
    clock.now += 570.0
    assert cache.stale(question) is None
    assert (len(cache), cache.bytes) == (0, 0)


async def test_without_that_fallback_nothing_is_kept_past_its_time() -> None:
    clock, route = Clock(), backend()
    cache = ResponseCache(CacheSettings(), clock=clock)
    await Cache(Service(), cache)(exchange(b"", route))
    clock.now += 60.0
    assert cache.stale(exchange(b"", route)) is None
    assert len(cache) == 0


async def test_a_method_may_keep_answers_for_its_fallbacks_alone() -> None:
    service, route = Service(), backend()
    cache = ResponseCache(CacheSettings())
    stage = Cache(service, cache)
    question = exchange(b"", route, ttl_s=0.0, fallbacks=("cache",))
    await stage(question)
    assert (await stage(question)).response == b"answer 2"
    stale = cache.stale(question)
    assert stale is not None and stale.response == b"answer 2" and stale.fallback
    assert (route.load.counts.cache_hits, route.load.counts.cache_misses) == (0, 0)


async def test_what_was_not_asked_for_the_longest_goes_first() -> None:
    service, route = Service(), backend()
    cache = ResponseCache(CacheSettings(bytes_max=20 * (ENTRY_BYTES + 8), entries_max=2))
    stage = Cache(service, cache)
    for text in ("a", "b"):
        await stage(exchange(embed(text), route))
    assert (await stage(exchange(embed("a"), route))).from_cache
    await stage(exchange(embed("c"), route))
    assert len(cache) == 2
    assert (await stage(exchange(embed("a"), route))).from_cache
    assert not (await stage(exchange(embed("b"), route))).from_cache


async def test_an_answer_that_would_push_out_too_much_is_not_kept() -> None:
    service, route = Service(), backend()
    cache = ResponseCache(CacheSettings(bytes_max=8_000))
    service.answer = Answer(bytes(1_000 - ENTRY_BYTES))
    await Cache(service, cache)(exchange(b"a", route))
    service.answer = Answer(bytes(1_001 - ENTRY_BYTES))
    await Cache(service, cache)(exchange(b"b", route))
    assert len(cache) == 1


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 400), st.integers(0, 50)), max_size=60))
def test_bounds_hold_and_bytes_are_counted(asked: list[tuple[int, int, int]]) -> None:
    clock, route = Clock(), backend()
    cache = ResponseCache(CacheSettings(bytes_max=5_000, entries_max=8), clock=clock)
    sizes: dict[bytes, int] = {}
    for text, size, seconds in asked:
        clock.now += seconds
        question = exchange(b"%d" % text, route)
        key = question_key(question)
        cache.keep(question, key, Answer(bytes(size)))
        sizes[key] = size
        assert cache.bytes <= 5_000 and len(cache) <= 8
        kept = cache.fresh(question)
        assert kept is None or len(kept.response) == size
    for key in list(cache._entries):
        cache._drop(key)
    assert cache.bytes == 0


def test_routes_and_methods_do_not_share_answers() -> None:
    other = MethodContract(path="/a.B/C", kind=MethodKind.UNARY, has_receipt=True)
    keys = {
        question_key(exchange(b"x", backend())),
        question_key(exchange(b"x", backend("other"))),
        question_key(exchange(b"x", backend(), contract=other)),
    }
    assert len(keys) == 3


@pytest.mark.parametrize("name", ["bytes_max", "entries_max", "stale_s"])
def test_settings_that_cannot_work_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"cache\.{name}"):
        CacheSettings(**{name: -1})
