"""Choice of a back-end on the host that serves: open the candidates, prove them, measure them, keep the fastest."""

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import CorruptData, MeshError, Precondition
from meshcast.runtime.evidence import ONNX, OPENVINO, OPENVINO_WEIGHTS, PROOF_ROWS, RECORDED, Evidence, Recorded
from meshcast.runtime.session import Backend, Session, SessionOptions, parity_error
from meshcast.runtime.signature import Signature

__all__ = [
    "Candidate",
    "Choice",
    "Chooser",
    "VersionPaths",
    "gate",
    "host_fingerprint",
    "open_candidate",
    "tolerance",
]

log = structlog.get_logger()

SIZES = (1, 8, 64)  # batches that decide beside the largest: what single calls make at low, middling and high load


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPaths:
    """Where one version lies: Triton's folder, and what is beside it."""

    version_dir: Path
    meta_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to run a version on this host, and how it did.

    Attributes:
        backend: runtime, device and real precision.
        accepted: True when it may serve.
        refusal: why it may not; empty when accepted.
        parity_error: largest absolute difference to the recorded torch outputs; None when it could not run.
        rows_per_s: rows per second, geometric mean over the batch sizes that decide; None when not measured.
    """

    backend: str
    accepted: bool
    refusal: str = ""
    parity_error: float | None = None
    rows_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A session that may serve, and everything that could have.

    Attributes:
        session: open, proved and warmed.
        asked: the back-end as it was asked for; a later version asks for the same.
        candidates: accepted ones first, fastest first.
    """

    session: Session
    asked: Backend
    candidates: tuple[Candidate, ...]


def tolerance(signature: Signature, backend: str) -> float | None:
    """Largest parity error that a back-end may show; None: its precision never serves this model."""
    return signature.tolerance if backend.endswith("/f32") else signature.tolerance_reduced


def open_candidate(
    backend: Backend, paths: VersionPaths, evidence: Evidence, signature: Signature, options: SessionOptions
) -> Session:
    """Opens a version in a back-end, its files checked against their sums first.

    Raises:
        CorruptData: a file is missing, altered or not loadable.
        Precondition: EXTRA_MISSING, the runtime is not installed.
    """
    if backend.runtime not in ("onnxruntime", "openvino") or importlib.util.find_spec(backend.runtime) is None:
        raise Precondition(
            f"{backend.runtime} is not installed here: pip install 'meshcast[servers]'",
            reason=error_reason_pb2.ERROR_REASON_EXTRA_MISSING,
            extra="servers",
            command="pip install 'meshcast[servers]'",
        )
    if backend.runtime == "onnxruntime":
        from meshcast.runtime import onnxruntime

        path = paths.version_dir / ONNX
        evidence.verify(path)
        return onnxruntime.open_session(path, signature, backend, options)

    from meshcast.runtime import openvino

    path = paths.meta_dir / OPENVINO
    evidence.verify(path)
    evidence.verify(paths.meta_dir / OPENVINO_WEIGHTS)
    return openvino.open_session(path, signature, backend, options)


def gate(session: Session, signature: Signature, recorded: Recorded, *, rows: Sequence[int] = PROOF_ROWS) -> Candidate:
    """The parity gate: the session's outputs against the recorded torch outputs, at every batch size of `rows`."""
    bound = tolerance(signature, session.backend)
    worst = 0.0
    for size in rows:
        try:
            error = parity_error(session, signature, recorded.inputs, recorded.outputs, (size,))
        except Exception as failure:  # whatever a library raises on a graph that does not fit
            frozen = f" but not at {rows[0]}: its batch is frozen" if size != rows[0] else ""
            lines = [line for line in str(failure).splitlines() if not line.startswith("Exception from")] or [""]
            why = f"fails at a batch of {size}{frozen}: {lines[0][:160]}"
            return Candidate(backend=session.backend, accepted=False, refusal=why)
        worst = max(worst, error)
        if bound is not None and not error <= bound:
            why = f"differs from torch by {error:.2g} at a batch of {size}, more than {bound:.2g}"
            return Candidate(backend=session.backend, accepted=False, refusal=why, parity_error=worst)
    if bound is None:
        precision = session.backend.rsplit("/", 1)[-1]
        why = (
            f"runs at {precision}, which differs from torch by {worst:.2g}, more than {signature.tolerance:.2g}"
            if worst > signature.tolerance
            else f"runs at {precision}, which this model does not allow"
        )
        return Candidate(backend=session.backend, accepted=False, refusal=why, parity_error=worst)
    return Candidate(backend=session.backend, accepted=True, parity_error=worst)


def warm(session: Session, signature: Signature, recorded: Recorded, *, rows_max: int) -> Iterator[int]:
    """Warms every batch bucket, one a step, so that the caller can pace it; yields the bucket."""
    inputs = recorded.inputs or signature.example(1)
    have = len(next(iter(inputs.values())))
    for size in session.buckets(rows_max):
        pick = [row % have for row in range(size)]
        session.warm({name: inputs[name][pick] for name in signature.input_names})
        yield size


class Chooser:
    """Chooses and opens back-ends on this host. Everything here blocks: call it off the event loop.

    Args:
        asked: `auto`, or a back-end as in `openvino/cpu/f32` or `onnxruntime`; then nothing else is tried.
        options: how sessions may use the host.
        device: `auto`, `cpu` or `cuda`.
        allow_bf16: True to let reduced precision compete where the signature states a tolerance for it.
        gpu_rows_max: largest batch of a CUDA session; those of the others are bounded by the call and the signature.
        budget_s: most time to measure speeds; they are kept by host and graph.
        cache_dir: where they are kept; None: nowhere.
    """

    def __init__(
        self,
        *,
        asked: str = "auto",
        options: SessionOptions,
        device: str = "auto",
        allow_bf16: bool = False,
        gpu_rows_max: int = 2048,
        budget_s: float = 1.5,
        cache_dir: Path | None = None,
    ) -> None:
        self._asked = asked
        self._options = options
        self._device = device
        self._allow_bf16 = allow_bf16
        self._gpu_rows_max = gpu_rows_max
        self._budget_s = budget_s
        self._cache_dir = cache_dir

    def rows_of(self, backend: Backend, rows_max: int) -> int:
        """Largest batch of a back-end, where the others take `rows_max`."""
        return self._gpu_rows_max if backend.device == "cuda" else rows_max

    def backends(self) -> tuple[Backend, ...]:
        """The back-ends that compete here."""
        if self._asked != "auto":
            return (Backend.parse(self._asked),)
        found: list[Backend] = []
        if self._device in ("auto", "cuda") and importlib.util.find_spec("onnxruntime") is not None:
            from meshcast.runtime import onnxruntime

            if onnxruntime.has_cuda():
                found.append(Backend(runtime="onnxruntime", device="cuda"))
        if self._device in ("auto", "cpu"):
            found += [Backend(runtime="onnxruntime"), Backend(runtime="openvino")]
            if self._allow_bf16:
                found.append(Backend(runtime="openvino", precision="bf16"))
        return tuple(found)

    def choose(
        self,
        paths: VersionPaths,
        signature: Signature,
        *,
        keep: Backend | None = None,
        rows_max: int | None = None,
        pace: "Pace | None" = None,
    ) -> Choice:
        """Opens the version in the fastest back-end that proves itself.

        Args:
            paths: where the version lies.
            signature: of the model; the version's own must be the same.
            keep: the back-end that serves the model now; then nothing is measured, and another one is taken only when
                this one is refused.
            rows_max: largest batch in use; the signature's when None.
            pace: yields the host to serving between steps; None: no pauses.

        Raises:
            CorruptData: the evidence cannot be read, names another signature, or no candidate was accepted.
        """
        pace = pace or Pace(0.0)
        rows_max = min(rows_max or signature.rows_max, signature.rows_max)
        evidence = Evidence.load(paths.meta_dir / "export.json")
        if not evidence.signature.same_tensors(signature):
            raise CorruptData("The version was exported for another signature.", why="signature")
        evidence.verify(paths.meta_dir / RECORDED)
        recorded = Recorded.load(paths.meta_dir / RECORDED)
        pace.step()
        backends = self.backends()
        speeds = self._read_speeds(evidence.graph)
        if keep is not None or all(str(backend) in speeds for backend in backends) or len(backends) == 1:
            order = sorted(backends, key=lambda backend: -speeds.get(str(backend), 0.0))
            if keep is not None:
                order = [keep, *(backend for backend in order if backend != keep)]
            return self._first(order, paths, evidence, signature, recorded, speeds, rows_max, pace)
        return self._fastest(backends, paths, evidence, signature, recorded, rows_max)

    def _open(
        self,
        backend: Backend,
        paths: VersionPaths,
        evidence: Evidence,
        signature: Signature,
        recorded: Recorded,
        rows_max: int,
        pace: "Pace",
    ) -> tuple[Session | None, Candidate]:
        """A session that has proved itself and is warm in every batch bucket; None where it is refused."""
        try:
            session = open_candidate(backend, paths, evidence, signature, self._options)
        except MeshError as error:
            return None, Candidate(backend=str(backend), accepted=False, refusal=error.message)
        pace.step()
        candidate = gate(session, signature, recorded)
        if candidate.accepted:
            rows = self.rows_of(backend, rows_max)
            try:
                for _ in warm(session, signature, recorded, rows_max=rows):
                    pace.step()
            except Exception as error:  # the libraries raise unrelated classes: out of a GPU's memory, say
                why = f"fails in batches of up to {rows} rows: {(str(error).splitlines() or [''])[0][:200]}"
                candidate = replace(candidate, accepted=False, refusal=why)
        if not candidate.accepted:
            session.close()
            log.warning("a back-end was refused", backend=candidate.backend, why=candidate.refusal)
            return None, candidate
        return session, candidate

    def _first(
        self,
        order: Sequence[Backend],
        paths: VersionPaths,
        evidence: Evidence,
        signature: Signature,
        recorded: Recorded,
        speeds: Mapping[str, float],
        rows_max: int,
        pace: "Pace",
    ) -> Choice:
        """The first back-end of the order that proves itself; those after it are described by the export's evidence."""
        seen: list[Candidate] = []
        for place, backend in enumerate(order):
            session, candidate = self._open(backend, paths, evidence, signature, recorded, rows_max, pace)
            if session is None:
                seen.append(candidate)
                continue
            chosen = replace(candidate, rows_per_s=speeds.get(str(backend)))
            known = {proof.backend: proof for proof in evidence.proofs}
            rest = [
                Candidate(
                    backend=str(other),
                    accepted=proof.accepted,
                    refusal=proof.refusal,
                    parity_error=proof.error,
                    rows_per_s=speeds.get(str(other)),
                )
                for other in order[place + 1 :]
                if (proof := known.get(str(other))) is not None
            ]
            return Choice(session=session, asked=backend, candidates=_ranked([chosen, *rest, *seen], first=chosen))
        raise _all_refused(seen)

    def _fastest(
        self,
        backends: Sequence[Backend],
        paths: VersionPaths,
        evidence: Evidence,
        signature: Signature,
        recorded: Recorded,
        rows_max: int,
    ) -> Choice:
        opened: list[tuple[Backend, Session, Candidate]] = []
        refused: list[Candidate] = []
        for backend in backends:
            session, candidate = self._open(backend, paths, evidence, signature, recorded, rows_max, Pace(0.0))
            if session is None:
                refused.append(candidate)
                continue
            opened.append((backend, session, candidate))
        if not opened:
            raise _all_refused(refused)
        largest = [self.rows_of(backend, rows_max) for backend, _, _ in opened]
        sizes = [(session, sorted({*SIZES, rows})) for (_, session, _), rows in zip(opened, largest, strict=True)]
        rates = [_score(by_size) for by_size in _measure(sizes, recorded, self._budget_s)]
        best = max(range(len(rates)), key=rates.__getitem__)
        measured = [
            replace(candidate, rows_per_s=round(rate)) for (_, _, candidate), rate in zip(opened, rates, strict=True)
        ]
        if not refused:  # a refusal may be this version's alone: then measure again next time
            kept = {str(backend): rate for (backend, _, _), rate in zip(opened, rates, strict=True)}
            self._write_speeds(evidence.graph, kept)
        for place, (_, session, _) in enumerate(opened):
            if place != best:
                session.close()
        candidates = _ranked([*measured, *refused], first=measured[best])
        log.info(
            "back-end chosen",
            backend=opened[best][1].backend,
            rows_per_s={candidate.backend: candidate.rows_per_s for candidate in measured},
        )
        return Choice(session=opened[best][1], asked=opened[best][0], candidates=candidates)

    def _speeds_path(self, graph: str) -> Path | None:
        if self._cache_dir is None:
            return None
        key = hashlib.sha256(f"{host_fingerprint()} {graph} {self._options}".encode()).hexdigest()[:24]
        return self._cache_dir / f"speeds-{key}.json"

    def _read_speeds(self, graph: str) -> dict[str, float]:
        path = self._speeds_path(graph)
        if path is None:
            return {}
        try:
            return {str(name): float(speed) for name, speed in json.loads(path.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError):  # never written, or half: measure again
            return {}

    def _write_speeds(self, graph: str, speeds: Mapping[str, float]) -> None:
        path = self._speeds_path(graph)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(dict(speeds)), "utf-8")
            temporary.replace(path)
        except OSError as error:
            log.warning("the measured speeds could not be kept", why=error.strerror)


class Pace:
    """Pauses between the steps of a load, so that it takes at most a share of one core from serving.

    Args:
        rest: seconds of pause for each second of work; 0 for none.
    """

    def __init__(self, rest: float) -> None:
        self._rest = rest
        self._since = time.monotonic()

    def step(self) -> None:
        """A step has ended: rests for its share."""
        if self._rest > 0.0:
            time.sleep(min(0.2, (time.monotonic() - self._since) * self._rest))
        self._since = time.monotonic()


def _score(seconds: Mapping[int, float]) -> float:
    """Rows per second of a back-end: the geometric mean over the batch sizes, so that each size counts alike."""
    return math.exp(sum(math.log(rows / took) for rows, took in seconds.items()) / len(seconds))


def _measure(
    sessions: Sequence[tuple[Session, Sequence[int]]], recorded: Recorded, budget_s: float
) -> list[dict[int, float]]:
    """Best seconds of a run by batch size, for each session; in turns, so that strangers disturb all alike."""
    have = len(next(iter(recorded.inputs.values())))
    feeds = {
        size: {name: values[np.arange(size) % have] for name, values in recorded.inputs.items()}
        for size in {size for _, sizes in sessions for size in sizes}
    }
    best = [dict.fromkeys(sizes, float("inf")) for _, sizes in sessions]
    end = time.perf_counter() + budget_s
    rounds = 0
    while rounds < 3 or (time.perf_counter() < end and rounds < 200):
        rounds += 1
        for times, (session, sizes) in zip(best, sessions, strict=True):
            for size in sizes:
                began = time.perf_counter()
                session.run(feeds[size])
                times[size] = min(times[size], time.perf_counter() - began)
    return best


def _ranked(candidates: Sequence[Candidate], *, first: Candidate) -> tuple[Candidate, ...]:
    rest = [candidate for candidate in candidates if candidate is not first]
    rest.sort(key=lambda candidate: (not candidate.accepted, -(candidate.rows_per_s or 0.0)))
    return (first, *rest)


def _all_refused(candidates: Sequence[Candidate]) -> CorruptData:
    why = "; ".join(f"{candidate.backend}: {candidate.refusal.rstrip('.')}" for candidate in candidates)
    return CorruptData(
        f"No back-end may serve the version: {why or 'none is installed'}.",
        reason=error_reason_pb2.ERROR_REASON_ARTEFACT_CORRUPT,
        why=why[:500],
    )


def host_fingerprint() -> str:
    """A text that differs between hosts that may rank back-ends differently: processor, cores, library versions."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        processor = "|".join(sorted({line for line in lines if line.startswith(wanted)}))
    except OSError:  # not Linux
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"{name} {_version(name)}" for name in ("onnxruntime", "onnxruntime-gpu", "openvino", "numpy")]
    with contextlib.suppress(OSError):  # no NVIDIA driver
        gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        versions += [line for gpu in gpus for line in gpu.read_text("utf-8").splitlines() if line.startswith("Model")]
    return hashlib.sha256("\n".join([processor, str(cores), *versions]).encode()).hexdigest()


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"
