"""Asking: the one entry of a unary call of encoded messages into the pipeline of its method, within its deadline."""

from __future__ import annotations

import secrets
import time

from meshcast.rpc import InvalidInput, MeshError

from .backends import Backend, Backends
from .budget import Fastest, budget
from .cache import ResponseCache
from .contracts import Idempotency, MethodContract
from .exchange import Answer, Exchange, TryFailed
from .fallback import Baselines
from .forwarding import Metadata
from .pipeline import RouteStages, pipeline
from .policy import Tries, policy_of
from .receipts import Receipts
from .wire import read_bytes_field, with_string_field

_UNNAMED_BYTES_MAX = 4 * 1024 * 1024 - 64
"""Longest request that gets an id: one as large as `rpc.control_message_bytes_max` allows must not outgrow it."""


class Asking:
    """The calls of one method to one route.

    Args:
        mesh: settings, and what routes and stages share.
        contract: of the method.
        backend: the route.

    Attributes:
        policy: what the gateway does for them.
    """

    __slots__ = ("_backend", "_fastest", "_id_field", "_margin_s", "_stage", "policy")

    def __init__(self, mesh: Mesh, contract: MethodContract, backend: Backend) -> None:
        self.policy = policy_of(contract, backend.settings)
        self._backend = backend
        self._margin_s = mesh.settings.deadline_margin_ms / 1e3
        self._stage = pipeline(self.policy, backend, mesh)
        self._fastest = Fastest()
        # What a repeat does not change only by its request id gets one: else a second try would be stored once more.
        is_stored = contract.idempotency is Idempotency.IDEMPOTENT and self.policy.tries is not Tries.ONCE
        self._id_field = (contract.request_id_field or 0) if is_stored else 0

    def exchange(self, request: bytes, metadata: Metadata, remaining_s: float | None) -> Exchange:
        """A call that has just arrived; counted in the route's load where it is refused.

        Args:
            request: encoded.
            metadata: of the caller, to be passed on.
            remaining_s: what is left of the caller's deadline, in seconds; None where it set none.

        Raises:
            DeadlineExceeded: what is left is not enough for any answer.
        """
        started = time.perf_counter()
        backend, policy = self._backend, self.policy
        timeout_s = policy.deadline_s if remaining_s is None else remaining_s - self._margin_s
        try:
            allowed = budget(
                backend,
                remaining_s,
                default_s=policy.deadline_s,
                margin_s=self._margin_s,
                fastest_s=self._fastest.bound_s(timeout_s, started),
            )
        except MeshError as refusal:
            backend.load.record(refusal.code.name)
            raise
        ends_at = started + allowed.timeout_s
        is_unnamed = self._id_field and not read_bytes_field(request, self._id_field)
        if is_unnamed and len(request) <= _UNNAMED_BYTES_MAX:
            request = with_string_field(request, self._id_field, secrets.token_hex(16))
        return Exchange(policy, backend, request, metadata, started, ends_at, allowed.default_ms)

    async def answer(self, exchange: Exchange) -> Answer:
        """The answer to a call; counted in the route's load, however it ends.

        Args:
            exchange: made by this object.

        Raises:
            TryFailed: the last replica's failure.
            MeshError: the gateway's own.
        """
        load = self._backend.load
        load.in_flight += 1
        code = "CANCELLED"
        try:
            answer = await self._stage(exchange)
            code = "OK"
            return answer
        except TryFailed as failed:
            code = failed.error.code().name
            raise
        except MeshError as refusal:
            code = refusal.code.name
            raise
        finally:
            ended = time.perf_counter()
            took_s = ended - exchange.started
            load.in_flight -= 1
            load.record(code, took_s)
            if code == "OK":
                self._fastest.record(took_s, ended)


class Mesh:
    """The routes with their pipelines.

    Args:
        backends: the routes.

    Raises:
        InvalidInput: a method falls back to a baseline, and none is installed for it.

    Attributes:
        backends: the routes.
        settings: of the gateway.
        baselines: that are installed.
        cache: answers that were given before.
        receipts: makes the gateway's part of answers.
    """

    def __init__(self, backends: Backends) -> None:
        self.backends = backends
        self.settings = backends.settings
        self.baselines = Baselines()
        self.cache = ResponseCache(backends.settings.cache)
        self.receipts = Receipts()
        self._stages: dict[str, RouteStages] = {}
        self._askings: dict[tuple[str, str], Asking] = {}
        self._check_baselines()

    def _check_baselines(self) -> None:
        """Loads the baselines where a method falls back to one, and refuses methods that have none."""
        for name, route in self.settings.routes.items():
            for method, ways in route.fallbacks.items():
                if "baseline" in ways and not any(f"/{s}/{method}" in self.baselines.paths for s in route.services):
                    key = f"gateway.routes.{name}.fallbacks.{method}"
                    known = ", ".join(sorted(path.rpartition("/")[2] for path in self.baselines.paths)) or "none"
                    raise InvalidInput(
                        f"{key}: no baseline is installed for it; methods that have one: {known}", field=key
                    )

    def stages(self, backend: Backend) -> RouteStages:
        """What the stages of a route share; made once."""
        stages = self._stages.get(backend.name)
        if stages is None:
            stages = self._stages[backend.name] = RouteStages(self, backend)
        return stages

    def asking(self, contract: MethodContract, backend: Backend) -> Asking:
        """The calls of a method to a route; made once, and anew when the method's contract has changed."""
        key = (contract.path, backend.name)
        asking = self._askings.get(key)
        if asking is None or asking.policy.contract != contract:
            asking = self._askings[key] = Asking(self, contract, backend)
        return asking

    def asking_of(self, path: str) -> Asking:
        """The calls of a method to the first route that serves it.

        Args:
            path: of the method, as in `/meshcast.api.predictor.v1.PredictorService/PredictEngagement`.

        Raises:
            LookupError: no route has the service, or nothing is known of the method.
        """
        service = path[1:].rpartition("/")[0]
        routes = self.backends.by_service[service]
        contract = (self.backends.contracts.methods(service) or {})[path]
        return self.asking(contract, routes[0])

    async def ask(
        self, path: str, request: bytes, *, metadata: Metadata = (), remaining_s: float | None = None
    ) -> tuple[Answer, Exchange]:
        """Asks the first route that serves a method.

        Args:
            path: of the method.
            request: encoded.
            metadata: of the caller, to be passed on.
            remaining_s: what is left of the caller's deadline, in seconds; None takes the route's default.

        Raises:
            LookupError: no route has the service, or nothing is known of the method.
            TryFailed: the last replica's failure.
            MeshError: the gateway's own.
        """
        asking = self.asking_of(path)
        exchange = asking.exchange(request, metadata, remaining_s)
        return await asking.answer(exchange), exchange
