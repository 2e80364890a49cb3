"""The HTTP door of a real mesh: curl, a browser, tritonclient by HTTP and gRPC, and the typed client get one answer."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from browser_page import browser_here, browsing, serving_pages
from meshcast.client import MeshClient, PlannedPost
from meshcast.posts import Planned
from meshcast.services.predictor.features import tensors

TOLERANCE = 1e-5  # log1p units, of the design
PREDICT = "/meshcast.api.predictor.v1.PredictorService/PredictEngagement"
PAGE = """<!doctype html><title>mesh</title><script type="module">
const found = await fetch(DOOR, { method: "POST", headers: { "Content-Type": "application/json" }, body: BODY });
await fetch("/found", { method: "POST", body: await found.text() });
</script>"""
WATCH = "/meshcast.api.gateway.v1.GatewayService/WatchMesh"


async def ran(*command: str) -> str:
    """What a program prints, once it has ended well."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return out.decode()


async def test_every_client_gets_the_same_answer(triton_python: Path, mesh_of: Any, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    question = mesh_of.question()
    history, planned = mesh_of.made_up_posts(60), question.planned
    plan = PlannedPost(
        published_at=planned.published_time.ToDatetime(),
        hour_of_day=planned.hour_of_day,
        day_of_week=planned.day_of_week,
        content_length=planned.content_length,
    )
    row = Planned(
        **{
            name: np.array([value])
            for name, value in zip(
                ("published_unix_s", "hour_of_day", "day_of_week", "content_length", "has_media"),
                plan.values(),
                strict=True,
            )
        }
    )
    for name, array in tensors(history, row, np.array([0]), np.array([len(history)])).items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=False)
    body = tmp_path / "question.json"
    body.write_text(json_format.MessageToJson(question), "utf-8")
    async with AsyncExitStack() as stack:
        pages = await stack.enter_async_context(serving_pages())
        server = stack.enter_context(mesh_of.predictor(tmp_path, RUNTIME_BACKEND="onnxruntime/cpu/f32"))
        settings = {"GATEWAY_HTTP_ALLOWED_ORIGINS": pages.origin, "GATEWAY_FIRST_CONTACT_S": "20"}
        gateway = stack.enter_context(mesh_of.gateway(tmp_path, server.address, **settings))
        door = gateway.http_address
        async with MeshClient(gateway.address) as mesh:
            typed = await mesh.predict_engagement(plan, history)
        post = ("curl", "-sS", "--fail-with-body", "-H", "content-type: application/json")
        by_curl = json.loads(await ran(*post, f"{door}{PREDICT}", "--data", f"@{body}"))
        watched = await ran(
            *(*post, "-H", "connect-timeout-ms: 500", f"{door}{WATCH}", "--data", '{"intervalMs": 200}')
        )
        pages.page = PAGE.replace("DOOR", json.dumps(door + PREDICT)).replace(
            "BODY", json.dumps(body.read_text("utf-8"))
        )
        async with browsing(browser_here(), pages.origin, tmp_path):
            by_browser = await asyncio.wait_for(pages.found, 60)
        script = str(Path(__file__).with_name("triton_http.py"))
        told = json.loads(
            await ran(str(triton_python), script, door.removeprefix("http://"), gateway.address, str(tmp_path))
        )
    assert by_curl["receipt"]["model"] == "predictor"
    answers = {
        way: (answer["prediction"]["logEngagement"], answer["prediction"]["confidence"])
        for way, answer in (("curl", by_curl), ("browser", by_browser))
    }
    for way in told["ways"]:
        answers[way] = tuple(
            np.load(tmp_path / f"{way}.{name}.npy", allow_pickle=False).item()
            for name in ("log_engagement", "confidence")
        )
    assert len(answers) == 7
    for way, (log_engagement, confidence) in answers.items():
        assert abs(log_engagement - typed.log_engagement) <= TOLERANCE, way
        assert abs(confidence - typed.confidence) <= TOLERANCE, way
    assert told["live"] and told["ready"] == [True, True, False]
    assert "binary_tensor_data" in told["server"]["extensions"]
    assert {tensor["name"] for tensor in told["metadata"]["inputs"]} == {"history", "mask", "planned"}
    assert (told["config"], told["index"][0]["state"]) == ("predictor", "READY")
    assert "mask" in told["refused"] or "missing" in told["refused"]
    *healths, end = [json.loads(line) for line in watched.splitlines()]
    assert healths[0]["result"]["health"]["serving"] is True
    assert end["error"]["code"] == "deadline_exceeded"


async def test_the_lines_of_the_page_work_as_they_stand(mesh_of: Any, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text("utf-8")
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S) for line in block.splitlines()]
    with (
        mesh_of.analyzer(tmp_path) as server,
        mesh_of.gateway(tmp_path, analyzers=[server.address], GATEWAY_FIRST_CONTACT_S="20") as gateway,
    ):
        told = [
            await ran(*shlex.split(line.replace("http://127.0.0.1:8000", gateway.http_address)), "-sS", "--fail")
            for line in lines
        ]
    assert len(told) == 8
    about, judged, parts, healths, health, ready, model, index = told
    assert json.loads(about)["name"] == "meshcast gateway"
    assert 0 < json.loads(judged)["judgement"]["viral"] < 1
    content, summary = [json.loads(line)["result"] for line in parts.splitlines()]
    assert content["content"]["judgement"] and summary["summary"]["answered"] == ["PART_CONTENT"]
    assert json.loads(healths.splitlines()[0])["result"]["health"]["serving"] is True
    assert json.loads(health)["health"]["serving"] is True
    assert json.loads(ready) == {"ready": True}
    assert {tensor["name"] for tensor in json.loads(model)["inputs"]} == {"tokens", "grams", "extras"}
    assert "analyzer" in {entry["name"] for entry in json.loads(index)}
