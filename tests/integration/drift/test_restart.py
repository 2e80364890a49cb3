"""A drift service that is killed in mid-stream knows in the end what one knows that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[3] / "bench" / "drift_restart.py"


@pytest.mark.timeout(300)  # six real processes are started, on two cores
def test_a_killed_service_ends_with_the_same_verdicts_alarms_and_counts(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--short", "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["differences"] == [] and found["values_compared"] > 500
    assert (found["kills"], found["windows"]) == (3, "63")
    assert found["alarms"][0] == "ALARM_KIND_RAISED" and found["alarms"][-1] == "ALARM_KIND_RESOLVED"
