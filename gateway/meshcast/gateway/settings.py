"""Settings of the gateway: the `[gateway]` table of meshcast.toml and its routes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from meshcast.api.analyzer.v1 import analyzer_pb2
from meshcast.api.drift.v1 import drift_pb2
from meshcast.api.forecaster.v1 import forecaster_pb2
from meshcast.api.predictor.v1 import predictor_pb2

from .admin import AdminSettings
from .breaker import BreakerSettings
from .bulkhead import BulkheadSettings
from .cache import CacheSettings
from .concurrency import LimitSettings
from .contracts import Contracts
from .endpoints import DiscoverySettings, check_endpoint
from .hedge import HedgeSettings
from .http.settings import HttpSettings
from .parts import PART_NAMES, Part
from .policy import why_made
from .retry import RetrySettings
from .window import StreamSettings

_DEADLINE_S_MAX = 366 * 86_400.0  # what is longer has no end, which grpc's clocks and the receipt cannot tell
_OIP = "inference.GRPCInferenceService"
_OIP_METHODS = frozenset({"ModelInfer"})  # of its methods, the one whose policy is worth setting


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """One route: a model service, the gRPC services that it answers and where its replicas are.

    A table `[gateway.routes.<name>]`.
    """

    services: tuple[str, ...] = ()
    """Full names of its gRPC services, as in `meshcast.api.predictor.v1.PredictorService`."""
    endpoints: tuple[str, ...] = ()
    """Its replicas: each as `host:port`, or several as `dns:///host:port` or `file:///path`, as in `source_of`."""
    health_name: str = ""
    """Health name that tells whether a replica takes calls. Empty: the first of `services`."""
    default_deadline_s: float = 5.0
    """Deadline of unary calls whose caller set none."""
    default_deadlines_s: dict[str, float] = field(default_factory=dict)
    """The same for methods that need another, by their names, as in `EmbedTexts`."""
    stream_deadline_s: float = 3600.0
    """Deadline of streams whose caller set none. A million rows take minutes; nothing may stay for ever."""
    stream_deadlines_s: dict[str, float] = field(default_factory=dict)
    """The same for streams that need another, by the names of their methods, as in `WatchDrift`."""
    retried: tuple[str, ...] = ()
    """Methods that are asked again where they fail, but never hedged: long work, and writes."""
    once: tuple[str, ...] = ()
    """Methods that are asked again only where no replica had begun, whatever their contract says."""
    cached_s: dict[str, float] = field(default_factory=dict)
    """Methods whose answers are kept for equal questions, and for how many seconds they count as fresh. No writes."""
    fallbacks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What stands in where a method fails, in order: of `version`, `cache` and `baseline`. No writes."""

    @property
    def health(self) -> str:
        """The health name that is watched to tell whether a replica takes calls."""
        return self.health_name or (self.services[0] if self.services else "")

    def deadline_s(self, method: str) -> float:
        """Deadline of a unary call whose caller set none, in seconds.

        Args:
            method: its path, as in `/meshcast.api.analyzer.v1.AnalyzerService/EmbedTexts`.
        """
        return self.default_deadlines_s.get(method.rpartition("/")[2], self.default_deadline_s)

    def stream_s(self, method: str) -> float:
        """Deadline of a stream whose caller set none, in seconds.

        Args:
            method: its path.
        """
        return self.stream_deadlines_s.get(method.rpartition("/")[2], self.stream_deadline_s)

    @property
    def deadline_s_max(self) -> float:
        """The longest of the deadlines of unary calls whose caller set none, in seconds."""
        return max((self.default_deadline_s, *self.default_deadlines_s.values()))


# Another version of the same model is an answer of the same kind, which its own gates let serve. What is of another
# kind, an old answer or one without a model, stands in only where somebody asks for it.
_VERSION = ("version",)
FALLBACKS = ("version", "cache", "baseline")
"""What can stand in for an answer."""

_SHIPPED = {
    "predictor": RouteSettings(
        services=("meshcast.api.predictor.v1.PredictorService", _OIP),
        endpoints=("127.0.0.1:8101",),
        fallbacks={"PredictEngagement": _VERSION},
    ),
    "forecaster": RouteSettings(
        services=("meshcast.api.forecaster.v1.ForecasterService", _OIP),
        endpoints=("127.0.0.1:8102",),
        retried=("RecordActuals",),
        fallbacks={"ForecastGrowth": _VERSION},
    ),
    "analyzer": RouteSettings(
        services=("meshcast.api.analyzer.v1.AnalyzerService", _OIP),
        endpoints=("127.0.0.1:8103",),
        default_deadlines_s={
            # As the service's own: 1,024 texts of 256 tokens take the embedder some seconds on one core.
            **dict.fromkeys(("DetectViralPotential", "ExtractContentFeatures"), 10.0),
            **dict.fromkeys(("EmbedTexts", "RerankTexts", "ClassifyTexts"), 10.0),
            **dict.fromkeys(("AnalyzeContentPatterns", "TrainTextHead"), 60.0),
        },
        retried=("AnalyzeContentPatterns",),
        fallbacks={"AnalyzeContent": _VERSION, "DetectViralPotential": _VERSION},
    ),
    "drift": RouteSettings(
        services=("meshcast.api.drift.v1.DriftService", _OIP),
        endpoints=("127.0.0.1:8104",),
        default_deadlines_s={
            # As the service's own: a reference of a million rows is counted once, energy distance included.
            "SetReference": 60.0,
            **dict.fromkeys(("DetectDataDrift", "DetectPerformanceDrift"), 30.0),
        },
        # Alarms are months apart, and who watches wants no end before; a caller that is gone is noticed by its pings.
        stream_deadlines_s={"WatchDrift": 30 * 86_400.0},
        retried=("SetReference", "DetectDataDrift"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What the gateway routes to, and how it budgets time. The table `[gateway]`."""

    port: int = 8001
    """Port of the gRPC server; 0 takes any free one."""
    metrics_port: int = 8002
    """Port of /metrics; 0 takes any free one."""
    routes: dict[str, RouteSettings] = field(default_factory=lambda: dict(_SHIPPED))
    """Routes by name. A route of ours that is given in part keeps its services and endpoints."""
    deadline_margin_ms: float = 5.0
    """Time of a call that the gateway keeps for its own hop; a call with no more than this is refused at once."""
    part_deadline_s: float = 3.0
    """Longest time for one part of a composite answer."""
    part_deadlines_s: dict[str, float] = field(default_factory=dict)
    """The same for parts that need another, by their names, as in `growth`."""
    questions_max: int = 8
    """Questions of one PredictComprehensiveStream that are under way at a time."""
    models_poll_s: float = 0.5
    """How often the backends' models are listed; services follow their Watch at once."""
    reconnect_s: float = 0.25
    """Pause before a lost backend is tried again."""
    restart_s: float = 10.0
    """How long a single call waits at most, counted from when a service's last replica has left, for one to come back;
    0 for not at all. Parts of composite answers never wait, nor do methods with a fallback that needs no replica."""
    first_contact_s: float = 2.0
    """Longest wait at start for the backends' first word; the gateway serves without those that are late."""
    retry: RetrySettings = field(default_factory=RetrySettings)
    """How failed tries are repeated."""
    admin: AdminSettings = field(default_factory=AdminSettings)
    """Channelz, on a port of its own."""
    http: HttpSettings = field(default_factory=HttpSettings)
    """The HTTP door."""
    hedge: HedgeSettings = field(default_factory=HedgeSettings)
    """When a second replica is asked beside a slow one."""
    cache: CacheSettings = field(default_factory=CacheSettings)
    """How many answers are kept of the methods that a route's `cached_s` names."""
    limit: LimitSettings = field(default_factory=LimitSettings)
    """How many calls of a route may be under way and wait."""
    bulkhead: BulkheadSettings = field(default_factory=BulkheadSettings)
    """The hard bound of what is under way on a route."""
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    """When a replica that fails gets no calls."""
    discovery: DiscoverySettings = field(default_factory=DiscoverySettings)
    """How often names and lists of replicas are looked at."""
    streams: StreamSettings = field(default_factory=StreamSettings)
    """How streams of numbered chunks are spread over replicas."""

    def __post_init__(self) -> None:
        """Completes our own routes and checks all values; raises ValueError naming the field."""
        routes = {name: _completed(name, route) for name, route in self.routes.items()}
        object.__setattr__(self, "routes", routes)  # the one change before anyone has seen the value
        for name, route in routes.items():
            _check_route(name, route)
        for name in ("part_deadline_s", "models_poll_s", "reconnect_s", "questions_max"):
            if not getattr(self, name) > 0:  # NaN is none
                raise ValueError(f"{name} must be more than 0, is {getattr(self, name)}")
        for name in ("deadline_margin_ms", "first_contact_s", "restart_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, is {getattr(self, name)}")
        for name in ("port", "metrics_port"):
            if not 0 <= getattr(self, name) <= 65_535:
                raise ValueError(f"{name} must be 0 to 65535, is {getattr(self, name)}")
        for part, seconds in self.part_deadlines_s.items():
            if part not in PART_NAMES.values():
                raise ValueError(f"part_deadlines_s.{part}: the parts are {', '.join(PART_NAMES.values())}")
            if not seconds > 0:
                raise ValueError(f"part_deadlines_s.{part} must be more than 0, is {seconds}")

    def part_s(self, part: Part) -> float:
        """Longest time for a part of a composite answer, in seconds."""
        return self.part_deadlines_s.get(PART_NAMES[part], self.part_deadline_s)


def _completed(name: str, route: RouteSettings) -> RouteSettings:
    shipped = _SHIPPED.get(name)
    if shipped is None:
        return route
    is_own = route.retried not in ((), shipped.retried)  # else what is asked once need not be taken out of it too
    return replace(
        route,
        services=route.services or shipped.services,
        endpoints=route.endpoints or shipped.endpoints,
        default_deadlines_s={**shipped.default_deadlines_s, **route.default_deadlines_s},
        stream_deadlines_s={**shipped.stream_deadlines_s, **route.stream_deadlines_s},
        retried=route.retried if is_own else tuple(method for method in shipped.retried if method not in route.once),
        fallbacks={**shipped.fallbacks, **route.fallbacks},
    )


def _check_route(name: str, route: RouteSettings) -> None:
    if not route.services:
        raise ValueError(f"routes.{name}.services is empty; name the gRPC services of the route")
    for endpoint in route.endpoints:
        try:
            check_endpoint(endpoint)
        except ValueError as error:
            raise ValueError(f"routes.{name}.endpoints: {error}") from error
    for field_name in ("default_deadline_s", "stream_deadline_s"):
        _check_deadline(f"routes.{name}.{field_name}", getattr(route, field_name))
    for method, ways in route.fallbacks.items():
        for way in ways:
            if way not in FALLBACKS:
                raise ValueError(f"routes.{name}.fallbacks.{method}: {way!r} is none of {', '.join(FALLBACKS)}")
    for field_name in ("default_deadlines_s", "stream_deadlines_s"):
        for method, seconds in getattr(route, field_name).items():
            _check_deadline(f"routes.{name}.{field_name}.{method}", seconds)
    for method, seconds in route.cached_s.items():
        if not seconds > 0:
            raise ValueError(f"routes.{name}.cached_s.{method} must be more than 0, is {seconds}")
    for method in {*route.retried} & {*route.once}:
        raise ValueError(f"routes.{name}: {method} is in retried and in once; name it in one of them")
    shipped = _SHIPPED.get(name)
    if shipped is not None and route.services == shipped.services:
        _check_methods(name, route)
    _check_questions(name, route)


def _check_deadline(named: str, seconds: float) -> None:
    if not 0 < seconds <= _DEADLINE_S_MAX:  # NaN is none
        raise ValueError(f"{named} must be more than 0 and at most {_DEADLINE_S_MAX:.0f}, is {seconds}")


def _check_methods(name: str, route: RouteSettings) -> None:
    """Refuses names that no method of our service has."""
    methods = sorted(_methods(route.services))
    for field_name in ("default_deadlines_s", "stream_deadlines_s", "retried", "once", "cached_s", "fallbacks"):
        for method in getattr(route, field_name):
            if method not in methods and method not in _OIP_METHODS:
                near = get_close_matches(method, methods, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"routes.{name}.{field_name}.{method}: the service has no such method{hint}")


def _check_questions(name: str, route: RouteSettings) -> None:
    """Refuses to answer in place of methods that may change something, where their contract is at hand."""
    contracts = Contracts()
    for service in route.services:
        for path, contract in (contracts.methods(service) or {}).items():
            method = path.rpartition("/")[2]
            for field_name in ("cached_s", "fallbacks"):
                if getattr(route, field_name).get(method) and not contract.is_question:
                    raise ValueError(f"routes.{name}.{field_name}.{method}: {why_made(contract)}")


def _methods(services: tuple[str, ...]) -> frozenset[str]:
    """Names of the methods of our own services."""
    for module in (analyzer_pb2, drift_pb2, forecaster_pb2, predictor_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            if service.full_name in services:
                return frozenset(method.name for method in service.methods)
    return frozenset()
