"""Receipts of answers: what the batcher knows about a run, in the words of the contract."""

from meshcast.api.type.v1 import receipt_pb2
from meshcast.rpc.deadline import Deadline
from meshcast.runtime.queueing import RunFacts

__all__ = ["receipt_of"]


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
