"""Keeps one process of the mesh: starts it behind a health gate, starts it again when it ends, drains it."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from meshcast.cli.problem import ExitCode, Problem
from meshcast.cli.state import PartState, birth_of

__all__ = ["Keeper", "KeeperLimits", "Part", "Probe"]

LOG_BYTES_MAX = 16 * 1024 * 1024  # then one older file is kept: enough for days of INFO, never a full disk
TAIL_LINES = 12

Probe = Callable[[str, str], Awaitable[str]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process as it is to be run.

    Attributes:
        name: as in `predictor`.
        argv: the command, program first.
        environ: its whole environment.
        address: `host:port` where its health is asked.
        health_service: health name that says it may take traffic.
        metrics_port: port of its metrics.
        log: file that takes its output.
        http_address: of its HTTP door, as in `http://127.0.0.1:8000`; empty without one.
    """

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    address: str
    health_service: str
    metrics_port: int
    log: Path
    http_address: str = ""


@dataclass(frozen=True, kw_only=True)
class KeeperLimits:
    """Times of one keeper, in seconds, and the count after which a silent process is ended.

    Attributes:
        ready_s: longest time from start to SERVING; a first start measures back-ends, which takes seconds.
        poll_s: time between two questions while a process starts.
        backoff_s: wait before the first restart; doubles with each.
        backoff_s_max: longest wait.
        steady_s: a process that served this long starts from `backoff_s` again.
        drain_s: time between SIGTERM and SIGKILL.
        liveness_s: time between two questions while it serves.
        silent_max: unanswered questions in a row after which the process is taken for frozen and ended.
    """

    ready_s: float = 120.0
    poll_s: float = 0.1
    backoff_s: float = 0.5
    backoff_s_max: float = 30.0
    steady_s: float = 60.0
    drain_s: float = 15.0
    liveness_s: float = 5.0
    silent_max: int = 6


class Keeper:
    """Runs one Part for as long as the mesh runs.

    Args:
        part: the process.
        limits: its times.
        probe: asks a health name of an address; answers its state as in `SERVING`, empty when nobody answers.
        changed: told whenever the process's state changes.
        said: told what a person should know, one sentence.
    """

    def __init__(
        self,
        part: Part,
        *,
        limits: KeeperLimits,
        probe: Probe,
        changed: Callable[[PartState], None],
        said: Callable[[str], None],
    ) -> None:
        self.part = part
        self._limits = limits
        self._probe = probe
        self._changed = changed
        self._said = said
        self._process: Process | None = None
        self.state = PartState(
            name=part.name,
            address=part.address,
            metrics_port=part.metrics_port,
            log=str(part.log),
            state="stopped",
            http_address=part.http_address,
        )

    async def start(self) -> None:
        """Starts the process and returns when it serves.

        Raises:
            Problem: it ended first, or did not serve in time; with the end of its log.
        """
        await self._spawn("starting")
        await self._serving()

    async def keep(self) -> None:
        """Starts the process again whenever it ends or freezes; runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            served_from = loop.time()
            why = await self._until_lost()
            failures = 1 if loop.time() - served_from >= self._limits.steady_s else failures + 1
            while True:
                wait_s = min(self._limits.backoff_s * 2 ** (failures - 1), self._limits.backoff_s_max)
                self._note(state="restarting", pid=0, birth="", restarts=self.state.restarts + 1)
                self._said(f"{self.part.name} {why}; starting it again in {wait_s:g} s (log: {self.part.log})")
                await asyncio.sleep(wait_s)
                try:
                    await self._spawn("restarting")
                    await self._serving()
                except Problem as problem:
                    await self._kill()
                    why, failures = problem.message, failures + 1
                    continue
                self._said(f"{self.part.name} serves again")
                break

    async def stop(self, hurry: asyncio.Event) -> None:
        """Drains the process: SIGTERM, then SIGKILL once its drain time is over or `hurry` is set."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            ended = asyncio.create_task(process.wait(), name=f"ended:{self.part.name}")
            hurried = asyncio.create_task(hurry.wait(), name=f"hurry:{self.part.name}")
            try:
                await asyncio.wait({ended, hurried}, timeout=self._limits.drain_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ended.cancel()
                hurried.cancel()
                await asyncio.gather(ended, hurried, return_exceptions=True)
            if process.returncode is None:
                self._said(f"{self.part.name} did not drain within {self._limits.drain_s:g} s and was ended")
                await self._kill()
        self._note(state="stopped", pid=0, birth="")

    async def _spawn(self, state: str) -> None:
        log = self.part.log
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > LOG_BYTES_MAX:
                log.replace(log.with_suffix(".log.1"))
        with open(log, "ab") as output:  # noqa: ASYNC230  # a local append, once a start
            # A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which drains in order.
            self._process = await asyncio.create_subprocess_exec(
                *self.part.argv,
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.part.environ),
                start_new_session=True,
            )
        self._note(state=state, pid=self._process.pid, birth=birth_of(self._process.pid))

    async def _serving(self) -> None:
        assert self._process is not None
        answer = ""
        try:
            async with asyncio.timeout(self._limits.ready_s):
                while self._process.returncode is None:
                    answer = await self._probe(self.part.address, self.part.health_service)
                    if answer == "SERVING":
                        self._note(state="serving")
                        return
                    await asyncio.sleep(self._limits.poll_s)
        except TimeoutError:
            self._note(state="failed")
            raise Problem(
                f"{self.part.name} did not serve within {self._limits.ready_s:g} s (last answer: {answer or 'none'})",
                exit_code=ExitCode.REFUSED,
                details=self._tail(),
                way_out=f"read {self.part.log}",
            ) from None
        code = self._process.returncode
        self._note(state="failed", pid=0, birth="")
        raise Problem(
            f"{self.part.name} {_ending(code)} before it served",
            exit_code=ExitCode.REFUSED,
            details=self._tail(),
            way_out=f"read {self.part.log}",
        )

    async def _until_lost(self) -> str:
        """Waits until the process ends, or ends it when it is frozen; returns what happened to it."""
        assert self._process is not None
        silent = 0
        while True:
            try:
                async with asyncio.timeout(self._limits.liveness_s):
                    return _ending(await self._process.wait())
            except TimeoutError:
                # The empty name says that the process answers at all: a model that unloads is no reason to restart.
                silent = 0 if await self._probe(self.part.address, "") else silent + 1
            if silent >= self._limits.silent_max:
                await self._kill()
                return f"answered nothing {silent} times in a row and was ended"

    async def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    def _note(self, **changes: str | int) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]  # names and types are PartState's own
        self._changed(self.state)

    def _tail(self) -> list[str]:
        try:
            with open(self.part.log, "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 8192))
                return log.read().decode("utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        except FileNotFoundError:
            return []


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
