"""What `meshcast doctor` shows a person."""

import pytest
from rich.console import Console

from meshcast.cli.doctor import Extra, print_extras


def test_only_a_developer_is_told_of_the_developers_packages(capsys: pytest.CaptureFixture[str]) -> None:
    plot = Extra(name="plot", packages={"matplotlib": None})
    print_extras(Console(), [plot, Extra(name="dev", packages={"ruff": "0.1", "mypy": None})])
    shown = capsys.readouterr().out
    assert "matplotlib missing" in shown
    assert "pip install 'meshcast[plot]'" in shown
    assert "mypy" not in shown
    print_extras(Console(), [Extra(name="dev", packages={"ruff": "0.1", "mypy": "2.0"})])
    assert "mypy 2.0" in capsys.readouterr().out
