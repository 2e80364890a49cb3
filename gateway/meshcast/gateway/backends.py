"""Backend: the replicas of one route with the pick among them, and the mesh of all routes whose states the gateway's
health names follow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from contextlib import aclosing, suppress
from types import TracebackType

import grpc.aio
import structlog

from meshcast.rpc import Health, ServingStatus

from .breaker import Breaker
from .bulkhead import Bulkhead, BulkheadSettings
from .contracts import Contracts
from .endpoints import EndpointSource, server_name, source_of
from .load import RouteLoad
from .picker import Picker
from .replica import Replica, State
from .settings import GatewaySettings, RouteSettings
from .watching import follow

log = structlog.get_logger()

GATEWAY_SERVICE = "meshcast.api.gateway.v1.GatewayService"
Connect = Callable[[str, str], grpc.aio.Channel]


class Backend:
    """One route: its replicas, the pick among them and what has been counted.

    Attributes:
        name: name in the route table.
        settings: the route's settings.
        load: calls and latencies.
        replicas: by endpoint, in the order of the endpoint source.
        is_listed: True once the endpoint source has told its replicas.
        was_reached: True once any replica was reached.
        usual_s: what an answer takes by the path of its method, smoothed, in seconds; written by tries.
        versions_tag: the versions of models that its replicas serve, as text that changes exactly when they do; while
            no replica can be reached, what was known last.
        bulkhead: the hard bound of calls and chunks under way.
    """

    def __init__(
        self,
        name: str,
        settings: RouteSettings,
        rng: random.Random | None = None,
        *,
        bulkhead: BulkheadSettings | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.load = RouteLoad()
        self.replicas: dict[str, Replica] = {}
        self.is_listed = False
        self.was_reached = False
        self.usual_s: dict[str, float] = {}
        self.versions_tag = ""
        self.bulkhead = Bulkhead(name, bulkhead or BulkheadSettings())
        self._ready: dict[str, tuple[Replica, ...]] = {}
        self._picker = Picker(rng)

    @property
    def is_known(self) -> bool:
        """True once each replica was reached or found unreachable."""
        return self.is_listed and all(replica.is_known for replica in self.replicas.values())

    def ready(self, service: str) -> tuple[Replica, ...]:
        """Replicas that take calls of a service: those that say SERVING, or where none does all that can be reached, as
        their own error tells more than ours, and as a model can only be loaded where it is not.

        Args:
            service: full name of the gRPC service that is called.
        """
        return self._ready.get(service, ())

    def pick(self, service: str, avoid: Collection[Replica] = ()) -> Replica | None:
        """The replica that takes the next call, as `Picker` has it; None when none can be reached. Where no breaker
        admits the call, it is one of the others all the same.

        Args:
            service: full name of the gRPC service that is called.
            avoid: replicas that have just refused this call.
        """
        return self._picker.any(self._ready.get(service, ()), avoid)

    def pick_admitted(self, service: str, avoid: Collection[Replica] = ()) -> Replica | None:
        """As `pick`, but None when no breaker admits the call."""
        return self._picker.admitted(self._ready.get(service, ()), avoid)

    def state(self, name: str | None = None) -> State:
        """The best state of the replicas for a health name; None asks for the route's own."""
        return best(state_of(replica, self.settings, name) for replica in self.replicas.values())

    def has_model(self, name: str) -> bool:
        """True when a replica lists the model, in whatever state."""
        health_name = f"model/{name}"
        return any(health_name in replica.models for replica in self.replicas.values())

    def refresh(self) -> None:
        """Works out again which replicas take calls, after a state has changed."""
        self.was_reached = self.was_reached or any(replica.is_reachable for replica in self.replicas.values())
        for service in self.settings.services:
            serving = tuple(r for r in self.replicas.values() if state_of(r, self.settings, service) == State.SERVING)
            self._ready[service] = serving or tuple(r for r in self.replicas.values() if r.is_reachable)
        self.versions_tag = _versions_tag(self.replicas.values(), known=self.versions_tag)


class Backends:
    """All routes: follows their replicas while it is entered, and keeps the gateway's health names in step.

    Health names: `""` serves while any route can be asked; each routed service and each `model/...` name has the best
    state of its replicas; the gateway's own service serves until the drain.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        connect: Connect,
        health: Health,
        sources: Mapping[str, EndpointSource] | None = None,
        own_metadata: frozenset[str] = frozenset(),
    ) -> None:
        """Prepares the routes.

        Args:
            settings: routes and intervals.
            connect: makes the channel to a `host:port` whose certificate carries a name; empty for the host itself.
            health: registry whose names follow the replicas.
            sources: where each route's replicas are, by route; a route that is not named has the settings' list.
            own_metadata: metadata keys that the channels write themselves, so that the caller's are not passed on.
        """
        self.settings = settings
        self.own_metadata = own_metadata
        self.contracts = Contracts()
        self.by_name = {
            name: Backend(name, route, bulkhead=settings.bulkhead) for name, route in sorted(settings.routes.items())
        }
        self.by_service: dict[str, tuple[Backend, ...]] = {}
        for backend in self.by_name.values():
            for service in backend.settings.services:
                self.by_service[service] = (*self.by_service.get(service, ()), backend)
        self._connect = connect
        self._health = health
        self._sources = sources or {}
        self._published: set[str] = set()
        self._changed: set[asyncio.Event] = set()
        self._owners = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: list[Replica] = []

    async def __aenter__(self) -> Backends:
        await self._owners.__aenter__()
        for backend in self.by_name.values():
            source = self._sources.get(backend.name) or source_of(backend.settings.endpoints, self.settings.discovery)
            task = self._owners.create_task(self._follow_source(backend, source), name=f"endpoints:{backend.name}")
            self._tasks.append(task)
        self.publish()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            # The block's own error goes on as it is: it is none of the group's.
            await self._owners.__aexit__(None, None, None)
        finally:
            for replica in [*(r for b in self.by_name.values() for r in b.replicas.values()), *self._closing]:
                await replica.close()

    async def wait_first_contact(self, timeout_s: float) -> None:
        """Waits until every replica was reached or found unreachable, at most `timeout_s` seconds."""
        async with aclosing(self.changes(timeout_s)) as changes:
            try:
                async with asyncio.timeout(timeout_s):
                    async for _ in changes:
                        if all(backend.is_known for backend in self.by_name.values()):
                            return
            except TimeoutError:
                log.warning("backends silent at start", waited_s=timeout_s)

    async def changes(self, interval_s: float) -> AsyncGenerator[None]:
        """Yields at once, then after every change of a state and at least every `interval_s` seconds; never ends."""
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            while True:
                changed.clear()
                yield
                with suppress(TimeoutError):
                    async with asyncio.timeout(interval_s):
                        await changed.wait()
        finally:
            self._changed.discard(changed)

    def publish(self) -> None:
        """Brings picks, health names and watchers in step with the replicas' states."""
        for backend in self.by_name.values():
            backend.refresh()
        states = {
            service: best(backend.state(service) for backend in backends)
            for service, backends in self.by_service.items()
        }
        is_serving = State.SERVING in states.values()
        models: dict[str, State] = {}
        for backend in self.by_name.values():
            for replica in backend.replicas.values():
                for name, state in replica.models.items():
                    models[name] = best((state, models.get(name, State.UNREACHABLE)))
        states |= models
        states[""] = State.SERVING if is_serving else State.NOT_SERVING
        states[GATEWAY_SERVICE] = State.SERVING
        for name, state in states.items():
            self._health.set(name, ServingStatus.SERVING if state == State.SERVING else ServingStatus.NOT_SERVING)
        for name in self._published - states.keys():
            self._health.remove(name)
        self._published = set(states)
        self.wake()

    def wake(self) -> None:
        """Has everyone look again who follows the changes."""
        for event in self._changed:
            event.set()

    async def _follow_source(self, backend: Backend, source: EndpointSource) -> None:
        followers: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            async for endpoints in source.watch():
                for endpoint in endpoints:
                    if endpoint not in backend.replicas:
                        replica = backend.replicas[endpoint] = Replica(
                            endpoint,
                            self._connect(endpoint, server_name(endpoint, backend.settings.endpoints)),
                            Breaker(self.settings.breaker, on_change=self.wake),
                        )
                        followers[endpoint] = group.create_task(
                            self._follow(backend, replica), name=f"watch:{backend.name}:{endpoint}"
                        )
                backend.is_listed = True
                for endpoint in backend.replicas.keys() - set(endpoints):
                    followers.pop(endpoint).cancel()
                    gone = backend.replicas.pop(endpoint)
                    self._closing.append(gone)
                    group.create_task(self._close(gone), name=f"close:{backend.name}:{endpoint}")
                self.publish()

    async def _follow(self, backend: Backend, replica: Replica) -> None:
        await follow(replica, backend.settings, self.settings, self.contracts, self.publish)

    async def _close(self, replica: Replica) -> None:
        """Closes the channel of a replica that has left, once its calls are done."""
        grace_s = max((route.deadline_s_max for route in self.settings.routes.values()), default=0.0)
        await replica.close(grace_s)
        self._closing.remove(replica)


def state_of(replica: Replica, route: RouteSettings, name: str | None = None) -> State:
    """State of a health name on a replica; a name that the replica does not know is as its route's name, or else as "".

    Args:
        replica: the replica.
        route: its route.
        name: the health name; None for the route's own.
    """
    if not replica.is_reachable:
        return State.UNREACHABLE
    for known in (name if name is not None else route.health, route.health, ""):
        state = replica.services.get(known, State.NOT_SERVING)  # until its Watch has answered
        if state is not None:
            return state
    return State.NOT_SERVING


def best(states: Iterable[State]) -> State:
    """The best of the states; unreachable when there are none."""
    return min(states, default=State.UNREACHABLE)


def _versions_tag(replicas: Iterable[Replica], *, known: str) -> str:
    """`Backend.versions_tag`; what is `known` while no replica's models have been listed since it was reached."""
    # A replica that was lost keeps its list as unreachable until it is listed anew.
    listed = [r for r in replicas if r.is_reachable and set(r.models.values()) != {State.UNREACHABLE}]
    if not listed:
        return known
    serving = {name for r in listed for name, state in r.models.items() if state == State.SERVING}
    return " ".join(sorted(serving))
