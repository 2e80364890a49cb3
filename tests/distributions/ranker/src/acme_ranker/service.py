"""The ranker's service: messages to arrays and back; models, batching and errors come from the runtime."""

from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from acme.ranker.v1 import ranker_pb2 as pb
from acme.ranker.v1 import ranker_pb2_grpc as pb_grpc
from acme_ranker.features import COLUMNS, tensors, violations
from meshcast.rpc import Deadline, prediction_id
from meshcast.runtime import ServiceContext, name_violations, plain_receipt, priority_class, receipt_of, refusal

__all__ = ["RankerServicer", "offers_of"]

Context = grpc.aio.ServicerContext[Any, Any]

OFFERS_MAX = 256


class RankerServicer(pb_grpc.RankerServiceServicer):
    """Answers `acme.ranker.v1.RankerService`."""

    def __init__(self, context: ServiceContext) -> None:
        self._mesh = context

    async def RankOffers(self, request: pb.RankOffersRequest, context: Context) -> pb.RankOffersResponse:
        """Ranks the offers of one question."""
        deadline = Deadline.of(context, default_s=self._mesh.default_deadline_s)
        offers = offers_of(request)
        ran = await self._mesh.batcher.submit(
            tensors(offers),
            rows=len(offers),
            deadline=deadline,
            priority=priority_class(request.priority),
            version=request.model_version,
        )
        clicks = ran.outputs["click"]
        receipt = receipt_of(ran.facts, deadline)
        receipt.prediction_id = prediction_id(request.request_id)
        ranking = np.argsort(-clicks, kind="stable")
        return pb.RankOffersResponse(clicks=clicks.tolist(), ranking=ranking.tolist(), receipt=receipt)

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:
        """Describes a loaded version of the model."""
        deadline = Deadline.of(context, default_s=self._mesh.default_deadline_s)
        model = self._mesh.model.describe(request.model_version)
        return pb.DescribeModelResponse(model=model, receipt=plain_receipt(deadline))


def offers_of(request: pb.RankOffersRequest) -> NDArray[np.float64]:
    """The offers of a request, shape (n, 3), columns `COLUMNS`.

    Raises:
        InvalidInput: the request breaks the contract; every field at fault is named.
    """
    found: list[tuple[str, str]] = [*name_violations(request.request_id)]
    if not 1 <= len(request.offers) <= OFFERS_MAX:
        found.append(("offers", f"must be 1 to {OFFERS_MAX}, are {len(request.offers)}"))
    offers = np.array([[getattr(offer, column) for column in COLUMNS] for offer in request.offers], dtype=np.float64)
    offers = offers.reshape(-1, len(COLUMNS))
    found += [(f"offers[{row}].{column}", reason) for row, column, reason in violations(offers)]
    if found:
        raise refusal(found)
    return offers
