"""Asks a server everything that tritonclient can ask, and prints what came as JSON: `triton_peer.py ADDRESS`.

Run by the tests in tritonclient's own virtual environment: its messages cannot share a process with ours.
"""

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from tritonclient import grpc as plain  # type: ignore[import-not-found]  # in an environment of its own
from tritonclient.grpc import aio  # type: ignore[import-not-found]
from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found]

MODEL = "sums"


def tensors(module: Any, rows: int, seed: int) -> tuple[list[Any], Any]:
    """Inputs of the test model, as objects of the client, and as plain lists."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        "history": rng.normal(size=(rows, 3, 2)).astype(np.float32),
        "scale": rng.normal(size=(rows,)).astype(np.float32),
        "tag": rng.integers(0, 9, size=(rows, 1)).astype(np.int64),
    }
    inputs = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), {"f": "FP32", "i": "INT64"}[array.dtype.kind])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs, {name: array.tolist() for name, array in arrays.items()}


def answer_of(result: Any, given: Any) -> dict[str, Any]:
    """What the test compares of one answer."""
    response = result.get_response()
    return {
        "given": given,
        "id": response.id,
        "model": response.model_name,
        "version": response.model_version,
        "outputs": {output.name: result.as_numpy(output.name).tolist() for output in response.outputs},
        "datatypes": {output.name: output.datatype for output in response.outputs},
        "parameters": sorted(response.parameters),
    }


def error_of(error: Any) -> dict[str, Any]:
    """Status and text of a failure."""
    return {"status": error.status(), "message": error.message()}


def ask_plain(address: str) -> dict[str, Any]:
    """The synchronous client, unary and stream."""
    found: dict[str, Any] = {}
    with plain.InferenceServerClient(address) as client:
        found["live"], found["ready"] = client.is_server_live(), client.is_server_ready()
        found["model_ready"] = [client.is_model_ready(MODEL), client.is_model_ready(MODEL, "9")]
        found["unknown_ready"] = client.is_model_ready("nobody")
        found["server"] = client.get_server_metadata(as_json=True)
        found["metadata"] = client.get_model_metadata(MODEL, as_json=True)
        found["config"] = client.get_model_config(MODEL, as_json=True)
        found["index"] = client.get_model_repository_index(as_json=True)
        inputs, given = tensors(plain, 3, 1)
        found["infer"] = answer_of(client.infer(MODEL, inputs, request_id="one", priority=1, timeout=5_000_000), given)
        wanted = [plain.InferRequestedOutput("pair")]
        found["one_output"] = answer_of(client.infer(MODEL, inputs, model_version="2", outputs=wanted), given)
        try:
            client.infer("nobody", inputs)
        except InferenceServerException as error:
            found["unknown"] = error_of(error)
        bad, _ = tensors(plain, 2, 1)
        bad[0].set_shape([3, 2, 2])
        try:
            client.infer(MODEL, bad)
        except InferenceServerException as error:
            found["mismatch"] = error_of(error)
        done: queue.Queue[Any] = queue.Queue()
        client.async_infer(MODEL, inputs, callback=lambda result, error: done.put((result, error)), request_id="two")
        result, failure = done.get(timeout=20)
        found["async"] = answer_of(result, given) if failure is None else error_of(failure)
        found["stream"] = stream_plain(client)
        found["control"] = control(client)
    with plain.InferenceServerClient(address) as client:
        found["strict_stream"] = stream_plain(client, headers={"triton_grpc_error": "true"})
    return found


def stream_plain(client: Any, headers: dict[str, str] | None = None) -> list[Any]:
    """Twenty requests and a bad one in the middle, on one stream."""
    done: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: done.put((result, error)), headers=headers)
    given = []
    for number in range(20):
        inputs, plain_given = tensors(plain, 1 + number % 4, number)
        given.append(plain_given)
        client.async_stream_infer(MODEL if number != 10 else "nobody", inputs, request_id=str(number))
    answers = []
    for number in range(20):
        result, error = done.get(timeout=20)
        answers.append(error_of(error) if error is not None else answer_of(result, given[number]))
        if headers and error is not None:
            break
    client.stop_stream()
    return answers


def control(client: Any) -> dict[str, Any]:
    """Unload, load with another policy, load again."""
    states = []

    def look() -> None:
        index = client.get_model_repository_index(as_json=True)["models"]
        states.append({entry["version"]: entry["state"] for entry in index})

    client.unload_model(MODEL, unload_dependents=True)
    look()
    inputs, given = tensors(plain, 1, 5)
    try:
        client.infer(MODEL, inputs)
        refused = None
    except InferenceServerException as error:
        refused = error_of(error)
    client.load_model(MODEL, config=json.dumps({"version_policy": {"specific": {"versions": [1]}}}))
    look()
    first = answer_of(client.infer(MODEL, inputs), given)
    whole = client.get_model_config(MODEL, as_json=True)["config"]
    client.load_model(MODEL, config=json.dumps(whole))
    look()
    client.load_model(MODEL)
    look()
    return {
        "states": states,
        "refused": refused,
        "first": first,
        "again": answer_of(client.infer(MODEL, inputs), given),
    }


async def ask_aio(address: str) -> dict[str, Any]:
    """The asynchronous client, unary and stream."""
    found: dict[str, Any] = {}
    async with aio.InferenceServerClient(address) as client:
        found["live"], found["ready"] = await client.is_server_live(), await client.is_server_ready()
        found["model_ready"] = [await client.is_model_ready(MODEL), await client.is_model_ready(MODEL, "9")]
        found["metadata"] = await client.get_model_metadata(MODEL, as_json=True)
        found["config"] = await client.get_model_config(MODEL, as_json=True)
        inputs, given = tensors(aio, 300, 2)
        found["infer"] = answer_of(await client.infer(MODEL, inputs, request_id="large"), given)
        several = [tensors(aio, 2, number) for number in range(8)]
        results = await asyncio.gather(*(client.infer(MODEL, inputs) for inputs, _ in several))
        found["several"] = [answer_of(result, given) for result, (_, given) in zip(results, several, strict=True)]
        try:
            await client.infer("nobody", inputs)
        except InferenceServerException as error:
            found["unknown"] = error_of(error)
        sent = [tensors(aio, 1 + number % 3, number) for number in range(12)]

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for number, (inputs, _) in enumerate(sent):
                name = MODEL if number != 6 else "nobody"
                yield {"model_name": name, "inputs": inputs, "request_id": str(number)}

        answers: list[Any] = []
        async for result, failure in client.stream_infer(requests()):
            given = sent[len(answers)][1]
            answers.append(error_of(failure) if failure is not None else answer_of(result, given))
        found["stream"] = answers
    return found


def main() -> None:
    """Both clients, one after the other."""
    address = sys.argv[1]
    found = {"plain": ask_plain(address), "aio": asyncio.run(ask_aio(address))}
    json.dump(found, sys.stdout)


main()
