"""`docs/add-a-service.md`: its files are those of the throw-away service, and what it tells to type works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-service.md").read_text("utf-8")
SHOWN = ROOT / "tests" / "distributions" / "ranker"

FILES = {path: text for path, text in re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)}
COMMANDS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def files_below(folder: Path) -> dict[str, str]:
    """Text of every file, by path; what builds and interpreters leave is passed over."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in found}


def test_the_files_of_the_page_are_those_of_the_service() -> None:
    service = {path: text for path, text in files_below(SHOWN).items() if not path.startswith("gen/")}
    assert FILES == service


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with the files of the page, and nothing else; a mesh that runs there is stopped."""
    root = tmp_path / "acme-ranker"
    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")
    yield root
    down = [sys.executable, "-m", "meshcast.cli", "down", "--state-dir", str(tmp_path / "state")]
    subprocess.run(down, capture_output=True, timeout=60, check=False)


@pytest.mark.slow
def test_whoever_types_what_the_page_says_gets_a_proved_model_behind_the_gateway(folder: Path) -> None:
    site = folder.parent / "site"
    environ = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(site),
        "MESHCAST_RUNTIME_STATE_DIR": str(folder.parent / "state"),
        "MESHCAST_RUNTIME_CHOOSE_S": "0.05",
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }
    # Without a registry: what is there already is not fetched again, and the service goes into a folder of its own.
    offline = f"pip install --quiet --no-index --no-deps --no-build-isolation --target {site} ."
    said = []
    for block in COMMANDS:
        block = re.sub(r"^pip install 'meshcast\[.*$", "true", block, flags=re.MULTILINE)
        block = re.sub(r"^pip install --editable .*$", offline, block, flags=re.MULTILINE)
        block = re.sub(r"^(meshcast up .*)$", r"\1 --free-ports", block, flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    assert any("installed ranker version 1" in text for text in said)
    answer, _ = json.JSONDecoder().raw_decode(next(text for text in said if '"ranking"' in text))
    assert answer["ranking"] == [1, 0]
    assert answer["receipt"]["model"] == "ranker"
    assert answer["receipt"]["gateway"]["attempts"] == 1
    generated = {path: text for path, text in files_below(folder).items() if path.startswith("gen/")}
    assert generated == {path: text for path, text in files_below(SHOWN).items() if path.startswith("gen/")}
