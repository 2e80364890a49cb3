"""meshcast.toml at the repository's root: it loads, and it shows every key with its default."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from meshcast.cli.settings import UpSettings
from meshcast.gateway import GatewaySettings, RouteSettings
from meshcast.rpc import ChannelSettings, LogSettings, RpcSettings, TlsSettings, TracingSettings, load
from meshcast.runtime.settings import RuntimeSettings, TapSettings
from meshcast.services.drift.settings import DriftSettings

FILE = Path(__file__).resolve().parents[2] / "meshcast.toml"
TABLES: dict[str, type[Any]] = {
    "rpc": RpcSettings,
    "tls": TlsSettings,
    "channel": ChannelSettings,
    "logs": LogSettings,
    "tracing": TracingSettings,
    "gateway": GatewaySettings,
    "runtime": RuntimeSettings,
    "tap": TapSettings,
    "drift": DriftSettings,
    "up": UpSettings,
}


@pytest.fixture
def uncommented(tmp_path: Path) -> Path:
    text = re.sub(r"^# (\w+ = )", r"\1", FILE.read_text("utf-8"), flags=re.MULTILINE)
    path = tmp_path / "meshcast.toml"
    path.write_text(text, "utf-8")
    return path


def test_the_file_changes_nothing_as_it_is() -> None:
    loaded = load(TABLES, path=FILE, environ={}, other_tables=())
    assert loaded == {name: table() for name, table in TABLES.items()}


def test_every_key_stands_with_its_default(uncommented: Path) -> None:
    loaded = load(TABLES, path=uncommented, environ={}, other_tables=())
    assert loaded == {name: table() for name, table in TABLES.items()}


def assert_all_keys(table: Any, document: dict[str, Any], name: str) -> None:
    """Every field of a table stands in the file, and those of the tables that are its fields."""
    assert set(document) == {field.name for field in dataclasses.fields(table)}, name
    for field in dataclasses.fields(table):
        inner = getattr(table, field.name)
        if dataclasses.is_dataclass(inner):
            assert_all_keys(inner, document[field.name], f"{name}.{field.name}")


def test_no_key_is_left_out(uncommented: Path) -> None:
    document = tomllib.loads(uncommented.read_text("utf-8"))
    for name, table in TABLES.items():
        assert_all_keys(table(), document[name], name)
    routes = document["gateway"]["routes"]
    assert routes.keys() == GatewaySettings().routes.keys()
    for name, route in routes.items():
        assert set(route) == {field.name for field in dataclasses.fields(RouteSettings)}, name
