"""The drift service: tells whether the world has moved away from a reference, since when, how far, and how surely."""

from meshcast.api.drift.v1.drift_pb2_grpc import add_DriftServiceServicer_to_server
from meshcast.runtime import ServiceSpec
from meshcast.services.drift.service import DriftServicer
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.signature import AUTOENCODER, SIGNATURE

__all__ = ["SERVICE", "SIGNATURE"]

SERVICE = ServiceSpec(
    name=AUTOENCODER.name,
    model=AUTOENCODER.model,
    signature=SIGNATURE,
    register=add_DriftServiceServicer_to_server,
    servicer=DriftServicer,
    service_name="meshcast.api.drift.v1.DriftService",
    port=8104,
    shipped=AUTOENCODER.shipped,
    train="meshcast.services.drift.publish:train_file",
    example="meshcast.services.drift.example:EXAMPLE",
    observed={},  # it does not watch itself
    settings=DriftSettings,
)
