"""Runs tensors through tritonclient's plain and asyncio clients: `triton_predict.py ADDRESS MODEL INPUTS OUTPUTS`.

Run by the tests in tritonclient's own virtual environment. Writes, as `.npz`, what each way gave, and how many doors
shared the runs of single rows.
"""

import asyncio
import queue
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from tritonclient import grpc as plain  # type: ignore[import-not-found]  # in an environment of its own
from tritonclient.grpc import aio  # type: ignore[import-not-found]

CHUNK_ROWS = 64
SINGLES = 40


def tensors(module: Any, arrays: dict[str, Any], rows: slice) -> list[Any]:
    """Inputs as objects of the client."""
    found = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array[rows].shape), "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(array[rows]))
        found.append(tensor)
    return found


def together(results: list[Any]) -> dict[str, Any]:
    """Outputs of all chunks, one after the other."""
    names = [output.name for output in results[0].get_response().outputs]
    return {name: np.concatenate([result.as_numpy(name) for result in results]) for name in names}


def ask_plain(address: str, model: str, arrays: dict[str, Any], chunks: list[slice]) -> dict[str, Any]:
    """Unary calls, a stream, and single rows."""
    with plain.InferenceServerClient(address) as client:
        unary = [client.infer(model, tensors(plain, arrays, rows)) for rows in chunks]
        done: queue.Queue[Any] = queue.Queue()
        client.start_stream(callback=lambda result, error: done.put((result, error)))
        for rows in chunks:
            client.async_stream_infer(model, tensors(plain, arrays, rows))
        stream = []
        for _ in chunks:
            result, error = done.get(timeout=20)
            if error is not None:
                raise error
            stream.append(result)
        client.stop_stream()
        singles = [client.infer(model, tensors(plain, arrays, slice(row, row + 1))) for row in range(SINGLES)]
        doors = [one.get_response().parameters["meshcast_batch_doors"].int64_param for one in singles]
    return {"unary": together(unary), "stream": together(stream), "singles": together(singles), "doors": doors}


async def ask_aio(address: str, model: str, arrays: dict[str, Any], chunks: list[slice]) -> dict[str, Any]:
    """Unary calls at once, and a stream."""
    async with aio.InferenceServerClient(address) as client:
        unary = await asyncio.gather(*(client.infer(model, tensors(aio, arrays, rows)) for rows in chunks))

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for rows in chunks:
                yield {"model_name": model, "inputs": tensors(aio, arrays, rows)}

        stream = []
        async for result, error in client.stream_infer(requests()):
            if error is not None:
                raise error
            stream.append(result)
    return {"unary": together(unary), "stream": together(stream)}


def main() -> None:
    """Every way, one after the other."""
    address, model, given, wanted = sys.argv[1:]
    with np.load(given) as file:
        arrays = {name: file[name] for name in file.files}
    rows = len(next(iter(arrays.values())))
    chunks = [slice(at, min(at + CHUNK_ROWS, rows)) for at in range(0, rows, CHUNK_ROWS)]
    answers = {
        "plain": ask_plain(address, model, arrays, chunks),
        "aio": asyncio.run(ask_aio(address, model, arrays, chunks)),
    }
    found: dict[str, Any] = {"doors": np.array(answers["plain"].pop("doors"))}
    for client, ways in answers.items():
        for way, outputs in ways.items():
            found |= {f"{client}.{way}.{name}": array for name, array in outputs.items()}
    np.savez(wanted, **found)


main()
