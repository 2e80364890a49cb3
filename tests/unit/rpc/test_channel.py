"""Channel options: out of range is said at once, not at the first call."""

from __future__ import annotations

import json

import pytest

from meshcast.rpc import ChannelSettings, InvalidInput, TlsSettings, channel_credentials
from meshcast.rpc.channel import channel_options, service_config


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (ChannelSettings(attempts_max=6), "channel.attempts_max"),
        (ChannelSettings(attempts_max=0), "channel.attempts_max"),
        (ChannelSettings(message_bytes_max=2**31), "channel.message_bytes_max"),
        (ChannelSettings(connect_backoff_s=2.0, connect_backoff_max_s=1.0), "channel.connect_backoff_max_s"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: ChannelSettings, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        channel_options(settings)


def test_a_plain_channel_neither_retries_nor_balances() -> None:
    options = dict(channel_options(ChannelSettings(plain=True)))
    assert options["grpc.enable_retries"] == 0
    assert "grpc.service_config" not in options


def test_the_service_config_never_sets_a_timeout_because_grpc_gets_it_wrong() -> None:
    assert "timeout" not in json.dumps(service_config(ChannelSettings()))


def test_one_attempt_means_no_retry_policy() -> None:
    assert "methodConfig" not in service_config(ChannelSettings(attempts_max=1))


def test_no_health_service_means_no_health_check() -> None:
    assert "healthCheckConfig" not in service_config(ChannelSettings(health_service=None))
    assert service_config(ChannelSettings())["healthCheckConfig"] == {"serviceName": ""}


def test_tls_settings_without_certificates_are_plaintext() -> None:
    assert channel_credentials(TlsSettings()) is None
