"""Channel to a server: options and service config that were proven together, by the tests in tests/contract/channel."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from .errors import InvalidInput
from .tls import TlsSettings, channel_credentials
from .waiting import Waiting

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """How a client reaches a server.

    Args:
        plain: True for no retry, no balancing and no health checks: the caller does them itself, or wants none.
        health_service: health name that a replica must serve to get calls; empty is the process's, None asks for none.
        message_bytes_max: largest message in either direction, in bytes.
        attempts_max: calls made for one call when it fails UNAVAILABLE before its first answer; 1 to 5.
        wait_for_ready: True for calls that wait while nobody can be reached, as long as their deadline; unary ones also
            while whoever is reached says UNAVAILABLE (`Waiting`). False for calls that fail at once.
        keepalive_s: seconds of silence after which the peer is pinged.
        keepalive_timeout_s: seconds after which an unanswered ping closes the connection.
        connect_timeout_s: seconds that setting a connection up may take.
        connect_backoff_s: seconds before the first reconnect; later ones wait longer.
        connect_backoff_max_s: seconds between reconnects at most.
    """

    plain: bool = False
    health_service: str | None = ""
    message_bytes_max: int = 16 * _MIB
    attempts_max: int = 3
    wait_for_ready: bool = False
    keepalive_s: float = 10.0
    keepalive_timeout_s: float = 5.0
    connect_timeout_s: float = 2.0
    connect_backoff_s: float = 0.2
    connect_backoff_max_s: float = 1.0


def channel(
    target: str,
    *,
    settings: ChannelSettings | None = None,
    tls: TlsSettings | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    config: Mapping[str, Any] | None = None,
) -> grpc.aio.Channel:
    """A long-lived channel; make one per target, never one per call, and close it on the loop that made it.

    Deadlines are given per call: the service config's own timeout is broken in Python.

    Args:
        target: `host:port`, or a gRPC target such as `dns:///predictor:8101` for replicas behind one name.
        settings: limits and policies; None for the defaults.
        tls: certificates; None, or settings without any, for plaintext.
        interceptors: of the client side, such as tracing's.
        config: gRPC service config in the place of the one that the settings make.

    Raises:
        InvalidInput: a setting is out of range, the target is empty, or grpc does not take the config.
    """
    settings = settings or ChannelSettings()
    if not target.strip():
        raise InvalidInput("the channel's target is empty; give host:port", field="target")
    options = channel_options(settings, config)
    if settings.wait_for_ready and not settings.plain:
        interceptors = [Waiting(), *interceptors]
    credentials = channel_credentials(tls) if tls is not None else None
    if credentials is None:
        made = grpc.aio.insecure_channel(target, options=options, interceptors=list(interceptors))
    else:
        if tls is not None and tls.server_name:
            options = [*options, ("grpc.ssl_target_name_override", tls.server_name)]
        made = grpc.aio.secure_channel(target, credentials, options=options, interceptors=list(interceptors))
    # A new channel is idle. One that grpc could not set up has failed already, and would say so to the first caller.
    if made.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
        tried = dict(options).get("grpc.service_config")
        raise InvalidInput(f"grpc does not take the target {target!r} with the config {tried}", field="config")
    return made


def channel_options(settings: ChannelSettings, config: Mapping[str, Any] | None = None) -> list[tuple[str, Any]]:
    """Channel arguments of grpc for these settings.

    Args:
        settings: limits and policies.
        config: service config; None for the one that the settings make.

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
        # Its name misleads: it bounds how long an attempt may take. A busy loopback needs more than 200 ms at times.
        ("grpc.min_reconnect_backoff_ms", round(settings.connect_timeout_s * 1e3)),
        ("grpc.max_reconnect_backoff_ms", round(settings.connect_backoff_max_s * 1e3)),
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ]
    options.append(("grpc.service_config_disable_resolution", 1))  # what DNS says of it is none of our policies
    if config is None:
        config = plain_config(settings) if settings.plain else service_config(settings)
    options.append(("grpc.enable_retries", int(not settings.plain)))
    return [*options, ("grpc.service_config", json.dumps(config))] if config else options


def plain_config(settings: ChannelSettings) -> dict[str, Any]:
    """Service config without any policy: to the first address that answers."""
    return {"methodConfig": [{"name": [{}], "waitForReady": True}]} if settings.wait_for_ready else {}


def service_config(settings: ChannelSettings) -> dict[str, Any]:
    """Service config: outlier detection over weighted round robin, health checks, retries with a throttle.

    Source: gRPC proposals A50 (outlier detection), A58 (weighted round robin), A17 (health checks), A6 (retries).
    """
    method: dict[str, Any] = {"name": [{}]}
    config: dict[str, Any] = {
        "loadBalancingConfig": [
            {
                "outlier_detection_experimental": {
                    "interval": "1s",
                    "baseEjectionTime": "1s",
                    "maxEjectionTime": "1s",
                    "maxEjectionPercent": 50,
                    "failurePercentageEjection": {"threshold": 50, "minimumHosts": 2, "requestVolume": 10},
                    "childPolicy": [
                        {
                            "weighted_round_robin": {
                                # What servers say of their load (ORCA) counts as soon as it is about a second of it.
                                "blackoutPeriod": "1s",
                                "weightUpdatePeriod": "0.5s",
                                "weightExpirationPeriod": "10s",
                            }
                        }
                    ],
                }
            }
        ],
        # Ten failures in a row end retries until successes pay them back: a broken mesh is not asked thrice as much.
        # They go on while two of three attempts are answered, as with one server out of three that fails.
        "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.5},
    }
    if settings.attempts_max > 1:
        method["retryPolicy"] = {
            "maxAttempts": settings.attempts_max,
            "initialBackoff": "0.05s",
            "maxBackoff": "1s",
            "backoffMultiplier": 2,
            # Not begun, or ended by a drain. RESOURCE_EXHAUSTED may be a message that is too large each time.
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
    if settings.wait_for_ready:
        method["waitForReady"] = True
    if len(method) > 1:
        config["methodConfig"] = [method]
    if settings.health_service is not None:
        config["healthCheckConfig"] = {"serviceName": settings.health_service}
    return config


def _check(settings: ChannelSettings) -> None:
    ranges = {
        "attempts_max": (settings.attempts_max, 1, 5),  # C-core clamps to 5 silently
        "message_bytes_max": (settings.message_bytes_max, 1_024, 2**31 - 1),
        "keepalive_s": (settings.keepalive_s, 1, 7_200),
        "keepalive_timeout_s": (settings.keepalive_timeout_s, 0.1, 600),
        "connect_timeout_s": (settings.connect_timeout_s, 0.1, 600),
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
