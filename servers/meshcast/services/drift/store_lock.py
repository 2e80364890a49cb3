"""Lock of the drift store: one process at a time uses a folder."""

import fcntl
import os
import time
from pathlib import Path

from meshcast.rpc.errors import Precondition

__all__ = ["StoreLock"]

LOCK_S = 15.0
"""Seconds that a process waits for the one before it to let go of the store, as when a service is replaced."""


class StoreLock:
    """The right to use a folder's store, for one process at a time; it ends with the process, however that ends.

    Raises:
        Precondition: on `take`; another process holds it, or the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._handle: int | None = None

    def take(self, *, within_s: float = LOCK_S) -> None:
        """Takes the lock; blocks until it is free."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Precondition(
                f"The drift store in {self._path.parent} cannot be opened: {error.strerror}. Set runtime.state_dir."
            ) from error
        until_s = time.monotonic() + within_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if time.monotonic() < until_s:
                    time.sleep(0.05)
                    continue
                os.close(handle)
                raise Precondition(
                    f"Another process uses the drift store in {self._path.parent}: a state directory is for one drift "
                    "service. End the other, or set another runtime.state_dir."
                ) from error
            self._handle = handle
            return

    def give_back(self) -> None:
        """Gives the lock back, where it is held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
