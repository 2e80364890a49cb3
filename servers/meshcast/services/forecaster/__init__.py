"""The forecaster: how a daily series will go on, with intervals that hold, and what moved it so far."""

from pathlib import Path

from meshcast.api.forecaster.v1.forecaster_pb2_grpc import add_ForecasterServiceServicer_to_server
from meshcast.runtime import ServiceSpec
from meshcast.services.forecaster.service import ForecasterServicer
from meshcast.services.forecaster.signature import SIGNATURE

__all__ = ["SERVICE", "SIGNATURE"]

SERVICE = ServiceSpec(
    name="forecaster",
    model="meshcast.services.forecaster.model:ForecastModel",
    signature=SIGNATURE,
    register=add_ForecasterServiceServicer_to_server,
    servicer=ForecasterServicer,
    service_name="meshcast.api.forecaster.v1.ForecasterService",
    port=8102,
    shipped=Path(__file__).parent / "repository",
    train="meshcast.services.forecaster.publish:train_file",
    example="meshcast.services.forecaster.example:EXAMPLE",
    observed={},  # its questions and answers are series, of which no row of numbers tells
)
