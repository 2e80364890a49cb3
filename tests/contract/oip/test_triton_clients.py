"""tritonclient, unchanged, against our server: its plain and its asyncio client, unary and stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
async def found(triton_python: Path, door: Any) -> Mapping[str, Any]:
    """Everything that the clients got, by client."""
    peer = await asyncio.create_subprocess_exec(
        str(triton_python),
        str(Path(__file__).with_name("triton_peer.py")),
        door.address,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(90):
            out, errors = await peer.communicate()
    finally:
        if peer.returncode is None:
            peer.kill()
            await peer.wait()
    assert peer.returncode == 0, errors.decode()
    answers: Mapping[str, Any] = json.loads(out)
    return answers


def check(answer: Mapping[str, Any], oip: Any, *, version: int = 2, names: tuple[str, ...] = ("score", "pair")) -> None:
    """The answer is the model's."""
    given = {name: np.array(values) for name, values in answer["given"].items()}
    expected = oip.outputs_of(given, version)
    assert tuple(answer["outputs"]) == names
    for name in names:
        np.testing.assert_allclose(np.array(answer["outputs"][name]), expected[name], rtol=0, atol=1e-4)
        assert answer["datatypes"][name] == "FP32"
    assert (answer["model"], answer["version"]) == ("sums", str(version))
    assert "meshcast_backend" in answer["parameters"]


def check_stream(answers: list[Any], bad: int, oip: Any) -> None:
    """Every answer is there, in order, and the bad one says why in its own place."""
    for number, answer in enumerate(answers):
        if number == bad:
            assert "nobody" in answer["message"]
        else:
            assert answer["id"] == str(number)
            check(answer, oip)
            assert "triton_final_response" in answer["parameters"]


async def test_unchanged_triton_clients_get_everything_they_can_ask_for(found: Mapping[str, Any], oip: Any) -> None:
    plain, aio = found["plain"], found["aio"]
    for client in (plain, aio):
        assert client["live"] and client["ready"]
        assert client["model_ready"] == [True, False]
        tensors = {tensor["name"]: tensor for tensor in client["metadata"]["inputs"]}
        assert tensors["history"] == {"name": "history", "datatype": "FP32", "shape": ["-1", "3", "2"]}
        assert client["metadata"]["versions"] == ["2"]
        assert client["config"]["config"]["max_batch_size"] == 256
        assert client["unknown"]["status"] == "StatusCode.NOT_FOUND"
        check(client["infer"], oip)
    assert plain["unknown_ready"] is False
    assert plain["server"]["name"] == "meshcast"
    assert "statistics" not in plain["server"]["extensions"]
    assert {entry["version"]: entry["state"] for entry in plain["index"]["models"]} == {
        "1": "UNAVAILABLE",
        "2": "READY",
    }
    assert plain["infer"]["id"] == "one"
    check(plain["one_output"], oip, names=("pair",))
    check(plain["async"], oip)
    assert plain["mismatch"]["status"] == "StatusCode.INVALID_ARGUMENT"
    assert "history" in plain["mismatch"]["message"]
    for answer in aio["several"]:
        check(answer, oip)

    assert len(plain["stream"]) == 20
    check_stream(plain["stream"], 10, oip)
    assert len(aio["stream"]) == 12
    check_stream(aio["stream"], 6, oip)
    assert [answer.get("id") for answer in plain["strict_stream"][:10]] == [str(number) for number in range(10)]
    assert plain["strict_stream"][10]["status"] == "StatusCode.NOT_FOUND"
    assert len(plain["strict_stream"]) == 11

    control = plain["control"]
    assert control["states"] == [
        {"1": "UNAVAILABLE", "2": "UNAVAILABLE"},
        {"1": "READY", "2": "UNAVAILABLE"},
        {"1": "READY", "2": "UNAVAILABLE"},
        {"1": "UNAVAILABLE", "2": "READY"},
    ]
    assert control["refused"]["status"] == "StatusCode.FAILED_PRECONDITION"
    check(control["first"], oip, version=1)
    check(control["again"], oip, version=2)
