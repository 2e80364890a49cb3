"""Sessions beside the services: the one that a service serves, opened in the benchmark's own process."""

from pathlib import Path

from meshcast.runtime import Backend, Repository, Session, SessionOptions
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
