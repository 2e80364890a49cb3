"""Two doors to one predictor's process: tritonclient and the typed client get equal predictions, out of shared runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from meshcast.client import MeshClient, PlannedPost
from meshcast.posts import HistoryIndex, PostTable, settled_history
from meshcast.services.predictor.features import tensors

TOLERANCE = 1e-5  # log1p units, of the design
WAIT_MS = 3_000.0


@pytest.fixture
def table(mesh_of: Any) -> PostTable:
    """Posts of one channel."""
    posts: PostTable = mesh_of.made_up_posts(260)
    return posts


def save_tensors(folder: Path, table: PostTable, index: HistoryIndex, mesh_of: Any) -> None:
    """What the graph takes for these rows, made in this process, as files without pickle."""
    arrays = tensors(table, mesh_of.planned_of(table, index.row), index.start, index.stop)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


async def start_peer(python: Path, *words: str) -> asyncio.subprocess.Process:
    """tritonclient in its own environment."""
    return await asyncio.create_subprocess_exec(
        *(str(python), str(Path(__file__).with_name("triton_two_doors.py")), *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def outcome(peer: asyncio.subprocess.Process, told: bytes = b"") -> str:
    """What it prints, once it has ended well."""
    try:
        async with asyncio.timeout(60):
            out, errors = await peer.communicate(told)
    finally:
        if peer.returncode is None:
            peer.kill()
            await peer.wait()
    assert peer.returncode == 0, errors.decode()
    return out.decode()


@pytest.mark.parametrize("backend", ["onnxruntime/cpu/f32", "openvino/cpu/f32"])
async def test_every_way_through_either_door_gives_the_same_predictions(
    triton_python: Path, mesh_of: Any, tmp_path: Path, table: PostTable, backend: str
) -> None:
    index = settled_history(table)
    with (
        mesh_of.predictor(tmp_path, RUNTIME_BACKEND=backend) as server,
        mesh_of.gateway(tmp_path, server.address) as gateway,
    ):
        found: dict[str, dict[str, NDArray[np.float32]]] = {}
        for place, address in (("direct", server.address), ("gateway", gateway.address)):
            folder = tmp_path / place
            folder.mkdir()
            save_tensors(folder, table, index, mesh_of)
            assert await outcome(await start_peer(triton_python, address, str(folder))) == ""
            for way in ("plain.unary", "plain.stream", "aio.unary", "aio.stream"):
                found[f"{place}.{way}"] = {
                    name: np.load(folder / f"{way}.{name}.npy", allow_pickle=False)
                    for name in ("log_engagement", "confidence")
                }
            async with MeshClient(address) as mesh:
                chunks = [chunk async for chunk in mesh.predict_posts(table, index, chunk_rows=70)]
                singles = [
                    await mesh.predict_engagement(PlannedPost.of(table, int(row)), table[int(start) : int(stop)])
                    for row, start, stop in zip(index.row, index.start, index.stop, strict=True)
                ]
            assert np.concatenate([chunk.rows for chunk in chunks]).tolist() == index.row.tolist()
            assert {chunk.receipt.backend for chunk in chunks} | {one.receipt.backend for one in singles} == {backend}
            found[f"{place}.typed.stream"] = {
                "log_engagement": np.concatenate([chunk.log_engagement for chunk in chunks]),
                "confidence": np.concatenate([chunk.confidence for chunk in chunks]),
            }
            found[f"{place}.typed.unary"] = {
                "log_engagement": np.array([one.log_engagement for one in singles], dtype=np.float32),
                "confidence": np.array([one.confidence for one in singles], dtype=np.float32),
            }
    expected = found["direct.typed.stream"]
    assert np.ptp(expected["log_engagement"]) > 0.1  # not one answer for all
    for way, outputs in found.items():
        for name, values in outputs.items():
            assert values.shape == (len(index),), (way, name)
            assert np.abs(values - expected[name]).max() <= TOLERANCE, (way, name)


async def test_one_batch_holds_rows_of_both_doors(
    triton_python: Path, mesh_of: Any, tmp_path: Path, table: PostTable
) -> None:
    index = settled_history(table)[:3]
    save_tensors(tmp_path, table, index, mesh_of)
    with mesh_of.predictor(tmp_path, RUNTIME_WAIT_MS_MAX=str(WAIT_MS)) as server:
        async with MeshClient(server.address) as mesh:
            peer = await start_peer(triton_python, server.address, str(tmp_path), "wait")
            assert peer.stdout is not None
            assert await asyncio.wait_for(peer.stdout.readline(), 30) == b"ready\n"
            plan = PlannedPost.of(table, int(index.row[0]))
            history = table[int(index.start[0]) : int(index.stop[0])]
            typed, told = await asyncio.gather(
                mesh.predict_engagement(plan, history, timeout_s=20), outcome(peer, b"now\n")
            )
    parameters = json.loads(told)
    receipt = typed.receipt.message
    assert receipt.batch_doors == parameters["meshcast_batch_doors"] == 2
    assert receipt.batch_rows == parameters["meshcast_batch_rows"] == 1 + 3
