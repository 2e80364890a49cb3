"""The analyzer: what a text will do and why, what is in it, and what texts of its like mean."""

from pathlib import Path

from meshcast.api.analyzer.v1.analyzer_pb2_grpc import add_AnalyzerServiceServicer_to_server
from meshcast.runtime import ServiceSpec
from meshcast.services.analyzer.embedder import EMBEDDER
from meshcast.services.analyzer.features import EXTRAS
from meshcast.services.analyzer.service import AnalyzerServicer
from meshcast.services.analyzer.signature import SIGNATURE

__all__ = ["SERVICE", "SIGNATURE"]

SERVICE = ServiceSpec(
    name="analyzer",
    model="meshcast.services.analyzer.model:ContentModel",
    signature=SIGNATURE,
    register=add_AnalyzerServiceServicer_to_server,
    servicer=AnalyzerServicer,
    service_name="meshcast.api.analyzer.v1.AnalyzerService",
    port=8103,
    shipped=Path(__file__).parent / "repository",
    train="meshcast.services.analyzer.publish:train_file",
    example="meshcast.services.analyzer.example:EXAMPLE",
    also=(EMBEDDER,),
    observed={"extras": EXTRAS, "above_median": ("above_median",), "viral": ("viral",)},
)
