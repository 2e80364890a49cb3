"""Session over OpenVINO on the CPU, with its real precision named. The only module that imports openvino."""

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from meshcast.runtime.session import Backend, SessionOptions, artefact_corrupt, bucket, powers, steps
from meshcast.runtime.signature import Arrays, Signature

__all__ = ["VERSION", "OpenvinoSession", "convert_onnx", "open_session"]

VERSION: str = openvino.__version__
"""Version of the library, part of the host's fingerprint."""


PAD_CELLS_MAX = 64
"""Cells of rows for nothing that a ragged run may have: about what a run of its own costs, which pads fewer.

A MiniLM of INT8 computes 25 cells a millisecond on one core, and takes 1.1 to 1.4 ms to change from one shape that it
knows to another.
"""


class OpenvinoSession:
    """A model compiled by OpenVINO, with one infer request a run slot.

    A batch size that it has not seen costs a compilation of 1 to 3 ms, and each keeps memory: rows are padded to the
    sizes of `session.steps`. With ragged axes every pair of rows and lengths is such a shape, of 5 to 10 ms and 2 MB
    for a MiniLM: there rows are padded to powers of two, and a run takes as many as nearly fill one.
    """

    def __init__(self, compiled: openvino.CompiledModel, backend: str, signature: Signature, slots: int) -> None:
        self._compiled = compiled
        self._backend = backend
        self._names = list(signature.output_names)
        self._is_ragged = signature.is_ragged
        self._sizes = (powers if signature.is_ragged else steps)(signature.rows_max)
        self._requests = [compiled.create_infer_request() for _ in range(slots)]
        # More runs than slots wait here, they do not fail.
        self._free: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for request in self._requests:
            self._free.put(request)
        by_name = {name: place for place, port in enumerate(compiled.outputs) for name in port.get_names()}
        self._places = [by_name[name] for name in self._names]

    @property
    def backend(self) -> str:
        """Runtime, device and the precision that really runs."""
        return self._backend

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name, in arrays of their own."""
        rows = len(next(iter(arrays.values())))
        size = bucket(self._sizes, rows)
        if size != rows:
            arrays = _padded(arrays, size)
        request = self._free.get()
        try:
            # Inputs are read in place; outputs are copied, since the next run overwrites the request's own memory.
            results = list(request.infer(arrays, share_inputs=True, share_outputs=False).values())
        finally:
            self._free.put(request)
        return {name: results[place][:rows] for name, place in zip(self._names, self._places, strict=True)}

    def buckets(self, rows_max: int) -> tuple[int, ...]:
        """The sizes that rows are padded to."""
        if self._is_ragged:  # fewer of long rows: a size beyond them would be past the bound on cells
            return tuple(size for size in self._sizes if size <= rows_max)
        return steps(rows_max)

    @property
    def is_shaped(self) -> bool:
        """True: each shape is compiled when it is first seen."""
        return True

    def worth(self, rows: int, cells: int) -> int:
        """All of them where little is padded, else as many as a size holds."""
        size = bucket(self._sizes, rows)
        if (size - rows) * cells <= PAD_CELLS_MAX:
            return rows
        return max(size for size in self._sizes if size <= rows)

    def warm(self, arrays: Arrays) -> None:
        """Runs the rows on every stream at once: each stream compiles for a new shape by itself."""
        rows = len(next(iter(arrays.values())))
        arrays = _padded(arrays, bucket(self._sizes, rows))
        taken = [self._free.get() for _ in self._requests]
        try:
            for request in taken:
                request.start_async(arrays, share_inputs=True)
            for request in taken:
                request.wait()
        finally:
            for request in taken:
                self._free.put(request)

    def close(self) -> None:
        """Frees the infer requests and the compiled model."""
        while not self._free.empty():
            self._free.get()
        self._requests.clear()
        del self._compiled


def open_session(path: Path, signature: Signature, backend: Backend, options: SessionOptions) -> OpenvinoSession:
    """Compiles an OpenVINO IR file (`.xml` with its `.bin` beside it).

    The session's `backend` names the precision that the compiled model reports, not the one that was asked for: with
    precision `default`, recent CPUs run bf16 in silence.

    Raises:
        CorruptData: the file cannot be read or compiled, or its tensors are not the signature's.
    """
    config: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": options.threads_per_run * options.runs_max,
        "NUM_STREAMS": options.runs_max,
        # Pinned threads of two sessions would share one core while another idles.
        "ENABLE_CPU_PINNING": False,
    }
    if backend.precision != "default":
        # The quantised graph states which of its operators run at INT8; what is left of it stays at f32.
        config["INFERENCE_PRECISION_HINT"] = "f32" if backend.precision == "int8" else backend.precision
    try:
        # A core of its own: the plugin's caches then go away with the session.
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", config)
        reported = compiled.get_property("INFERENCE_PRECISION_HINT")
    except Exception as error:  # the library raises RuntimeError for everything
        raise artefact_corrupt(path, f"openvino: {_last_line(error)}") from error
    inputs = {name for port in compiled.inputs for name in port.get_names()}
    outputs = {name for port in compiled.outputs for name in port.get_names()}
    if not inputs >= set(signature.input_names) or not outputs >= set(signature.output_names):
        raise artefact_corrupt(path, f"its tensors are {sorted(inputs)} -> {sorted(outputs)}, not the signature's")
    # Of a quantised graph the library reports the precision of the rest.
    precision = "int8" if backend.precision == "int8" else reported.to_string()
    name = f"{backend.runtime}/{backend.device}/{precision}"
    return OpenvinoSession(compiled, name, signature, options.runs_max)


def convert_onnx(source: Path, target: Path, *, change: Callable[[Any], Any] = lambda model: model) -> None:
    """Writes an ONNX file as OpenVINO IR with f32 weights.

    `read_model`, not `convert_model`: the latter sends telemetry and waits for it when the process ends.

    Args:
        source: the ONNX file.
        target: the `.xml` file; its `.bin` comes beside it.
        change: makes the model that is written, an `openvino.Model`, of the one that was read.

    Raises:
        CorruptData: OpenVINO cannot read the ONNX file.
    """
    try:
        openvino.save_model(change(openvino.Core().read_model(source)), target, compress_to_fp16=False)
    except Exception as error:  # the library raises RuntimeError for everything
        raise artefact_corrupt(source, f"openvino: {_last_line(error)}") from error


def _padded(arrays: Arrays, rows: int) -> dict[str, NDArray[Any]]:
    """The arrays with their last row repeated up to `rows`: real values, since zeros may be slow or make NaN."""
    return {
        name: np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
        for name, array in arrays.items()
    }


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1][:200]
