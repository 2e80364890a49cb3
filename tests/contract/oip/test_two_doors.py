"""Two doors, one queue: tritonclient and the typed client get the predictor's same predictions, from shared runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.client import MeshClient, PlannedPost
from meshcast.posts import PLAN_COLUMNS, Planned, PostTable, settled_history
from meshcast.rpc import RpcSettings
from meshcast.runtime import RuntimeSettings
from meshcast.runtime.main import serving
from meshcast.services.predictor import SERVICE
from meshcast.services.predictor.features import tensors

POSTS = 260
TOLERANCE = 1e-5  # log1p units, the design's tolerance between doors


def channel_of_posts() -> PostTable:
    """Posts of one made-up channel, eight hours apart."""
    rng = np.random.default_rng(7)
    hours = np.arange(POSTS) * 8
    return PostTable.of(
        {
            "published_unix_s": 1_400_000_000 + hours * 3_600,
            "hour_of_day": hours % 24,
            "day_of_week": hours // 24 % 7,
            "content_length": rng.integers(0, 300, POSTS),
            "has_media": rng.integers(0, 2, POSTS),
            "forwards": rng.lognormal(6, 1, POSTS).astype(int),
            "reactions": rng.lognormal(7, 1, POSTS).astype(int),
        }
    )


@pytest.mark.skipif(SERVICE.shipped is None or not SERVICE.shipped.is_dir(), reason="no predictor ships yet")
async def test_both_doors_give_the_same_predictions_and_share_runs(triton_python: Path, tmp_path: Path) -> None:
    table = channel_of_posts()
    index = settled_history(table)
    planned = Planned(**{name: getattr(table, name)[index.row] for name in PLAN_COLUMNS})
    np.savez(tmp_path / "inputs.npz", **tensors(table, planned, index.start, index.stop))  # type: ignore[arg-type]
    # Long enough for rows that arrive at about the same time to meet.
    settings = RuntimeSettings(
        state_dir=tmp_path / "state", choose_s=0.05, runs_max=1, wait_ms_max=25.0, log_predictions=False
    )
    rpc = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0)
    async with (
        serving(SERVICE, settings, rpc) as (server, _),
        MeshClient(server.address) as mesh,
    ):
        peer = await asyncio.create_subprocess_exec(
            str(triton_python),
            str(Path(__file__).with_name("triton_predict.py")),
            *(server.address, "predictor", str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npz")),
            stderr=asyncio.subprocess.PIPE,
        )
        over = asyncio.Event()
        receipts: list[Any] = []

        async def keep_asking() -> None:
            plan = PlannedPost.of(table, int(index.row[0]))
            history = table[int(index.start[0]) : int(index.stop[0])]
            while not over.is_set():
                receipts.append((await mesh.predict_engagement(plan, history)).receipt.message)

        try:
            async with asyncio.timeout(90), asyncio.TaskGroup() as group:
                for number in range(4):
                    group.create_task(keep_asking(), name=f"typed:{number}")
                _, errors = await peer.communicate()
                over.set()
        finally:
            if peer.returncode is None:
                peer.kill()
                await peer.wait()
        assert peer.returncode == 0, errors.decode()
        chunks = [chunk async for chunk in mesh.predict_posts(table, index, chunk_rows=64)]

    rows = np.concatenate([chunk.rows for chunk in chunks])
    assert rows.tolist() == index.row.tolist()
    assert all(not chunk.failed for chunk in chunks)
    typed = {
        "log_engagement": np.concatenate([chunk.log_engagement for chunk in chunks]),
        "confidence": np.concatenate([chunk.confidence for chunk in chunks]),
    }
    with np.load(tmp_path / "outputs.npz") as found:
        for way in ("plain.unary", "plain.stream", "aio.unary", "aio.stream", "plain.singles"):
            for name, expected in typed.items():
                given = found[f"{way}.{name}"]
                assert np.abs(given - expected[: len(given)]).max() <= TOLERANCE, (way, name)
            assert len(found[f"{way}.log_engagement"]) in (len(index), 40)
        doors = found["doors"].tolist()
    assert doors.count(2) > 0
    assert any(receipt.batch_doors == 2 and receipt.batch_rows >= 2 for receipt in receipts)
