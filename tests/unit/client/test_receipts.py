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
