"""docker-compose.yml and Dockerfile against the schema and against each other: no container engine runs here."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "tests" / "data" / "compose-spec" / "compose-spec.json"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return loaded


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft201909Validator:
    # Named here: the file's own "$schema" ends in "#", which jsonschema does not know.
    return jsonschema.Draft201909Validator(json.loads(SCHEMA.read_text("utf-8")))


@pytest.fixture(scope="module")
def stages() -> dict[str, str]:
    """The Dockerfile's stages by name, each as its text."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    parts = re.split(r"^FROM \S+ AS (\S+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def seconds(duration: str) -> float:
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert found, duration
    return 60 * int(found[1] or 0) + int(found[2] or 0)


def test_the_compose_file_follows_the_compose_specification(
    compose: dict[str, Any], schema: jsonschema.Draft201909Validator
) -> None:
    schema.validate(compose)


def test_the_schema_would_find_a_misspelt_key(compose: dict[str, Any], schema: jsonschema.Draft201909Validator) -> None:
    broken = {**compose, "services": {"gateway": {**compose["services"]["gateway"], "helthcheck": {}}}}
    with pytest.raises(jsonschema.ValidationError):
        schema.validate(broken)


def test_every_service_builds_a_stage_that_exists(compose: dict[str, Any], stages: dict[str, str]) -> None:
    for name, service in compose["services"].items():
        assert service["build"]["target"] in stages, name


def test_every_service_is_bounded_checked_and_read_only(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["deploy"]["resources"]["limits"].keys() >= {"memory", "cpus"}, name
        assert service["pids_limit"] > 0, name
        assert service["healthcheck"]["test"][:3] == ["CMD", "meshcast", "probe"], name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name


def test_every_service_gets_longer_to_stop_than_its_drain_takes(compose: dict[str, Any]) -> None:
    from meshcast.rpc import RpcSettings

    drain_s = RpcSettings().drain_delay_s + RpcSettings().drain_s
    for name, service in compose["services"].items():
        assert seconds(service["stop_grace_period"]) > drain_s + 5, name


def test_no_port_is_published_beyond_this_machine(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_the_health_checks_of_image_and_compose_file_ask_the_same(
    compose: dict[str, Any], stages: dict[str, str]
) -> None:
    for name, service in compose["services"].items():
        check = re.search(r"^    CMD (\[.*\])$", stages[service["build"]["target"]], flags=re.MULTILINE)
        assert check and json.loads(check[1]) == service["healthcheck"]["test"][1:], name


def test_the_gateways_routes_lead_to_the_services_ports(compose: dict[str, Any], stages: dict[str, str]) -> None:
    from meshcast.gateway import GatewaySettings

    gateway = compose["services"]["gateway"]
    routes = GatewaySettings().routes
    assert gateway["depends_on"].keys() == routes.keys() == compose["services"].keys() - {"gateway"}
    for name, route in routes.items():
        endpoint = gateway["environment"][f"MESHCAST_GATEWAY_ROUTES_{name.upper()}_ENDPOINTS"]
        host, _, port = endpoint.removeprefix("dns:///").partition(":")  # so that replicas are found
        assert host == name
        assert port == route.endpoints[0].partition(":")[2]  # one port a service, whatever runs it
        assert port in compose["services"][host]["expose"]
        assert f'CMD ["{name}", "--port", "{port}"]' in stages[name]
        assert route.health in compose["services"][host]["healthcheck"]["test"]


def test_models_are_watched_by_the_drift_service(compose: dict[str, Any]) -> None:
    for name in ("predictor", "forecaster", "analyzer"):
        host, _, port = compose["services"][name]["environment"]["MESHCAST_TAP_DRIFT"].partition(":")
        assert port in compose["services"][host]["expose"], name


def test_every_service_keeps_its_state_in_a_volume_of_its_own(compose: dict[str, Any]) -> None:
    volumes = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    names = {volume.partition(":")[0] for volume in volumes}
    assert names == compose["volumes"].keys() and len(names) == len(volumes)
    assert {volume.partition(":")[2] for volume in volumes} == {"/var/lib/meshcast"}


def test_images_run_as_a_user_without_rights(stages: dict[str, str]) -> None:
    assert re.search(r"^USER (?!0|root)\d+:\d+$", stages["role"], flags=re.MULTILINE)
    text = (ROOT / "Dockerfile").read_text("utf-8")
    parents = {name: parent for parent, name in re.findall(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)}
    for image in ("predictor", "forecaster", "analyzer", "drift", "gateway", "trainer"):
        stage = image
        while stage != "role":
            assert "USER" not in stages[stage], image
            stage = parents[stage]


def test_serving_images_prove_that_they_hold_no_torch(stages: dict[str, str]) -> None:
    for name in ("build-service", "build-gateway"):
        assert "! /opt/meshcast/bin/python -c 'import torch'" in stages[name]
        assert "train" not in re.search(r"pip install '\.\[(.*)\]'", stages[name])[1]  # type: ignore[index]  # it matches


def test_everything_that_the_image_copies_is_in_the_build_context() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == kept
    assert all((ROOT / name).exists() for name in names)
