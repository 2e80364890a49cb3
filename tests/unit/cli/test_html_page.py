"""Pages: whatever a text says, the page stays well-formed and says it as text."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.cli.html_page import Html, check_html, page, paragraph, quoted, section, table, text
from meshcast.cli.problem import Problem
from meshcast.cli.shown_text import shown

pytest.importorskip("matplotlib")

anything = st.text(st.characters(exclude_categories=()), max_size=40)


@given(anything, anything)
def test_any_text_stays_text(one: str, other: str) -> None:
    parts = [section(one, [paragraph(other), table(other, (one, "b"), [(other, quoted(one))], numbers=(0,))])]
    root = ElementTree.fromstring(page(one, parts))
    wanted = shown(one)
    assert root.findtext("head/title") == wanted
    cells = ["".join(cell.itertext()) for cell in root.iter("td")]
    assert cells == [shown(other), wanted]


def test_what_is_html_is_put_in_as_it_is() -> None:
    assert text("<b>") == "&lt;b&gt;"
    assert text(Html("<b>")) == "<b>"
    assert paragraph(Html("<b>x</b>"), is_soft=True) == '<p class="soft"><b>x</b></p>'
    assert text(1.5) == "1.5"


def test_a_page_needs_a_name_and_a_folder(tmp_path: Path) -> None:
    check_html(tmp_path / "report.HTML")
    for name, said in (("report.pdf", "unknown kind of page"), ("none/report.html", "there is no folder")):
        with pytest.raises(Problem, match=said):
            check_html(tmp_path / name)


def test_a_page_without_matplotlib_is_answered_with_the_pip_line(tmp_path: Path) -> None:
    words = ["analyze", "--text", "x", "--html", str(tmp_path / "report.html"), "--target", "127.0.0.1:1"]
    code = f"import sys; sys.modules['matplotlib'] = None; from meshcast.cli import main; main({words!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert "pip install 'meshcast[plot]'" in done.stderr
    assert not list(tmp_path.iterdir())
