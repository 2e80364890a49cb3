"""The extra `gateway` brings what the HTTP door is built on."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from meshcast.gateway.http.settings import LIBRARIES


def test_the_extra_brings_the_doors_libraries() -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text("utf-8"))["project"]
    brought = {re.split(r"[<>=;\[ ]", one)[0] for one in project["optional-dependencies"]["gateway"]}
    assert set(LIBRARIES) <= brought
