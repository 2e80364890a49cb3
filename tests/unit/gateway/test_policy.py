"""Policies: what follows for a method from its contract and from the settings of its route."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from meshcast.gateway import GatewaySettings, RouteSettings
from meshcast.gateway.contracts import Contracts, Idempotency, MethodContract, MethodKind
from meshcast.gateway.policy import Tries, policy_of
from meshcast.gateway.settings import FALLBACKS

PREDICTOR = "/meshcast.api.predictor.v1.PredictorService"
FORECASTER = "/meshcast.api.forecaster.v1.ForecasterService"
DRIFT = "/meshcast.api.drift.v1.DriftService"


def contract(
    path: str = f"{PREDICTOR}/PredictEngagement",
    idempotency: Idempotency = Idempotency.IDEMPOTENT,
    *,
    has_receipt: bool = True,
) -> MethodContract:
    return MethodContract(path, MethodKind.UNARY, has_receipt, idempotency)


def known(path: str) -> MethodContract:
    methods = Contracts().methods(path[1:].rpartition("/")[0])
    assert methods is not None
    return methods[path]


def test_a_method_that_may_be_repeated_is_hedged() -> None:
    policy = policy_of(contract(), RouteSettings())
    assert (policy.tries, policy.is_idempotent) == (Tries.HEDGED, True)
    assert policy.service == "meshcast.api.predictor.v1.PredictorService"
    assert policy.path.endswith("/PredictEngagement")


def test_a_method_of_which_nothing_is_said_is_asked_once_and_never_cached_or_replaced() -> None:
    route = RouteSettings(
        retried=("PredictEngagement",),
        cached_s={"PredictEngagement": 9.0},
        fallbacks={"PredictEngagement": ("version", "cache", "baseline")},
    )
    policy = policy_of(contract(idempotency=Idempotency.UNKNOWN), route)
    assert (policy.tries, policy.cache_ttl_s, policy.fallbacks) == (Tries.ONCE, 0.0, ())


@pytest.mark.parametrize("settings", [{"cached_s": 60.0}, *({"fallbacks": (way,)} for way in FALLBACKS)], ids=str)
@pytest.mark.parametrize("method", ["SetReference", "DetectDataDrift", "DetectPerformanceDrift"])
def test_a_write_is_never_answered_in_its_place(method: str, settings: dict[str, Any]) -> None:
    named: dict[str, Any] = {name: {method: value} for name, value in settings.items()}
    route = RouteSettings(services=(DRIFT[1:],), **named)
    with capture_logs() as logs:
        policy = policy_of(known(f"{DRIFT}/{method}"), route)
    assert (policy.cache_ttl_s, policy.fallbacks) == (0.0, ())
    (line,) = logs
    (setting,) = settings
    assert (line["log_level"], line["setting"], line["method"]) == (
        "warning",
        f"{setting}.{method}",
        f"{DRIFT}/{method}",
    )
    for name in ("drift", "of_ours_elsewhere"):
        with pytest.raises(ValueError, match=rf"routes\.{name}\.{setting}\.{method}: its contract says .* change"):
            GatewaySettings(routes={name: route})


def test_predictions_and_what_has_no_side_effects_may_be_cached() -> None:
    for path in (f"{PREDICTOR}/PredictEngagement", f"{PREDICTOR}/ReadPrediction", f"{FORECASTER}/ForecastGrowth"):
        assert known(path).is_question
    for name, services in (("predictor", (PREDICTOR[1:],)), ("forecaster", (FORECASTER[1:],))):
        cached_s = {"PredictEngagement" if name == "predictor" else "ForecastGrowth": 9.0}
        GatewaySettings(routes={name: RouteSettings(services=services, cached_s=cached_s)})
    assert not known(f"{FORECASTER}/RecordActuals").is_question
    assert not contract(idempotency=Idempotency.UNKNOWN).is_question


def test_the_route_says_which_methods_are_retried_and_which_are_asked_once() -> None:
    route = RouteSettings(retried=("PredictEngagement",), once=("ReadPrediction",))
    assert policy_of(contract(), route).tries is Tries.RETRIED
    assert policy_of(contract(f"{PREDICTOR}/ReadPrediction"), route).tries is Tries.ONCE


def test_a_degraded_answer_needs_a_receipt_that_says_so() -> None:
    route = RouteSettings(fallbacks={"PredictEngagement": ("baseline",)}, cached_s={"PredictEngagement": 9.0})
    assert policy_of(contract(), route).fallbacks == ("baseline",)
    without = policy_of(contract(has_receipt=False), route)
    assert (without.fallbacks, without.cache_ttl_s) == ((), 9.0)


def test_only_another_version_of_the_model_stands_in_unless_somebody_asks_for_more() -> None:
    routes = GatewaySettings().routes
    named = {ways for route in routes.values() for ways in route.fallbacks.values()}
    assert named == {("version",)}
    assert not any(route.cached_s for route in routes.values())
    assert policy_of(known(f"{PREDICTOR}/PredictEngagement"), routes["predictor"]).fallbacks == ("version",)
    assert policy_of(known(f"{PREDICTOR}/ReadPrediction"), routes["predictor"]).fallbacks == ()


def test_writes_and_long_work_of_our_services_are_retried_rather_than_hedged() -> None:
    drift = GatewaySettings().routes["drift"]
    assert policy_of(known(f"{DRIFT}/SetReference"), drift).tries is Tries.RETRIED
    assert policy_of(known(f"{DRIFT}/AnalyzeDriftSeverity"), drift).tries is Tries.HEDGED
    assert policy_of(known(f"{DRIFT}/DetectPerformanceDrift"), drift).tries is Tries.ONCE


def test_the_deadline_is_the_methods_own() -> None:
    drift = GatewaySettings().routes["drift"]
    assert policy_of(known(f"{DRIFT}/SetReference"), drift).deadline_s == 60.0
    assert policy_of(known(f"{DRIFT}/AnalyzeDriftSeverity"), drift).deadline_s == drift.default_deadline_s


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"retried": ("PredictEngagment",)}, "did you mean PredictEngagement"),
        ({"once": ("Nothing",)}, r"once\.Nothing"),
        ({"cached_s": {"PredictEngagement": 0.0}}, r"cached_s\.PredictEngagement must be more than 0"),
        ({"fallbacks": {"PredictEngagement": ("guess",)}}, "'guess' is none of version, cache, baseline"),
        ({"retried": ("ModelInfer",), "once": ("ModelInfer",)}, "ModelInfer is in retried and in once"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        GatewaySettings(routes={"predictor": RouteSettings(**change)})  # type: ignore[arg-type]


def test_a_part_may_have_a_time_of_its_own() -> None:
    settings = GatewaySettings(part_deadlines_s={"growth": 9.0})
    assert [settings.part_s(part) for part in (1, 2)] == [3.0, 9.0]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the parts are engagement, growth, content, drift"):
        GatewaySettings(part_deadlines_s={"grow": 9.0})
