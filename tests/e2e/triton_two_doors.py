"""Predicts tensors with tritonclient's plain and asyncio clients: `triton_two_doors.py ADDRESS FOLDER [wait]`.

Run by the tests in tritonclient's own virtual environment. Takes FOLDER/<input>.npy and writes
FOLDER/<client>.<kind>.<output>.npy for every way to ask. With `wait`, says "ready", sends one unary question of three
rows when told to by a line, and prints the parameters of its answer as JSON.
"""

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient import grpc as plain  # type: ignore[import-not-found]  # in an environment of its own
from tritonclient.grpc import aio  # type: ignore[import-not-found]

MODEL = "predictor"
INPUTS = ("history", "mask", "planned")
CHUNK_ROWS = 50
Arrays = dict[str, Any]


def inputs(module: Any, arrays: Arrays, rows: slice) -> list[Any]:
    """Some rows as the client's input objects."""
    found = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array[rows].shape), "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(array[rows]))
        found.append(tensor)
    return found


def write(folder: Path, way: str, results: list[Any]) -> None:
    """Writes the outputs of all chunks, one after the other."""
    for output in results[0].get_response().outputs:
        whole = np.concatenate([result.as_numpy(output.name) for result in results])
        np.save(folder / f"{way}.{output.name}.npy", whole, allow_pickle=False)


def ask_plain(address: str, folder: Path, arrays: Arrays, chunks: list[slice]) -> None:
    """The synchronous client."""
    with plain.InferenceServerClient(address) as client:
        write(folder, "plain.unary", [client.infer(MODEL, inputs(plain, arrays, rows)) for rows in chunks])
        answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for rows in chunks:
            client.async_stream_infer(MODEL, inputs(plain, arrays, rows))
        results = []
        for _ in chunks:
            result, error = answers.get(timeout=20)
            if error is not None:
                raise error
            results.append(result)
        client.stop_stream()
        write(folder, "plain.stream", results)


async def ask_aio(address: str, folder: Path, arrays: Arrays, chunks: list[slice]) -> None:
    """The asynchronous client."""
    async with aio.InferenceServerClient(address) as client:
        unary = await asyncio.gather(*(client.infer(MODEL, inputs(aio, arrays, rows)) for rows in chunks))
        write(folder, "aio.unary", list(unary))

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for rows in chunks:
                yield {"model_name": MODEL, "inputs": inputs(aio, arrays, rows)}

        results = []
        async for result, error in client.stream_infer(requests()):
            if error is not None:
                raise error
            results.append(result)
        write(folder, "aio.stream", results)


def ask_when_told(address: str, arrays: Arrays) -> None:
    """One question, at the moment that the test chooses."""
    with plain.InferenceServerClient(address) as client:
        asked = inputs(plain, arrays, slice(3))
        client.is_server_live()  # connects
        print("ready", flush=True)
        sys.stdin.readline()
        response = client.infer(MODEL, asked).get_response()
        found = {name: value.int64_param for name, value in response.parameters.items()}
        print(json.dumps(found), flush=True)


def main() -> None:
    """Every way, one after the other; or the one question."""
    address, folder = sys.argv[1], Path(sys.argv[2])
    arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in INPUTS}
    if sys.argv[3:] == ["wait"]:
        ask_when_told(address, arrays)
        return
    rows = len(arrays["history"])
    chunks = [slice(at, min(at + CHUNK_ROWS, rows)) for at in range(0, rows, CHUNK_ROWS)]
    ask_plain(address, folder, arrays, chunks)
    asyncio.run(ask_aio(address, folder, arrays, chunks))


main()
