"""The service's own settings table: defaults, the environment, and mistakes that stop the start."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from meshcast.services.drift.settings import DriftSettings


async def test_references_that_say_nothing_else_follow_the_table(start: Any, kit: Any) -> None:
    drift = await start(false_alarms_a_year=4.0, window_rows=77, window_duration_s=60.0)
    options = (await drift.set_reference(kit.rows())).options
    assert (options.false_alarms_a_year, options.window_rows, options.window_duration.seconds) == (4.0, 77, 60)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MESHCAST_DRIFT_WINDOW_ROWS", "many", "MESHCAST_DRIFT_WINDOW_ROWS"),
        ("MESHCAST_DRIFT_FALSE_ALARMS_A_YEAR", "0", "false_alarms_a_year must be more than 0"),
        ("MESHCAST_DRIFT_WINDOW", "5", "window_rows"),
    ],
)
async def test_a_mistake_in_the_table_stops_the_start_and_is_named(
    tmp_path: Path, variable: str, value: str, said: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshcast.services", "drift", "--port", "0"),
        env={**os.environ, variable: value, "MESHCAST_RUNTIME_STATE_DIR": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate()
    assert process.returncode == 2
    assert said in error.decode()


@pytest.mark.parametrize(
    "fields",
    [
        {"false_alarms_a_year": 366.0},
        {"window_rows": 0},
        {"window_rows": 1_000_001},
        {"window_duration_s": float("inf")},
        {"subjects_max": 0},
        {"features_max": 0},
        {"features_max": 4_097},
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        DriftSettings(**fields)
