"""Access: which pages of a browser may call, and by which names the door may be called."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from .settings import HttpSettings

Header = tuple[bytes, bytes]

_METHODS = "GET, POST"
_TAKES = ", ".join(
    (
        *("content-type", "content-encoding", "connect-protocol-version", "connect-timeout-ms"),
        *("connect-content-encoding", "connect-accept-encoding", "grpc-timeout", "x-grpc-web", "x-user-agent"),
        *("x-request-id", "traceparent", "tracestate", "meshcast-priority", "inference-header-content-length"),
    )
)
_SHOWS = "grpc-status, grpc-message, grpc-status-details-bin, retry-after, inference-header-content-length"
_PREFLIGHT_S = 7_200  # the longest that any browser keeps it


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call.

    Args:
        settings: of the door.
        is_loopback: whether the door is reached from this machine alone.
    """

    settings: HttpSettings
    is_loopback: bool

    def refusal(self, headers: Mapping[str, str]) -> str:
        """Why a request is refused; empty where it is not.

        Args:
            headers: names in lower case.
        """
        host = headers.get("host", "")
        is_guarded = self.is_loopback or self.settings.allowed_hosts
        if is_guarded and not _is_local(host) and not self._is_allowed_host(host):
            return f"the door does not go by the name {host[:100]!r}; add it to gateway.http.allowed_hosts if it should"
        origin = headers.get("origin")
        if origin is None:
            # An image or a script of a foreign page: browsers name no origin then, but whether it is the page's own.
            is_foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
            if is_foreign and headers.get("sec-fetch-dest") != "document":  # a link that a person follows
                return "pages of other sites may not call without telling their origin; call by fetch"
        elif not self._is_allowed(origin, host):
            return f"pages of {origin[:100]!r} may not call; add it to gateway.http.allowed_origins if they should"
        return ""

    def headers(self, headers: Mapping[str, str], *, is_preflight: bool) -> list[Header]:
        """What the answer says to a browser, for a request that is not refused.

        Args:
            headers: of the request.
            is_preflight: whether it asks for no more than this.
        """
        origin = headers.get("origin")
        if origin is None:
            return []
        told = [("access-control-allow-origin", origin), ("vary", "origin"), ("access-control-expose-headers", _SHOWS)]
        if is_preflight:
            told += [
                ("access-control-allow-methods", _METHODS),
                ("access-control-allow-headers", _TAKES),
                ("access-control-max-age", str(_PREFLIGHT_S)),
            ]
        return [(name.encode(), value.encode()) for name, value in told]

    def _is_allowed(self, origin: str, host: str) -> bool:
        allowed = self.settings.allowed_origins
        is_own = origin.partition("://")[2] == host  # by either scheme: a proxy may speak TLS for the door
        return is_own or origin in allowed or "*" in allowed

    def _is_allowed_host(self, host: str) -> bool:
        allowed = self.settings.allowed_hosts
        return "*" in allowed or _name(host).lower() in allowed or host in allowed


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _is_local(host: str) -> bool:
    """True for a name that no page can have made point here: an address, `localhost`, or none at all."""
    name = _name(host).lower()
    if name in ("", "localhost") or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(host: str) -> str:
    """`host` of `host:port`, without the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
