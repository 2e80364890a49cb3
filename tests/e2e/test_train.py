"""From a posts file to a served version: train, export, and a mesh that takes it up."""

import csv
import json
import math
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def meshcast(folder: Path, *words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    """Runs a command whose state is in `folder`."""
    command = [sys.executable, "-m", "meshcast.cli", *words, "--state-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=folder, check=False)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def posts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 posts, one every six hours; those at noon do twice as well."""
    path = tmp_path_factory.mktemp("posts") / "posts.csv"
    first = datetime(2024, 1, 1, tzinfo=UTC)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("published_at", "content_length", "has_media", "forwards", "replies", "reactions"))
        for post in range(600):
            when = first + timedelta(hours=6 * post)
            count = (200 if when.hour == 12 else 100) * math.exp(0.3 * math.sin(post))
            writer.writerow((when.isoformat(), 80, post % 2, round(count / 10), round(count / 20), round(count)))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, posts_file: Path) -> Path:
    """A state folder whose repository holds a version trained on the posts file."""
    pytest.importorskip("torch", reason="training needs meshcast[train]")
    folder = tmp_path_factory.mktemp("state")
    quick = ("--set", "rows_min=100", "--set", "epochs=1", "--set", "steps_min=1")
    done = meshcast(folder, "train", "predictor", str(posts_file), *quick)
    assert "median of last 100" in done.stdout
    assert "installed predictor version 2" in done.stdout  # 1 is what ships
    return folder


def test_the_mesh_serves_the_trained_version_instead_of_the_one_that_ships(trained: Path, posts_file: Path) -> None:
    meshcast(trained, "up", "--detach", "--free-ports")
    try:
        (row,) = json.loads(meshcast(trained, "predict", str(posts_file), "--json").stdout)
    finally:
        meshcast(trained, "down")
    assert row["model_version"] == 2


def test_a_version_is_exported_in_tritons_layout_with_its_evidence(trained: Path, tmp_path: Path) -> None:
    meshcast(trained, "export", "predictor", "--out", str(tmp_path))
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"models/predictor/config.pbtxt", "models/predictor/2/model.onnx", "meta/predictor/2/export.json"} <= found
    assert not [name for name in found if name.startswith("models/") and name.endswith((".json", ".xml", ".md"))]
    assert "is there already" in meshcast(trained, "export", "predictor", "--out", str(tmp_path), code=2).stderr


def test_a_damaged_version_is_not_exported(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    meshcast(trained, "export", "predictor", "--out", str(copy))
    onnx = copy / "models" / "predictor" / "2" / "model.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-1])
    out = str(tmp_path / "out")
    refused = meshcast(trained, "export", "predictor", "--repository", str(copy), "--out", out, code=1)
    assert "model.onnx" in refused.stderr
    assert not Path(out).exists()


def test_what_cannot_be_trained_on_is_refused_with_the_reason(tmp_path: Path, posts_file: Path) -> None:
    few = tmp_path / "few.csv"
    few.write_text("".join(posts_file.read_text().splitlines(keepends=True)[:50]))
    assert "too few posts" in meshcast(tmp_path, "train", "predictor", str(few), code=2).stderr
    unknown = meshcast(tmp_path, "train", "predictor", str(posts_file), "--set", "epoch=3", code=2)
    assert "did you mean 'epochs'" in unknown.stderr
    bytes_file = tmp_path / "bytes.csv"
    bytes_file.write_bytes(b"published_at,text,reactions\n2024-01-01,\xe9t\xe9,3\n")
    bad = meshcast(tmp_path, "train", "analyzer", str(bytes_file), code=2)
    assert "--encoding latin-1" in bad.stderr and "--replace-invalid takes" in " ".join(bad.stderr.split())
    read = meshcast(tmp_path, "train", "analyzer", str(bytes_file), "--encoding", "latin-1", code=2)
    assert "none of the 1 posts has an outcome and a history" in read.stderr  # it was read
    other = meshcast(tmp_path, "train", "predictor", str(posts_file), "--encoding", "latin-1", code=2)
    assert "are for files of texts; predictor reads UTF-8 alone" in " ".join(other.stderr.split())
    nobody = meshcast(tmp_path, "train", "nobody", str(posts_file), code=2)
    assert re.search(r"installed are: .*\bpredictor\b", nobody.stderr)
