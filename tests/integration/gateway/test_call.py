"""`meshcast call` of a stream that does not end by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from meshcast.cli.call import call

WATCH = "meshcast.api.gateway.v1.GatewayService/WatchMesh"


async def test_the_end_of_the_asked_time_is_the_end_of_a_stream_that_was_answered(
    run_predictor: Any, run_gateway: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"headers": [], "config": None, "state_dir": tmp_path, "compact": True}
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        options["target"] = gateway.server.address
        capsys.readouterr()
        await asyncio.to_thread(call, WATCH, "", data='{"interval_ms": 200}', timeout_s=1.0, **options)
        told = capsys.readouterr()
    assert told.out.count('"read_time"') >= 1
    assert "ended after --timeout 1 s, with" in told.err
