"""File endpoints: the addresses that a file lists, followed as the file changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import structlog

from .endpoints import log_change, sorted_once, split

log = structlog.get_logger()

_FILE_BYTES_MAX = 1_048_576  # some ten thousand replicas; what is larger is another file
_Stamp = tuple[int, int, int]  # inode, time and size: a rename, a write


class FileEndpoints:
    """The lines of a file, each `host:port`; `#` begins a comment.

    A file that is missing, empty or wrong in any line changes nothing: the last good list stands, and the log says why.
    Replace the file by a rename, so that no half of it is read.

    Args:
        path: of the file.
        poll_s: seconds between two looks at it.
    """

    def __init__(self, path: str | Path, *, poll_s: float) -> None:
        self._path = Path(path)
        self._poll_s = poll_s

    async def watch(self) -> AsyncGenerator[Sequence[str], None]:
        """Yields the addresses once a good file was read, and after every change."""
        told: Sequence[str] | None = None
        stamp: _Stamp | None = None
        problem = ""
        while True:
            try:
                newer, text = await asyncio.to_thread(self._read, stamp)
                if text is not None:
                    endpoints = parse(text)
                    problem = ""
                    if endpoints != told:
                        log_change(self._name, told or (), endpoints)
                        told = endpoints
                        yield endpoints
                stamp = newer
            except (OSError, ValueError) as error:
                if problem != str(error):
                    problem = str(error)
                    log.warning("list of endpoints not read", source=self._name, problem=problem, kept=len(told or ()))
            await asyncio.sleep(self._poll_s)

    @property
    def _name(self) -> str:
        return f"file://{self._path}"

    def _read(self, known: _Stamp | None) -> tuple[_Stamp, str | None]:
        """The file's stamp and its text; None where it is as it was."""
        status = self._path.stat()
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp == known:
            return stamp, None
        if status.st_size > _FILE_BYTES_MAX:
            raise ValueError(f"it has {status.st_size} bytes, which is no list of endpoints")
        return stamp, self._path.read_text("utf-8")


def parse(text: str) -> tuple[str, ...]:
    """The addresses of a list, sorted, each once.

    Raises:
        ValueError: a line is no host:port, or there is none.
    """
    endpoints = []
    for number, line in enumerate(text.splitlines(), 1):
        endpoint = line.partition("#")[0].strip()
        if endpoint:
            try:
                split(endpoint)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            endpoints.append(endpoint)
    if not endpoints:
        raise ValueError("it lists no endpoint")
    return sorted_once(endpoints)
