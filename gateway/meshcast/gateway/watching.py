"""Watching: follows one replica's health names, lists its models and learns its contracts, until it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .contracts import Contracts, read_files
from .replica import Replica, State
from .settings import GatewaySettings, RouteSettings

log = structlog.get_logger()

# A backend whose loop is busy answers late; only one that is silent for as long as a keepalive ping is taken for dead.
_LIST_TIMEOUT_S = 5.0
_REFLECTION_TIMEOUT_S = 5.0
_MODEL_PREFIX = "model/"

_STATES: dict[int, State | None] = {
    health_pb2.HealthCheckResponse.SERVING: State.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING: State.NOT_SERVING,
    health_pb2.HealthCheckResponse.UNKNOWN: State.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN: None,
}


class _Lost(Exception):
    """The replica's connection or its Watch ended."""


async def follow(
    replica: Replica, route: RouteSettings, settings: GatewaySettings, contracts: Contracts, publish: Callable[[], None]
) -> None:
    """Keeps a replica's states true until it is cancelled; a lost replica is tried again and again.

    Args:
        replica: whose states are written.
        route: its route; its services' health names are watched.
        settings: intervals.
        contracts: learns the methods of the route's services at each contact.
        publish: called after every change.
    """
    stub = health_pb2_grpc.HealthStub(replica.channel)
    names = tuple(dict.fromkeys(("", route.health, *route.services)))
    while True:
        problem = await _until_lost(
            [_watch(stub, replica, name, names, publish) for name in names]
            + [_list_models(stub, replica, settings, publish), _learn(replica, route, contracts)],
            name=f"watch:{replica.endpoint}",
        )
        if replica.is_reachable or not replica.is_known:
            log.warning("replica lost", endpoint=replica.endpoint, problem=problem)
            replica.changed_time = datetime.now(UTC)
        replica.problem = problem
        replica.is_known = True
        replica.services.clear()
        replica.models = dict.fromkeys(replica.models, State.UNREACHABLE)
        publish()
        await asyncio.sleep(settings.reconnect_s)


async def _until_lost(following: Sequence[Coroutine[Any, Any, None]], *, name: str) -> str:
    """Runs all at once until one finds the replica lost; returns what it found. Nothing of them is left behind.

    No TaskGroup: on Python 3.11 one that fails while it is cancelled forgets the latter, and the gateway would not end.
    """
    tasks = [asyncio.create_task(each, name=name) for each in following]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [end for end in ends if isinstance(end, Exception)]
    for failure in failures:
        if not isinstance(failure, (grpc.aio.AioRpcError, _Lost)):
            # One replica's odd answer must not take the gateway down.
            log.error("bug in following a replica", following=name, exc_info=failure)
    first = failures[0]  # its words are told to callers
    return _describe(first) if isinstance(first, (grpc.aio.AioRpcError, _Lost)) else "internal error"


async def _watch(
    stub: health_pb2_grpc.HealthStub, replica: Replica, name: str, names: Sequence[str], publish: Callable[[], None]
) -> None:
    call = stub.Watch(health_pb2.HealthCheckRequest(service=name))
    try:
        async for response in call:
            if response is None:  # grpc's word for bytes that are no message of the type
                raise _Lost("its health cannot be read")
            _take(replica, name, _STATES.get(response.status, State.NOT_SERVING), names, publish)
        raise _Lost("it ended its health watch")
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
    finally:
        call.cancel()
    # A foreign backend without health service counts as serving while it is connected, as in gRPC's own balancers.
    _take(replica, name, State.SERVING, names, publish)
    state = replica.channel.get_state(try_to_connect=True)
    while state is grpc.ChannelConnectivity.READY:
        await replica.channel.wait_for_state_change(state)
        state = replica.channel.get_state()
    raise _Lost("the connection was lost")


def _take(replica: Replica, name: str, state: State | None, names: Sequence[str], publish: Callable[[], None]) -> None:
    if not replica.is_reachable:
        log.info("replica reached", endpoint=replica.endpoint)
        replica.problem = ""
        replica.changed_time = datetime.now(UTC)
    elif replica.services.get(name, ...) != state:
        replica.changed_time = datetime.now(UTC)
    else:
        return
    replica.services[name] = state
    replica.is_known = replica.is_known or len(replica.services) == len(names)
    replica.ask_models()
    publish()


async def _list_models(
    stub: health_pb2_grpc.HealthStub, replica: Replica, settings: GatewaySettings, publish: Callable[[], None]
) -> None:
    while True:
        replica.models_asked.clear()
        try:
            listed = await stub.List(health_pb2.HealthListRequest(), timeout=_LIST_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise _Lost(f"silent: did not answer a health check in {_LIST_TIMEOUT_S:g} s") from error
            raise
        if listed is None:  # as above
            raise _Lost("its list of models cannot be read")
        models = {
            name: _STATES.get(response.status) or State.NOT_SERVING
            for name, response in listed.statuses.items()
            if name.startswith(_MODEL_PREFIX)
        }
        if models != replica.models:
            replica.models = models
            publish()
        with suppress(TimeoutError):  # not wait_for: on Python 3.11 it can swallow the cancellation
            async with asyncio.timeout(settings.models_poll_s):
                await replica.models_asked.wait()


async def _learn(replica: Replica, route: RouteSettings, contracts: Contracts) -> None:
    for service in route.services:
        try:
            contracts.learn(service, await read_files(replica.channel, service, timeout_s=_REFLECTION_TIMEOUT_S))
        except (grpc.aio.AioRpcError, LookupError, ValueError) as error:
            # Stubs, or relaying every method as a stream both ways, do without it.
            log.debug("contract not learnt", service=service, endpoint=replica.endpoint, problem=_describe(error))


def _describe(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
