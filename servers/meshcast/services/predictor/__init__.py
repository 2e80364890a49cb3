"""The predictor: how much engagement a planned post will get, from its channel's settled posts."""

from pathlib import Path

from meshcast.api.predictor.v1.predictor_pb2_grpc import add_PredictorServiceServicer_to_server
from meshcast.runtime import ServiceSpec, Signature, TensorSpec
from meshcast.services.predictor.features import HISTORY_FEATURES, PLANNED_FEATURES, STEPS
from meshcast.services.predictor.service import PredictorServicer

__all__ = ["OBSERVED", "SERVICE", "SIGNATURE"]

SIGNATURE = Signature(
    inputs=(
        TensorSpec(
            name="history",
            dtype="FP32",
            shape=(STEPS, len(HISTORY_FEATURES)),
            description="the last settled posts, newest last, padded in front; features as DescribeModel names them",
        ),
        TensorSpec(name="mask", dtype="FP32", shape=(STEPS,), description="1 where a step holds a post, else 0"),
        TensorSpec(
            name="planned",
            dtype="FP32",
            shape=(len(PLANNED_FEATURES),),
            description="the planned post and summaries of up to 100 settled posts, as DescribeModel names them",
        ),
    ),
    outputs=(
        TensorSpec(name="log_engagement", dtype="FP32", shape=(), description="expected engagement, log1p(count)"),
        TensorSpec(
            name="quantiles",
            dtype="FP32",
            shape=(4,),
            description="quantiles .025, .10, .90 and .975 of the engagement, log1p(count), ascending",
        ),
        TensorSpec(
            name="confidence",
            dtype="FP32",
            shape=(),
            description="calibrated probability of ending above the median of the last 20 settled posts",
        ),
    ),
    tolerance=1e-5,  # log1p units; the design's tolerance between doors, batches and replays
    rows_max=256,  # past it the LSTM falls out of the cache
)

OBSERVED = {"planned": PLANNED_FEATURES, "log_engagement": ("log_engagement",), "confidence": ("confidence",)}
"""What the drift service sees of a row: names of columns by the tensor that holds them."""

SERVICE = ServiceSpec(
    name="predictor",
    model="meshcast.services.predictor.model:EngagementModel",
    signature=SIGNATURE,
    register=add_PredictorServiceServicer_to_server,
    servicer=PredictorServicer,
    service_name="meshcast.api.predictor.v1.PredictorService",
    port=8101,
    shipped=Path(__file__).parent / "repository",
    train="meshcast.services.predictor.publish:train_file",
    example="meshcast.services.predictor.example:EXAMPLE",
    logs_predictions=True,
    observed=OBSERVED,
)
