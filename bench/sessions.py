"""Sessions beside the services: the one that a service serves, opened in the benchmark's own process, and its runs."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meshcast.runtime import Arrays, Backend, Repository, Session, SessionOptions, Signature
from meshcast.runtime.candidates import open_candidate


def open_session(root: Path, model: str, backend: str, version: int) -> Session:
    """A session of one thread over a version of a repository.

    Args:
        root: of the repository.
        model: its name.
        backend: as a receipt states it, as in `onnxruntime/cpu/f32`.
        version: of the model.
    """
    repository = Repository(root)
    evidence = repository.evidence(model, version)
    paths = repository.paths(model, version)
    return open_candidate(Backend.parse(backend), paths, evidence, evidence.signature, SessionOptions())


def runs_of(signature: Signature, arrays: Arrays) -> list[Arrays]:
    """The runs that a batcher makes of rows: those of the same padded lengths together, as many as one run takes."""
    own = signature.own_lengths(arrays)
    runs: list[Arrays] = []
    for lengths in np.unique(own, axis=0).tolist():
        alike, most = np.flatnonzero((own == lengths).all(axis=1)), signature.rows_at(tuple(lengths))
        for first in range(0, len(alike), most):
            part = {name: np.ascontiguousarray(rows[alike[first : first + most]]) for name, rows in arrays.items()}
            runs.append(signature.at_lengths(part, tuple(lengths)))
    return runs


def rows_per_second(session: Session, runs: Sequence[Arrays], seconds: float) -> float:
    """Rows per second of runs that are repeated for a while, one after the other."""
    rows, of_all, start = 0, sum(len(next(iter(run.values()))) for run in runs), time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for run in runs:
            session.run(run)
        rows += of_all
    return rows / elapsed
