"""Receipts: what they tell of an answer that is not the one asked for."""

from meshcast.api.type.v1 import receipt_pb2
from meshcast.client import Receipt


def test_a_degraded_answer_says_what_stands_in() -> None:
    gateway = receipt_pb2.GatewayReceipt(degraded=True, fallback=receipt_pb2.FALLBACK_BASELINE)
    receipt = Receipt(receipt_pb2.Receipt(model="baseline/predictor", gateway=gateway))
    assert receipt.fallback == "baseline"
    assert repr(receipt).endswith(", fallback='baseline')")


def test_an_answer_that_was_asked_for_has_no_fallback() -> None:
    receipt = Receipt(receipt_pb2.Receipt(model="predictor"))
    assert receipt.fallback == ""
    assert "fallback" not in repr(receipt)


def test_what_the_gateway_did_is_at_hand_and_shown_where_it_did_something() -> None:
    gateway = receipt_pb2.GatewayReceipt(attempts=2, hedged=True, endpoint="10.0.0.7:8101")
    receipt = Receipt(receipt_pb2.Receipt(model="predictor", gateway=gateway))
    assert (receipt.attempts, receipt.hedged, receipt.from_cache) == (2, True, False)
    assert receipt.endpoint == "10.0.0.7:8101"
    assert repr(receipt).endswith(", endpoint='10.0.0.7:8101', attempts=2, hedged=True)")
    kept = Receipt(receipt_pb2.Receipt(gateway=receipt_pb2.GatewayReceipt(from_cache=True)))
    assert kept.from_cache
    assert repr(kept).endswith(", from_cache=True)")


def test_without_a_gateway_there_is_nothing_of_it() -> None:
    receipt = Receipt(receipt_pb2.Receipt(model="predictor"))
    assert (receipt.attempts, receipt.hedged, receipt.from_cache, receipt.endpoint) == (0, False, False, "")
    assert repr(receipt).endswith("batch_close='')")
    assert not receipt.message.HasField("gateway")
