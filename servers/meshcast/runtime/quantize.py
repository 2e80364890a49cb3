"""Quantisation: an exported graph as INT8 OpenVINO IR, by nncf. The only module that imports nncf.

nncf runs in a process of its own: it takes over Python's loggers, prints, keeps torch and scikit-learn in memory, and
reports its use to its makers unless the environment says that it is being tested.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import CorruptData
from meshcast.runtime.signature import Arrays

__all__ = ["SMOOTHING", "quantize_transformer"]

SMOOTHING = 0.7
"""How much of the activations' range moves into the weights (alpha of SmoothQuant; Xiao et al., ICML 2023). nncf's own
0.95 leaves outliers: the least cosine of 512 posts to their f32 embeddings was .971 with it, and is .99 with this.
"""


def quantize_transformer(
    source: Path, target: Path, calibration: Sequence[Arrays], *, smoothing: float = SMOOTHING
) -> None:
    """Writes an ONNX file as OpenVINO IR with weights and activations of 8 bits.

    Weights get a scale for each output channel, activations one for each tensor, from what the calibration shows.

    Args:
        source: ONNX file of a transformer.
        target: the `.xml` file; its `.bin` comes beside it.
        calibration: batches of real inputs by name.
        smoothing: 0 to 1.

    Raises:
        ModuleNotFoundError: nncf is not installed.
        CorruptData: nncf cannot quantise the graph.
    """
    if importlib.util.find_spec("nncf") is None:
        raise ModuleNotFoundError("No module named 'nncf'", name="nncf")
    with tempfile.TemporaryDirectory(prefix="meshcast-") as folder:
        batches = Path(folder) / "calibration.npz"
        arrays = {f"{at}.{name}": array for at, batch in enumerate(calibration) for name, array in batch.items()}
        np.savez(batches, **arrays)  # type: ignore[arg-type]  # its stub takes the names for its own arguments
        command = [sys.executable, "-m", "meshcast.runtime.quantize"]
        command += [str(source), str(target), str(batches), str(smoothing)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NNCF_CI": "1"})
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise CorruptData(
            f"{source.name} cannot be quantised: {lines[-1][:200]}",
            reason=error_reason_pb2.ERROR_REASON_ARTEFACT_CORRUPT,
            why=lines[-1][:200],
        )


def _main(source: str, target: str, batches: str, smoothing: str) -> None:
    """The process of its own."""
    import nncf

    from meshcast.runtime.openvino import convert_onnx

    calibration: dict[str, dict[str, np.ndarray]] = {}
    with np.load(batches, allow_pickle=False) as file:
        for key in file.files:
            at, _, name = key.partition(".")
            calibration.setdefault(at, {})[name] = file[key]

    def quantize(model: object) -> object:
        return nncf.quantize(
            model,
            nncf.Dataset(list(calibration.values())),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=float(smoothing))
            ),
        )

    convert_onnx(Path(source), Path(target), change=quantize)


if __name__ == "__main__":
    _main(*sys.argv[1:])
