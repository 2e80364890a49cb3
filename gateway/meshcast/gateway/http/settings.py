"""Settings of the HTTP door: the table `[gateway.http]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec

LIBRARIES = ("connectrpc", "httptools", "uvicorn")
"""What the door is built on; the extra `gateway` brings them."""

_MIB = 1024 * 1024
_ORIGIN = re.compile(r"https?://[^/\s]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """The gateway's HTTP door: Connect, gRPC-Web, plain JSON and the Open Inference Protocol's REST routes.

    Its address is that of `[rpc]`, its certificates are those of `[tls]`.
    """

    port: int | None = 8000
    """TCP port; 0 takes any free one, and "" closes the door."""
    allowed_origins: tuple[str, ...] = ()
    """Origins whose pages may call, as in `https://board.example.org`, beside pages that come from the door itself;
    `*` is all."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which the door may be called, beside `localhost` and addresses: its own, and that of a proxy before it.
    Others are refused where some are named, and always on loopback, so that no page reaches the door by a name that it
    made point here. `*` is all."""
    body_bytes_max: int = 16 * _MIB
    """Largest request body, in bytes, after decompression too."""
    json_bytes_max: int = 4 * _MIB
    """The same for JSON: reading 4 MiB of it holds the gateway's loop up for some 40 ms."""
    bodies_bytes_max: int = 256 * _MIB
    """Bytes of all request bodies that are held at a time; more are refused until some have been answered."""
    head_bytes_max: int = 16 * 1024
    """Largest request line with headers, in bytes."""
    connections_max: int = 1000
    """Connections at a time; one more is told so and closed."""
    receive_s: float = 20.0
    """How long a request's head, and each further piece of its body, may take to arrive."""
    stalled_s: float = 60.0
    """How long a caller may leave an answer unread; its connection is then cut."""
    idle_s: float = 60.0
    """How long a connection may stay without a request."""

    def __post_init__(self) -> None:
        """Checks all values; raises ValueError naming the field."""
        if self.port is not None and not 0 <= self.port < 65_536:
            raise ValueError(f'port must be 0 to 65535, or "" for none, is {self.port}')
        sizes = ("body_bytes_max", "json_bytes_max", "bodies_bytes_max", "head_bytes_max", "connections_max")
        for name in (*sizes, "receive_s", "stalled_s", "idle_s"):
            if not getattr(self, name) > 0:  # NaN is none
                raise ValueError(f"{name} must be more than 0, is {getattr(self, name)}")
        for origin in self.allowed_origins:
            if origin != "*" and not _ORIGIN.match(origin):
                raise ValueError(f"allowed_origins: {origin!r} is no origin, as in https://board.example.org")


def door_is_installed() -> bool:
    """True where everything is installed that the door is built on."""
    return all(find_spec(name) is not None for name in LIBRARIES)
