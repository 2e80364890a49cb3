"""Metadata of a call over HTTP: which headers become metadata of gRPC, and which metadata become headers."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping

from meshcast.rpc import InvalidInput

from ..forwarding import Metadata

METADATA_BYTES_MAX = 6 * 1024
"""Bytes of a caller's metadata: gRPC refuses more than 8 KiB at random (its soft limit), our own included."""

# What browsers, proxies and the protocols of this door say to each other; gRPC's own door has none of it either.
_HTTP_ONLY = frozenset(
    {
        *("accept", "accept-charset", "accept-encoding", "accept-language", "age", "cache-control", "connection"),
        *("content-encoding", "content-length", "content-type", "cookie", "date", "dnt", "expect", "forwarded", "from"),
        *("host", "if-match", "if-modified-since", "if-none-match", "keep-alive", "origin", "pragma", "priority"),
        *("proxy-authorization", "proxy-connection", "range", "referer", "te", "trailer", "transfer-encoding"),
        *("upgrade", "upgrade-insecure-requests", "user-agent", "via", "warning", "x-grpc-web", "x-user-agent"),
        *("inference-header-content-length",),
    }
)
_HTTP_ONLY_PREFIXES = ("sec-", "connect-", "grpc-", "x-forwarded-", "access-control-")
_KEY = re.compile(r"[0-9a-z_.\-]+\Z")
_BINARY = "-bin"
_LOAD_REPORT = "endpoint-load-metrics-bin"  # for balancers of gRPC, which do not come this way
_CONNECT_TIMEOUT = re.compile(r"[0-9]{1,10}\Z")
_GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])\Z")
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def from_headers(headers: Iterable[tuple[str, str]]) -> Metadata:
    """The caller's metadata among the headers of its request, as gRPC hands them to a handler.

    A key ending in `-bin` holds base64 and becomes bytes. What gRPC could not carry is left out: keys of other
    characters, values that are no printable ASCII.

    Args:
        headers: names in lower case.

    Raises:
        InvalidInput: more than `METADATA_BYTES_MAX` bytes, or a binary value that is no base64.
    """
    metadata: list[tuple[str, str | bytes]] = []
    size = 0
    for key, value in headers:
        if key in _HTTP_ONLY or key.startswith(_HTTP_ONLY_PREFIXES) or not _KEY.match(key):
            continue
        size += len(key) + len(value) + 32  # as HTTP/2 counts them
        if key.endswith(_BINARY):
            metadata += [(key, _decoded(key, one.strip())) for one in value.split(",")]  # gRPC has them joined
        elif value.isascii() and value.isprintable():
            metadata.append((key, value))
    if size > METADATA_BYTES_MAX:
        raise InvalidInput(
            f"the request's own headers have {size:,} bytes, the limit is {METADATA_BYTES_MAX:,}", field="headers"
        )
    return tuple(metadata)


def timeout_of(headers: Mapping[str, str]) -> float | None:
    """The caller's deadline in seconds from now, from `Connect-Timeout-Ms` or `Grpc-Timeout`; None where there is none.

    Raises:
        InvalidInput: it is no such number.
    """
    if given := headers.get("connect-timeout-ms"):
        if _CONNECT_TIMEOUT.match(given):
            return int(given) / 1e3
        raise InvalidInput(f"connect-timeout-ms is no number of milliseconds: {given[:32]!r}", field="headers")
    if given := headers.get("grpc-timeout"):
        found = _GRPC_TIMEOUT.match(given)
        if found is not None:
            return int(found[1]) * _UNITS_S[found[2]]
        raise InvalidInput(f"grpc-timeout is no time as in 500m: {given[:32]!r}", field="headers")
    return None


def to_headers(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[str, str]]:
    """Metadata of an answer as headers: bytes as base64 without padding; what HTTP cannot carry is left out."""
    headers = []
    for key, value in metadata:
        if key == _LOAD_REPORT:
            continue
        if isinstance(value, bytes):
            headers.append((key, b64encode(value).decode().rstrip("=")))
        elif value.isascii() and value.isprintable():
            headers.append((key, value))
    return headers


def _decoded(key: str, value: str) -> bytes:
    try:
        return b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"the header {key} is no base64", field=f"headers[{key}]") from error
