"""Sessions beside the services: the one that a service serves, opened in the benchmark's own process, and its runs."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meshcast.runtime import Arrays, Backend, Repository, RowGroup, Session, SessionOptions, Signature
from meshcast.runtime.candidates import open_candidate
from meshcast.services.analyzer.embedder import EMBEDDER
from meshcast.services.analyzer.embedder.build import built_version
from meshcast.services.analyzer.embedder.tokens import group, tokenize

Embeddings = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Embeddings]


def open_session(root: Path, model: str, backend: str, version: int, *, threads: int = 1) -> Session:
    """A session over a version of a repository.

    Args:
        root: of the repository.
        model: its name.
        backend: as a receipt states it, as in `onnxruntime/cpu/f32`.
        version: of the model.
        threads: of a run.
    """
    repository = Repository(root)
    evidence = repository.evidence(model, version)
    paths = repository.paths(model, version)
    options = SessionOptions(threads_per_run=threads)
    return open_candidate(Backend.parse(backend), paths, evidence, evidence.signature, options)


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


def open_embedder(root: Path, backend: str, *, threads: int = 1) -> Session:
    """A session over the newest embedder of a repository; arguments as of `open_session`."""
    return open_session(root, EMBEDDER.name, backend, built_version(root) or 1, threads=threads)


def embedding_by(session: Session) -> Embed:
    """What embeds texts by a session of the embedder: float32, shape (texts, 384), in their order."""

    def embed(texts: Sequence[str]) -> Embeddings:
        found = np.zeros((len(texts), 384), dtype=np.float32)
        for rows in embedder_runs(session, tokenize(texts).tokens):
            found[rows.positions] = session.run(rows.arrays)["embedding"]
        return found

    return embed


def embedder_runs(session: Session, tokens: Sequence[NDArray[np.int32]]) -> list[RowGroup]:
    """Texts of one padded length together, as many as the session runs without computing rows for nothing."""
    runs = []
    for positions, arrays in group(tokens):
        first = 0
        while first < len(positions):
            part = slice(first, first + session.worth(len(positions) - first, arrays["tokens"].shape[1]))
            runs.append(RowGroup(positions[part], {"tokens": arrays["tokens"][part]}))
            first = part.stop
    return runs


def rows_per_second(session: Session, runs: Sequence[Arrays], seconds: float) -> float:
    """Rows per second of runs that are repeated for a while, one after the other."""
    rows, of_all, start = 0, sum(len(next(iter(run.values()))) for run in runs), time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for run in runs:
            session.run(run)
        rows += of_all
    return rows / elapsed
