"""Receipts of answers, and priorities of questions: what services share in the words of the contract."""

from meshcast.api.type.v1 import priority_pb2, receipt_pb2
from meshcast.rpc.deadline import Deadline
from meshcast.runtime.batcher import HIGH, LOW, NORMAL
from meshcast.runtime.queueing import RunFacts

__all__ = ["plain_receipt", "priority_class", "receipt_of"]

_CLASSES = {priority_pb2.PRIORITY_HIGH: HIGH, priority_pb2.PRIORITY_NORMAL: NORMAL, priority_pb2.PRIORITY_LOW: LOW}


def receipt_of(facts: RunFacts, deadline: Deadline) -> receipt_pb2.Receipt:
    """The receipt of an answer that a model computed; the caller adds the prediction's id and its notes."""
    return receipt_pb2.Receipt(
        model=facts.model,
        model_version=facts.version,
        backend=facts.backend,
        queue_us=facts.queue_us,
        compute_us=facts.compute_us,
        batch_rows=facts.batch_rows,
        batch_doors=facts.batch_doors,
        batch_close=receipt_pb2.BatchClose.ValueType(facts.batch_close),
        deadline_ms=round(deadline.budget_s * 1e3),
        deadline_default=deadline.default,
    )


def plain_receipt(deadline: Deadline) -> receipt_pb2.Receipt:
    """The receipt of an answer that needed no model."""
    return receipt_pb2.Receipt(deadline_ms=round(deadline.budget_s * 1e3), deadline_default=deadline.default)


def priority_class(priority: int, *, default: int = NORMAL) -> int:
    """The batcher's class of a request's priority; `default` for an unset one, and for one that is not known."""
    return _CLASSES.get(priority_pb2.Priority.ValueType(priority), default)
