"""Disk: the few steps by which files become durable, each one call, so that a test can stop between any two."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

from meshcast.rpc.errors import Conflict

__all__ = ["Disk", "lock", "replace_file"]

try:
    import fcntl
except ImportError:  # Windows: two writers of one sink are then not noticed
    fcntl = None  # type: ignore[assignment]


class Disk:
    """The steps of a commit on a real disk."""

    def write(self, file: IO[bytes], data: bytes) -> None:
        """Puts bytes at the place of an unbuffered file: what a failed write has not taken must not follow later."""
        rest = memoryview(data)
        while len(rest):
            rest = rest[file.write(rest) :]

    def sync(self, file: IO[bytes]) -> None:
        """Returns once the file's bytes would survive a loss of power."""
        os.fsync(file.fileno())

    def replace(self, new: Path, path: Path) -> None:
        """Gives a file another's name, in one step."""
        new.replace(path)

    def sync_folder(self, folder: Path) -> None:
        """Returns once the names in a folder would survive a loss of power."""
        if os.name == "nt":  # a folder cannot be opened there, and its names are written through
            return
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_file(disk: Disk, path: Path, data: bytes) -> None:
    """Writes a whole file so that either the old one or the new one stands, whenever it is stopped."""
    part = part_of(path)
    with part.open("wb", buffering=0) as file:
        disk.write(file, data)
        disk.sync(file)
    disk.replace(part, path)
    disk.sync_folder(path.parent)


def part_of(path: Path) -> Path:
    """Where a file is written before it takes its name; hidden, so that no reader of the folder takes it for data."""
    return path.with_name(f".{path.name}.part")


def lock(file: IO[Any] | int, name: str) -> None:
    """Holds a file for this process until it is closed.

    Raises:
        Conflict: another one holds it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Conflict(f"{name} is being written by another process; wait for it, or give another name") from error
