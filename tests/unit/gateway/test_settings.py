"""Settings of the gateway: routes from the file and the environment, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshcast.api.analyzer.v1 import analyzer_pb2
from meshcast.api.drift.v1 import drift_pb2
from meshcast.gateway import GatewaySettings, RouteSettings
from meshcast.rpc import InvalidInput, load


def loaded(text: str, tmp_path: Path, **environ: str) -> GatewaySettings:
    path = tmp_path / "meshcast.toml"
    path.write_text(text, "utf-8")
    settings = load({"gateway": GatewaySettings}, path=path, environ=environ)["gateway"]
    assert isinstance(settings, GatewaySettings)
    return settings


@pytest.mark.parametrize(
    ("name", "service", "endpoint"),
    [
        ("predictor", "meshcast.api.predictor.v1.PredictorService", "127.0.0.1:8101"),
        ("forecaster", "meshcast.api.forecaster.v1.ForecasterService", "127.0.0.1:8102"),
        ("analyzer", "meshcast.api.analyzer.v1.AnalyzerService", "127.0.0.1:8103"),
        ("drift", "meshcast.api.drift.v1.DriftService", "127.0.0.1:8104"),
    ],
)
def test_our_services_are_routed_by_default(name: str, service: str, endpoint: str) -> None:
    route = GatewaySettings().routes[name]
    assert route.services == (service, "inference.GRPCInferenceService")
    assert route.health == service
    assert route.endpoints == (endpoint,)


def test_a_route_of_ours_given_in_part_keeps_the_rest(tmp_path: Path) -> None:
    settings = loaded('[gateway.routes.predictor]\nendpoints = ["predictor:8101"]', tmp_path)
    assert settings.routes["predictor"].endpoints == ("predictor:8101",)
    assert "inference.GRPCInferenceService" in settings.routes["predictor"].services


def test_the_environment_moves_a_replica(tmp_path: Path) -> None:
    settings = loaded("", tmp_path, MESHCAST_GATEWAY_ROUTES_PREDICTOR_ENDPOINTS="a:1,b:2")
    assert settings.routes["predictor"].endpoints == ("a:1", "b:2")


def test_a_new_route_stands_beside_ours(tmp_path: Path) -> None:
    text = '[gateway.routes.ranker]\nservices = ["acme.RankerService"]\nendpoints = ["ranker:9000"]'
    assert {*loaded(text, tmp_path).routes} == {"predictor", "forecaster", "analyzer", "drift", "ranker"}


def test_a_deadline_of_one_method_leaves_those_of_the_others(tmp_path: Path) -> None:
    analyzer = "/meshcast.api.analyzer.v1.AnalyzerService"
    route = loaded("[gateway.routes.analyzer.default_deadlines_s]\nEmbedTexts = 60", tmp_path).routes["analyzer"]
    assert route.deadline_s(f"{analyzer}/EmbedTexts") == route.deadline_s_max == 60
    assert route.deadline_s(f"{analyzer}/AnalyzeContentPatterns") == 60
    assert route.deadline_s(f"{analyzer}/AnalyzeContent") == 5


def test_the_methods_with_a_deadline_of_their_own_exist() -> None:
    routes = GatewaySettings().routes
    for name, module in (("analyzer", analyzer_pb2), ("drift", drift_pb2)):
        (service,) = module.DESCRIPTOR.services_by_name.values()
        named = {*routes[name].default_deadlines_s, *routes[name].stream_deadlines_s}
        assert named and named <= {*service.methods_by_name}
    assert [name for name, route in routes.items() if route.default_deadlines_s] == ["analyzer", "drift"]


def test_a_watch_of_drift_may_last_and_the_drain_does_not_wait_for_it(tmp_path: Path) -> None:
    drift = "/meshcast.api.drift.v1.DriftService"
    route = loaded("[gateway.routes.drift]\nstream_deadline_s = 60", tmp_path).routes["drift"]
    assert (route.stream_s(f"{drift}/WatchDrift"), route.stream_s(f"{drift}/ObserveStream")) == (30 * 86_400, 60)
    assert route.deadline_s_max == 60  # of single calls


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[gateway.routes.ranker]\nendpoints = ["ranker:9000"]', "routes.ranker.services"),
        ('[gateway.routes.predictor]\nendpoints = ["predictor"]', "'predictor' is not host:port"),
        ("[gateway.routes.predictor]\ndefault_deadline_s = 0", "default_deadline_s"),
        ("[gateway.routes.analyzer.default_deadlines_s]\nEmbedTexts = 0", "default_deadlines_s.EmbedTexts"),
        ("[gateway.routes.analyzer.default_deadlines_s]\nEmbedTexts = nan", "default_deadlines_s.EmbedTexts"),
        ("[gateway.routes.analyzer.default_deadlines_s]\nEmbdTexts = 9", "did you mean EmbedTexts"),
        ("[gateway.routes.drift.stream_deadlines_s]\nWatchDrift = 0", "stream_deadlines_s.WatchDrift"),
        ("[gateway.routes.drift.stream_deadlines_s]\nWatch = 9", "did you mean WatchDrift"),
        ("[gateway]\npart_deadline_s = nan", "part_deadline_s"),
        ('[gateway.routes.analyzer.default_deadlines_s]\nEmbedTexts = "1"', "default_deadlines_s.EmbedTexts"),
        ("[gateway]\nquestions_max = 0", "questions_max"),
        ("[gateway]\ndeadline_margin_ms = -1", "deadline_margin_ms"),
        ("[gateway]\nquestion_max = 1", "questions_max"),
        ("[gateway]\ndeadline_margin_ms = inf", "deadline_margin_ms"),
        ("[gateway]\nport = 65536", "port must be"),
        ("[gateway]\nmetrics_port = -1", "metrics_port must be"),
        ("[gateway.routes.predictor]\ndefault_deadline_s = inf", "default_deadline_s"),
        ("[gateway.routes.predictor]\nstream_deadline_s = 1e300", "stream_deadline_s"),
        ("[gateway.routes.predictor.cached_s]\nPredictEngagement = 0", "cached_s.PredictEngagement"),
        ("[gateway.routes.drift]\ncached_s = { SetReference = 60.0 }", "routes.drift.cached_s.SetReference"),
        ("[gateway.routes.drift]\nfallbacks = { SetReference = ['cache'] }", "routes.drift.fallbacks.SetReference"),
        ('[gateway.routes.drift]\nretried = ["SetReference"]\nonce = ["SetReference"]', "in retried and in once"),
        ('[gateway.routes.predictor]\nendpoints = ["dns:///a..b:1"]', "routes.predictor.endpoints"),
    ],
)
def test_what_cannot_work_is_refused_by_name(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=named):
        loaded(text, tmp_path)


def test_a_method_of_ours_may_be_asked_once_though_it_is_retried_by_default(tmp_path: Path) -> None:
    routes = loaded('[gateway.routes.drift]\nonce = ["SetReference"]', tmp_path).routes
    assert routes["drift"].retried == ("DetectDataDrift",)
    assert routes["drift"].once == ("SetReference",)


def test_health_follows_the_name_that_is_set() -> None:
    assert RouteSettings(services=("a.B",), health_name="model/x").health == "model/x"
