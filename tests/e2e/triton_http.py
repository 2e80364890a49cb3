"""Predicts tensors by HTTP and by gRPC with tritonclient: `triton_http.py HTTP_ADDRESS GRPC_ADDRESS FOLDER`.

Run by the tests in tritonclient's own virtual environment. Takes FOLDER/<input>.npy, writes FOLDER/<way>.<output>.npy,
and prints as JSON what the server says of itself by HTTP.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient import grpc, http  # type: ignore[import-not-found]  # in an environment of its own
from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found]

MODEL = "predictor"
INPUTS = ("history", "mask", "planned")
OUTPUTS = ("log_engagement", "confidence")


def inputs(module: Any, arrays: dict[str, Any], **options: Any) -> list[Any]:
    """The arrays as the client's input objects."""
    found = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(array), **options)
        found.append(tensor)
    return found


def main() -> None:
    """Every way to ask by HTTP, and the plain one by gRPC."""
    http_address, grpc_address, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in INPUTS}
    results = {}
    with grpc.InferenceServerClient(grpc_address) as client:
        results["triton.grpc"] = client.infer(MODEL, inputs(grpc, arrays))
    with http.InferenceServerClient(http_address) as client:
        told = {
            "live": client.is_server_live(),
            "ready": [client.is_server_ready(), client.is_model_ready(MODEL), client.is_model_ready("nobody")],
            "server": client.get_server_metadata(),
            "metadata": client.get_model_metadata(MODEL),
            "config": client.get_model_config(MODEL)["name"],
            "index": client.get_model_repository_index(),
        }
        results["triton.http.binary"] = client.infer(MODEL, inputs(http, arrays))
        wanted = [http.InferRequestedOutput(name, binary_data=False) for name in OUTPUTS]
        results["triton.http.json"] = client.infer(MODEL, inputs(http, arrays, binary_data=False), outputs=wanted)
        results["triton.http.gzip"] = client.infer(
            MODEL, inputs(http, arrays), request_compression_algorithm="gzip", response_compression_algorithm="gzip"
        )
        results["triton.http.async"] = client.async_infer(MODEL, inputs(http, arrays)).get_result()
        try:
            client.infer(MODEL, inputs(http, arrays)[:1])
        except InferenceServerException as error:
            told["refused"] = str(error)
    for way, result in results.items():
        for name in OUTPUTS:
            np.save(folder / f"{way}.{name}.npy", result.as_numpy(name), allow_pickle=False)
    json.dump(told | {"ways": list(results)}, sys.stdout)


main()
