"""Wire format: fragments merge into receipts, and a field is read as protobuf would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2
from meshcast.gateway import ReceiptFragment, read_string_field
from meshcast.gateway.wire import (
    read_bytes_field,
    read_varint_field,
    with_string_field,
    with_varint_field,
    without_string_field,
)
from meshcast.rpc.varint import varint


@given(st.integers(0, 2**63 - 1))
def test_a_varint_is_the_one_that_protobuf_writes(value: int) -> None:
    encoded = receipt_pb2.Receipt(model_version=value).SerializeToString()
    assert encoded == (b"\x18" + varint(value) if value else b"")


@given(
    endpoint=st.text(st.characters(codec="utf-8"), min_size=1, max_size=300),
    elapsed_us=st.integers(0, 2**40),
    attempts=st.integers(1, 300),
    deadline_ms=st.integers(0, 2**31),
)
def test_an_appended_fragment_merges_into_the_services_own_receipt(
    endpoint: str, elapsed_us: int, attempts: int, deadline_ms: int
) -> None:
    answer = pb.PredictEngagementResponse(prediction=pb.Prediction(log_engagement=1.5))
    answer.receipt.CopyFrom(
        receipt_pb2.Receipt(prediction_id="abc", model="predictor", deadline_ms=77, notes=["views missing"])
    )
    fragment = ReceiptFragment(endpoint=endpoint, attempts=attempts, default_deadline_ms=deadline_ms)
    merged = pb.PredictEngagementResponse.FromString(answer.SerializeToString() + fragment.encode(elapsed_us))

    expected = pb.PredictEngagementResponse()
    expected.CopyFrom(answer)
    expected.receipt.gateway.CopyFrom(
        receipt_pb2.GatewayReceipt(attempts=attempts, endpoint=endpoint, elapsed_us=elapsed_us)
    )
    if deadline_ms:
        expected.receipt.deadline_ms, expected.receipt.deadline_default = deadline_ms, True
    assert merged == expected


def test_a_fragment_makes_a_receipt_where_the_service_gave_none() -> None:
    encoded = ReceiptFragment(endpoint="127.0.0.1:8101").encode(12)
    receipt = pb.ReadPredictionResponse.FromString(encoded).receipt
    assert (receipt.gateway.endpoint, receipt.gateway.elapsed_us) == ("127.0.0.1:8101", 12)


@given(
    hedged=st.booleans(),
    from_cache=st.booleans(),
    fallback=st.integers(0, 3),
    notes=st.lists(st.text(st.characters(codec="utf-8"), max_size=200), max_size=3),
    attempts=st.integers(0, 3),
)
def test_a_fragment_says_all_that_makes_an_answer_special(
    hedged: bool, from_cache: bool, fallback: int, notes: list[str], attempts: int
) -> None:
    answer = receipt_pb2.Receipt(prediction_id="abc", notes=["views missing"])
    fragment = ReceiptFragment(
        attempts=attempts, hedged=hedged, from_cache=from_cache, fallback=fallback, notes=notes
    ).encode(77)
    merged = pb.ReadPredictionResponse.FromString(
        pb.ReadPredictionResponse(receipt=answer).SerializeToString() + fragment
    )
    expected = receipt_pb2.Receipt(prediction_id="abc", notes=["views missing", *notes])
    expected.gateway.attempts, expected.gateway.hedged, expected.gateway.from_cache = attempts, hedged, from_cache
    expected.gateway.degraded, expected.gateway.fallback = fallback > 0, fallback  # type: ignore[assignment]
    expected.gateway.elapsed_us = 77
    assert merged.receipt == expected


def test_the_callers_own_deadline_takes_the_place_of_another_calls() -> None:
    kept = pb.ReadPredictionResponse(receipt=receipt_pb2.Receipt(deadline_ms=5000, deadline_default=True))
    encoded = kept.SerializeToString() + ReceiptFragment(deadline_ms=250, from_cache=True).encode(1)
    receipt = pb.ReadPredictionResponse.FromString(encoded).receipt
    assert (receipt.deadline_ms, receipt.deadline_default) == (250, False)


@given(request_id=st.text(st.characters(codec="utf-8")), channel=st.text(st.characters(codec="utf-8")))
def test_a_string_field_is_read_as_protobuf_reads_it(request_id: str, channel: str) -> None:
    request = pb.PredictEngagementRequest(request_id=request_id, channel=channel, model_version=2**40)
    request.planned.hour_of_day = 3
    encoded = request.SerializeToString()
    assert read_string_field(encoded, 1) == request_id
    assert read_string_field(encoded, 2) == channel


def test_fields_of_every_wire_type_are_passed_over() -> None:
    receipt = receipt_pb2.Receipt(model="fox", propensity=0.5, batch_rows=3)  # fields 2, 6 (fixed64), 9
    with_fixed32 = pb.Prediction(log_engagement=1.0).SerializeToString()  # field 1 is fixed32
    assert read_string_field(receipt.SerializeToString(), 2) == "fox"
    assert read_string_field(receipt.SerializeToString(), 15) == ""
    assert read_string_field(with_fixed32 + b"\x12\x03fox", 2) == "fox"


@given(st.binary(max_size=200), st.integers(1, 20))
def test_garbage_never_raises(message: bytes, number: int) -> None:
    read_string_field(message, number)
    read_varint_field(message, number)
    read_bytes_field(message, number)
    assert len(without_string_field(message, number)) <= len(message)


@given(
    request_id=st.text(st.characters(codec="utf-8"), min_size=1),
    version=st.integers(0, 2**62),
    priority=st.integers(0, 3),
)
def test_single_fields_are_read_cut_and_set(request_id: str, version: int, priority: int) -> None:
    request = pb.PredictEngagementRequest(request_id=request_id, channel="fox", model_version=version)
    request.priority = priority  # type: ignore[assignment]  # a number of the enum
    request.planned.hour_of_day = 3
    encoded = request.SerializeToString()
    assert read_varint_field(encoded, 6) == version
    assert read_varint_field(encoded, 7) == priority
    assert pb.PlannedPost.FromString(read_bytes_field(encoded, 3)) == request.planned
    cut = pb.PredictEngagementRequest.FromString(without_string_field(encoded, 1))
    changed = pb.PredictEngagementRequest.FromString(with_varint_field(encoded, 6, 5))
    request.model_version = 5
    assert changed == request
    request.model_version, request.request_id = version, ""
    assert cut == request


def test_a_field_of_another_type_is_no_field() -> None:
    encoded = pb.PredictEngagementRequest(request_id="fox", model_version=3).SerializeToString()
    assert (read_varint_field(encoded, 1), read_string_field(encoded, 6)) == (0, "")
    assert without_string_field(encoded, 6) == encoded


def test_a_truncated_field_is_no_field() -> None:
    assert read_string_field(b"\x0a\x05fox", 1) == ""
    assert read_string_field(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 1) == ""
    assert read_string_field(b"\x0a\x02\xff\xfe", 1) == ""


@given(st.text(st.characters(codec="utf-8"), max_size=200), st.sampled_from(["", "first"]))
def test_a_text_that_is_set_wins(text: str, before: str) -> None:
    encoded = pb.PredictEngagementRequest(request_id=before, channel="a").SerializeToString()
    parsed = pb.PredictEngagementRequest.FromString(with_string_field(encoded, 1, text))
    assert (parsed.request_id, parsed.channel) == (text, "a")
