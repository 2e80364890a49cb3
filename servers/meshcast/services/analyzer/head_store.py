"""Store of heads: each version of a head is a folder that appears whole, and is shared by the processes of the host.

`<root>/<name>/<version>/` holds `head.npz` (the weights) and `head.json` (what is known of them, with the digest of
the weights). A version is written to a folder of another name, brought to the disk and renamed: what is acknowledged
stays, and half a head is never seen. A version's number belongs to whoever renames first. There is a bound on names,
and on the versions of each: the oldest go when new ones are acknowledged.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import CorruptData, NotFound, Precondition
from meshcast.services.analyzer.heads import HeadWeights, Trained

__all__ = ["NAMES_MAX", "VERSIONS_MAX", "HeadRecord", "HeadStore", "examples_digest"]

log = structlog.get_logger()

OPEN_MAX = 32
"""Heads whose weights are kept in memory: 12 MB of the largest."""

NAMES_MAX = 64
"""Heads that are kept: with all their versions no more than 0.5 GB, and few enough to be described in one answer."""

VERSIONS_MAX = 16
"""Versions of a head that are kept, the newest: enough to go back to."""

_WEIGHTS, _FACTS = "head.npz", "head.json"
_NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecord:
    """What is known of a version of a head, but for its weights.

    Attributes:
        name: of the head.
        version: from 1.
        labels: ascending.
        examples: that it was trained on.
        accuracy: share of them that are right in cross-validation.
        majority: the same share when the most frequent label is always given.
        embedder_version: of the embedder that it belongs to.
        trained_unix_us: when it was trained.
        request_id: of the request that trained it; empty where it had none.
        examples_digest: tells whether a request with the same id has the same examples.
        weights_digest: SHA-256 of the file of the weights.
    """

    name: str
    version: int
    labels: tuple[str, ...]
    examples: int
    accuracy: float
    majority: float
    embedder_version: int
    trained_unix_us: int
    request_id: str
    examples_digest: str
    weights_digest: str


def examples_digest(texts: Sequence[str], labels: Sequence[str]) -> str:
    """SHA-256 of examples, in their order."""
    digest = hashlib.sha256()
    for text, label in zip(texts, labels, strict=True):
        for part in (text.encode("utf-8", "surrogatepass"), label.encode("utf-8", "surrogatepass")):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


class HeadStore:
    """Heads on disk. Its methods block for a file or two: they are for worker threads, several at once if need be.

    Args:
        root: folder of the heads; it is made when the first one is kept.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        # With when the folder changed last; None: it is damaged, which has been told.
        self._records: dict[tuple[str, int], tuple[int, HeadRecord | None]] = {}
        self._weights: OrderedDict[str, HeadWeights] = OrderedDict()  # by their digest

    def newest(self) -> list[HeadRecord]:
        """The newest sound version of every head, ascending by name. Damaged ones are logged and left out."""
        found = (self._newest(name) for name in self._names())
        return [record for record in found if record is not None]

    def find(self, name: str, version: int = 0) -> HeadRecord:
        """What is known of a head; version 0 is the newest.

        Raises:
            NotFound: HEAD_UNKNOWN; the message names those that are kept.
            CorruptData: the record of the version, or of all versions, is damaged.
        """
        record = self._record(name, version) if version else self._newest(name)
        if record is None:
            kept = self._versions(name)
            if version in kept or (kept and not version):
                raise _corrupt(name, version or kept[-1], "its record cannot be read")
            if kept:
                have = f"versions {', '.join(map(str, kept))} of it are kept"
            else:
                names = self._names()
                more = ", …" if len(names) > _NAMES_SHOWN else ""
                have = f"kept are: {', '.join(names[:_NAMES_SHOWN]) or 'none'}{more}"
            raise NotFound(
                f"There is no head {name!r}{f' of version {version}' if version else ''}; {have}.",
                reason=error_reason_pb2.ERROR_REASON_HEAD_UNKNOWN,
                head=name[:128],
                version=version,
            )
        return record

    def damaged_after(self, record: HeadRecord) -> list[int]:
        """The versions of a head that are newer than a record, and damaged; ascending."""
        newer = (version for version in self._versions(record.name) if version > record.version)
        return [version for version in newer if self._record(record.name, version) is None]

    def weights(self, record: HeadRecord) -> HeadWeights:
        """The weights of a head.

        Raises:
            CorruptData: they are not those that were kept.
        """
        key = record.weights_digest
        with self._lock:
            if key in self._weights:
                self._weights.move_to_end(key)
                return self._weights[key]
        weights = _read_weights(self._root / record.name / str(record.version) / _WEIGHTS, record)
        with self._lock:
            self._weights[key] = weights
            while len(self._weights) > OPEN_MAX:
                self._weights.popitem(last=False)
        return weights

    def made_by(self, name: str, request_id: str) -> HeadRecord | None:
        """The version that a request trained first; None where it trained none, or has no id."""
        if not request_id:
            return None
        records = (self._record(name, version) for version in self._versions(name))
        return next((record for record in records if record is not None and record.request_id == request_id), None)

    def require_room(self, name: str) -> None:
        """Checks that a head of this name may be kept.

        Raises:
            Precondition: it would be one name too many; the message says how to remove one.
        """
        names = self._names()
        if name not in names and len(names) >= NAMES_MAX:
            raise Precondition(
                f"{len(names)} heads are kept, which is the most. Train a version of one of them, or remove one: "
                f"delete its folder in {self._root}."
            )

    def keep(
        self,
        name: str,
        trained: Trained,
        *,
        embedder_version: int,
        trained_unix_us: int,
        request_id: str,
        digest: str,
    ) -> HeadRecord:
        """Keeps a head as the next version of its name; when this returns, it is on disk.

        Of the name's versions the newest `VERSIONS_MAX` stay.

        Args:
            name: of the head, fit for a folder.
            trained: the head.
            embedder_version: of the embedder that made the embeddings.
            trained_unix_us: now.
            request_id: of the request.
            digest: of the examples.

        Raises:
            Precondition: as `require_room`, or the folder cannot be written to.
        """
        self.require_room(name)
        data = io.BytesIO()
        np.savez(data, weights=trained.head.weights, bias=trained.head.bias)
        record = HeadRecord(
            name=name,
            version=0,
            labels=trained.labels,
            examples=trained.examples,
            accuracy=trained.accuracy,
            majority=trained.majority,
            embedder_version=embedder_version,
            trained_unix_us=trained_unix_us,
            request_id=request_id,
            examples_digest=digest,
            weights_digest=hashlib.sha256(data.getbuffer()).hexdigest(),
        )
        folder = self._root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            record = self._installed(folder, record, data.getvalue())
        except OSError as error:
            raise Precondition(
                f"The head cannot be kept in {folder}: {error.strerror or error}. Make room or give the right to write."
            ) from error
        for version in self._versions(name)[:-VERSIONS_MAX]:
            _remove(folder / str(version))
        return record

    def _installed(self, folder: Path, record: HeadRecord, weights: bytes) -> HeadRecord:
        """The record with the number that it got. Another process may take a number first; then it is the next."""
        staged = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
        try:
            _write(staged / _WEIGHTS, weights)
            while True:
                record = replace(record, version=max(self._versions(record.name), default=0) + 1)
                _write(staged / _FACTS, json.dumps(asdict(record), indent=2, ensure_ascii=False).encode())
                _sync(staged)
                try:
                    staged.rename(folder / str(record.version))
                except OSError:
                    if not (folder / str(record.version)).exists():
                        raise
                    continue
                _sync(folder)
                _sync(self._root)
                return record
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _names(self) -> list[str]:
        if not self._root.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(self._root) if entry.is_dir() and self._versions(entry.name))

    def _versions(self, name: str) -> list[int]:
        folder = self._root / name
        if not folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in os.scandir(folder) if entry.name.isascii() and entry.name.isdigit())

    def _newest(self, name: str) -> HeadRecord | None:
        records = (self._record(name, version) for version in reversed(self._versions(name)))
        return next((record for record in records if record is not None), None)

    def _record(self, name: str, version: int) -> HeadRecord | None:
        """The record of a version; None where there is none, or where it is damaged, which is told once."""
        key = name, version
        folder = self._root / name / str(version)
        try:
            changed_ns = folder.stat().st_mtime_ns
        except OSError:
            return None
        with self._lock:
            known = self._records.get(key)
        if known is not None and known[0] == changed_ns:
            return known[1]
        record: HeadRecord | None = None
        try:
            record = _record_of(json.loads((folder / _FACTS).read_text("utf-8")), key)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("a head is damaged and left out", head=name, version=version, why=str(error))
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                return None  # this may pass: the next call looks again
        with self._lock:
            if len(self._records) >= NAMES_MAX * VERSIONS_MAX:
                self._records.clear()  # of versions that are gone
            self._records[key] = changed_ns, record
        return record


def _record_of(values: Any, key: tuple[str, int]) -> HeadRecord:
    record = HeadRecord(**{**values, "labels": tuple(map(str, values["labels"]))})
    if (record.name, record.version) != key or len(record.labels) < 2:
        raise ValueError(f"{_FACTS} is not of this folder")
    return record


def _corrupt(name: str, version: int, why: str) -> CorruptData:
    return CorruptData(
        f"Version {version} of the head {name!r} is damaged ({why}); train it again.",
        model=name,
        version=version,
        why=why,
    )


def _remove(folder: Path) -> None:
    """Removes a version at once for those who look, and its files as far as that goes."""
    gone = folder.with_name(f".gone-{folder.name}-{os.getpid()}")
    with contextlib.suppress(OSError):  # another process removes it too
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _read_weights(path: Path, record: HeadRecord) -> HeadWeights:
    def corrupt(why: str) -> CorruptData:
        return _corrupt(record.name, record.version, why)

    try:
        data = path.read_bytes()
    except OSError as error:
        raise corrupt(error.strerror or str(error)) from error
    if hashlib.sha256(data).hexdigest() != record.weights_digest:
        raise corrupt("its digest differs")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            weights, bias = arrays["weights"], arrays["bias"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise corrupt(str(error)) from error
    if weights.ndim != 2 or bias.shape != (len(record.labels),) or len(weights) != len(bias):
        raise corrupt("its shape is not that of its labels")
    return HeadWeights(weights=weights, bias=bias)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Brings what a folder lists to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
