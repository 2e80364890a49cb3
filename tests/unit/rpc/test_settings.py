"""Settings come from defaults, the file and the environment, and a wrong one is named at start-up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from meshcast.rpc import InvalidInput, LogSettings, RpcSettings, TlsSettings, load


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A table in a table of tables."""

    services: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    timeout_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """A table in a table."""

    enabled: bool = True
    delay_s_max: float = 1.0
    budget: Budget = field(default_factory=lambda: Budget(share=0.2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A table in a table in a table."""

    share: float = 0.1
    calls: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A table with everything that a field can be."""

    port: int = 8001
    routes: dict[str, Route] = field(default_factory=lambda: {"predictor": Route(services=("a.B",))})
    mode: Literal["fast", "safe"] = "safe"
    state: Path | None = None
    age_s: float | None = 3.0
    labels: dict[str, str] = field(default_factory=dict)
    hedge: Hedge = field(default_factory=Hedge)
    hedge_port: int = 1

    def __post_init__(self) -> None:
        if self.port < 0:
            raise ValueError("port must not be negative")


def loaded(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None) -> Gateway:
    path = tmp_path / "meshcast.toml"
    path.write_text(text, "utf-8")
    gateway: Gateway = load({"gateway": Gateway, "rpc": RpcSettings}, path=path, environ=environ or {})["gateway"]
    return gateway


def test_without_file_and_environment_the_defaults_hold() -> None:
    settings = load({"rpc": RpcSettings, "logs": LogSettings, "tls": TlsSettings}, environ={"PATH": "/bin"})
    assert settings == {"rpc": RpcSettings(), "logs": LogSettings(), "tls": TlsSettings()}


def test_the_file_wins_over_defaults_and_the_environment_over_the_file(tmp_path: Path) -> None:
    text = """
        [gateway]
        port = 9000
        mode = "fast"
        state = "/srv/mesh"
        age_s = 4
        labels = { zone = "a" }
        [gateway.routes.predictor]
        endpoints = ["10.0.0.1:8101", "10.0.0.2:8101"]
        [gateway.routes.forecaster]
        services = ["c.D"]
        [runtime]
        backend = "auto"
    """
    gateway = loaded(tmp_path, text, {"MESHCAST_GATEWAY_PORT": "9001", "MESHCAST_RUNTIME_BACKEND": "openvino"})
    assert gateway.port == 9001
    assert gateway.mode == "fast"
    assert gateway.state == Path("/srv/mesh")
    assert gateway.age_s == 4.0
    assert gateway.labels == {"zone": "a"}
    assert gateway.routes["predictor"].endpoints == ("10.0.0.1:8101", "10.0.0.2:8101")
    assert gateway.routes["forecaster"] == Route(services=("c.D",))


def test_variables_reach_into_tables_of_tables(tmp_path: Path) -> None:
    environ = {
        "MESHCAST_GATEWAY_ROUTES_PREDICTOR_ENDPOINTS": "a:1, b:2",
        "MESHCAST_GATEWAY_ROUTES_PREDICTOR_TIMEOUT_S": "2.5",
        "MESHCAST_GATEWAY_AGE_S": "",
    }
    gateway = loaded(tmp_path, "", environ)
    assert gateway.routes["predictor"] == Route(services=("a.B",), endpoints=("a:1", "b:2"), timeout_s=2.5)
    assert gateway.age_s is None


def test_variables_reach_into_the_tables_of_a_table(tmp_path: Path) -> None:
    environ = {
        "MESHCAST_GATEWAY_HEDGE_ENABLED": "false",
        "MESHCAST_GATEWAY_HEDGE_BUDGET_CALLS": "20",
        "MESHCAST_GATEWAY_HEDGE_PORT": "2",
    }
    gateway = loaded(tmp_path, "[gateway.hedge]\nenabled = true\ndelay_s_max = 3", environ)
    assert gateway.hedge == Hedge(enabled=False, delay_s_max=3.0, budget=Budget(share=0.2, calls=20))
    assert gateway.hedge_port == 2


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("MESHCAST_GATEWAY_HEDGE_ENABLE", r"unknown key gateway\.hedge\.enable; did you mean 'enabled'"),
        ("MESHCAST_GATEWAY_HEDGE", r"gateway\.hedge must be a table"),
        ("MESHCAST_GATEWAY_HEDGE_BUDGET_CALLS", r"gateway\.hedge\.budget\.calls must be a whole number"),
    ],
)
def test_a_wrong_variable_of_a_table_in_a_table_is_named(tmp_path: Path, variable: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        loaded(tmp_path, environ={variable: "x"})


def test_an_entry_that_has_defaults_keeps_those_that_the_file_does_not_name(tmp_path: Path) -> None:
    gateway = loaded(tmp_path, '[gateway.routes.predictor]\nendpoints = ["a:1"]')
    assert gateway.routes["predictor"] == Route(services=("a.B",), endpoints=("a:1",))


@pytest.mark.parametrize(
    ("text", "environ", "words"),
    [
        ("[gatway]", {}, ["[gatway]", "'gateway'", "meshcast.toml"]),
        ("[gateway]\nprt = 1", {}, ["gateway.prt", "'port'", "meshcast.toml"]),
        ('[gateway]\nport = "1"', {}, ["gateway.port", "a whole number", "'1'"]),
        ("[gateway]\nport = true", {}, ["gateway.port", "a whole number", "True"]),
        ("[gateway]\nport = 1.5", {}, ["gateway.port", "a whole number"]),
        ('[gateway]\nmode = "safee"', {}, ["gateway.mode", "fast, safe", "'safe'"]),
        ("[gateway]\nroutes = 3", {}, ["gateway.routes", "a table"]),
        ("[gateway.routes.predictor]\nendpoint = 3", {}, ["gateway.routes.predictor.endpoint", "'endpoints'"]),
        ("[gateway.routes.predictor]\nendpoints = [3]", {}, ["gateway.routes.predictor.endpoints[0]", "str"]),
        ("gateway = 3", {}, ["gateway must be a table"]),
        ("[gateway\n", {}, ["no TOML"]),
        ("[gateway]\nport = -1", {}, ["[gateway]", "negative"]),
        ("", {"MESHCAST_GATEWAY_PORT": "x"}, ["MESHCAST_GATEWAY_PORT", "a whole number", "'x'"]),
        ("", {"MESHCAST_GATEWAY_PRT": "1"}, ["MESHCAST_GATEWAY_PRT", "'port'"]),
        ("", {"MESHCAST_GATEWAY_MODE": "x"}, ["gateway.mode", "fast, safe"]),
        ("", {"MESHCAST_RPC_REFLECTION": "maybe"}, ["rpc.reflection", "true or false"]),
        ("", {"MESHCAST_GATEWAY_LABELS": "a"}, ["gateway.labels", "table"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_source_and_a_way_out(
    tmp_path: Path, text: str, environ: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        loaded(tmp_path, text, environ)
    for word in words:
        assert word.replace("str", "a text") in caught.value.message or word in caught.value.message
    assert caught.value.violations


def test_a_missing_file_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read the settings file .*none\.toml"):
        load({"gateway": Gateway}, path=tmp_path / "none.toml", environ={})


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        (RpcSettings(port=8101), 9101),
        (RpcSettings(), 0),
        (RpcSettings(port=8101, metrics_port=0), 0),
        (RpcSettings(metrics_port=7), 7),
    ],
)
def test_metrics_are_at_the_port_plus_a_thousand_unless_told(settings: RpcSettings, asked: int) -> None:
    assert settings.metrics_port_asked == asked


def test_lists_of_unions_and_bools_are_read_from_text() -> None:
    environ: dict[str, Any] = {"MESHCAST_RPC_REFLECTION": "No", "MESHCAST_RPC_METRICS_PORT": "9"}
    rpc: RpcSettings = load({"rpc": RpcSettings}, environ=environ)["rpc"]
    assert (rpc.reflection, rpc.metrics_port) == (False, 9)
