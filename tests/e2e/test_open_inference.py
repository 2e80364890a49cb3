"""`docs/open-inference.md`: its programs run as they stand, and give what the typed calls give."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meshcast.api.oip.v2 import grpc_service_pb2 as oip_pb
from meshcast.client import Content, MeshClient

PAGE = Path(__file__).parents[2] / "docs" / "open-inference.md"
CONTENTS = (
    Content(text="We won the cup! Thank you all.", title="Cup final", has_media=True, hour_of_day=18),
    Content(text="The road is closed on Sunday."),
)
TEXTS = ("a cat", "a kitten")


def ran(folder: Path, name: str, address: str) -> list[list[str]]:
    """What a program of the page prints, as words of lines."""
    for file, program in re.findall(r"^`(\w+\.py)`\n\n```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S):
        (folder / file).write_text(program, "utf-8")
    done = subprocess.run(
        [sys.executable, str(folder / name), address], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


async def test_texts_are_judged_as_by_the_typed_call(mesh_of: Any, tmp_path: Path) -> None:
    with mesh_of.analyzer(tmp_path) as server:
        lines = ran(tmp_path, "judge.py", server.address)
        async with MeshClient(server.address) as client:
            typed = [await client.analyze_content(content) for content in CONTENTS]
    assert [" ".join(words) for _, _, *words in lines] == [content.text for content in CONTENTS]
    for (above, viral, *_), answer in zip(lines, typed, strict=True):
        assert float(above) == pytest.approx(answer.above_median, abs=1e-5)
        assert float(viral) == pytest.approx(answer.viral, abs=1e-5)


async def test_texts_are_embedded_as_by_the_typed_call_and_the_tolerance_is_the_back_ends(
    mesh_of: Any, embedder_repository: Path, tmp_path: Path
) -> None:
    settings = {"RUNTIME_MODEL_REPOSITORY": str(embedder_repository)}
    with mesh_of.analyzer(tmp_path, **settings) as server:
        ((itself, other, _),) = ran(tmp_path, "embed.py", server.address)
        async with MeshClient(server.address) as client:
            typed = (await client.embed_texts(TEXTS)).vectors
        async with mesh_of.peer(server.address) as peer:
            metadata = await peer.oip.ModelMetadata(oip_pb.ModelMetadataRequest(name="embedder"), timeout=20)
    assert float(itself) == pytest.approx(1.0, abs=1e-4)
    assert float(other) == pytest.approx(float(typed[0] @ typed[1]), abs=1e-4)
    serving = json.loads(metadata.properties["candidates"])[0]
    assert serving["backend"] == metadata.properties["backend"] and serving["accepted"]
    assert serving["parity_error"] <= float(metadata.properties["tolerance"])
