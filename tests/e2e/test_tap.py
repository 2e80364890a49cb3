"""A predictor's rows, as its callers ask them at either door, counted by a drift service."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import numpy as np

from meshcast.api.oip.v2 import grpc_service_pb2 as oip_pb
from meshcast.client import MeshClient
from meshcast.posts import settled_history
from meshcast.services.predictor.features import tensors


def tensor_request(arrays: dict[str, Any]) -> oip_pb.ModelInferRequest:
    request = oip_pb.ModelInferRequest(model_name="predictor")
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype="FP32", shape=array.shape)
        request.raw_input_contents.append(np.ascontiguousarray(array).tobytes())
    return request


async def until_observed(drift: MeshClient, rows: int) -> Any:
    """The subject once it has observed so many rows."""
    async with asyncio.timeout(60):
        while True:
            subject = (await drift.describe_drift("predictor")).references[0]
            if subject.observed_rows >= rows:
                return subject
            await asyncio.sleep(0.2)


async def test_rows_of_both_doors_are_observed_and_a_killed_drift_service_costs_no_answer(
    mesh_of: Any, tmp_path: Any
) -> None:
    posts = mesh_of.made_up_posts(400)
    index = settled_history(posts)[slice(0, 200)]
    arrays = tensors(posts, mesh_of.planned_of(posts, index.row), index.start, index.stop)
    with (
        mesh_of.drift(tmp_path) as drift,
        mesh_of.predictor(tmp_path, TAP_DRIFT=drift.address, TAP_SHARE="1") as predictor,
    ):
        async with (
            MeshClient(predictor.address) as asked,
            MeshClient(drift.address) as told,
            mesh_of.peer(predictor.address) as peer,
        ):
            typed = sum([len(chunk) async for chunk in asked.predict_posts(posts, index)])
            subject = await until_observed(told, typed)
            assert (typed, subject.observed_rows) == (200, 200)
            await peer.oip.ModelInfer(tensor_request(arrays), timeout=20)
            assert (await until_observed(told, 2 * typed)).observed_rows == 400
            drift.end(signal.SIGKILL)
            for _ in range(3):
                assert sum([len(chunk) async for chunk in asked.predict_posts(posts, index)]) == 200
