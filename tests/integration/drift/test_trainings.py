"""An autoencoder is trained behind the answers, outlives the process that began it, and takes part once it is ready."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.observations import pack_observations
from meshcast.rpc import mesh_errors


async def settled(drift: Any) -> pb.ReferenceDescription:
    """The subject `a` once its autoencoder is no longer trained."""
    while True:
        described: pb.ReferenceDescription = await drift.describe()
        if described.autoencoder.state != pb.AUTOENCODER_STATE_TRAINING:
            return described
        await asyncio.sleep(0.2)


@pytest.mark.timeout(240)  # a child imports torch, trains, and exports to two formats
async def test_a_training_outlives_its_process_and_takes_part_in_evidence_and_row_errors(start: Any, kit: Any) -> None:
    first = await start(trains_autoencoder=True)
    request = pb.SetReferenceRequest(
        subject="a", observations=pack_observations(kit.rows(400)), options=pb.DriftOptions(window_rows=100)
    )
    with mesh_errors():
        reference = (await first.stub.SetReference(request, timeout=kit.CALL_S)).reference
    assert reference.autoencoder.state == pb.AUTOENCODER_STATE_TRAINING
    await first.observe(kit.chunk(kit.rows(100, 1), 1))  # windows that close meanwhile go without
    await first.stop()
    second = await start(trains_autoencoder=True)
    described = await settled(second)
    assert (described.autoencoder.state, described.autoencoder.why) == (pb.AUTOENCODER_STATE_READY, "")
    assert described.autoencoder.model_version == 2 and described.windows == 1
    derived = [feature.name for feature in described.features if feature.role == pb.FEATURE_ROLE_DERIVED]
    assert derived[:3] == ["energy.distance", "autoencoder.error", "autoencoder.code.0"] and len(derived) == 10
    (answer,) = await second.observe(kit.chunk(kit.rows(100, 2), 2, wants_row_errors=True))
    errors = np.frombuffer(answer.row_errors, "<f4")
    assert answer.receipt.model_version == 2 and errors.shape == (100,) and (errors >= 0).all()
    tests = {test.name: test for test in (await second.detect(subject="a")).joint_tests}
    assert tests["autoencoder_error"].is_present and tests["autoencoder_error"].HasField("evidence")


async def test_references_that_are_too_small_say_why_they_have_none(start: Any, kit: Any) -> None:
    drift = await start(trains_autoencoder=True)
    request = pb.SetReferenceRequest(subject="a", observations=pack_observations(kit.rows(60)))
    with mesh_errors():
        reference = (await drift.stub.SetReference(request, timeout=kit.CALL_S)).reference
    assert reference.autoencoder.state == pb.AUTOENCODER_STATE_ABSENT
    assert "100" in reference.autoencoder.why
