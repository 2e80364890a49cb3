"""Backend process: a scripted backend in a process of its own, which can be killed, frozen and started again."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Self

from scripted_backend import Script

_PROGRAM = Path(__file__).with_name("scripted_backend.py")
_START_S = 30.0


class BackendProcess:
    """A process that runs `scripted_backend.py`; use it as an async context manager, which ends it.

    Attributes:
        script: that it was started with.
        port: that it listens on; the same after each start.
    """

    def __init__(self, script: Script | None = None, *, port: int = 0, drain_s: float = 5.0) -> None:
        """Prepares the process.

        Args:
            script: None for a predictor that answers at once.
            port: to listen on; 0 takes a free one at the first start.
            drain_s: seconds that calls in flight get at SIGTERM.
        """
        self.script = script or Script()
        self.port = port
        self._drain_s = drain_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """`host:port`, once it is started."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Number of the process, once it is started."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def start(self) -> None:
        """Starts the process and waits until it serves, on the port that it had before.

        Raises:
            RuntimeError: it ended before.
        """
        command = [sys.executable, str(_PROGRAM), "--port", str(self.port), "--drain-s", str(self._drain_s)]
        for field in fields(Script):
            command += [f"--{field.name.replace('_', '-')}", str(getattr(self.script, field.name))]
        self._process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                line = await self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"the scripted backend ended with {await self._process.wait()} before it served")
            self.port = json.loads(line)["port"]
        except BaseException:
            await self.kill()
            raise

    async def kill(self) -> None:
        """Ends the process as `kill -9` does, frozen or not, and waits for its end."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> None:
        """Has the process drain and end, and waits for it."""
        await self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stops the process where it is: its connections stay open and say nothing."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen process go on."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._send(number)
            await self._process.wait()
            self._process._transport.close()  # type: ignore[attr-defined]  # else its pipe is closed after the loop
            self._process = None
