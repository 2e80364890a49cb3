from typing import Any

import numpy as np
import pytest

from meshcast.observations import CategoryColumn, Observations
from meshcast.services.drift.bets import Bets
from meshcast.services.drift.blame import blame
from meshcast.services.drift.comparison import (
    GROUP_WEIGHTS,
    Autoencoder,
    Comparison,
    GroupEvidence,
    Reference,
    WatchOptions,
)
from meshcast.services.drift.derived import energy_columns, energy_of
from meshcast.services.drift.evidence import Evidence
from meshcast.services.drift.joint import joint_drift
from meshcast.services.drift.layout import Layout, Role
from meshcast.services.drift.report import Report, make_report
from meshcast.services.drift.severity import Level

OPTIONS = WatchOptions(false_alarms_a_year=0.5, window_rows=500, window_us=86_400_000_000, trains_autoencoder=True)
LOG_THRESHOLD = float(np.log(1 / 0.5))


def rows(count: int, seed: int, **moves: Any) -> Observations:
    rng = np.random.default_rng(seed)
    numeric = {f"x{at}": rng.normal(size=count) for at in range(6)}
    numeric |= {"constant": np.full(count, 5.0), "void": np.full(count, np.nan), "score": rng.random(count)}
    colour = rng.choice(3, count, p=[0.6, 0.3, 0.1]).astype(np.int32)
    names = ["red", "green", "blue"]
    if "shift" in moves:
        numeric["x2"] = numeric["x2"] + moves["shift"]
    if "together" in moves:
        numeric["x1"] = 0.95 * numeric["x0"] + np.sqrt(1 - 0.95**2) * numeric["x1"]
    if "nulls" in moves:
        numeric["x3"] = np.where(rng.random(count) < moves["nulls"], np.nan, numeric["x3"])
    if "unseen" in moves:
        names.append("purple")
        colour[rng.random(count) < moves["unseen"]] = 3
    return Observations(count, numeric, {"colour": CategoryColumn(colour, tuple(names))})


def reference_of(observations: Observations, subject: str = "", **facts: Any) -> Reference:
    roles: dict[str, Role] = {"score": "output"}
    layout = Layout.of(observations, roles=roles, importances=facts.pop("importances", None))
    return Reference(
        subject=subject, version=1, set_us=0, layout=layout, tally=layout.tally(observations), sample=observations,
        options=OPTIONS, **facts,
    )  # fmt: skip


def report(reference: Observations, window: Observations, *, chance: float = 0.01, **facts: Any) -> Report:
    held = reference_of(reference, **facts)
    tally = held.layout.tally(window)
    bets = Bets.of(held.tally.counts, held.layout.bins, held.layout.ordered)
    return make_report(
        Comparison(reference=held, window=tally, window_starts={}),
        blame=blame(bets, tally.counts),
        joint=joint_drift(reference, window, {"score": "output"}),
        false_alarm_chance=chance,
    )


def test_a_clean_window_has_no_drift() -> None:
    found = report(rows(3_000, 0), rows(1_000, 1))
    assert not found.is_drift and found.severity == Level.NONE and found.severity_score == 0
    assert found.p_value is not None and found.p_value > 0.01
    assert found.summary.startswith("No drift is called") and not found.advice and found.sentence == ""
    assert all(one.severity == Level.NONE and not one.is_drifted for one in found.features)
    assert len(found.features) == 10


def test_what_moved_is_named_first_with_its_advice() -> None:
    found = report(rows(3_000, 0), rows(1_000, 1, shift=1.0, nulls=0.3, unseen=0.05))
    assert found.is_drift and found.severity >= Level.MODERATE
    first = {one.feature.name for one in found.features[:3]}
    assert first == {"x2", "x3", "colour"}
    assert {one.feature.name for one in found.features if one.is_drifted} == first
    assert sum(one.blame for one in found.features) == pytest.approx(1)
    by_name = {one.feature.name: one for one in found.features}
    assert "sd" in by_name["x2"].what and "nulls 0 % to" in by_name["x3"].what and "purple" in by_name["colour"].what
    assert "Check what fills “x3”" in by_name["x3"].advice
    assert {test.name for test in by_name["x2"].tests} == {"kolmogorov_smirnov", "nulls"}
    assert {test.name for test in by_name["colour"].tests} == {"chi_squared", "nulls", "unseen"}
    assert by_name["colour"].effects["wasserstein"] is None and by_name["x2"].effects["mean_shift_sd"] is not None
    assert "3 of 10 features moved" in found.summary


def test_many_rows_make_a_tiny_shift_certain_and_not_severe() -> None:
    found = report(rows(60_000, 0), rows(60_000, 1, shift=0.04))
    assert found.is_drift and found.p_value is not None and found.p_value < 1e-4
    assert found.severity in (Level.NONE, Level.LOW)
    assert found.features[0].feature.name == "x2" and found.features[0].is_drifted
    assert "small" in found.advice[0]


def test_importance_weighs() -> None:
    window = rows(1_000, 1, shift=1.0)
    plain = report(rows(3_000, 0), window)
    little = report(rows(3_000, 0), window, importances={"x2": 0.01})
    assert little.is_drift and little.severity_score < plain.severity_score
    assert next(one for one in little.features if one.feature.name == "x2").importance == 0.01


def test_what_only_all_columns_show_is_told_as_such() -> None:
    found = report(rows(3_000, 0), rows(1_000, 1, together=True))
    assert found.is_drift and not any(one.is_drifted for one in found.features)
    assert found.severity == Level.MODERATE
    assert "No feature moved by itself" in found.summary and "correlations" in found.summary
    assert any("features go together" in text for text in found.advice)


def test_one_row_is_described_and_not_judged() -> None:
    found = report(rows(3_000, 0), rows(1, 1, shift=100.0))
    assert not found.is_drift and found.severity == Level.NONE
    assert "too few for a verdict" in found.summary
    assert any("not judged" in note for note in found.notes)
    assert found.features[0].what


def test_notes_tell_what_a_reader_should_know() -> None:
    notes = report(rows(200, 0), rows(50, 1), chance=0.001).notes
    told = " ".join(notes)
    for words in ("50 rows", "200 rows", "nulls in the reference: void", "Constant in the reference", "0.00333"):
        assert words in told
    assert "drawn at random" not in told
    assert "drawn at random" in " ".join(report(rows(3_000, 0), rows(1_000, 1)).notes)


def test_absent_parts_say_why() -> None:
    found = {test.name: test for test in report(rows(300, 0), rows(300, 1)).joint_tests}
    assert found["energy"].is_present and found["outputs"].is_present
    assert not found["autoencoder_error"].is_present and "SetReference" in found["autoencoder_error"].why
    held = reference_of(rows(300, 0), "shop", autoencoder=Autoencoder(why="pip install 'meshcast[train]'"))
    window = held.layout.tally(rows(300, 1))
    alone = make_report(
        Comparison(reference=held, window=window, window_starts={}), blame=np.zeros(10), why_no_joint="gone"
    )
    tests = {test.name: test for test in alone.joint_tests}
    assert tests["energy"].why == "gone" and "meshcast[train]" in tests["autoencoder_code"].why


def test_a_window_of_no_rows_or_nothing_but_nulls_has_a_report() -> None:
    held = reference_of(rows(300, 0))
    nothing = make_report(
        Comparison(reference=held, window=held.layout.tally(rows(9, 1)[:0]), window_starts={}), blame=np.zeros(10)
    )
    assert not nothing.is_drift and any("no rows" in note for note in nothing.notes)
    window = rows(300, 1)
    window.numeric["x0"][:] = np.nan
    found = report(rows(3_000, 0), window)
    assert found.features[0].feature.name == "x0" and found.features[0].severity == Level.CRITICAL
    assert "nothing but nulls" in found.features[0].advice
    assert any("Nothing but nulls in the window: x0" in note for note in found.notes)


def over_windows(windows: list[Observations], *, standing: bool = False) -> Report:
    """The report of the last of a subject's windows, a day apart."""
    reference = rows(4_000, 0)
    held = reference_of(reference, "shop")
    kept = energy_of(reference)
    assert kept is not None
    sample, derived = kept
    sides = [("features", held.layout, held.tally, windows)]
    sides.append(("energy", derived.layout, derived.tally, [energy_columns(sample, window) for window in windows]))
    groups, log_values = [], []
    for name, layout, tally, observed in sides:
        weight = GROUP_WEIGHTS[name]  # type: ignore[index]
        bets = Bets.of(tally.counts, layout.bins, layout.ordered)
        evidence = Evidence(bets, LOG_THRESHOLD - float(np.log(weight)))
        tallies = [layout.tally(window) for window in observed]
        for number, counted in enumerate(tallies, 1):
            step = evidence.step(counted.counts, 1 / 365, number)
        log_values.append(float(np.log(weight)) + step.log_value)
        groups.append(
            GroupEvidence(
                name=name, layout=layout, reference=tally, window=tallies[-1], step=step,  # type: ignore[arg-type]
            )
        )  # fmt: skip
    return make_report(
        Comparison(
            reference=held, window=groups[0].window, number=len(windows), groups=tuple(groups),
            log_value=float(np.logaddexp.reduce(log_values)), log_threshold=LOG_THRESHOLD, window_starts={},
            standing=standing,
        ),
        blame=np.zeros(10),
    )  # fmt: skip


def test_evidence_over_windows_decides_for_a_subject() -> None:
    quiet = over_windows([rows(500, seed) for seed in range(1, 6)])
    assert not quiet.is_drift and quiet.p_value is None and quiet.log_value is not None
    assert "0.5 false alarms a year" in quiet.summary
    loud = over_windows([rows(500, seed, shift=0.5 * (seed > 3)) for seed in range(1, 8)])
    assert loud.is_drift and loud.features[0].feature.name == "x2" and loud.features[0].is_drifted
    assert loud.onset_window == 4 and "It began in window 4, 3 windows ago" in loud.summary
    assert loud.sentence.startswith("shop drifts") and "SetReference" in loud.advice[-1]
    tests = {test.name: test for test in loud.joint_tests}
    assert tests["energy"].log_value is not None and tests["energy"].p_value is None
    assert tests["outputs"].log_value is not None and not tests["autoencoder_error"].is_present


def test_an_alarm_that_stands_is_said_to_be_fading() -> None:
    found = over_windows([rows(500, 1)], standing=True)
    assert found.is_drift and any("still stands" in note for note in found.notes)
    assert found.severity == Level.NONE and not any("No single feature" in text for text in found.advice)
