"""Fallback: answers a call that has failed with something that is less than what was asked for, and says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points

import grpc
import structlog

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.api.type.v1.receipt_pb2 import Fallback as Kind
from meshcast.rpc import MeshError, from_rpc_error

from .backends import Backend
from .exchange import Answer, Exchange, Stage, TryFailed
from .policy import MethodPolicy
from .replica import State
from .wire import read_varint_field, with_varint_field

log = structlog.get_logger()

Baseline = Callable[[bytes], bytes | None]
"""Encoded request to encoded response; None where the request gives no baseline."""

_GROUP = "meshcast.baselines"
# How long calls go straight to the version that stands in. The broken one is then tried once in so long, so that a
# replica whose other versions are well keeps its breaker closed at any rate of calls.
_KNOWN_BROKEN_S = 2.0
# What the tries leave of a call's time where an answer without a replica can still be given: enough to give it, on a
# busy machine too, and little enough that no replica misses it.
_RESERVE_SHARE, _RESERVE_S_MAX, _RESERVE_SHARE_MAX = 0.02, 0.05, 0.25
# Calls in a row that the newest version has failed before others are spared it: one odd question must not change the
# answers to all.
_KNOWN_BROKEN_CALLS = 3
# What says nothing about the question itself. A mesh that is full (RESOURCE_EXHAUSTED) must be left alone, and seen.
_OF_THE_MESH = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
    }
)
# Ended by a replica that was there: another of its models may do. None can where nobody is.
_OF_THE_MODEL = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})


class Baselines:
    """The statistical baselines that are installed, by the path of the method that they stand in for.

    Loaded when one is asked for first, or before; what cannot be loaded is logged and left out.
    """

    def __init__(self) -> None:
        self._found: dict[str, Baseline] | None = None

    @property
    def is_loaded(self) -> bool:
        """True once they have been loaded."""
        return self._found is not None

    def load(self) -> None:
        """Loads them, which takes some tenths of a second: at the start, as no call of an outage has time for that."""
        self._found = _installed()

    @property
    def paths(self) -> frozenset[str]:
        """Paths of the methods that have one; loads them where that has not been done."""
        if self._found is None:
            self.load()
        assert self._found is not None
        return frozenset(self._found)

    async def answer(self, path: str, request: bytes) -> bytes | None:
        """The baseline's encoded response; None where there is none. It is computed off the event loop.

        Args:
            path: of the method.
            request: encoded.
        """
        return await asyncio.to_thread(self._answer, path, request)

    def _answer(self, path: str, request: bytes) -> bytes | None:
        if self._found is None:
            self.load()
            assert self._found is not None
        baseline = self._found.get(path)
        if baseline is None:
            return None
        try:
            return baseline(request)
        except Exception as error:  # a baseline must not make a failure worse; the call fails as it would without
            log.warning("baseline failed", method=path, exc_info=error)
            return None


class Fallback:
    """Stage: where a call fails for a reason of the mesh's, answers with what its policy names, in that order.

    - `version`: the model's highest version below the newest that a replica serves, where a replica was there and its
      model failed or is loading. Where three calls in a row have failed so, those of the next two seconds are answered
      by it at once.
    - `cache`: the answer that was given to the same question before.
    - `baseline`: the service's statistical baseline.

    Where the last two are named, the tries end a little before the deadline, so that there is time for them.

    A call that asks for one version gets that or none: only the cache stands in for it. Requests that are at fault and
    calls of a mesh that is full are never answered so.

    Args:
        inner: the stages that it stands behind.
        policy: of the method.
        backend: the route.
        baselines: that are installed.
        stale: gives what the cache kept, labelled where it is fresh no more; None where nothing is kept.
        reserve_s: what the tries leave at least of a call's time, but for a quarter of it at most, in seconds.
    """

    def __init__(
        self,
        inner: Stage,
        policy: MethodPolicy,
        backend: Backend,
        *,
        baselines: Baselines,
        stale: Callable[[Exchange], Answer | None] | None = None,
        reserve_s: float = 0.0,
    ) -> None:
        self._inner = inner
        self._policy = policy
        self._backend = backend
        self._baselines = baselines
        self._stale = stale
        ways: Mapping[str, Callable[[Exchange, MeshError], Awaitable[Answer | None]]] = {
            "version": self._version,
            "cache": self._cached,
            "baseline": self._baseline,
        }
        self._ways = [(name, ways[name]) for name in policy.fallbacks]
        self._reserve_s = reserve_s
        self._needs_reserve = not {"cache", "baseline"}.isdisjoint(policy.fallbacks)
        self._broken: tuple[float, int, str] | None = None  # until when which version stands in, and why
        self._failed_in_row = 0

    async def __call__(self, exchange: Exchange) -> Answer:
        """Answers the call, or raises what failed it."""
        if self._needs_reserve:
            exchange.ends_at -= reserved_s(exchange.remaining_s(), self._reserve_s)
        if self._broken is not None:
            until, version, why = self._broken
            if exchange.started < until and not _pins_version(exchange):
                answer = await self._ask_version(exchange, version, why)
                if answer is not None:
                    self._backend.load.counts.fallbacks["version"] += 1
                    return answer
            self._broken = None
        try:
            answer = await self._inner(exchange)
            if self._failed_in_row and not _pins_version(exchange):
                self._failed_in_row = 0
            return answer
        except TryFailed as failed:
            failure: TryFailed | MeshError = failed
            error = from_rpc_error(failed.error)
            code = failed.error.code()
        except MeshError as refused:
            failure = error = refused
            code = refused.code
        if code not in _OF_THE_MESH:
            raise failure
        for name, way in self._ways:
            answer = await way(exchange, error)
            if answer is not None:
                if answer.fallback:
                    self._backend.load.counts.fallbacks[name] += 1
                    log.debug("degraded answer", method=self._policy.path, fallback=name, why=error.message)
                return answer
        raise failure

    async def _version(self, exchange: Exchange, error: MeshError) -> Answer | None:
        field = self._policy.contract.version_field
        is_the_models = error.code in _OF_THE_MODEL or error.reason == ErrorReason.ERROR_REASON_MODEL_LOADING
        if field is None or not is_the_models or exchange.remaining_s() <= 0 or _pins_version(exchange):
            return None
        version = previous_version(self._backend)
        if version is None:
            return None
        answer = await self._ask_version(exchange, version, _why(error))
        if answer is not None:
            self._failed_in_row += 1
            if self._failed_in_row >= _KNOWN_BROKEN_CALLS:
                self._broken = (time.perf_counter() + _KNOWN_BROKEN_S, version, _why(error))
        return answer

    async def _ask_version(self, exchange: Exchange, version: int, why: str) -> Answer | None:
        """The labelled answer of a version; None when it fails too."""
        field = self._policy.contract.version_field
        assert field is not None
        asked = exchange.request
        exchange.request = with_varint_field(asked, field, version)
        try:
            answer = await self._inner(exchange)
        except (TryFailed, MeshError):
            return None
        finally:
            exchange.request = asked
        note = f"version {version} answered, which was not asked for: {why}"
        return replace(answer, fallback=Kind.FALLBACK_VERSION, notes=(*answer.notes, note))

    async def _cached(self, exchange: Exchange, error: MeshError) -> Answer | None:
        answer = self._stale(exchange) if self._stale is not None else None
        if answer is None or not answer.fallback:
            return answer  # what is still fresh is no lesser answer
        return replace(answer, notes=(*answer.notes, _why(error)))

    async def _baseline(self, exchange: Exchange, error: MeshError) -> Answer | None:
        if _pins_version(exchange):
            return None
        response = await self._baselines.answer(self._policy.path, exchange.request)
        if response is None:
            return None
        note = f"the statistical baseline, no model was asked: {_why(error)}"
        return Answer(response, fallback=Kind.FALLBACK_BASELINE, notes=(note,))


def reserved_s(remaining_s: float, least_s: float) -> float:
    """What the tries of a call leave for an answer that needs no replica, in seconds.

    Args:
        remaining_s: what is left of its time.
        least_s: what is left at least, unless that is more than a quarter of it.
    """
    wanted_s = max(least_s, min(_RESERVE_S_MAX, _RESERVE_SHARE * remaining_s))
    return max(0.0, min(wanted_s, _RESERVE_SHARE_MAX * remaining_s))


def previous_version(backend: Backend) -> int | None:
    """The highest version of the route's model that serves, below the newest that is listed; None where there is none.

    Args:
        backend: the route; its model has its name.
    """
    prefix = f"model/{backend.name}/"
    listed: set[int] = set()
    serving: set[int] = set()
    for replica in backend.replicas.values():
        for name, state in replica.models.items():
            number = name.removeprefix(prefix)
            if name.startswith(prefix) and number.isdecimal():
                listed.add(int(number))
                if state is State.SERVING:
                    serving.add(int(number))
    newest = max(listed, default=0)
    return max((version for version in serving if version < newest), default=None)


def _pins_version(exchange: Exchange) -> bool:
    field = exchange.policy.contract.version_field
    return field is not None and read_varint_field(exchange.request, field) != 0


def _why(error: MeshError) -> str:
    """What failed the call, in the words of its status; a peer's bug keeps its own to itself."""
    return f"{error.code.name}, {error.reason_name.removeprefix('ERROR_REASON_').lower().replace('_', ' ')}"


def _installed() -> dict[str, Baseline]:
    found: dict[str, Baseline] = {}
    for point in entry_points(group=_GROUP):
        try:
            found.update(point.load())
        except Exception as error:  # code of other distributions
            log.warning("baselines cannot be loaded", name=point.name, exc_info=error)
    return found
