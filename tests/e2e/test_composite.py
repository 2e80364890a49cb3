"""Composite answers of a whole mesh: four services behind the gateway, with all of them and with one gone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from meshcast.api.analyzer.v1 import analyzer_pb2
from meshcast.api.drift.v1 import drift_pb2
from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.client import Content, GrowthQuestion, MeshClient, PlannedPost
from meshcast.rpc import NotReady, Precondition, from_item, mesh_errors, prediction_id

ANALYZER = "meshcast.api.analyzer.v1.AnalyzerService"
FOUR = [pb.PART_ENGAGEMENT, pb.PART_GROWTH, pb.PART_CONTENT, pb.PART_DRIFT]
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Mesh:
    """A predictor, a forecaster, an analyzer, a drift service and a gateway before them."""

    predictor: Any
    forecaster: Any
    analyzer: Any
    drift: Any
    gateway: Any


@pytest.fixture(scope="module")
def mesh(mesh_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    with (
        mesh_of.predictor(folder) as predictor,
        mesh_of.forecaster(folder) as forecaster,
        mesh_of.analyzer(folder) as analyzer,
        mesh_of.drift(folder) as drift,
        mesh_of.gateway(
            folder,
            predictor.address,
            forecasters=[forecaster.address],
            analyzers=[analyzer.address],
            drifts=[drift.address],
        ) as gateway,
    ):
        yield Mesh(predictor, forecaster, analyzer, drift, gateway)


def drift_question() -> drift_pb2.DetectDataDriftRequest:
    """A question that every drift service answers, since the reference comes along."""

    def rows(shift: float) -> drift_pb2.Observations:
        values = np.random.default_rng(5).normal(shift, 1, 300)
        return drift_pb2.Observations(rows=300, numeric=[drift_pb2.NumericColumn(name="income", values=values)])

    return drift_pb2.DetectDataDriftRequest(reference=rows(0), observations=rows(1))


def whole(mesh_of: Any, **fields: Any) -> pb.PredictComprehensiveRequest:
    return pb.PredictComprehensiveRequest(
        engagement=mesh_of.question(),
        growth=mesh_of.growth_question(horizon_days=7),
        content=mesh_of.content_question(),
        drift=drift_question(),
        **fields,
    )


async def answered(asked: Any, request: pb.PredictComprehensiveRequest) -> tuple[dict[int, Any], Any]:
    call = asked.mesh.PredictComprehensive(request, timeout=10)
    with mesh_errors(call):
        *parts, last = [part async for part in call]
    return {part.part: part for part in parts}, last


async def test_four_services_answer_one_question_under_its_one_id(mesh: Mesh, mesh_of: Any) -> None:
    async with mesh_of.peer(mesh.gateway.address) as asked:
        parts, last = await answered(asked, whole(mesh_of, request_id="whole-3"))
        routed = await asked.mesh.RoutePrediction(
            pb.RoutePredictionRequest(content=mesh_of.content_question()), timeout=10
        )
    assert (list(last.summary.answered), list(last.summary.failed)) == (FOUR, [])
    content = parts[pb.PART_CONTENT].content
    ids = [parts[part].receipt.gateway.endpoint for part in FOUR]
    assert ids == [mesh.predictor.address, mesh.forecaster.address, mesh.analyzer.address, mesh.drift.address]
    report = parts[pb.PART_DRIFT].drift.report
    assert report.is_drift and report.features[0].name == "income"
    assert content.receipt.prediction_id == prediction_id("whole-3")
    assert parts[pb.PART_GROWTH].growth.receipt.prediction_id == prediction_id("whole-3")
    for judgement in (content.judgement, routed.content.judgement):
        assert 0 < judgement.viral < 1 and 0 < judgement.above_median < 1
    assert routed.content.judgement.viral == pytest.approx(content.judgement.viral, abs=TOLERANCE)


async def test_the_client_gets_the_same_through_the_gateway_as_from_the_analyzer(mesh: Mesh, mesh_of: Any) -> None:
    content = Content(text="We won, and thank you all for coming!", title="Election", has_media=True, hour_of_day=18)
    posts = mesh_of.made_up_posts(60)
    day, value = mesh_of.made_up_days()
    growth = GrowthQuestion(history=(day, value), horizon_days=7)
    async with MeshClient(mesh.gateway.address) as routed, MeshClient(mesh.analyzer.address) as direct:
        own = await direct.analyze_content(content)
        parts = [
            part
            async for part in routed.predict_comprehensive(
                PlannedPost.of(posts, 59), posts[:50], growth=growth, content=content
            )
        ]
        by_kind = await routed.route_content(content)
    (judged,) = (part.judgement for part in parts if part.part == "content")
    assert judged is not None and {part.part for part in parts if part.error is None} >= {"engagement", "growth"}
    for other in (judged, by_kind):
        assert other.viral == pytest.approx(own.viral, abs=TOLERANCE)
        assert other.above_median == pytest.approx(own.above_median, abs=TOLERANCE)
        assert other.characters_read == own.characters_read == len(content.text) + len(content.title)


async def test_an_embedder_that_nobody_built_is_said_through_the_gateway_with_the_way_out(
    mesh: Mesh, mesh_of: Any
) -> None:
    async with mesh_of.peer(mesh.gateway.address) as asked:
        with pytest.raises(Precondition) as caught, mesh_errors():
            await asked.content.EmbedTexts(analyzer_pb2.EmbedTextsRequest(texts=["one"]))
        patterns = analyzer_pb2.AnalyzeContentPatternsRequest(
            rows=[
                analyzer_pb2.ContentOutcome(content=analyzer_pb2.Content(text=f"post {n} of {n % 5}"), outcome=n % 7)
                for n in range(40)
            ]
        )
        with mesh_errors():
            found = await asked.content.AnalyzeContentPatterns(patterns)  # no deadline: the route's own
    assert "meshcast models build embedder" in caught.value.facts["command"]
    assert found.representation == "words" and len(found.row_topics) == 40
    assert (found.receipt.deadline_ms, found.receipt.deadline_default) == (60_000, True)


async def test_a_killed_analyzer_costs_its_part_and_nothing_else(mesh_of: Any, tmp_path: Any) -> None:
    with (
        mesh_of.predictor(tmp_path) as predictor,
        mesh_of.analyzer(tmp_path) as analyzer,
        mesh_of.gateway(tmp_path, predictor.address, analyzers=[analyzer.address]) as gateway,
    ):
        async with mesh_of.peer(gateway.address) as asked:
            parts, _ = await answered(asked, whole(mesh_of))
            assert parts[pb.PART_CONTENT].status.code == 0
            analyzer.end(signal.SIGKILL)
            async with asyncio.timeout(20):
                while parts[pb.PART_CONTENT].status.code == 0:
                    parts, last = await answered(asked, whole(mesh_of))
            error = from_item(parts[pb.PART_CONTENT].status)
            assert isinstance(error, NotReady) and error.facts["service"] == ANALYZER
            assert list(last.summary.answered) == [pb.PART_ENGAGEMENT]
