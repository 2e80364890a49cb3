"""Pipeline: puts the stages together that a method's policy asks for; what is off costs nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .attempt import attempt
from .exchange import Stage
from .fallback import Fallback
from .policy import MethodPolicy
from .retry import Retry, RetryBudget

if TYPE_CHECKING:
    from .asking import Mesh
    from .backends import Backend


class RouteStages:
    """What the stages of all methods of one route share.

    Attributes:
        retries: budget of the retries.
        rng: draws what the stages leave to chance.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.retries = RetryBudget(mesh.settings.retry)
        self.rng = random.Random()


def pipeline(policy: MethodPolicy, backend: Backend, mesh: Mesh) -> Stage:
    """The stages of a method on a route, outermost first: fallback, then retry, then the attempt.

    Args:
        policy: of the method.
        backend: the route.
        mesh: settings, and what routes and stages share.
    """
    settings = mesh.settings
    route = mesh.stages(backend)
    stage: Stage = Retry(
        attempt, policy, settings.retry, route.retries, retry_after_s=settings.reconnect_s, rng=route.rng
    )
    if policy.fallbacks:
        stage = Fallback(stage, policy, backend, baselines=mesh.baselines)
    return stage
