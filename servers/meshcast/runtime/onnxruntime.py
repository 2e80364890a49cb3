"""Session over onnxruntime: CPU, and CUDA where the provider is installed. The only module that imports onnxruntime."""

import sys
from pathlib import Path
from typing import Any, cast

import onnxruntime
from numpy.typing import NDArray

from meshcast.runtime.session import Backend, SessionOptions, artefact_corrupt, powers
from meshcast.runtime.signature import Arrays, Signature

__all__ = ["VERSION", "OnnxSession", "has_cuda", "open_session"]

VERSION: str = onnxruntime.__version__
"""Version of the library, part of the host's fingerprint."""

onnxruntime.set_default_logger_severity(3)  # errors only: its warnings go past our log to stderr


def has_cuda() -> bool:
    """True when the installed onnxruntime carries the CUDA provider, and an NVIDIA driver is loaded to serve it."""
    has_driver = sys.platform != "linux" or Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()
    return has_driver and "CUDAExecutionProvider" in onnxruntime.get_available_providers()


class OnnxSession:
    """A model loaded by onnxruntime."""

    def __init__(self, session: onnxruntime.InferenceSession, backend: Backend, signature: Signature) -> None:
        self._session = session
        self._backend = str(backend)
        self._outputs = list(signature.output_names)
        # The wrapper's `run` re-checks the feed's names on each call; the signature has done that already.
        self._run = session._sess.run

    @property
    def backend(self) -> str:
        """Runtime, device and precision."""
        return self._backend

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name."""
        return dict(zip(self._outputs, self._run(self._outputs, arrays, None), strict=True))

    def buckets(self, rows_max: int) -> tuple[int, ...]:
        """Powers of two."""
        return powers(rows_max)

    @property
    def is_shaped(self) -> bool:
        """False: nothing is kept per shape."""
        return False

    def worth(self, rows: int, cells: int) -> int:
        """All of them: no row is padded."""
        return rows

    def warm(self, arrays: Arrays) -> None:
        """Runs the rows once: the session keeps nothing per shape or thread."""
        self.run(arrays)

    def close(self) -> None:
        """Frees the native session."""
        del self._run, self._session


def open_session(path: Path, signature: Signature, backend: Backend, options: SessionOptions) -> OnnxSession:
    """Loads an ONNX file.

    Raises:
        CorruptData: the file cannot be parsed, or its tensors are not the signature's.
    """
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads_per_run
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = 4
    # Batches come in any size: memory patterns are kept per shape and would grow with each new one.
    settings.enable_mem_pattern = False
    # So does the arena, which keeps blocks that fit the lengths it has seen: 173 MB of a MiniLM against 73 MB without
    # it, and no run is slower.
    settings.enable_cpu_mem_arena = not signature.is_ragged
    # Spinning threads of an idle session take a core from the sessions at work.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if backend.device == "cuda":
        cuda: dict[str, Any] = {"device_id": options.device_id, "arena_extend_strategy": "kSameAsRequested"}
        if options.gpu_memory_bytes_max is not None:
            cuda["gpu_mem_limit"] = options.gpu_memory_bytes_max
        # TF32 would lower the precision of what is called f32.
        cuda["use_tf32"] = 0
        providers.insert(0, ("CUDAExecutionProvider", cuda))
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=providers)
    except Exception as error:  # the library raises several unrelated classes
        raise artefact_corrupt(path, f"onnxruntime: {_first_line(error)}") from error
    if backend.device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise artefact_corrupt(path, "onnxruntime fell back from CUDA to the CPU")
    inputs = {node.name for node in session.get_inputs()}
    outputs = {node.name for node in session.get_outputs()}
    if inputs != set(signature.input_names) or not outputs >= set(signature.output_names):
        raise artefact_corrupt(path, f"its tensors are {sorted(inputs)} -> {sorted(outputs)}, not the signature's")
    return OnnxSession(cast(onnxruntime.InferenceSession, session), backend, signature)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
