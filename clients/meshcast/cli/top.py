"""`meshcast top`: the mesh as it lives, from the gateway's own stream of its health."""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf import json_format
from rich.console import Console, RenderableType
from rich.live import Live

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.gateway.v1 import gateway_pb2_grpc as pb_grpc
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.cli.mesh_history import Figure, MeshHistory
from meshcast.cli.settings import Connection, connect
from meshcast.cli.top_frame import frame
from meshcast.rpc import ChannelSettings, NotReady, channel, mesh_errors

__all__ = ["top"]

_RETRY_S = 0.5
_SILENCE_S = 5.0  # without a message, and three intervals, after which the gateway is asked anew
_SVG_WIDTH = 128


@dataclass(frozen=True, slots=True)
class _Lost:
    """The gateway says nothing at the moment."""

    why: str


def top(
    *,
    interval_s: float,
    count: int,
    figure: Figure,
    svg: Path | None,
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Shows the mesh until Ctrl-C, or `count` times.

    A gateway that goes away is waited for; only one that cannot be reached at first is an error.

    Args:
        interval_s: longest time between two looks, in seconds, 0.2 to 60.
        count: looks after which it ends; 0 for none.
        figure: what the graphs show.
        svg: where the last look is written as a picture; None for nowhere.
        target: as in `connect`.
        config: as in `connect`.
        state_dir: as in `connect`.
        timeout_s: longest wait for the gateway's first word, in seconds.
        as_json: print a line of JSON a look.

    Raises:
        MeshError: the gateway cannot be reached, or is none.
    """
    connection = connect(target, config=config, state_dir=state_dir)
    shown = _Shown(connection.target, figure=figure, interval_s=interval_s)
    console = Console()
    try:
        asyncio.run(_run(shown, connection, console, count=count, timeout_s=timeout_s, as_json=as_json))
    finally:
        if svg is not None and shown.health is not None:
            svg.write_text(_svg(shown), "utf-8")


class _Shown:
    """What is known of the mesh, and how it looks.

    Args:
        target: where it comes from.
        figure: what the graphs show.
        interval_s: longest time between two messages.

    Attributes:
        health: the newest message; None before the first.
        history: of the messages.
        looks: messages so far, those in between two intervals left out.
    """

    def __init__(self, target: str, *, figure: Figure, interval_s: float) -> None:
        self.interval_s = interval_s
        self.health: pb.MeshHealth | None = None
        self.history = MeshHistory(sample_s=interval_s)
        self.looks = 0
        self._target = target
        self._figure: Figure = figure
        self._problem = ""
        self._heard_at = time.monotonic()
        self._looked_at = float("-inf")

    def take(self, health: pb.MeshHealth) -> bool:
        """Takes a message; True when an interval has gone by since the last look, so that this is the next one."""
        is_first = self.health is None
        self.health, self._problem = health, ""
        self.history.update(health)
        self._heard_at = now = time.monotonic()
        if now < self._looked_at + 0.9 * self.interval_s:
            return False
        self._looked_at = now
        if is_first:
            return False  # what happened a second takes two
        self.looks += 1
        return True

    def lose(self, problem: str) -> None:
        """The gateway says nothing at the moment."""
        self._problem = problem

    @property
    def problem(self) -> str:
        """Why the newest message is not of now; empty when it is."""
        if not self._problem:
            return ""
        return f"no word from the gateway for {time.monotonic() - self._heard_at:.0f} s ({self._problem}); trying again"

    def frame(self, width: int, *, is_ascii: bool = False) -> RenderableType:
        """The newest look."""
        assert self.health is not None
        return frame(
            self.health,
            self.history,
            target=self._target,
            width=width,
            figure=self._figure,
            problem=self.problem,
            is_ascii=is_ascii,
        )

    def json(self) -> dict[str, Any]:
        """The newest message as JSON has it, with what happened a second in each service as `per_s`, and the seconds
        that this is of as `per_s_of_s`."""
        assert self.health is not None
        told = json_format.MessageToDict(self.health, preserving_proto_field_name=True)
        told["per_s_of_s"] = round(self.history.span_s, 1)
        for service in told.get("services", ()):
            service["per_s"] = {
                name: round(rate, 4) for name, rate in asdict(self.history.pace(service["name"])).items()
            }
        return told


async def _run(
    shown: _Shown, connection: Connection, console: Console, *, count: int, timeout_s: float, as_json: bool
) -> None:
    if as_json:
        await _follow(
            shown, connection, count, timeout_s, lambda: print(json.dumps(shown.json()), flush=True), _complain
        )
    elif not console.is_terminal or console.is_dumb_terminal or count == 1:
        is_ascii = not console.encoding.lower().startswith("utf")

        def write() -> None:
            console.print(shown.frame(console.width, is_ascii=is_ascii), "", crop=False)

        await _follow(shown, connection, count, timeout_s, write, _complain)
    else:
        await _live(shown, connection, console, count, timeout_s)
        console.print(shown.frame(console.width))


async def _live(shown: _Shown, connection: Connection, console: Console, count: int, timeout_s: float) -> None:
    """Draws every message over the one before, on a screen of its own."""
    first = asyncio.Event()
    with Live(console=console, auto_refresh=False, screen=True, vertical_overflow="crop") as live:

        def draw() -> None:
            first.set()
            live.update(shown.frame(console.width), refresh=True)

        async def draw_problems() -> None:
            await first.wait()
            while True:  # so that it can be seen how long the gateway has been silent
                if shown.problem:
                    draw()
                await asyncio.sleep(1.0)

        problems = asyncio.create_task(draw_problems(), name="top-problems")
        try:
            await _follow(shown, connection, count, timeout_s, draw, lambda _: draw(), every=draw)
        except asyncio.CancelledError:
            if shown.health is None:
                raise
            # Ctrl-C is how it ends.
        finally:
            problems.cancel()
            await asyncio.gather(problems, return_exceptions=True)


async def _follow(
    shown: _Shown,
    connection: Connection,
    count: int,
    timeout_s: float,
    look: Callable[[], None],
    complain: Callable[[str], None],
    *,
    every: Callable[[], None] | None = None,
) -> None:
    """Takes messages until there were `count` looks.

    Args:
        shown: takes the messages.
        connection: where they come from.
        count: looks after which it ends; 0 for none.
        timeout_s: longest wait for the first message.
        look: called for each look.
        complain: called with a problem when the gateway goes away.
        every: called for the messages between two looks too.
    """
    async with aclosing(_messages(connection, shown.interval_s, timeout_s)) as messages:
        async for message in messages:
            if isinstance(message, _Lost):
                shown.lose(message.why)
                complain(shown.problem)
            elif shown.take(message):
                look()
                if shown.looks == count:
                    return
            elif every is not None:
                every()


async def _messages(
    connection: Connection, interval_s: float, timeout_s: float
) -> AsyncGenerator[pb.MeshHealth | _Lost]:
    """The gateway's messages, without end; once for each time that it goes away, why.

    Raises:
        MeshError: it cannot be reached at first, or is no gateway.
    """
    silence_s = max(_SILENCE_S, 3 * interval_s)
    was_reached = is_lost = False
    async with channel(connection.target, settings=ChannelSettings(plain=True), tls=connection.tls) as open_channel:
        stub = pb_grpc.GatewayServiceStub(open_channel)
        while True:
            call: Any = stub.WatchMesh(pb.WatchMeshRequest(interval_ms=round(interval_s * 1e3)))
            try:
                while True:
                    with mesh_errors():
                        async with asyncio.timeout(silence_s if was_reached else timeout_s):
                            answer = await call.read()
                    if answer is grpc.aio.EOF:
                        lost = _Lost("it has ended the watch")
                        break
                    was_reached, is_lost = True, False
                    yield answer.health
            except TimeoutError:
                if not was_reached:
                    raise NotReady(
                        f"{connection.target} said nothing for {timeout_s:g} s",
                        reason=ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE,
                    ) from None
                lost = _Lost(f"silent for {silence_s:.0f} s")
            except NotReady as error:
                if not was_reached:
                    raise
                lost = _Lost(error.message)
            finally:
                call.cancel()
            if not is_lost:
                is_lost = True
                yield lost
            await asyncio.sleep(_RETRY_S)


def _complain(problem: str) -> None:
    print(problem, file=sys.stderr, flush=True)


def _svg(shown: _Shown) -> str:
    """The newest look as a picture that loads no font from elsewhere."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=_SVG_WIDTH, file=nowhere, force_terminal=True)
        console.print(shown.frame(_SVG_WIDTH))
    return re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="meshcast top"), flags=re.DOTALL)
