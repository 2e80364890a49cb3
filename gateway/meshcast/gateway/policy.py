"""Policy: what the gateway does for the calls of one method on one route; made once, from its contract and settings."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from .contracts import Idempotency, MethodContract

if TYPE_CHECKING:
    from .settings import RouteSettings

log = structlog.get_logger()


class Tries(enum.Enum):
    """What the gateway does about a slow or failed try; for a method exactly one of these."""

    HEDGED = "hedged"
    """A second replica is asked when the first is slow, and when it has failed."""
    RETRIED = "retried"
    """Another replica is asked when the first has failed."""
    ONCE = "once"
    """Another replica is asked only where the first had not begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPolicy:
    """What the gateway does for a method's calls.

    Attributes:
        contract: of the method.
        tries: what is done about a slow or failed try.
        deadline_s: budget of a call whose caller set none, in seconds.
        cache_ttl_s: seconds for which an answer counts as fresh; 0 keeps none.
        fallbacks: what stands in for an answer that cannot be had, in order: of `version`, `cache` and `baseline`.
        path: of the method, as in `/meshcast.api.predictor.v1.PredictorService/PredictEngagement`.
        service: full name of the gRPC service.
    """

    contract: MethodContract
    tries: Tries
    deadline_s: float
    cache_ttl_s: float = 0.0
    fallbacks: tuple[str, ...] = ()
    path: str = field(init=False)
    service: str = field(init=False)

    def __post_init__(self) -> None:
        """Takes the names out of the contract, so that a call need not."""
        object.__setattr__(self, "path", self.contract.path)  # the one change before anyone has seen the value
        object.__setattr__(self, "service", self.contract.path[1:].rpartition("/")[0])

    @property
    def is_idempotent(self) -> bool:
        """Whether a call may be made again on another replica."""
        return self.contract.idempotency is not Idempotency.UNKNOWN


def policy_of(contract: MethodContract, route: RouteSettings) -> MethodPolicy:
    """The policy of a method on a route.

    A method whose contract does not say that a repeat is harmless is asked once, whatever the settings say. Only
    questions (`MethodContract.is_question`) are cached or have fallbacks; settings that say else of another method are
    ignored with a warning. Degraded answers need a receipt that says so: where the response has none, there are no
    fallbacks.

    Args:
        contract: of the method.
        route: settings of the route that answers.
    """
    name = contract.path.rpartition("/")[2]
    if contract.idempotency is Idempotency.UNKNOWN or name in route.once:
        tries = Tries.ONCE
    else:
        tries = Tries.RETRIED if name in route.retried else Tries.HEDGED
    is_question = contract.is_question
    if not is_question:  # the start refuses this of contracts at hand, so this one was learnt from a replica
        for setting, named in (("cached_s", route.cached_s), ("fallbacks", route.fallbacks)):
            if named.get(name):
                log.warning(
                    "setting ignored", setting=f"{setting}.{name}", method=contract.path, why=why_made(contract)
                )
    return MethodPolicy(
        contract=contract,
        tries=tries,
        deadline_s=route.deadline_s(contract.path),
        cache_ttl_s=route.cached_s.get(name, 0.0) if is_question else 0.0,
        fallbacks=route.fallbacks.get(name, ()) if is_question and contract.has_receipt else (),
    )


def why_made(contract: MethodContract) -> str:
    """Why each call of a method that is no question must reach a replica, so that no kept or other answer may stand in.

    Args:
        contract: of the method.
    """
    says = "IDEMPOTENT" if contract.idempotency is Idempotency.IDEMPOTENT else "nothing of a repeat"
    return f"its contract says {says}, so a call may change something, and an answer that stands in for it would not"
