"""Answers become values; chunks that do not fit their question are a server's bug; receipts add up."""

import numpy as np
import pytest

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2, status_pb2
from meshcast.client import EngagementChunk, EngagementPrediction, Receipt, ReceiptSummary, prediction_id
from meshcast.posts import pack_floats
from meshcast.rpc import Internal, InvalidInput, Overloaded, to_item

ROWS = np.array([7, 8, 11], dtype=np.int64)


def response(n: int = 3) -> pb.PredictEngagementStreamResponse:
    log = np.arange(n, dtype=np.float32)
    return pb.PredictEngagementStreamResponse(
        sequence=4,
        rows=n,
        log_engagement=pack_floats(log),
        levels=[0.8, 0.95],
        lower_log=pack_floats(np.stack([log - 1, log - 2])),
        upper_log=pack_floats(np.stack([log + 1, log + 2])),
        confidence=pack_floats(log / 10),
        recent_median_log=pack_floats(log + 5),
        receipt=receipt_pb2.Receipt(prediction_id="abc", model_version=2),
    )


def test_a_chunk_and_its_rows_say_the_same() -> None:
    chunk = EngagementChunk.of(response(), ROWS, 0)
    assert chunk.is_ok.all()
    assert chunk.engagement.tolist() == pytest.approx(np.expm1([0, 1, 2]).tolist())
    rows = chunk.predictions()
    for row, prediction in enumerate(rows):
        assert isinstance(prediction, EngagementPrediction)
        assert prediction.log_engagement == row
        assert [(i.level, i.lower_log, i.upper_log) for i in prediction.intervals] == [
            (0.8, row - 1, row + 1),
            (0.95, row - 2, row + 2),
        ]
        assert prediction.engagement == pytest.approx(np.expm1(row))
        assert prediction.intervals[0].upper == pytest.approx(np.expm1(row + 1))
        assert prediction.recent_median_log == row + 5
        assert prediction.prediction_id == f"abc.{row}"
        assert prediction.receipt.model_version == 2


def test_rows_with_ids_of_their_own_are_read_back_by_them() -> None:
    chunk = EngagementChunk.of(response(), ROWS, 0, ("a", "b", "c"))
    assert chunk.prediction_id(1) == prediction_id("b")
    assert len(prediction_id("b")) == 32


def test_a_failed_row_is_its_error_and_costs_the_others_nothing() -> None:
    message = response()
    message.failed.append(
        status_pb2.RowStatus(row=1, status=to_item(InvalidInput("hour", field="planned.hour_of_day[1]")))
    )
    chunk = EngagementChunk.of(message, ROWS, 0)
    assert chunk.is_ok.tolist() == [True, False, True]
    error = chunk.predictions()[1]
    assert isinstance(error, InvalidInput)
    assert error.violations[0].field == "planned.hour_of_day[1]"


def test_a_refused_chunk_has_an_error_and_no_predictions() -> None:
    message = pb.PredictEngagementStreamResponse(status=to_item(Overloaded("full", retry_after_s=0.5)))
    chunk = EngagementChunk.of(message, ROWS, 0)
    assert isinstance(chunk.error, Overloaded)
    assert chunk.error.retry_after_s == 0.5
    assert not chunk.is_ok.any()
    assert np.isnan(chunk.engagement).all()
    assert chunk.predictions() == [chunk.error] * 3


def test_a_chunk_of_other_rows_than_asked_for_is_a_bug_of_the_server() -> None:
    with pytest.raises(Internal, match="answered a chunk of 3 rows with 4"):
        EngagementChunk.of(response(4), ROWS, 0)
    stray = response()
    stray.failed.append(status_pb2.RowStatus(row=3, status=to_item(InvalidInput("x"))))
    with pytest.raises(Internal, match="outside of the chunk"):
        EngagementChunk.of(stray, ROWS, 0)


def test_receipts_add_up() -> None:
    summary = ReceiptSummary()
    message = receipt_pb2.Receipt(
        model="predictor",
        model_version=3,
        backend="onnxruntime/cpu/f32",
        queue_us=40,
        compute_us=900,
        batch_rows=256,
        batch_doors=2,
        batch_close=receipt_pb2.BATCH_CLOSE_FULL,
        notes=["views missing"],
        gateway=receipt_pb2.GatewayReceipt(attempts=2, hedged=True),
    )
    summary.add(Receipt(message), rows=256)
    summary.add(Receipt(receipt_pb2.Receipt(model_version=4, queue_us=2, batch_rows=9)), rows=5)
    assert (summary.answers, summary.rows, summary.queue_us, summary.compute_us) == (2, 261, 42, 900)
    assert summary.versions == {3: 256, 4: 5}
    assert summary.batch_closes == {"full": 1, "": 1}
    assert (summary.batch_rows_max, summary.shared_doors, summary.attempts, summary.hedged) == (256, 1, 2, 1)
    text = "\n".join(summary.lines())
    for words in (
        "261 rows in 2 answers",
        "3 (256), 4 (5)",
        "onnxruntime/cpu/f32 (256)",
        "2 attempts",
        "views missing",
    ):
        assert words in text


def test_receipts_are_values() -> None:
    message = receipt_pb2.Receipt(prediction_id="a", batch_close=receipt_pb2.BATCH_CLOSE_IDLE)
    assert Receipt(message) == Receipt(receipt_pb2.Receipt.FromString(message.SerializeToString()))
    assert Receipt(message, "b") != Receipt(message)
    assert len({Receipt(message), Receipt(message)}) == 1
    assert "batch_close='idle'" in repr(Receipt(message))
