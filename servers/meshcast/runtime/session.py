"""Session: one version of a model, loaded in one back-end, immutable until it is closed."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import CorruptData, InvalidInput
from meshcast.runtime.signature import Arrays, Lengths, Signature, quarter_steps

__all__ = [
    "Backend",
    "Session",
    "SessionOptions",
    "artefact_corrupt",
    "bucket",
    "difference",
    "parity_error",
    "powers",
    "rows_from",
    "steps",
]

BACKENDS = (
    "onnxruntime/cpu/f32",
    "onnxruntime/cuda/f32",
    "openvino/cpu/f32",
    "openvino/cpu/bf16",
    "openvino/cpu/int8",
    "openvino/cpu/default",
)
"""What a setting may ask for. Another text would be run as one of these and be named as what it is not."""

LONG_ROWS_MAX = 7
"""Largest batch in which the longer rows of a ragged signature are proved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Runtime, device and precision that a session is asked to use.

    Attributes:
        runtime: `onnxruntime`, `openvino` or `torch`.
        device: `cpu` or `cuda`.
        precision: `f32`, `bf16`, `int8` for the version's quantised graph, or `default` for whatever the runtime picks
            by itself (OpenVINO: bf16 on recent CPUs).
    """

    runtime: str
    device: str = "cpu"
    precision: str = "f32"

    def __str__(self) -> str:
        return f"{self.runtime}/{self.device}/{self.precision}"

    @classmethod
    def parse(cls, text: str) -> "Backend":
        """The back-end of a text as in `openvino/cpu/f32`; a missing device is cpu, a missing precision f32.

        Raises:
            InvalidInput: there is no such back-end; the message names those there are.
        """
        parts = text.split("/")
        found = cls(**dict(zip(("runtime", "device", "precision"), parts, strict=False)))
        if len(parts) > 3 or str(found) not in BACKENDS:
            raise InvalidInput(f"There is no back-end {text!r}; known: {', '.join(BACKENDS)}.", field="backend")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a session may use the host.

    Attributes:
        threads_per_run: threads of one run.
        runs_max: runs that may be under way at once.
        gpu_memory_bytes_max: most memory of a CUDA session's arena; None: the runtime's own default.
        device_id: which GPU.
    """

    threads_per_run: int = 1
    runs_max: int = 1
    gpu_memory_bytes_max: int | None = None
    device_id: int = 0


class Session(Protocol):
    """A loaded model. `run` may be called from several threads at once; nothing else changes it."""

    @property
    def backend(self) -> str:
        """Runtime, device and real precision, as in `onnxruntime/cpu/f32`."""

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name for inputs that fit the signature. Blocks; releases the GIL while it computes."""

    def buckets(self, rows_max: int) -> tuple[int, ...]:
        """Batch sizes that must have run before the session serves, ascending to `rows_max`."""

    @property
    def is_shaped(self) -> bool:
        """True when the first run at every shape costs more than a later one."""

    def worth(self, rows: int, cells: int) -> int:
        """How many of so many waiting ragged rows a run should take, each `cells` long, so that little is padded."""

    def warm(self, arrays: Arrays) -> None:
        """Runs the rows wherever a later run of that shape may run, so that none of those is a first one."""

    def close(self) -> None:
        """Gives the memory back. No run may be under way."""


def powers(rows_max: int) -> tuple[int, ...]:
    """1, 2, 4 and so on up to `rows_max`: enough for a runtime that keeps nothing per shape."""
    return tuple(sorted({min(1 << power, rows_max) for power in range(rows_max.bit_length() + 1)}))


def steps(rows_max: int) -> tuple[int, ...]:
    """1, 2, 4, 8, then steps of a quarter of the power of two: a runtime that compiles for each shape pads to these,
    at most a quarter of the rows for nothing.
    """
    return tuple(size for size in quarter_steps(rows_max) if size in (1, 2, 4, rows_max) or size >= 8)


def bucket(sizes: tuple[int, ...], rows: int) -> int:
    """The smallest of the sizes that holds the rows; `rows` itself where none does."""
    at = bisect_left(sizes, rows)
    return sizes[at] if at < len(sizes) else rows


def artefact_corrupt(path: Path, why: str) -> CorruptData:
    """The error for a model file that no back-end can use.

    Only the file's name is told to callers: the path is the host's own business.
    """
    return CorruptData(
        f"{path.name} cannot be loaded: {why}.", reason=error_reason_pb2.ERROR_REASON_ARTEFACT_CORRUPT, why=why[:200]
    )


def parity_error(
    session: Session, signature: Signature, inputs: Arrays, expected: Arrays, rows: Sequence[int]
) -> float:
    """Largest difference between a session's outputs and the expected ones, over several batch sizes.

    Rows of a ragged signature are proved at several lengths: each batch is cut to what its own rows need, while the
    expected outputs are those of the whole recorded width. So a graph with a frozen length shows, and so does one in
    which padding changes an output.

    Args:
        session: the session under test.
        signature: names of its tensors.
        inputs: recorded inputs, at least one row; they are repeated where a batch is larger.
        expected: the torch outputs of `inputs`.
        rows: batch sizes to be proved.

    Returns:
        The difference as `difference` gives it.
    """
    worst = 0.0
    for size in rows:
        for pick, lengths in _batches(signature, inputs, size):
            batch = {name: np.ascontiguousarray(inputs[name][pick]) for name in signature.input_names}
            given = session.run(signature.at_lengths(batch, lengths) if lengths else batch)
            worst = max(worst, difference(signature, given, {name: expected[name][pick] for name in expected}))
    return worst


def _batches(signature: Signature, inputs: Arrays, size: int) -> Iterator[tuple[NDArray[np.int64], Lengths]]:
    """Rows to be proved as batches of `size`, each with the lengths that it is cut to."""
    recorded = len(next(iter(inputs.values())))
    if not signature.is_ragged:
        yield np.arange(size) % recorded, ()
        return
    # Long rows are dear, and a frozen axis shows in a small batch too: large ones are proved on short rows.
    for place in {0} if size > LONG_ROWS_MAX else {0, recorded // 2, recorded - 1}:
        yield rows_from(signature, inputs, place, size)


def rows_from(signature: Signature, inputs: Arrays, place: int, size: int) -> tuple[NDArray[np.int64], Lengths]:
    """Recorded rows for one run of a ragged signature, and the padded lengths that they are cut to.

    Args:
        signature: of the model.
        inputs: recorded inputs.
        place: of the row that decides the lengths, among all in order of length; rows that fit into them join it.
        size: rows, repeated where there are fewer, but no more than a run takes of this length.
    """
    own = signature.own_lengths(inputs)
    first = int(np.argsort(own.max(axis=1), kind="stable")[place])
    lengths = tuple(own[first].tolist())
    fitting = np.flatnonzero((own <= own[first]).all(axis=1))
    pool = np.concatenate([[first], fitting[fitting != first]])
    return np.resize(pool, min(size, signature.rows_at(lengths))), lengths


def difference(signature: Signature, given: Arrays, expected: Arrays) -> float:
    """Largest difference between outputs of the same rows, over all of the signature's outputs.

    Returns:
        The difference in the outputs' units, or, for a `relative` signature, as a share of the largest expected value
        of the same row and output; infinite where the shape differs or one side is not finite where the other is.
    """
    worst = 0.0
    for name in signature.output_names:
        got, wanted = np.asarray(given[name]), np.asarray(expected[name])
        if got.shape != wanted.shape:
            return float("inf")
        with np.errstate(invalid="ignore"):
            apart = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
        # Equal infinities subtract to NaN, and so does a NaN on one side only: tell them apart.
        apart[(got == wanted) | (np.isnan(got) & np.isnan(wanted))] = 0.0
        if np.isnan(apart).any():
            return float("inf")
        if signature.relative:
            apart = _shares(apart, wanted)
        worst = max(worst, float(apart.max(initial=0.0)))
    return worst


def _shares(difference: NDArray[np.float64], wanted: NDArray[Any]) -> NDArray[np.float64]:
    """Differences as shares of their row's largest finite value; a row of zeros is held to the difference itself."""
    rows = len(wanted)
    finite = np.where(np.isfinite(wanted), np.abs(wanted.astype(np.float64)), 0.0)
    size: NDArray[np.float64] = finite.reshape(rows, -1).max(axis=1, initial=0.0)
    size[size == 0.0] = 1.0
    shares: NDArray[np.float64] = difference.reshape(rows, -1) / size[:, None]
    return shares
