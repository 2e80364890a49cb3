"""Fallback: what stands in for an answer, for which failures, and how it is labelled."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.gateway import Backend, Backends, GatewaySettings, Replica, RouteSettings, State
from meshcast.gateway.asking import Mesh
from meshcast.gateway.cache import Cache, CacheSettings, ResponseCache
from meshcast.gateway.contracts import Contracts
from meshcast.gateway.exchange import Answer, Exchange, TryFailed
from meshcast.gateway.fallback import Baseline, Baselines, Fallback, previous_version, reserved_s
from meshcast.gateway.policy import MethodPolicy, Tries
from meshcast.rpc import Health, InvalidInput, MeshError, NotReady, Overloaded
from meshcast.rpc.status import trailers

ANALYZER = "meshcast.api.analyzer.v1.AnalyzerService"
SERVICE = "meshcast.api.predictor.v1.PredictorService"
PATH = f"/{SERVICE}/PredictEngagement"
UNREACHABLE = NotReady("gone", reason=ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE)
LOADING = NotReady("loading", reason=ErrorReason.ERROR_REASON_MODEL_LOADING)
ALL = ("version", "cache", "baseline")


def failed(code: grpc.StatusCode, details: str = "") -> TryFailed:
    return TryFailed(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details), "a:1")


def told(error: MeshError) -> TryFailed:
    return TryFailed(
        grpc.aio.AioRpcError(error.code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers(error)), error.message), "a:1"
    )


def backend(**models: State) -> Backend:
    made = Backend("predictor", RouteSettings(services=(SERVICE,)), random.Random(1))
    channel: Any = None
    replica = made.replicas["a:1"] = Replica("a:1", channel)
    replica.models = {"model/predictor": State.SERVING, "model/other/9": State.SERVING} | {
        f"model/predictor/{name.removeprefix('v')}": state for name, state in models.items()
    }
    return made


class Service:
    """The stages behind: fail as they are told, or answer with the version that they were asked for.

    Attributes:
        asked: the requests that came.
    """

    def __init__(self, *failures: TryFailed | MeshError) -> None:
        self.asked: list[pb.PredictEngagementRequest] = []
        self._failures = list(failures)

    async def __call__(self, exchange: Exchange) -> Answer:
        self.asked.append(pb.PredictEngagementRequest.FromString(exchange.request))
        if self._failures:
            raise self._failures.pop(0)
        return Answer(b"version %d" % self.asked[-1].model_version, endpoint="a:1")


class Newest(Service):
    """As `Service`, but only calls that ask for no version fail, and only while they shall.

    Attributes:
        fails: whether they do.
    """

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails

    async def __call__(self, exchange: Exchange) -> Answer:
        answer = await super().__call__(exchange)
        if self.fails and not self.asked[-1].model_version:
            raise failed(grpc.StatusCode.INTERNAL)
        return answer


class Known(Baselines):
    """Baselines that are given, not installed."""

    def __init__(self, found: Mapping[str, Baseline] | None = None) -> None:
        super().__init__()
        self._found = dict(found or {})


def stage(
    service: Service,
    to: Backend,
    fallbacks: tuple[str, ...] = ALL,
    *,
    baselines: Mapping[str, Baseline] | None = None,
    cache: ResponseCache | None = None,
) -> tuple[Fallback, MethodPolicy]:
    contract = (Contracts().methods(SERVICE) or {})[PATH]
    policy = MethodPolicy(contract=contract, tries=Tries.HEDGED, deadline_s=5.0, fallbacks=fallbacks)
    made = Fallback(service, policy, to, baselines=Known(baselines), stale=cache.stale if cache else None)
    return made, policy


def exchange(policy: MethodPolicy, to: Backend, **fields: Any) -> Exchange:
    now = time.perf_counter()
    request = pb.PredictEngagementRequest(channel="fox", **fields).SerializeToString()
    return Exchange(policy, to, request, (), now, now + 5.0, 0)


async def test_a_broken_model_is_replaced_by_its_previous_version() -> None:
    service, to = Service(failed(grpc.StatusCode.INTERNAL)), backend(v2=State.SERVING, v3=State.SERVING)
    made, policy = stage(service, to)
    call = exchange(policy, to, request_id="one")
    before = call.request
    answer = await made(call)
    assert answer.response == b"version 2"
    assert answer.fallback == receipt_pb2.FALLBACK_VERSION
    assert answer.notes == ("version 2 answered, which was not asked for: INTERNAL, internal",)
    assert (service.asked[1].channel, service.asked[1].request_id) == ("fox", "one")
    assert call.request == before
    assert to.load.counts.fallbacks == {"version": 1}


async def test_calls_that_follow_are_answered_by_it_at_once_and_the_broken_one_is_tried_again_later() -> None:
    service, to = Newest(fails=True), backend(v2=State.SERVING, v3=State.SERVING)
    made, policy = stage(service, to, ("version",))
    calls = [exchange(policy, to, model_version=pin) for pin in (0, 0, 0, 0, 3, 0, 0)]
    for later in calls[-2:]:
        later.started += 60.0
    answers = [await made(call) for call in calls]
    assert [answer.response for answer in answers] == [b"version 2"] * 4 + [b"version 3"] + [b"version 2"] * 2
    assert [answer.fallback > 0 for answer in answers] == [True] * 4 + [False] + [True] * 2
    assert [asked.model_version for asked in service.asked] == [0, 2] * 3 + [2, 3] + [0, 2] * 2
    assert to.load.counts.fallbacks == {"version": 6}


async def test_one_question_that_breaks_the_newest_version_leaves_it_to_the_others() -> None:
    service, to = Newest(), backend(v2=State.SERVING, v3=State.SERVING)
    made, policy = stage(service, to, ("version",))
    answers = []
    for number in range(12):
        service.fails = number % 3 < 2
        answers.append((await made(exchange(policy, to))).response)
    assert answers == [b"version 2", b"version 2", b"version 0"] * 4


async def test_a_model_that_is_still_loading_is_replaced_too() -> None:
    to = backend(v2=State.SERVING, v3=State.NOT_SERVING)
    made, policy = stage(Service(told(LOADING)), to, ("version",))
    assert (await made(exchange(policy, to))).response == b"version 2"


async def test_no_version_stands_in_where_no_replica_can_be_asked() -> None:
    service, to = Service(UNREACHABLE), backend(v2=State.SERVING, v3=State.SERVING)
    made, policy = stage(service, to, ("version",))
    with pytest.raises(NotReady):
        await made(exchange(policy, to))
    assert len(service.asked) == 1


async def test_the_first_failure_is_told_where_the_other_version_fails_too() -> None:
    service = Service(failed(grpc.StatusCode.INTERNAL, "first"), failed(grpc.StatusCode.INTERNAL, "second"))
    to = backend(v2=State.SERVING, v3=State.SERVING)
    made, policy = stage(service, to, ("version",))
    with pytest.raises(TryFailed) as caught:
        await made(exchange(policy, to))
    assert caught.value.error.details() == "first"


async def test_an_earlier_answer_stands_in_where_nobody_can_be_reached() -> None:
    cache, to = ResponseCache(CacheSettings()), backend()
    made, policy = stage(Service(), to, cache=cache)
    await Cache(made, cache)(exchange(policy, to, request_id="one"))
    broken, _ = stage(Service(UNREACHABLE), to, cache=cache)
    answer = await broken(exchange(policy, to, request_id="two"))
    assert (answer.response, answer.from_cache) == (b"version 0", True)
    assert answer.fallback == receipt_pb2.FALLBACK_CACHE
    assert answer.notes[-1] == "UNAVAILABLE, backend unreachable"
    assert to.load.counts.fallbacks == {"cache": 1}


async def test_the_baseline_comes_last() -> None:
    to = backend()
    made, policy = stage(Service(UNREACHABLE), to, baselines={PATH: lambda request: b"median of " + request[-3:]})
    answer = await made(exchange(policy, to))
    assert (answer.response, answer.endpoint) == (b"median of fox", "")
    assert answer.fallback == receipt_pb2.FALLBACK_BASELINE
    assert answer.notes == ("the statistical baseline, no model was asked: UNAVAILABLE, backend unreachable",)


def broken_baseline(request: bytes) -> bytes:
    raise ZeroDivisionError


@pytest.mark.parametrize("baseline", [None, lambda request: None, broken_baseline])
async def test_a_baseline_that_is_missing_or_fails_leaves_the_failure_as_it_is(baseline: Baseline | None) -> None:
    to = backend()
    made, policy = stage(Service(UNREACHABLE), to, baselines={PATH: baseline} if baseline else {})
    with pytest.raises(NotReady, match="gone"):
        await made(exchange(policy, to))
    assert not to.load.counts.fallbacks


@pytest.mark.parametrize(
    "failure",
    [
        failed(grpc.StatusCode.INVALID_ARGUMENT),
        failed(grpc.StatusCode.NOT_FOUND),
        failed(grpc.StatusCode.RESOURCE_EXHAUSTED),
        failed(grpc.StatusCode.CANCELLED),
        Overloaded("too many", reason=ErrorReason.ERROR_REASON_LIMIT_REACHED),
        InvalidInput("no"),
    ],
)
async def test_requests_at_fault_and_a_mesh_that_is_full_are_never_answered_so(failure: TryFailed | MeshError) -> None:
    to = backend(v2=State.SERVING, v3=State.SERVING)
    made, policy = stage(Service(failure), to, baselines={PATH: lambda request: b"x"})
    with pytest.raises(type(failure)):
        await made(exchange(policy, to))
    assert not to.load.counts.fallbacks


@pytest.mark.parametrize("ways", [("version",), ("version", "baseline")])
async def test_baselines_are_loaded_at_the_start_where_a_method_falls_back_to_one(ways: tuple[str, ...]) -> None:
    route = RouteSettings(services=(SERVICE,), fallbacks={"PredictEngagement": ways})
    connect: Any = None
    backends = Backends(GatewaySettings(routes={"predictor": route}), connect=connect, health=Health())
    assert Mesh(backends).baselines.is_loaded is ("baseline" in ways)


async def test_a_baseline_that_is_not_installed_is_refused_at_the_start() -> None:
    connect: Any = None
    for name, service, method in (("analyzer", ANALYZER, "AnalyzeContent"), ("own", "acme.Scores", "Score")):
        route = RouteSettings(services=(service,), fallbacks={method: ("version", "baseline")})
        backends = Backends(GatewaySettings(routes={name: route}), connect=connect, health=Health())
        with pytest.raises(InvalidInput, match=rf"routes\.{name}\.fallbacks\.{method}: .* PredictEngagement"):
            Mesh(backends)


@pytest.mark.parametrize(
    ("remaining_s", "least_s", "expected_s"),
    [(1.0, 0.005, 0.02), (0.1, 0.005, 0.005), (60.0, 0.005, 0.05), (0.01, 0.005, 0.0025), (-1.0, 0.005, 0.0)],
)
def test_the_tries_leave_time_for_an_answer_without_a_replica(
    remaining_s: float, least_s: float, expected_s: float
) -> None:
    assert reserved_s(remaining_s, least_s) == pytest.approx(expected_s)


@pytest.mark.parametrize(("ways", "is_kept"), [(("version",), False), (("cache",), True), (("baseline",), True)])
async def test_only_fallbacks_that_need_no_replica_shorten_the_tries(ways: tuple[str, ...], is_kept: bool) -> None:
    to = backend(v3=State.SERVING)
    made, policy = stage(Service(), to, ways)
    call = exchange(policy, to)
    ends_at = call.ends_at
    await made(call)
    assert call.ends_at == (pytest.approx(ends_at - 0.05) if is_kept else ends_at)


async def test_a_call_for_one_version_gets_that_or_none() -> None:
    service, to = Service(failed(grpc.StatusCode.INTERNAL)), backend(v2=State.SERVING, v3=State.SERVING)
    made, policy = stage(service, to, baselines={PATH: lambda request: b"x"})
    with pytest.raises(TryFailed):
        await made(exchange(policy, to, model_version=3))
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ({}, None),
        ({"v3": State.SERVING}, None),
        ({"v3": State.NOT_SERVING}, None),
        ({"v1": State.SERVING, "v2": State.SERVING, "v3": State.NOT_SERVING}, 2),
        ({"v1": State.SERVING, "v2": State.NOT_SERVING, "v10": State.SERVING}, 1),
    ],
)
def test_the_previous_version_serves_and_is_older_than_the_newest(
    models: dict[str, State], expected: int | None
) -> None:
    assert previous_version(backend(**models)) == expected


async def test_what_is_installed_is_found_by_method() -> None:
    assert await Baselines().answer("/acme.EchoService/Echo", b"") is None
