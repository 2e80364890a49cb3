"""Parts: which service answers which part of a composite question. The one table that a service joins with a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.message import Message

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.type.v1 import receipt_pb2, status_pb2

__all__ = ["BY_FIELD", "BY_PART", "PARTS", "PART_NAMES", "Part", "PartKind"]

Part: TypeAlias = "pb.Part.ValueType"


@dataclass(frozen=True, slots=True)
class PartKind:
    """A part that a service of the mesh can answer.

    Attributes:
        part: number in the contract.
        field: where its question stands in PredictComprehensiveRequest and RoutePredictionRequest, and its answer in
            their responses: one name in all four messages.
        method: that is asked, as in `/meshcast.api.predictor.v1.PredictorService/PredictEngagement`. Its request has a
            `request_id`.
    """

    part: Part
    field: str
    method: str

    @property
    def service(self) -> str:
        """Full name of the gRPC service that answers."""
        return self.method[1:].rpartition("/")[0]

    def question(self, request: pb.PredictComprehensiveRequest) -> Message | None:
        """The part's question, with the composite question's request id where it has none; None when there is none."""
        if not request.HasField(self.field):  # type: ignore[arg-type]  # a name of the table, not of the stubs' literal
            return None
        question: Any = getattr(request, self.field)
        if request.request_id and not question.request_id:
            named = type(question)()
            named.CopyFrom(question)
            named.request_id = request.request_id
            question = named
        found: Message = question
        return found

    def answer(self, encoded: bytes, receipt: receipt_pb2.Receipt) -> pb.PredictComprehensiveResponse:
        """The part, answered with the service's encoded response and the gateway's receipt."""
        response = pb.PredictComprehensiveResponse(part=self.part, status=status_pb2.Status(), receipt=receipt)
        self._put(response, encoded)
        return response

    def routed_answer(self, encoded: bytes, receipt: receipt_pb2.Receipt) -> pb.RoutePredictionResponse:
        """The same as the answer to a question of one kind."""
        response = pb.RoutePredictionResponse(receipt=receipt)
        self._put(response, encoded)
        return response

    def _put(self, response: Message, encoded: bytes) -> None:
        answer: Message = getattr(response, self.field)
        answer.SetInParent()  # an answer without any field is one all the same
        answer.MergeFromString(encoded)


BY_PART = {
    kind.part: kind
    for kind in (
        PartKind(pb.PART_ENGAGEMENT, "engagement", "/meshcast.api.predictor.v1.PredictorService/PredictEngagement"),
        PartKind(pb.PART_GROWTH, "growth", "/meshcast.api.forecaster.v1.ForecasterService/ForecastGrowth"),
        PartKind(pb.PART_CONTENT, "content", "/meshcast.api.analyzer.v1.AnalyzerService/AnalyzeContent"),
        PartKind(pb.PART_DRIFT, "drift", "/meshcast.api.drift.v1.DriftService/DetectDataDrift"),
    )
}
"""The parts that have a service, by number."""

BY_FIELD = {kind.field: kind for kind in BY_PART.values()}
"""The same by the name of their field."""

PARTS: tuple[Part, ...] = tuple(part for part in pb.Part.values() if part != pb.PART_UNSPECIFIED)
"""Every part of the contract, in its order."""

PART_NAMES = {part: pb.Part.Name(part).removeprefix("PART_").lower() for part in PARTS}
"""The parts in the words of the contract."""
