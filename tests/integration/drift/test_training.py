"""An autoencoder of a subject's own: trained in a child, served beside the one that ships, there after a restart."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.observations import Observations, pack_observations
from meshcast.rpc import NotReady, mesh_errors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("torch") is None, reason="training is not installed"),
]


def together(count: int, seed: int) -> Observations:
    """Rows of six columns that move together."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=count)
    numeric = {f"x{at}": (common + 0.3 * rng.normal(size=count)).astype(np.float32) for at in range(6)}
    return Observations(count, numeric, {})


async def errors_of(drift: Any, subject: str, rows: Observations) -> pb.DetectDataDriftResponse:
    with mesh_errors():
        request = pb.DetectDataDriftRequest(
            subject=subject, observations=pack_observations(rows), wants_row_errors=True, features_max=1
        )
        answer: pb.DetectDataDriftResponse = await drift.stub.DetectDataDrift(request, timeout=20)
    return answer


async def test_a_subjects_own_autoencoder_serves_beside_the_one_that_ships(
    start: Any, kit: Any, drift_example: Any
) -> None:
    drift = await start(trains_autoencoder=True)
    request = pb.SetReferenceRequest(subject="own", observations=pack_observations(together(600, 0)))
    with mesh_errors():
        reference = (await drift.stub.SetReference(request, timeout=20)).reference
    assert reference.autoencoder.state == pb.AUTOENCODER_STATE_TRAINING
    with pytest.raises(NotReady) as caught:
        await errors_of(drift, "own", together(5, 1))
    assert caught.value.retry_after_s
    while reference.autoencoder.state == pb.AUTOENCODER_STATE_TRAINING:
        await asyncio.sleep(0.2)
        reference = await drift.describe("own")
    assert (reference.autoencoder.state, reference.autoencoder.model_version) == (pb.AUTOENCODER_STATE_READY, 2)
    derived = {feature.name for feature in reference.features if feature.role == pb.FEATURE_ROLE_DERIVED}
    assert {"energy.distance", "autoencoder.error", "autoencoder.code.0"} <= derived

    for is_restart in (False, True):
        server = await restarted(drift, start) if is_restart else drift
        own = await errors_of(server, "own", together(300, 1))
        shipped = await errors_of(server, "predictor", drift_example(50))
        assert (own.receipt.model_version, shipped.receipt.model_version) == (2, 1)
        # Columns that move together no longer do: each alone is as it was.
        rng = np.random.default_rng(2)
        apart = {name: rng.permutation(column) for name, column in together(300, 3).numeric.items()}
        broken = await errors_of(server, "own", Observations(300, apart, {}))
        medians = [np.median(np.frombuffer(one.row_errors, dtype="<f4")) for one in (own, broken)]
        assert medians[1] > 2 * medians[0]


async def restarted(drift: Any, start: Any) -> Any:
    """The same service, after its process has ended."""
    await drift.stop()
    return await start(trains_autoencoder=True)
