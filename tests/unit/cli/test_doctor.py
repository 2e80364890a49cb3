"""What `meshcast doctor` shows a person."""

from pathlib import Path

import pytest
from rich.console import Console

from meshcast.cli.doctor import Extra, doctor, print_extras
from meshcast.cli.problem import Problem


def test_only_a_developer_is_told_of_the_developers_packages(capsys: pytest.CaptureFixture[str]) -> None:
    plot = Extra(name="plot", packages={"matplotlib": None})
    print_extras(Console(), [plot, Extra(name="dev", packages={"ruff": "0.1", "mypy": None})])
    shown = capsys.readouterr().out
    assert "matplotlib missing" in shown
    assert "pip install 'meshcast[plot]'" in shown
    assert "mypy" not in shown
    print_extras(Console(), [Extra(name="dev", packages={"ruff": "0.1", "mypy": "2.0"})])
    assert "mypy 2.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("[drift]\nwindow_row = 1", "unknown key drift.window_row; did you mean 'window_rows'?"),
        ("[tap]\nshare = 2.0", "share must be 0 to 1"),
    ],
)
def test_what_only_the_services_know_is_checked_by_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, told: str
) -> None:
    config = tmp_path / "meshcast.toml"
    config.write_text(table)
    with pytest.raises(Problem, match=told.replace("?", r"\?")) as caught:
        doctor(config=config, state_dir=tmp_path, as_json=True)
    assert caught.value.exit_code == 2 and told in capsys.readouterr().out
