"""The ranker: how likely an offer is to be clicked."""

from acme.ranker.v1.ranker_pb2_grpc import add_RankerServiceServicer_to_server
from acme_ranker.features import COLUMNS
from acme_ranker.service import RankerServicer
from meshcast.runtime import ServiceSpec, Signature, TensorSpec

__all__ = ["SERVICE"]

SERVICE = ServiceSpec(
    name="ranker",
    model="acme_ranker.model:ClickModel",
    signature=Signature(
        inputs=(TensorSpec(name="offer", shape=(len(COLUMNS),), description="price in euros, rating, age in days"),),
        outputs=(TensorSpec(name="click", description="probability of a click"),),
        tolerance=1e-5,
    ),
    register=add_RankerServiceServicer_to_server,
    servicer=RankerServicer,
    service_name="acme.ranker.v1.RankerService",
    port=8201,
    train="acme_ranker.train:train_file",
    example="acme_ranker.example:EXAMPLE",
)
