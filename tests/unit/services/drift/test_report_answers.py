"""Reports as messages: whole, cut down, listed, weighed anew; rows of a request as comparisons."""

from functools import cache

import numpy as np
import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.observations import CategoryColumn, Observations
from meshcast.rpc import CorruptData, InvalidInput
from meshcast.services.drift.comparing import conformed, given_comparison, given_reference
from meshcast.services.drift.questions import DetectQuestion
from meshcast.services.drift.report_answers import listed_report, stored
from meshcast.services.drift.reporting import Reported, Reporter, require_plots
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.severity_answers import read_report, severity_answer
from meshcast.services.drift.watched import FeatureOption


def rows(count: int = 800, seed: int = 0, shift: float = 0.0) -> Observations:
    rng = np.random.default_rng(seed)
    numeric = {name: rng.normal(size=count).astype(np.float32) for name in ("x", "y")}
    numeric["x"] += np.float32(shift)
    town = CategoryColumn(rng.integers(0, 3, count).astype(np.int32), ("Oslo", "Rome", "Bonn"))
    return Observations(count, numeric, {"town": town}, 1_000_000 * np.arange(count, dtype=np.int64))


def question(**fields: object) -> DetectQuestion:
    whole: dict[str, object] = {
        "subject": "",
        "reference": None,
        "window": "given",
        "observations": None,
        "start_us": None,
        "end_us": None,
        "features": {},
        "chance": 0.01,
        "features_max": 0,
        "plots": (),
    }
    return DetectQuestion(**(whole | fields))  # type: ignore[arg-type]


@cache
def reported(shift: float = 1.0, features_max: int = 0) -> Reported:
    reference = given_reference(rows(), {"y": FeatureOption(role="output")}, DriftSettings())
    comparison = given_comparison(reference, rows(seed=1, shift=shift))
    return Reporter().report(comparison, question(features_max=features_max), "an id", 5_000_000)


def test_a_report_tells_what_was_compared_and_each_feature_once() -> None:
    message = reported().answered
    assert (message.report_id, message.made_time.seconds, message.reference_rows) == ("an id", 5, 800)
    assert (message.window.rows, message.window.start_time.seconds, message.window.end_time.seconds) == (800, 0, 799)
    assert message.is_drift and message.HasField("p_value") and not message.HasField("evidence")
    assert {feature.name for feature in message.features} == {"x", "y", "town"}
    worst = message.features[0]
    assert (worst.name, worst.is_drifted, worst.role) == ("x", True, pb.FEATURE_ROLE_INPUT)
    assert worst.severity_score == pytest.approx(worst.effect * worst.certainty, abs=1e-9)
    assert worst.reference.rows == worst.window.rows == 800
    town = next(feature for feature in message.features if feature.name == "town")
    assert not town.effects.HasField("mean_shift_sd") and town.kind == pb.FEATURE_KIND_CATEGORICAL


def test_a_report_that_is_cut_down_says_so_and_is_kept_whole() -> None:
    found = reported(features_max=1)
    assert [feature.name for feature in found.answered.features] == ["x"]
    assert "2 of 3" in found.answered.notes[-1]
    assert len(found.kept.features) == 3


def test_a_list_tells_of_the_first_features_that_drifted() -> None:
    short = listed_report(reported().kept)
    assert [feature.name for feature in short.features] == ["x"]
    assert not listed_report(reported(shift=0.0).kept).features
    assert len(reported().kept.features) == 3


def test_plots_are_of_features_alone() -> None:
    require_plots(["*", "x"], ["x", "y"])
    with pytest.raises(InvalidInput) as caught:
        require_plots(["x", "nobody"], ["x", "y"])
    assert caught.value.violations[0].field == "plots[1]"


# --- severity ---


def test_severity_under_the_references_own_importances_is_that_of_the_report() -> None:
    kept = reported().kept
    answer = severity_answer(read_report(stored(kept).message), {})
    assert (answer.report_id, answer.severity) == (kept.report_id, kept.severity)
    assert answer.severity_score == pytest.approx(kept.severity_score)
    part = answer.parts[0]
    assert part.severity_score == pytest.approx(part.effect * part.importance * part.evidence)
    assert part.advice and answer.advice and "x" in answer.summary


def test_severity_follows_importances() -> None:
    kept = reported().kept
    plain = severity_answer(kept, {})
    less = severity_answer(kept, {"x": 0.5})
    none = severity_answer(kept, {"x": 0.0})
    assert none.severity_score == 0 and none.severity == pb.SEVERITY_NONE
    assert 0 < less.severity_score < plain.severity_score
    assert next(part.importance for part in less.parts if part.name == "x") == 0.5
    with pytest.raises(InvalidInput) as caught:
        severity_answer(kept, {"nobody": 1.0})
    assert caught.value.violations[0].field == "features[0].name"


def test_no_drift_has_no_severity_whatever_counts() -> None:
    answer = severity_answer(reported(shift=0.0).kept, {"x": 1_000.0})
    assert (answer.severity, answer.severity_score) == (pb.SEVERITY_NONE, 0)
    assert not answer.advice


def test_a_stored_report_that_is_damaged_is_told() -> None:
    with pytest.raises(CorruptData):
        read_report(b"\xff\xff\xff")


# --- rows of a request ---


def test_a_void_column_may_come_as_the_other_kind() -> None:
    sound = rows(4)
    assert conformed(sound, {"x": "numeric", "town": "categorical"}) is sound
    void = np.full(4, np.nan, dtype=np.float32)
    odd = Observations(4, {**sound.numeric, "town": void}, {})
    column = conformed(odd, {"x": "numeric", "town": "categorical"}).categorical["town"]
    assert column.codes.tolist() == [-1] * 4
    back = Observations(4, {}, {"x": column})
    assert np.isnan(conformed(back, {"x": "numeric"}).numeric["x"]).all()


def test_a_reference_of_a_request_names_its_own_fields() -> None:
    many = CategoryColumn(np.arange(70_000, dtype=np.int32), tuple(map(str, range(70_000))))
    with pytest.raises(InvalidInput) as caught:
        given_reference(Observations(70_000, {}, {"id": many}), {}, DriftSettings())
    assert caught.value.violations[0].field == "reference.id"
