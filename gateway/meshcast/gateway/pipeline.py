"""Pipeline: puts the stages together that a method's policy asks for; what is off costs nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .allowance import Allowance
from .attempt import attempt
from .breaker import BreakerGate
from .bulkhead import BulkheadGate
from .cache import Cache
from .exchange import Stage
from .fallback import Fallback
from .hedge import Hedge
from .limit import Limit, RouteLimit
from .patience import Patience
from .policy import MethodPolicy, Tries
from .retry import Retry
from .single_flight import SingleFlight

if TYPE_CHECKING:
    from .asking import Mesh
    from .backends import Backend


class RouteStages:
    """What the stages of all methods of one route share.

    Attributes:
        retries: budget of the retries.
        rng: draws what the stages leave to chance.
        limit: of calls under way, learnt; None where the settings turn it off.
    """

    def __init__(self, mesh: Mesh, backend: Backend) -> None:
        settings = mesh.settings
        self.retries = Allowance(settings.retry.share_max, settings.retry.burst)
        self.rng = random.Random()
        self.limit = RouteLimit(backend.name, settings.limit, rng=self.rng) if settings.limit.calls_max else None
        backend.load.limit = self.limit


def pipeline(policy: MethodPolicy, backend: Backend, mesh: Mesh) -> Stage:
    """The stages of a method on a route.

    Outermost first: cache, single flight, fallback, patience, limit, breakers, bulkhead, hedge or retry, attempt.

    Args:
        policy: of the method.
        backend: the route.
        mesh: settings, and what routes and stages share.
    """
    settings = mesh.settings
    route = mesh.stages(backend)
    stage: Stage
    after_s = settings.reconnect_s
    if policy.tries is Tries.HEDGED:
        stage = Hedge(policy, settings.hedge, settings.retry, route.retries, retry_after_s=after_s, rng=route.rng)
    else:
        stage = Retry(attempt, policy, settings.retry, route.retries, retry_after_s=after_s, rng=route.rng)
    stage = BulkheadGate(stage, backend.bulkhead)
    stage = BreakerGate(stage, backend, policy.service)
    if route.limit is not None:
        stage = Limit(stage, route.limit)
    if settings.restart_s and not {"cache", "baseline"} & {*policy.fallbacks}:  # which have an answer at once
        stage = Patience(stage, policy, backend, mesh.backends, restart_s=settings.restart_s)
    if policy.fallbacks:
        reserve_s = settings.deadline_margin_ms / 1e3
        stage = Fallback(stage, policy, backend, baselines=mesh.baselines, stale=mesh.cache.stale, reserve_s=reserve_s)
    if policy.cache_ttl_s > 0:  # who may get an old answer may get that of an equal call
        stage = SingleFlight(stage)
    if policy.cache_ttl_s > 0 or "cache" in policy.fallbacks:
        stage = Cache(stage, mesh.cache)
    return stage
