"""What `meshcast doctor` shows a person."""

import json
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


def test_what_is_configured_is_named_as_it_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "meshcast.toml"
    config.write_text(
        '[gateway.routes.predictor]\nendpoints = ["192.0.2.1:8101", "file:///tmp/reps", "localhost:8111"]\n'
        "[gateway.routes.forecaster]\nendpoints = []\n"
    )
    doctor(config=config, state_dir=tmp_path, as_json=True)
    found = json.loads(capsys.readouterr().out)
    ports = {port["address"]: port["held_by"] for port in found["ports"] if port["purpose"] == "predictor"}
    assert ports.pop("127.0.0.1:8111") in ("free", "another process")
    assert ports == {"192.0.2.1:8101": "elsewhere", "file:///tmp/reps": "elsewhere"}
    assert "forecaster: endpoints = [] means the default, 127.0.0.1:8102" in found["settings"]["notes"]


def test_a_door_whose_libraries_are_missing_is_said_to_be_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("meshcast.cli.mesh_places", "meshcast.cli.doctor"):
        monkeypatch.setattr(f"{module}.LIBRARIES", ("no_such_library",))
    (tmp_path / "meshcast.toml").write_text("")
    doctor(config=tmp_path / "meshcast.toml", state_dir=tmp_path, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["notes"] == [
        "no HTTP door: no_such_library missing; pip install 'meshcast[gateway]' brings it"
    ]
    assert found["extras"]["gateway"]["no_such_library"] is None
    (tmp_path / "closed.toml").write_text('[gateway.http]\nport = ""\n')
    doctor(config=tmp_path / "closed.toml", state_dir=tmp_path, as_json=True)
    assert not json.loads(capsys.readouterr().out)["settings"]["notes"]
