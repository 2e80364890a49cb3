"""Merging: puts the parts of a composite answer into its messages."""

from __future__ import annotations

from collections.abc import Iterable

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2
from meshcast.api.type.v1 import receipt_pb2, status_pb2
from meshcast.rpc import InvalidInput, MeshError, to_item

Part = pb.Part
PARTS = (pb.PART_ENGAGEMENT, pb.PART_GROWTH, pb.PART_CONTENT, pb.PART_DRIFT)
"""Every part there is, in the order of the contract."""

PART_NAMES = {
    pb.PART_ENGAGEMENT: "engagement",
    pb.PART_GROWTH: "growth",
    pb.PART_CONTENT: "content",
    pb.PART_DRIFT: "drift",
}
"""The parts in the words of the contract."""


def wanted_parts(request: pb.PredictComprehensiveRequest) -> tuple[pb.Part.ValueType, ...]:
    """The parts that a question wants, each once; all when it names none.

    Raises:
        InvalidInput: it names a part that does not exist.
    """
    violations = [
        (f"parts[{index}]", f"must be one of {', '.join(PART_NAMES.values())}, is {part}")
        for index, part in enumerate(request.parts)
        if part not in PART_NAMES
    ]
    if violations:
        raise InvalidInput("; ".join(f"{field} {rule}" for field, rule in violations), violations=violations)
    return tuple(dict.fromkeys(request.parts)) or PARTS


def engagement_answer(
    answer: predictor_pb2.PredictEngagementResponse, receipt: receipt_pb2.Receipt
) -> pb.PredictComprehensiveResponse:
    """The part engagement, answered."""
    return pb.PredictComprehensiveResponse(
        part=pb.PART_ENGAGEMENT, status=status_pb2.Status(), engagement=answer, receipt=receipt
    )


def failed_part(
    part: pb.Part.ValueType, error: MeshError, receipt: receipt_pb2.Receipt
) -> pb.PredictComprehensiveResponse:
    """A part that could not be answered, with its reason."""
    return pb.PredictComprehensiveResponse(part=part, status=to_item(error), receipt=receipt)


def summary(
    parts: Iterable[pb.PredictComprehensiveResponse], *, elapsed_s: float, attempts: int
) -> pb.PredictComprehensiveResponse:
    """The summary that ends a composite answer.

    Args:
        parts: what was sent.
        elapsed_s: seconds since the question arrived.
        attempts: calls made to replicas for all parts.
    """
    answered: list[pb.Part.ValueType] = []
    failed: list[pb.Part.ValueType] = []
    for part in parts:
        (failed if part.status.code else answered).append(part.part)
    elapsed_us = int(elapsed_s * 1e6)
    return pb.PredictComprehensiveResponse(
        status=status_pb2.Status(),
        summary=pb.ComprehensiveSummary(answered=sorted(answered), failed=sorted(failed), elapsed_us=elapsed_us),
        receipt=receipt_pb2.Receipt(
            gateway=receipt_pb2.GatewayReceipt(attempts=attempts, degraded=bool(failed), elapsed_us=elapsed_us)
        ),
    )
