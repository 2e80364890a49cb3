"""`make bench` runs every benchmark, and nothing that waits for arguments or serves for ever."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_what_is_no_benchmark_by_itself_is_left_out() -> None:
    (parts,) = re.findall(r"^BENCH_PARTS := .*,bench/%\.py,(.*)\)$", (ROOT / "Makefile").read_text("utf-8"), re.M)
    programs = {path.stem: path.read_text("utf-8") for path in (ROOT / "bench").glob("*.py")}
    needs_words = {name for name, text in programs.items() if re.search(r"^ +run\(.*sys\.argv\[", text, re.M)}
    is_imported = {name for name, text in programs.items() if 'if __name__ == "__main__":' not in text}
    assert set(parts.split()) == needs_words | is_imported
