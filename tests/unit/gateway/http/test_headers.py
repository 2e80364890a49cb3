"""Headers of the HTTP door: metadata both ways, deadlines, and who may call."""

from __future__ import annotations

import pytest

from meshcast.gateway import HttpSettings
from meshcast.gateway.http.access import Access, is_loopback
from meshcast.gateway.http.metadata import METADATA_BYTES_MAX, from_headers, timeout_of, to_headers
from meshcast.rpc import InvalidInput


def test_only_what_grpc_can_carry_becomes_metadata() -> None:
    headers = [
        *(("x-a", "1"), ("x-a", "2"), ("x-b-bin", "AP8"), ("cookie", "c"), ("grpc-x", "g"), ("sec-fetch-mode", "x")),
        *(("x-ü", "1"), ("x-c", "ü"), ("connect-timeout-ms", "5"), ("x-request-id", "r")),
    ]
    assert from_headers(headers) == (("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x00\xff"), ("x-request-id", "r"))
    joined = from_headers([("x-b-bin", "AP8,AQ==, AP8")])
    assert joined == (("x-b-bin", b"\x00\xff"), ("x-b-bin", b"\x01"), ("x-b-bin", b"\x00\xff"))


def test_metadata_that_grpc_would_drop_at_random_is_refused() -> None:
    with pytest.raises(InvalidInput, match="the limit is"):
        from_headers([("x-large", "y" * METADATA_BYTES_MAX)])
    with pytest.raises(InvalidInput, match="no base64"):
        from_headers([("x-b-bin", "%%%")])


def test_metadata_goes_out_as_headers() -> None:
    given = (
        ("x-a", "1"),
        ("x-b-bin", b"\x00\xff"),
        ("x-c", "ü"),
        ("x-d", "a\r\nb"),
        ("endpoint-load-metrics-bin", b"1"),
    )
    assert to_headers(given) == [("x-a", "1"), ("x-b-bin", "AP8")]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"connect-timeout-ms": "1500"}, 1.5),
        ({"grpc-timeout": "2S"}, 2.0),
        ({"grpc-timeout": "250m"}, 0.25),
        ({"grpc-timeout": "1H"}, 3600.0),
    ],
)
def test_deadlines_are_read(headers: dict[str, str], seconds: float | None) -> None:
    assert timeout_of(headers) == seconds


@pytest.mark.parametrize(
    "headers",
    [
        {"connect-timeout-ms": "-1"},
        {"connect-timeout-ms": "1_0"},
        {"connect-timeout-ms": "12345678901"},
        {"grpc-timeout": "5"},
        {"grpc-timeout": "123456789m"},
    ],
)
def test_a_deadline_that_is_none_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        timeout_of(headers)


def test_a_door_beyond_loopback_goes_by_any_name_until_some_are_named() -> None:
    assert not Access(HttpSettings(), is_loopback("0.0.0.0")).refusal({"host": "mesh.example"})
    named = Access(HttpSettings(allowed_hosts=("mesh.example",)), is_loopback("0.0.0.0"))
    assert not named.refusal({"host": "mesh.example:8000"})
    assert "allowed_hosts" in named.refusal({"host": "evil.example"})
    assert is_loopback("::1") and is_loopback("localhost") and not is_loopback("mesh.example")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"port": 70_000}, "port"),
        ({"allowed_origins": ("board.example",)}, "no origin"),
        ({"body_bytes_max": 0}, "body_bytes_max"),
        ({"idle_s": float("nan")}, "idle_s"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HttpSettings(**changes)  # type: ignore[arg-type]  # wrong on purpose
