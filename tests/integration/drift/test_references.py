"""References over real gRPC: set, described, replaced, collected, and refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import AlreadyExists, InvalidInput, NotFound, Precondition, mesh_errors


async def test_a_reference_is_described_as_it_was_set(drift: Any, kit: Any) -> None:
    features = [pb.FeatureOptions(name="x2", importance=4, role=pb.FEATURE_ROLE_OUTPUT)]
    set_now = await drift.set_reference(kit.rows(800), features=features)
    described = await drift.describe()
    assert described.features == set_now.features
    assert (described.subject, described.version, described.rows, described.observed_rows) == ("a", 1, 800, 0)
    own = [feature for feature in described.features if feature.role != pb.FEATURE_ROLE_DERIVED]
    assert [feature.name for feature in own] == ["x0", "x1", "x2", "town"]
    assert (own[2].importance, own[2].role) == (4, pb.FEATURE_ROLE_OUTPUT)
    assert (described.options.window_rows, described.options.false_alarms_a_year) == (100, 0.5)
    assert described.options.window_duration.seconds == 86_400
    assert described.autoencoder.state == pb.AUTOENCODER_STATE_ABSENT
    assert 0 < own[0].smallest_shift_sd < 3
    assert not own[3].HasField("smallest_shift_sd")


async def test_the_same_request_is_answered_as_before_and_another_under_its_id_is_refused(drift: Any, kit: Any) -> None:
    first = await drift.set_reference(kit.rows(), request_id="one")
    again = await drift.set_reference(kit.rows(), request_id="one")
    assert (first.version, again.version) == (1, 1)
    with pytest.raises(AlreadyExists):
        await drift.set_reference(kit.rows(seed=1), request_id="one")
    assert (await drift.set_reference(kit.rows(seed=1), request_id="two")).version == 2


async def test_a_new_reference_forgets_what_was_observed_and_keeps_the_reports(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows(1_000))
    await drift.observe(kit.chunk(kit.rows(250, 1), 1))
    await drift.detect(subject="a", keeps=True, request_id="kept")
    assert (await drift.describe()).windows == 2
    await drift.set_reference(kit.rows(1_000, 5))
    described = await drift.describe()
    assert (described.version, described.observed_rows, described.windows) == (2, 0, 0)
    with mesh_errors():
        listed = await drift.stub.ListDriftReports(pb.ListDriftReportsRequest(subject="a"), timeout=kit.CALL_S)
    assert [report.reference_version for report in listed.reports] == [1]


async def test_what_is_missing_is_told_with_the_way_out(drift: Any, kit: Any) -> None:
    newest = pb.SetReferenceRequest(subject="a", recent_rows=4_000)
    with pytest.raises(NotFound, match=r"PURPOSE_REFERENCE.*reference_rows"), mesh_errors():
        await drift.stub.SetReference(newest, timeout=kit.CALL_S)
    await drift.set_reference(kit.rows(1_000))
    await drift.observe(kit.chunk(kit.rows(60, 1), 1))
    with pytest.raises(Precondition, match="60 rows were observed, 100 make a window; ask for `all`"):
        await drift.detect(subject="a")
    with mesh_errors():
        made = (await drift.stub.SetReference(newest, timeout=kit.CALL_S)).reference
    assert made.rows == 60 and any("the newest 60 rows are the reference" in note for note in made.notes)


async def test_a_draft_is_collected_by_a_stream_and_used_up(drift: Any, kit: Any) -> None:
    purpose = pb.PURPOSE_REFERENCE
    chunks = [kit.chunk(kit.rows(300, at), at, subject="d", purpose=purpose, stream_id="s") for at in (1, 2)]
    answers = await drift.observe(*chunks, chunks[1])
    assert [(answer.status.code, answer.rows, answer.is_duplicate) for answer in answers] == [
        (0, 300, False),
        (0, 300, False),
        (0, 300, True),
    ]
    request = pb.SetReferenceRequest(subject="a", draft="d", options=pb.DriftOptions(trains_autoencoder=False))
    with mesh_errors():
        assert (await drift.stub.SetReference(request, timeout=kit.CALL_S)).reference.rows == 600
    with pytest.raises(NotFound) as caught, mesh_errors():
        await drift.stub.SetReference(request, timeout=kit.CALL_S)
    assert caught.value.reason == ErrorReason.ERROR_REASON_SUBJECT_UNKNOWN


async def test_what_was_observed_lately_becomes_the_reference(drift: Any, kit: Any) -> None:
    await drift.set_reference(kit.rows(), features=[pb.FeatureOptions(name="x1", importance=9)])
    await drift.observe(kit.chunk(kit.rows(400, 1, shift=3), 1))
    request = pb.SetReferenceRequest(subject="a", recent_rows=350, options=pb.DriftOptions(trains_autoencoder=False))
    with mesh_errors():
        reference = (await drift.stub.SetReference(request, timeout=kit.CALL_S)).reference
    assert (reference.version, reference.rows) == (2, 350)
    assert reference.features[0].facts.mean == pytest.approx(3, abs=0.3)
    assert reference.features[1].importance == 9


async def test_references_that_cannot_be_are_refused_by_their_fields(drift: Any, kit: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        await drift.set_reference(kit.rows(1), subject="a b")
    assert [one.field for one in caught.value.violations] == ["subject", "observations.rows"]
    with pytest.raises(InvalidInput) as caught:
        await drift.set_reference(kit.rows(), features=[pb.FeatureOptions(name="nobody")])
    assert caught.value.violations[0].field == "features[0].name"
    with pytest.raises(NotFound) as unknown:
        await drift.describe("nobody")
    assert unknown.value.reason == ErrorReason.ERROR_REASON_SUBJECT_UNKNOWN
    assert unknown.value.facts["subject"] == "nobody"


async def test_no_more_subjects_than_the_setting_says(start: Any, kit: Any) -> None:
    drift = await start(subjects_max=2)  # the shipped one is one of them
    await drift.set_reference(kit.rows(), subject="a")
    with pytest.raises(Precondition, match="subjects_max"):
        await drift.set_reference(kit.rows(), subject="b")
    await drift.set_reference(kit.rows(), subject="a")


async def test_the_shipped_subject_is_there_from_the_start_with_its_autoencoder(drift: Any, kit: Any) -> None:
    described = await drift.describe("predictor")
    assert described.version == 1 and described.rows > 5_000
    assert (described.autoencoder.state, described.autoencoder.model_version) == (pb.AUTOENCODER_STATE_READY, 1)
    roles = {feature.name: feature.role for feature in described.features}
    assert roles["confidence"] == pb.FEATURE_ROLE_OUTPUT and roles["recent_median"] == pb.FEATURE_ROLE_INPUT
    with mesh_errors():
        both = await drift.stub.DescribeModel(pb.DescribeModelRequest(), timeout=kit.CALL_S)
    assert [reference.subject for reference in both.references] == ["predictor"]
    await drift.set_reference(kit.rows())
    with mesh_errors():
        both = await drift.stub.DescribeModel(pb.DescribeModelRequest(), timeout=kit.CALL_S)
    assert [(reference.subject, len(reference.features)) for reference in both.references] == [
        ("a", 0),
        ("predictor", 0),
    ]


async def test_a_reference_set_by_rows_outlives_its_process(start: Any, kit: Any) -> None:
    first = await start(window_rows=100)
    before = await first.set_reference(kit.rows())
    await first.observe(kit.chunk(kit.rows(130, 1), 1, stream_id="s"))
    await first.stop()
    again = await start(window_rows=100)
    described = await again.describe()
    assert (described.version, described.windows, described.observed_rows) == (1, 1, 130)
    assert described.features == before.features
    (answer,) = await again.observe(kit.chunk(kit.rows(130, 1), 1, stream_id="s"))
    assert answer.is_duplicate
