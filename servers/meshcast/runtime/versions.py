"""Loaded versions of one model, with reference counts: a retired one is closed when its last run has ended."""

import threading
from collections.abc import Callable

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import NotFound, NotReady
from meshcast.runtime.session import Session

__all__ = ["LoadedVersion", "Versions"]


class LoadedVersion:
    """One version with its session. Taken by `Versions.acquire` and given back by `Versions.release`."""

    __slots__ = ("backend", "leases", "retired", "session", "version")

    def __init__(self, version: int, session: Session) -> None:
        self.version = version
        self.session = session
        self.backend = session.backend
        self.leases = 0
        self.retired = False


class Versions:
    """The versions of one model that can run now. Any thread may call it; no call blocks.

    Args:
        model: the model's name, for errors.
        on_idle: called once with each retired version when its last lease has been given back; it closes the session.
    """

    def __init__(self, model: str, on_idle: Callable[[LoadedVersion], None]) -> None:
        self._model = model
        self._on_idle = on_idle
        self._lock = threading.Lock()
        self._loaded: dict[int, LoadedVersion] = {}
        self._live: LoadedVersion | None = None

    @property
    def live(self) -> int:
        """Version that answers calls which name none; 0 when there is none."""
        live = self._live
        return 0 if live is None else live.version

    @property
    def current(self) -> LoadedVersion | None:
        """The live version, without a lease: fit for comparison only."""
        return self._live

    @property
    def loaded(self) -> tuple[LoadedVersion, ...]:
        """Every version that can be asked for, ascending."""
        with self._lock:
            return tuple(self._loaded[version] for version in sorted(self._loaded))

    def acquire(self, version: int = 0) -> LoadedVersion:
        """A lease on a version; 0 is the live one.

        Raises:
            NotFound: VERSION_UNKNOWN, this version is not loaded.
            NotReady: MODEL_LOADING, no version is live.
        """
        with self._lock:
            if version == 0:
                found = self._live
                if found is None:
                    raise NotReady(
                        f"Model {self._model} has no version that serves.",
                        retry_after_s=1.0,
                        reason=error_reason_pb2.ERROR_REASON_MODEL_LOADING,
                        model=self._model,
                    )
            elif (found := self._loaded.get(version)) is None:
                known = ", ".join(map(str, sorted(self._loaded))) or "none"
                raise NotFound(
                    f"Model {self._model} has no version {version}; loaded: {known}.",
                    reason=error_reason_pb2.ERROR_REASON_VERSION_UNKNOWN,
                    model=self._model,
                    version=version,
                )
            found.leases += 1
            return found

    def retain(self, loaded: LoadedVersion) -> None:
        """One more lease on a version of which the caller holds one."""
        with self._lock:
            loaded.leases += 1

    def release(self, loaded: LoadedVersion) -> None:
        """Gives a lease back."""
        with self._lock:
            loaded.leases -= 1
            is_over = loaded.retired and loaded.leases == 0
        if is_over:
            self._on_idle(loaded)

    def publish(self, version: int, session: Session) -> LoadedVersion:
        """Adds a version, which can be asked for by number from now on."""
        loaded = LoadedVersion(version, session)
        with self._lock:
            assert version not in self._loaded
            self._loaded[version] = loaded
        return loaded

    def make_live(self, version: int) -> None:
        """Lets a loaded version answer the calls that name none; 0: nothing answers them any longer."""
        with self._lock:
            self._live = self._loaded[version] if version else None

    def retire(self, version: int) -> None:
        """Takes a version, not the live one, out of reach; runs under way end on it, then it is closed."""
        with self._lock:
            loaded = self._loaded[version]
            assert loaded is not self._live
            del self._loaded[version]
            loaded.retired = True
            is_over = loaded.leases == 0
        if is_over:
            self._on_idle(loaded)
