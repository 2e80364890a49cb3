"""DNS endpoints: the addresses behind a name, looked up again and again by the system's resolver."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence

import structlog

from .endpoints import log_change, sorted_once

log = structlog.get_logger()

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a name as `host:port`, empty where it has none; raises OSError where nobody could say."""

# What a resolver says when it knows that there is nothing; all else means that it does not know.
_NONE_THERE = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)


class DnsEndpoints:
    """Every address behind a name, IPv4 and IPv6.

    A failed look-up changes nothing. An address that is missing from an answer stays for a while, see `Seen`.

    Args:
        host: the name.
        port: of every replica.
        poll_s: seconds between two look-ups.
        gone_s: seconds for which an address must have been missing before it leaves.
        resolve: looks the name up; None for the system's resolver, in a thread.
    """

    def __init__(self, host: str, port: int, *, poll_s: float, gone_s: float, resolve: Resolve | None = None) -> None:
        self._host, self._port = host, port
        self._poll_s = poll_s
        self._seen = Seen(gone_s)
        self._resolve = resolve or resolved

    async def watch(self) -> AsyncGenerator[Sequence[str], None]:
        """Yields the addresses once they are known, and after every change."""
        told: Sequence[str] | None = None
        problem = ""
        while True:
            try:
                answer = await self._resolve(self._host, self._port)
            except OSError as error:
                if problem != str(error):
                    problem = str(error)
                    log.warning("name not resolved", source=self._name, problem=problem, kept=len(told or ()))
            else:
                problem = ""
                endpoints = self._seen.update(answer, asyncio.get_running_loop().time())
                if endpoints != told:
                    log_change(self._name, told or (), endpoints)
                    told = endpoints
                    yield endpoints
            await asyncio.sleep(self._poll_s)

    @property
    def _name(self) -> str:
        return f"dns:///{self._host}:{self._port}"


class Seen:
    """The addresses that answers have named lately: one leaves once it has been missing for some time.

    Some name servers tell a part of the addresses at a time, and some tell none while they start again.

    Args:
        gone_s: that time, in seconds.
    """

    def __init__(self, gone_s: float) -> None:
        self._gone_s = gone_s
        self._missing_since: dict[str, float | None] = {}

    def update(self, answer: Collection[str], now: float) -> tuple[str, ...]:
        """Takes an answer in; returns the addresses that stand, sorted.

        Args:
            answer: addresses as `host:port`; may be empty.
            now: in seconds, on any clock that does not go back.
        """
        self._missing_since |= dict.fromkeys(answer)
        for endpoint, since in [*self._missing_since.items()]:
            if endpoint in answer:
                continue
            if since is None:
                self._missing_since[endpoint] = since = now
            if now - since >= self._gone_s:
                del self._missing_since[endpoint]
        return sorted_once(self._missing_since)


async def resolved(host: str, port: int) -> Sequence[str]:
    """Addresses of a name by the system's resolver, A and AAAA, sorted; empty where it says that there is none.

    Raises:
        OSError: it could not say.
    """
    loop, bare = asyncio.get_running_loop(), host.strip("[]")
    try:
        # Not those of a family that this host has no way to.
        infos = await loop.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except socket.gaierror:
        try:  # a host that has nothing but its loopback
            infos = await loop.getaddrinfo(bare, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in _NONE_THERE:
                return ()
            raise
    hosts = {str(address[0]) for *_, address in infos}
    return sorted_once(f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in hosts)
