"""A page in a real browser calls the door by `fetch`: a single call, a stream, a refusal, a door closed to it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from browser_page import browser_here, browsing, serving_pages
from meshcast.gateway import GatewaySettings, HttpSettings, RouteSettings, serving
from meshcast.rpc import RpcSettings

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
PAGE = """<!doctype html><title>mesh</title><script type="module">
const json = { "Content-Type": "application/json", "Connect-Protocol-Version": "1" };

async function call(door, path, message, headers = {}) {
  const response = await fetch(door + path, { method: "POST", headers: { ...json, ...headers },
    body: JSON.stringify(message) });
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.message), answer);
  return answer;
}

async function* watch(door, path, message, signal) {
  const text = new TextEncoder().encode(JSON.stringify(message));
  const body = new Uint8Array(5 + text.length);
  new DataView(body.buffer).setUint32(1, text.length);
  body.set(text, 5);
  const headers = { ...json, "Content-Type": "application/connect+json" };
  const response = await fetch(door + path, { method: "POST", headers, body, signal });
  let held = new Uint8Array(0);
  for (const reader = response.body.getReader();;) {
    const { done, value } = await reader.read();
    if (done) return;
    held = Uint8Array.of(...held, ...value);
    for (;;) {
      if (held.length < 5) break;
      const size = new DataView(held.buffer, held.byteOffset).getUint32(1);
      if (held.length < 5 + size) break;
      const content = JSON.parse(new TextDecoder().decode(held.slice(5, 5 + size)));
      if (held[0] & 2) { if (content.error) throw content.error; return; }
      yield content;
      held = held.slice(5 + size);
    }
  }
}

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
        pages.page = PAGE.replace("DOOR", json.dumps(addresses[0])).replace("CLOSED", json.dumps(addresses[1]))
        async with browsing(browser_here(), pages.origin, tmp_path):
            found = await asyncio.wait_for(pages.found, 60)
        assert replica.script.metadata[0]["x-request-id"] == "from-a-page"
    assert found["unary"]["prediction"] == {"logEngagement": 2.5}
    assert found["unary"]["receipt"]["predictionId"] == "browser"
    assert found["refused"]["code"] == "invalid_argument"
    assert found["refused"]["details"][0]["debug"]["reason"] == "ERROR_REASON_FIELD_INVALID"
    assert found["stream"] == [True, True, True]
    assert found["closed"]["failed"] == "TypeError", "a page of another origin reads nothing"
    assert len(replica.script.metadata) == 2, "nor does it reach a service"
