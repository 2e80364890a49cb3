"""Choice of a back-end on the host that serves: open the candidates, prove them, measure them, keep the fastest."""

import importlib.util
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import CorruptData, MeshError
from meshcast.runtime.candidates import Candidate, VersionPaths, gate, open_candidate, warm
from meshcast.runtime.evidence import OPENVINO, RECORDED, Evidence, Recorded
from meshcast.runtime.loader import give_back_memory
from meshcast.runtime.session import Backend, Session, SessionOptions
from meshcast.runtime.signature import Signature
from meshcast.runtime.speeds import SpeedFile, feeds, measure

__all__ = ["Choice", "Chooser", "Pace"]

log = structlog.get_logger()

SMALL_BYTES_MAX = 32 << 20
"""Files of a version up to which all of its back-ends may be open at once to be measured in turns."""


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


class Chooser:
    """Chooses and opens back-ends on this host. Everything here blocks: call it off the event loop.

    Args:
        asked: `auto`, or a back-end as in `openvino/cpu/f32` or `onnxruntime`; then nothing else is tried.
        options: how sessions may use the host.
        device: `auto`, `cpu` or `cuda`.
        allow_bf16: True to let reduced precision compete where the signature states a tolerance for it.
        allow_int8: True to let a version's INT8 graph compete where its accuracy gate accepted it.
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
        allow_int8: bool = True,
        gpu_rows_max: int = 2048,
        budget_s: float = 1.5,
        cache_dir: Path | None = None,
    ) -> None:
        self._asked = asked
        self._options = options
        self._device = device
        self._allow_bf16 = allow_bf16
        self._allow_int8 = allow_int8
        self._gpu_rows_max = gpu_rows_max
        self._budget_s = budget_s
        self._cache_dir = cache_dir

    def rows_of(self, backend: Backend, rows_max: int) -> int:
        """Largest batch of a back-end, where the others take `rows_max`."""
        return self._gpu_rows_max if backend.device == "cuda" else rows_max

    def backends(self, evidence: Evidence) -> tuple[Backend, ...]:
        """The back-ends that compete here for a version: those that it holds files for."""
        if self._asked != "auto":
            return (Backend.parse(self._asked),)
        found: list[Backend] = []
        if self._device in ("auto", "cuda") and importlib.util.find_spec("onnxruntime") is not None:
            from meshcast.runtime import onnxruntime

            if onnxruntime.has_cuda():
                found.append(Backend(runtime="onnxruntime", device="cuda"))
        if self._device in ("auto", "cpu"):
            found.append(Backend(runtime="onnxruntime"))
            if OPENVINO in evidence.files:
                found.append(Backend(runtime="openvino"))
            if OPENVINO in evidence.files and self._allow_bf16:
                found.append(Backend(runtime="openvino", precision="bf16"))
            if self._allow_int8 and evidence.int8 is not None and evidence.int8.accepted:
                found.append(Backend(runtime="openvino", precision="int8"))
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
        version = _Version(paths, evidence, signature, recorded, rows_max)
        backends = self.backends(evidence)
        kept = SpeedFile(self._cache_dir, f"{evidence.graph} {self._options}")
        speeds = kept.read()
        if keep is not None or all(str(backend) in speeds for backend in backends) or len(backends) == 1:
            order = sorted(backends, key=lambda backend: -speeds.get(str(backend), 0.0))
            if keep is not None:
                order = [keep, *(backend for backend in order if backend != keep)]
            return self._first(order, version, speeds, pace)
        size = sum(path.stat().st_size for path in (*paths.version_dir.iterdir(), *paths.meta_dir.iterdir()))
        if signature.is_ragged or size > SMALL_BYTES_MAX:
            return self._fastest_by_turns(backends, version, kept, pace)
        return self._fastest(backends, version, kept)

    def _prove(self, backend: Backend, version: "_Version") -> tuple[Session | None, Candidate]:
        """A session that has proved itself; None where it is refused."""
        try:
            session = open_candidate(backend, version.paths, version.evidence, version.signature, self._options)
        except MeshError as error:
            return None, Candidate(backend=str(backend), accepted=False, refusal=error.message)
        candidate = gate(session, version.signature, version.recorded, evidence=version.evidence)
        return self._kept(session, candidate)

    def _open(self, backend: Backend, version: "_Version", pace: "Pace") -> tuple[Session | None, Candidate]:
        """A session that has proved itself and is warm in every batch bucket; None where it is refused."""
        session, candidate = self._prove(backend, version)
        pace.step()
        if session is None:
            return None, candidate
        rows = self.rows_of(backend, version.rows_max)
        try:
            for _ in warm(session, version.signature, version.recorded, rows_max=rows):
                pace.step()
        except Exception as error:  # the libraries raise unrelated classes: out of a GPU's memory, say
            candidate = _fails(candidate, rows, error)
        return self._kept(session, candidate)

    def _kept(self, session: Session, candidate: Candidate) -> tuple[Session | None, Candidate]:
        """The session, unless it is refused: then it is closed."""
        if candidate.accepted:
            return session, candidate
        session.close()
        log.warning("a back-end was refused", backend=candidate.backend, why=candidate.refusal)
        return None, candidate

    def _first(
        self, order: Sequence[Backend], version: "_Version", speeds: Mapping[str, float], pace: "Pace"
    ) -> Choice:
        """The first back-end of the order that proves itself; those after it are described by the export's evidence."""
        seen: list[Candidate] = []
        for place, backend in enumerate(order):
            session, candidate = self._open(backend, version, pace)
            if session is None:
                seen.append(candidate)
                continue
            chosen = replace(candidate, rows_per_s=speeds.get(str(backend)))
            known = _exported(version.evidence)
            rest = [
                replace(known[str(other)], rows_per_s=speeds.get(str(other)))
                for other in order[place + 1 :]
                if str(other) in known
            ]
            return Choice(session=session, asked=backend, candidates=_ranked([chosen, *rest, *seen], first=chosen))
        raise _all_refused(seen)

    def _fastest(self, backends: Sequence[Backend], version: "_Version", kept: SpeedFile) -> Choice:
        opened: list[tuple[Backend, Session, Candidate]] = []
        refused: list[Candidate] = []
        for backend in backends:
            session, candidate = self._open(backend, version, Pace(0.0))
            if session is None:
                refused.append(candidate)
                continue
            opened.append((backend, session, candidate))
        if not opened:
            raise _all_refused(refused)
        batches = [
            (session, feeds(version.signature, version.recorded, self.rows_of(backend, version.rows_max)))
            for backend, session, _ in opened
        ]
        rates = measure(batches, self._budget_s)
        best = max(range(len(rates)), key=rates.__getitem__)
        measured = [
            replace(candidate, rows_per_s=round(rate)) for (_, _, candidate), rate in zip(opened, rates, strict=True)
        ]
        if not refused:  # a refusal may be this version's alone: then measure again next time
            kept.write({str(backend): rate for (backend, _, _), rate in zip(opened, rates, strict=True)})
        for place, (_, session, _) in enumerate(opened):
            if place != best:
                session.close()
        candidates = _ranked([*measured, *refused], first=measured[best])
        _log_choice(opened[best][1].backend, measured)
        return Choice(session=opened[best][1], asked=opened[best][0], candidates=candidates)

    def _fastest_by_turns(
        self, backends: Sequence[Backend], version: "_Version", kept: SpeedFile, pace: "Pace"
    ) -> Choice:
        """The fastest of back-ends that are open one at a time: of a large version several would not fit, and of a
        ragged one it takes long to warm each.
        """
        found: dict[Backend, Candidate] = {}
        for backend in backends:
            session, candidate = self._prove(backend, version)
            if session is not None:
                rows = self.rows_of(backend, version.rows_max)
                try:
                    batches = feeds(version.signature, version.recorded, rows)
                    (rate,) = measure([(session, batches)], self._budget_s / len(backends))
                    candidate = replace(candidate, rows_per_s=round(rate))
                except Exception as error:  # the libraries raise unrelated classes
                    candidate = _fails(candidate, rows, error)
                session.close()
                give_back_memory()
            found[backend] = candidate
        proved = {backend: candidate for backend, candidate in found.items() if candidate.accepted}
        if not proved:
            raise _all_refused(list(found.values()))
        if len(proved) == len(found):
            kept.write({str(backend): candidate.rows_per_s or 0.0 for backend, candidate in proved.items()})
        order = sorted(proved, key=lambda backend: -(proved[backend].rows_per_s or 0.0))
        speeds = {str(backend): candidate.rows_per_s or 0.0 for backend, candidate in proved.items()}
        choice = self._first(order, version, speeds, pace)
        chosen = choice.candidates[0]
        rest = [candidate for backend, candidate in found.items() if backend != choice.asked]
        _log_choice(chosen.backend, [chosen, *rest])
        return replace(choice, candidates=_ranked([chosen, *rest], first=chosen))


@dataclass(frozen=True, slots=True)
class _Version:
    """A version under choice: where it lies, what its export proved, and the largest batch in use."""

    paths: VersionPaths
    evidence: Evidence
    signature: Signature
    recorded: Recorded
    rows_max: int


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


def _exported(evidence: Evidence) -> dict[str, Candidate]:
    """How back-ends did when the version was exported, by name."""
    found = {
        proof.backend: Candidate(
            backend=proof.backend, accepted=proof.accepted, refusal=proof.refusal, parity_error=proof.error
        )
        for proof in evidence.proofs
    }
    if evidence.int8 is not None:
        name, proof = str(Backend(runtime="openvino", precision="int8")), evidence.int8
        found[name] = Candidate(backend=name, accepted=proof.accepted, refusal=proof.refusal, parity_error=proof.error)
    return found


def _fails(candidate: Candidate, rows: int, error: Exception) -> Candidate:
    why = f"fails in batches of up to {rows} rows: {(str(error).splitlines() or [''])[0][:200]}"
    return replace(candidate, accepted=False, refusal=why)


def _log_choice(backend: str, measured: Sequence[Candidate]) -> None:
    speeds = {candidate.backend: candidate.rows_per_s for candidate in measured if candidate.accepted}
    log.info("back-end chosen", backend=backend, rows_per_s=speeds)


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
