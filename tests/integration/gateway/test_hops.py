"""What spans both hops of a routed call: one trace, and TLS on either side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2_grpc as pb_grpc
from meshcast.gateway import GatewaySettings, RouteSettings, serving
from meshcast.rpc import (
    InvalidInput,
    RpcSettings,
    TlsSettings,
    TracingSettings,
    channel,
    mesh_errors,
    setup_tracing,
)

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
CALLERS_TRACE = "0af7651916cd43dd8448eb211c80319c"
METADATA = (("traceparent", f"00-{CALLERS_TRACE}-b7ad6b7169203331-01"),)


async def test_a_routed_call_is_one_trace_over_all_hops(run_predictor: Any, run_gateway: Any) -> None:
    exporter = InMemorySpanExporter()
    tracing = setup_tracing(TracingSettings(enabled=True), "gateway", processors=[SimpleSpanProcessor(exporter)])
    async with run_predictor() as replica, run_gateway([replica.address], tracing=tracing) as gateway:
        await gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(), timeout=5, metadata=METADATA)
        chunks = (pb.PredictEngagementStreamRequest(sequence=n) for n in range(5))
        stream = gateway.predictor.PredictEngagementStream(chunks, timeout=5, metadata=METADATA)
        assert [answer.sequence async for answer in stream] == [*range(5)]
    tracing.close()
    spans = [span for span in exporter.get_finished_spans() if PREDICTOR in span.name]
    assert {format(span.context.trace_id, "032x") for span in spans if span.context} == {CALLERS_TRACE}
    assert sorted(span.kind.name for span in spans) == ["CLIENT", "CLIENT", "SERVER", "SERVER"]
    seen = str(replica.script.metadata[0]["traceparent"])
    (client,) = (s for s in spans if s.kind.name == "CLIENT" and s.name.endswith("PredictEngagement"))
    assert client.context is not None
    assert seen.split("-")[2] == format(client.context.span_id, "016x")  # the hop's own span, not the caller's


async def test_without_tracing_the_callers_trace_passes_through(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        await gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(), timeout=5, metadata=METADATA)
    assert replica.script.metadata[0]["traceparent"] == METADATA[0][1]


@pytest.mark.parametrize("word", ["urgent", "HIGH", ""])
async def test_a_priority_that_is_none_is_refused_before_a_replica_is_asked(
    word: str, run_predictor: Any, run_gateway: Any
) -> None:
    metadata = (("meshcast-priority", word),)
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        await gateway.predictor.PredictEngagement(
            pb.PredictEngagementRequest(), timeout=5, metadata=(("meshcast-priority", "low"),)
        )
        with pytest.raises(InvalidInput, match="meshcast-priority must be high, normal or low, is") as refused:
            with mesh_errors():
                await gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(), timeout=5, metadata=metadata)
        assert [violation.field for violation in refused.value.violations] == ["meshcast-priority"]
        stream = gateway.predictor.PredictEngagementStream(timeout=5, metadata=metadata)
        assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (replica.script.calls, replica.script.taken) == (1, 0)


@pytest.fixture
def tls(tmp_path: Path) -> TlsSettings:
    """A certificate for localhost that server and clients of the mesh share, both sides checked."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    for blob in leaf.cert_chain_pems:
        blob.write_to_path(tmp_path / "chain.pem", append=True)
    return TlsSettings(
        certificate=tmp_path / "chain.pem",
        key=tmp_path / "key.pem",
        client_ca=tmp_path / "ca.pem",
        server_ca=tmp_path / "ca.pem",
    )


@pytest.mark.parametrize("by_name", [False, True])
async def test_a_mesh_with_mutual_tls_is_routed_and_watched(serve: Any, tls: TlsSettings, by_name: bool) -> None:
    async def describe(request: pb.DescribeModelRequest, context: Any) -> pb.DescribeModelResponse:
        return pb.DescribeModelResponse(history_features=["hour"])

    handlers: dict[str, Any] = {
        "DescribeModel": grpc.unary_unary_rpc_method_handler(
            describe, pb.DescribeModelRequest.FromString, pb.DescribeModelResponse.SerializeToString
        )
    }
    backend = await serve(
        lambda s: s.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(PREDICTOR, handlers)]), tls=tls
    )
    at = f"dns:///localhost:{backend.port}" if by_name else f"localhost:{backend.port}"
    route = RouteSettings(services=(PREDICTOR,), endpoints=(at,))
    rpc = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0)
    async with (
        serving(GatewaySettings(routes={"predictor": route}), rpc, tls=tls) as gateway,
        channel(f"localhost:{gateway.port}", tls=tls) as to_gateway,
    ):
        stub: Any = pb_grpc.PredictorServiceStub(to_gateway)
        answer = await stub.DescribeModel(pb.DescribeModelRequest(), timeout=5)
    assert list(answer.history_features) == ["hour"]
    assert answer.receipt.gateway.endpoint == (backend.address if by_name else at)
