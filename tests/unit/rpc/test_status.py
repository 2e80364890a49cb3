"""What travels of an error, and what comes back of it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import (
    Internal,
    InvalidInput,
    MeshError,
    NotFound,
    NotReady,
    Overloaded,
    Precondition,
    from_item,
    from_rpc_error,
    from_status,
    mesh_errors,
    to_item,
    to_status,
)
from meshcast.rpc.errors import CLASSES
from meshcast.rpc.status import DETAILS_BYTES_MAX, DETAILS_KEY, VIOLATIONS_MAX, head_message

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


class PeerFailed(grpc.RpcError):
    """A failed call as grpc shows it."""

    def __init__(
        self, code: grpc.StatusCode, details: str = "", trailers: tuple[tuple[str, str | bytes], ...] = ()
    ) -> None:
        super().__init__()
        self._code, self._details, self._trailers = code, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailers


@given(
    kind=st.sampled_from(sorted(CLASSES.values(), key=lambda kind: kind.__name__)),
    message=TEXT,
    reason=st.sampled_from([value for value in ErrorReason.values() if value]),
    facts=st.dictionaries(TEXT, TEXT, max_size=4),
    violations=st.lists(st.tuples(TEXT, TEXT), max_size=5),
    retry_after_ms=st.none() | st.integers(0, 10**7),
)
def test_an_error_comes_back_as_it_was_in_both_forms(
    kind: type[MeshError],
    message: str,
    reason: ErrorReason.ValueType,
    facts: dict[str, str],
    violations: list[tuple[str, str]],
    retry_after_ms: int | None,
) -> None:
    error = kind(message, reason=reason)
    error.facts = facts
    error.violations = InvalidInput("", violations=violations).violations
    error.retry_after_s = None if retry_after_ms is None else retry_after_ms / 1e3
    for back in (from_status(to_status(error)), from_item(to_item(error))):
        assert type(back) is kind
        assert (back.message, back.reason, back.facts) == (message, reason, facts)
        assert back.violations == error.violations
        assert back.retry_after_s == pytest.approx(error.retry_after_s)


@given(st.lists(st.tuples(st.text(max_size=400), st.text(max_size=400)), min_size=40, max_size=200))
def test_violations_that_would_break_the_stream_are_cut_and_counted(violations: list[tuple[str, str]]) -> None:
    status = to_status(InvalidInput("many fields are wrong", violations=violations))
    back = from_status(status)
    assert len(back.violations) <= VIOLATIONS_MAX
    if len(back.violations) < len(violations):
        assert back.facts["violations_total"] == str(len(violations))
    assert status.ByteSize() <= DETAILS_BYTES_MAX


def test_a_very_long_sentence_is_cut_before_it_breaks_the_trailers() -> None:
    for letter in "x%ж漢\udc80":
        error = InvalidInput(letter * 100_000, what=letter * 100_000)
        assert to_status(error).ByteSize() <= 2_000
        assert 100 <= len(quote(head_message(error), safe=" ?")) <= 1_000
    assert len(to_status(InvalidInput("x" * 100_000)).message.encode()) == 1_000


def test_a_field_is_a_violation_that_the_message_describes() -> None:
    error = InvalidInput("must be 0 to 23, is 24", field="history[3].hour_of_day")
    assert error.violations == (("history[3].hour_of_day", "must be 0 to 23, is 24"),)
    assert error.reason_name == "ERROR_REASON_FIELD_INVALID"


def test_an_ok_status_is_no_error() -> None:
    with pytest.raises(ValueError, match="OK"):
        from_status(status_pb2.Status())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNKNOWN, Internal),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidInput),
        (grpc.StatusCode.PERMISSION_DENIED, Precondition),
        (grpc.StatusCode.UNAVAILABLE, NotReady),
        (grpc.StatusCode.NOT_FOUND, NotFound),
    ],
)
def test_a_bare_status_of_a_foreign_peer_gets_the_class_of_its_code(
    code: grpc.StatusCode, kind: type[MeshError]
) -> None:
    error = from_rpc_error(PeerFailed(code, "who knows"))
    assert type(error) is kind
    assert error.message == "who knows"


def test_every_status_code_but_ok_has_a_class() -> None:
    for code in grpc.StatusCode:
        if code is not grpc.StatusCode.OK:
            assert isinstance(from_rpc_error(PeerFailed(code)), MeshError)


def test_a_foreign_reason_is_kept_as_a_fact() -> None:
    status = status_pb2.Status(code=5, message="no bucket")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="BUCKET_MISSING", domain="storage.example"))
    error = from_rpc_error(PeerFailed(grpc.StatusCode.NOT_FOUND, "", ((DETAILS_KEY, status.SerializeToString()),)))
    assert error.facts == {"domain": "storage.example", "reason": "BUCKET_MISSING"}


@given(st.binary(max_size=64))
def test_garbage_in_the_details_leaves_the_bare_code(garbage: bytes) -> None:
    error = from_rpc_error(PeerFailed(grpc.StatusCode.NOT_FOUND, "gone", ((DETAILS_KEY, garbage),)))
    assert type(error) is NotFound


@pytest.mark.parametrize(
    ("text", "setting", "what"),
    [
        ("SERVER: Received message larger than max (4194305 vs. 4194304)", "rpc.message_bytes_max", "the request"),
        ("CLIENT: Received message larger than max (4194305 vs. 4194304)", "channel.message_bytes_max", "the answer"),
        ("CLIENT: Sent message larger than max (4194305 vs. 4194304)", "channel.message_bytes_max", "the request"),
        ("Received message larger than max (4194305 vs 4194304)", "channel.message_bytes_max", "the answer"),
    ],
)
def test_a_message_over_the_limit_says_the_limit_and_the_setting(text: str, setting: str, what: str) -> None:
    error = from_rpc_error(PeerFailed(grpc.StatusCode.RESOURCE_EXHAUSTED, text))
    assert isinstance(error, Overloaded)
    assert error.reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE
    assert error.facts == {"limit_bytes": "4194304", "size_bytes": "4194305", "setting": setting}
    assert error.message.startswith(what)
    assert not error.is_retryable


def test_a_status_that_grpc_lost_is_no_bug_of_the_peer() -> None:
    error = from_rpc_error(PeerFailed(grpc.StatusCode.INTERNAL, "Internal error from Core"))
    assert isinstance(error, NotReady)


def test_only_grpc_errors_are_turned() -> None:
    with pytest.raises(KeyError), mesh_errors():
        raise KeyError("ours")
    with pytest.raises(NotReady) as caught, mesh_errors():
        raise PeerFailed(grpc.StatusCode.UNAVAILABLE, "no route")
    assert isinstance(caught.value.__cause__, PeerFailed)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "connections to all backends failing; last error: UNAVAILABLE: ipv4:127.0.0.1:8001: backend unhealthy",
            NotReady,
            "127.0.0.1:8001 cannot be reached (its health says NOT_SERVING): it is away or restarting; ",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:8001: Failed to connect to remote "
            "host: Connection refused",
            NotReady,
            "[::1]:8001 cannot be reached (Connection refused): it is away or restarting; ",
        ),
        (
            "connections to all backends failing; last error: UNAVAILABLE: INTERNAL: ipv4:127.0.0.1:8000: Failed "
            "parsing HTTP/2 (Expected SETTINGS frame as the first frame, got frame type 80) (Trying to connect an "
            "http1.x server (HTTP status 400))",
            InvalidInput,
            "127.0.0.1:8000 is an HTTP port; the gateway's gRPC port is [gateway] port, 8001 by default",
        ),
    ],
)
def test_a_target_that_is_away_is_named_in_plain_words(text: str, kind: type[MeshError], message: str) -> None:
    error = from_rpc_error(PeerFailed(grpc.StatusCode.UNAVAILABLE, text))
    assert type(error) is kind
    assert error.message.startswith(message)
    assert isinstance(error, InvalidInput) or "wait_for_ready=True" in error.message
