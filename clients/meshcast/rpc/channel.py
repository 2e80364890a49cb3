"""Channel to a server: options and service config that were proven together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from .errors import InvalidInput
from .tls import TlsSettings, channel_credentials

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """How a client reaches a server.

    Args:
        plain: True for no retry, no balancing and no health checks: the caller does them itself, or wants none.
        health_service: health name that a replica must serve to get calls; empty is the process's, None asks for none.
        message_bytes_max: largest message in either direction, in bytes.
        attempts_max: calls made for one call when it fails UNAVAILABLE before its first answer; 1 to 5.
        keepalive_s: seconds of silence after which the peer is pinged.
        keepalive_timeout_s: seconds after which an unanswered ping closes the connection.
        connect_backoff_s: seconds before the first reconnect; later ones wait longer.
        connect_backoff_max_s: seconds between reconnects at most.
    """

    plain: bool = False
    health_service: str | None = ""
    message_bytes_max: int = 16 * _MIB
    attempts_max: int = 3
    keepalive_s: float = 20.0
    keepalive_timeout_s: float = 5.0
    connect_backoff_s: float = 0.2
    connect_backoff_max_s: float = 1.0


def channel(
    target: str,
    *,
    settings: ChannelSettings | None = None,
    tls: TlsSettings | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
) -> grpc.aio.Channel:
    """A long-lived channel; make one per target, never one per call, and close it on the loop that made it.

    Deadlines are given per call: the service config's own timeout is broken in Python.

    Args:
        target: `host:port`, or a gRPC target such as `dns:///predictor:8101` for replicas behind one name.
        settings: limits and policies; None for the defaults.
        tls: certificates; None, or settings without any, for plaintext.
        interceptors: of the client side, such as tracing's.

    Raises:
        InvalidInput: a setting is out of range, or the target is empty.
    """
    settings = settings or ChannelSettings()
    if not target.strip():
        raise InvalidInput("the channel's target is empty; give host:port", field="target")
    options = channel_options(settings)
    credentials = channel_credentials(tls) if tls is not None else None
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options, interceptors=list(interceptors))
    if tls is not None and tls.server_name:
        options = [*options, ("grpc.ssl_target_name_override", tls.server_name)]
    return grpc.aio.secure_channel(target, credentials, options=options, interceptors=list(interceptors))


def channel_options(settings: ChannelSettings) -> list[tuple[str, Any]]:
    """Channel arguments of grpc for these settings.

    Raises:
        InvalidInput: a setting is out of range. grpc itself would only say so at the first call.
    """
    _check(settings)
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        ("grpc.max_send_message_length", settings.message_bytes_max),
        ("grpc.keepalive_time_ms", round(settings.keepalive_s * 1e3)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout_s * 1e3)),
        # Without it a frozen peer is not noticed before the call's deadline.
        ("grpc.http2.ping_timeout_ms", round(settings.keepalive_timeout_s * 1e3)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.initial_reconnect_backoff_ms", round(settings.connect_backoff_s * 1e3)),
        ("grpc.min_reconnect_backoff_ms", round(settings.connect_backoff_s * 1e3)),
        ("grpc.max_reconnect_backoff_ms", round(settings.connect_backoff_max_s * 1e3)),
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ]
    if settings.plain:
        return [*options, ("grpc.enable_retries", 0), ("grpc.service_config_disable_resolution", 1)]
    return [*options, ("grpc.enable_retries", 1), ("grpc.service_config", json.dumps(service_config(settings)))]


def service_config(settings: ChannelSettings) -> dict[str, Any]:
    """Service config: outlier detection over weighted round robin, health checks, retries with a throttle."""
    config: dict[str, Any] = {
        "loadBalancingConfig": [
            {
                "outlier_detection_experimental": {
                    "interval": "1s",
                    "baseEjectionTime": "5s",
                    "maxEjectionTime": "30s",
                    "maxEjectionPercent": 50,
                    "failurePercentageEjection": {"threshold": 50, "minimumHosts": 2, "requestVolume": 10},
                    "childPolicy": [{"weighted_round_robin": {}}],
                }
            }
        ],
        # Ten failures in a row end retries until successes pay them back: a broken mesh is not asked thrice as much.
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
    if settings.attempts_max > 1:
        config["methodConfig"] = [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": settings.attempts_max,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    # Not begun, or ended by a drain. RESOURCE_EXHAUSTED may be a message that is too large each time.
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    if settings.health_service is not None:
        config["healthCheckConfig"] = {"serviceName": settings.health_service}
    return config


def _check(settings: ChannelSettings) -> None:
    ranges = {
        "attempts_max": (settings.attempts_max, 1, 5),  # C-core clamps to 5 silently
        "message_bytes_max": (settings.message_bytes_max, 1_024, 2**31 - 1),
        "keepalive_s": (settings.keepalive_s, 1, 7_200),
        "keepalive_timeout_s": (settings.keepalive_timeout_s, 0.1, 600),
        "connect_backoff_s": (settings.connect_backoff_s, 0.1, 60),  # C-core raises smaller values to 0.1
        "connect_backoff_max_s": (settings.connect_backoff_max_s, settings.connect_backoff_s, 600),
    }
    wrong = [
        (f"channel.{name}", f"must be between {low} and {high}, is {value}")
        for name, (value, low, high) in ranges.items()
        if not low <= value <= high
    ]
    if wrong:
        raise InvalidInput("; ".join(f"{name} {rule}" for name, rule in wrong), violations=wrong)
