"""A page in a real browser calls the door by `fetch`: a single call, a stream, a refusal, a door closed to it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from browser_page import browser_here, browsing, serving_pages
from meshcast.gateway import GatewaySettings, HttpSettings, RouteSettings, serving
from meshcast.rpc import RpcSettings

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
DOCS = Path(__file__).parents[4] / "docs" / "http.md"
SNIPPET = re.findall(r"^```js\n(.*?)^```$", DOCS.read_text("utf-8"), re.M | re.S)[0]
PAGE = """<!doctype html><title>mesh</title><script type="module">
SNIPPET

async function trial(work) { try { return await work(); } catch (error) {
  return { failed: error.name, code: error.code, message: error.message, details: error.details }; } }

const found = {};
const predictor = "/meshcast.api.predictor.v1.PredictorService/PredictEngagement";
found.unary = await trial(() => call(DOOR, predictor, { requestId: "browser" }, { "x-request-id": "from-a-page" }));
found.refused = await trial(() => call(DOOR, predictor, { channel: "refuse" }));
found.closed = await trial(() => call(CLOSED, predictor, {}));
found.stream = await trial(async () => {
  const healths = [], stop = new AbortController();
  for await (const message of watch(DOOR, "/meshcast.api.gateway.v1.GatewayService/WatchMesh", { intervalMs: 200 },
    stop.signal)) {
    healths.push(message.health.serving);
    if (healths.length == 3) break;
  }
  stop.abort();
  return healths;
});
const large = { engagement: { requestId: "r".repeat(300_000) }, parts: ["PART_ENGAGEMENT"] };
found.large = await trial(async () => {
  const ids = [];
  for await (const part of watch(DOOR, "/meshcast.api.gateway.v1.GatewayService/PredictComprehensive", large)) {
    if (part.engagement) ids.push(part.engagement.receipt.predictionId.length);
  }
  return ids;
});
found.nobody = await trial(async () => {
  for await (const message of watch(DOOR, "/acme.None/Watch", {})) return message;
});
found.ended = await trial(async () => {
  const path = "/meshcast.api.gateway.v1.GatewayService/PredictComprehensive";
  for await (const message of watch(DOOR, path, { parts: ["PART_UNSPECIFIED"] })) return message;
});
await fetch("/found", { method: "POST", body: JSON.stringify(found) });
</script>"""


async def test_a_page_calls_the_mesh_from_another_origin(run_predictor: Any, open_door: Any, tmp_path: Path) -> None:
    async with (
        serving_pages() as pages,
        run_predictor() as replica,
        open_door([replica.address], http=HttpSettings(allowed_origins=(pages.origin,))) as door,
        serving(
            GatewaySettings(routes={"predictor": RouteSettings(services=(PREDICTOR,), endpoints=(replica.address,))}),
            RpcSettings(metrics=False, drain_delay_s=0.0),
            http_port=0,
        ) as closed,
    ):
        addresses = (door.gateway.server.http_address, closed.http_address)
        pages.page = (
            PAGE.replace("SNIPPET", SNIPPET)
            .replace("DOOR", json.dumps(addresses[0]))
            .replace("CLOSED", json.dumps(addresses[1]))
        )
        async with browsing(browser_here(), pages.origin, tmp_path):
            found = await asyncio.wait_for(pages.found, 60)
        assert replica.script.metadata[0]["x-request-id"] == "from-a-page"
    assert found["unary"]["prediction"] == {"logEngagement": 2.5}
    assert found["unary"]["receipt"]["predictionId"] == "browser"
    assert found["refused"]["code"] == "invalid_argument"
    assert found["refused"]["details"][0]["debug"]["reason"] == "ERROR_REASON_FIELD_INVALID"
    assert found["stream"] == [True, True, True]
    assert found["large"] == [300_000]
    assert (found["nobody"]["failed"], found["nobody"]["code"]) == ("Error", "unimplemented")
    assert (found["ended"]["failed"], found["ended"]["code"]) == ("Error", "invalid_argument")
    assert found["closed"]["failed"] == "TypeError", "a page of another origin reads nothing"
    assert len(replica.script.metadata) == 3, "nor does it reach a service"
