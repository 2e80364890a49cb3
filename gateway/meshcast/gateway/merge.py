"""Merging: puts the parts of a composite answer into its messages."""

from __future__ import annotations

from collections.abc import Iterable

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2, status_pb2
from meshcast.rpc import InvalidInput, MeshError, to_item

from .parts import PART_NAMES, PARTS, Part


def wanted_parts(request: pb.PredictComprehensiveRequest) -> tuple[Part, ...]:
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


def failed_part(part: Part, error: MeshError, receipt: receipt_pb2.Receipt) -> pb.PredictComprehensiveResponse:
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
    answered: list[Part] = []
    failed: list[Part] = []
    notes: list[str] = []
    is_degraded = False
    for part in parts:
        (failed if part.status.code else answered).append(part.part)
        if part.receipt.gateway.degraded:
            is_degraded = True
            notes += [f"{PART_NAMES[part.part]}: {note}" for note in part.receipt.notes]
    elapsed_us = int(elapsed_s * 1e6)
    return pb.PredictComprehensiveResponse(
        status=status_pb2.Status(),
        summary=pb.ComprehensiveSummary(answered=sorted(answered), failed=sorted(failed), elapsed_us=elapsed_us),
        receipt=receipt_pb2.Receipt(
            gateway=receipt_pb2.GatewayReceipt(
                attempts=attempts, degraded=is_degraded or bool(failed), elapsed_us=elapsed_us
            ),
            notes=sorted(notes),
        ),
    )
