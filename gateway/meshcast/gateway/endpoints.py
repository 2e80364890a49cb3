"""Endpoint source: where the replicas of a route are, now and as that changes; what a route's `endpoints` stand for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

log = structlog.get_logger()

DNS, FILE = "dns:///", "file://"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverySettings:
    """How replicas are looked for behind names and in files. The table `[gateway.discovery]`."""

    dns_poll_s: float = 2.0
    """Seconds between two look-ups of a `dns:///` name: the system's resolver does not tell how long answers hold."""
    dns_gone_s: float = 10.0
    """Seconds for which an address must have been missing from the answers before its replica is left: some servers
    tell a part of the addresses at a time, and some tell none for a moment. Replicas that are down are not asked."""
    file_poll_s: float = 1.0
    """Seconds between two looks at a `file://` list."""

    def __post_init__(self) -> None:
        """Checks the values; raises ValueError naming the field."""
        for name in ("dns_poll_s", "file_poll_s"):
            if not getattr(self, name) > 0:  # NaN is none
                raise ValueError(f"{name} must be more than 0, is {getattr(self, name)}")
        if not self.dns_gone_s >= 0:
            raise ValueError(f"dns_gone_s must be 0 or more, is {self.dns_gone_s}")


class EndpointSource(Protocol):
    """Tells the addresses of one route's replicas."""

    def watch(self) -> AsyncIterator[Sequence[str]]:
        """Yields the whole list of `host:port` at once and after every change; it may end when no change can come."""
        ...


class StaticEndpoints:
    """A list of addresses that never changes."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._endpoints = tuple(dict.fromkeys(endpoints))

    async def watch(self) -> AsyncGenerator[Sequence[str], None]:
        """Yields the list once."""
        yield self._endpoints


class MergedEndpoints:
    """The addresses of several sources together, sorted, each once.

    A source that has told nothing yet adds nothing.
    """

    def __init__(self, sources: Sequence[EndpointSource]) -> None:
        self._sources = tuple(sources)

    async def watch(self) -> AsyncGenerator[Sequence[str], None]:
        """Yields the union after every change of a part."""
        latest: dict[int, Sequence[str]] = {}
        changed = asyncio.Event()

        async def follow(number: int, source: EndpointSource) -> None:
            try:
                async for endpoints in source.watch():
                    latest[number] = endpoints
                    changed.set()
            finally:
                changed.set()

        tasks = [
            asyncio.create_task(follow(number, source), name=f"endpoints:part:{number}")
            for number, source in enumerate(self._sources)
        ]
        told: Sequence[str] | None = None
        try:
            while True:
                await changed.wait()
                changed.clear()
                for task in tasks:
                    if task.done():
                        task.result()  # a source only ends by itself, or by a bug that must be seen
                together = sorted_once(endpoint for endpoints in latest.values() for endpoint in endpoints)
                if latest and together != told:
                    told = together
                    yield together
                if all(task.done() for task in tasks):
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def source_of(endpoints: Sequence[str], settings: DiscoverySettings) -> EndpointSource:
    """The source that a route's `endpoints` stand for.

    Args:
        endpoints: each `host:port`, `dns:///host:port` for every address behind a name, or `file:///path` for the lines
            of a file, in any mixture.
        settings: how often is looked.

    Raises:
        ValueError: an endpoint is none of them.
    """
    from .dns_endpoints import DnsEndpoints
    from .file_endpoints import FileEndpoints

    sources: list[EndpointSource] = []
    for endpoint in dict.fromkeys(endpoints):
        check_endpoint(endpoint)
        if endpoint.startswith(DNS):
            host, port = split(endpoint.removeprefix(DNS))
            sources.append(DnsEndpoints(host, port, poll_s=settings.dns_poll_s, gone_s=settings.dns_gone_s))
        elif endpoint.startswith(FILE):
            sources.append(FileEndpoints(endpoint.removeprefix(FILE), poll_s=settings.file_poll_s))
    fixed = [endpoint for endpoint in endpoints if "://" not in endpoint]
    if not sources:
        return StaticEndpoints(fixed)
    return MergedEndpoints([*([StaticEndpoints(fixed)] if fixed else []), *sources])


def server_name(endpoint: str, endpoints: Sequence[str]) -> str:
    """The name that a replica's certificate must carry: that of the `dns:///` entry which led to it; empty for its own.

    Args:
        endpoint: of the replica, as `host:port`.
        endpoints: of its route, as `source_of` takes them.
    """
    if endpoint in endpoints:
        return ""
    port = split(endpoint)[1]
    entries = [split(one.removeprefix(DNS)) for one in endpoints if one.startswith(DNS)]
    names = {host for host, at in entries if at == port}
    return names.pop() if len(names) == 1 else ""


def check_endpoint(endpoint: str) -> None:
    """Checks one of a route's `endpoints`.

    Raises:
        ValueError: it is neither `host:port` nor `dns:///host:port` nor `file:///path`; says what is wrong.
    """
    if endpoint.startswith(FILE):
        if not endpoint.startswith(f"{FILE}/") or endpoint == f"{FILE}/":
            raise ValueError(f"{endpoint!r} names no file; write file:///path/of/the/list")
        return
    scheme, separator, _ = endpoint.partition("://")
    if separator and not endpoint.startswith(DNS):
        way_out = "write dns:///host:port" if scheme == "dns" else "known are host:port, dns:///host:port, file:///path"
        raise ValueError(f"{endpoint!r} is no endpoint; {way_out}")
    host, _ = split(endpoint.removeprefix(DNS))
    if separator:
        try:
            host.encode("idna")  # as the resolver does
        except UnicodeError as error:
            raise ValueError(f"{endpoint!r} is no endpoint; {host!r} cannot be a name ({error})") from error


def split(endpoint: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 address stands in brackets, which the host keeps.

    Raises:
        ValueError: it is not host:port.
    """
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{endpoint!r} is not host:port")
    if any(letter in host for letter in "/, \t") or (":" in host and not (host[0] == "[" and host[-1] == "]")):
        raise ValueError(f"{endpoint!r} is not host:port (an IPv6 address stands in brackets)")
    return host, int(port)


def sorted_once(endpoints: Iterable[str]) -> tuple[str, ...]:
    """The addresses sorted, each once."""
    return tuple(sorted(set(endpoints)))


def log_change(source: str, before: Sequence[str], after: Sequence[str]) -> None:
    """Logs which addresses have come and gone."""
    added, removed = sorted({*after} - {*before}), sorted({*before} - {*after})
    if added or removed:
        log.info("endpoints changed", source=source, added=added, removed=removed, endpoints=len(after))
