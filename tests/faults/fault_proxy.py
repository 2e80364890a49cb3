"""Fault proxy: a TCP relay whose connections can be delayed, frozen, throttled, cut or refused while in use."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 65_536
_CHUNKS_HELD = 64  # a direction, while a delay holds them: 4 MiB, then the sender feels the back pressure
_LINGER_0 = struct.pack("ii", 1, 0)


class FaultProxy:
    """Relays TCP connections to a target, with faults switched at run time; use it as an async context manager.

    Faults hold for open connections and for new ones until `heal`, but for `reset` and `half_close`, which happen once
    to the connections that are open. Faults add up. All belongs to the event loop that entered the block.

    Attributes:
        target: `host:port` that connections go to.
        connections: open now.
        accepted: connections since the start.
        bytes_up: bytes that went to the target.
        bytes_down: bytes that went to callers.
    """

    def __init__(self, target: str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Prepares the proxy.

        Args:
            target: `host:port` to connect to.
            host: IPv4 address to listen on.
            port: to listen on; 0 takes a free one.
        """
        self.target = target
        self.connections = 0
        self.accepted = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.delay_s = 0.0
        self.bytes_per_s = float("inf")
        self.passes = asyncio.Event()
        self.passes.set()
        self._host, self._port = host, port
        self._listener: socket.socket
        self._listens = False
        self._links: dict[_Link, asyncio.Task[None]] = {}

    @property
    def address(self) -> str:
        """`host:port` that it listens on, once it is entered."""
        return f"{self._host}:{self._port}"

    async def __aenter__(self) -> Self:
        self._hold_port()
        self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_listening()
        self._listener.close()
        tasks = list(self._links.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def delay(self, seconds: float) -> None:
        """Has every byte arrive so many seconds later, in each direction: a round trip takes twice that more."""
        self.delay_s = seconds

    def blackhole(self) -> None:
        """Lets no byte pass: connections are taken and stay open in silence. What is held passes on `heal`."""
        self.passes.clear()

    def throttle(self, bytes_per_s: float) -> None:
        """Lets so many bytes a second pass, in each direction of each connection."""
        self.bytes_per_s = bytes_per_s

    def reset(self) -> None:
        """Ends the open connections with RST on both sides, at once."""
        for link in list(self._links):
            link.reset()

    def half_close(self) -> None:
        """Sends callers the end of the open connections, while what they still send is passed on."""
        for link in list(self._links):
            link.half_close()

    def refuse(self) -> None:
        """Refuses new connections, as a port does on which nobody listens; open ones go on."""
        if self._listens:
            self._stop_listening()
            self._listener.close()
            self._hold_port()

    def heal(self) -> None:
        """Ends every fault that still holds."""
        self.delay_s = 0.0
        self.bytes_per_s = float("inf")
        self.passes.set()
        self._listen()

    def _hold_port(self) -> None:
        """Binds without listening, so that connections are refused and no other process gets the port."""
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.setblocking(False)
        self._listener.bind((self._host, self._port))
        self._port = self._listener.getsockname()[1]

    def _listen(self) -> None:
        if not self._listens:
            self._listens = True
            self._listener.listen(128)
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _stop_listening(self) -> None:
        if self._listens:
            self._listens = False
            asyncio.get_running_loop().remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        try:
            caller, _ = self._listener.accept()
        except OSError:  # gone again already
            return
        caller.setblocking(False)
        self.accepted += 1
        link = _Link(self, caller)
        link.task = self._links[link] = asyncio.create_task(self._run(link), name=f"fault-proxy:{self.accepted}")

    async def _run(self, link: _Link) -> None:
        self.connections += 1
        try:
            await link.run()
        finally:
            self.connections -= 1
            self._links.pop(link, None)


class _Link:
    """One connection: the caller's socket, the target's, and a pump each way."""

    def __init__(self, proxy: FaultProxy, caller: socket.socket) -> None:
        self._proxy = proxy
        self._caller = caller
        self._far = socket.socket()
        self._far.setblocking(False)
        self._pumps: list[asyncio.Task[None]] = []
        self.task: asyncio.Task[None] | None = None
        for end in (self._caller, self._far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run(self) -> None:
        """Relays until both directions have ended or one has broken."""
        try:
            await self._proxy.passes.wait()
            host, _, port = self._proxy.target.rpartition(":")
            await asyncio.get_running_loop().sock_connect(self._far, (host, int(port)))
            self._pumps = [
                asyncio.create_task(self._pump(self._caller, self._far), name="fault-proxy-up"),
                asyncio.create_task(self._pump(self._far, self._caller), name="fault-proxy-down"),
            ]
            await asyncio.gather(*self._pumps)
        except OSError:  # refused by the target, or reset by one side: the other learns of it
            self._linger_0()
        finally:
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            self._caller.close()
            self._far.close()

    def reset(self) -> None:
        """Ends the connection with RST on both sides."""
        self._linger_0()
        if self.task is not None:
            self.task.cancel()

    def half_close(self) -> None:
        """Sends the caller a FIN; its own bytes still pass."""
        with suppress(OSError):
            self._caller.shutdown(socket.SHUT_WR)

    def _linger_0(self) -> None:
        for end in (self._caller, self._far):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)

    async def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Passes one direction on: reads ahead while a delay holds bytes back, in order."""
        held: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(maxsize=_CHUNKS_HELD)
        reading = asyncio.create_task(self._read(source, held), name="fault-proxy-read")
        try:
            await self._write(sink, held, is_up=sink is self._far)
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, source: socket.socket, held: asyncio.Queue[tuple[float, bytes | None]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._proxy.passes.wait()
            try:
                data = await loop.sock_recv(source, _CHUNK_BYTES)
            except OSError:
                await held.put((0.0, None))
                raise
            await held.put((loop.time() + self._proxy.delay_s, data))
            if not data:
                return

    async def _write(
        self, sink: socket.socket, held: asyncio.Queue[tuple[float, bytes | None]], *, is_up: bool
    ) -> None:
        loop, proxy = asyncio.get_running_loop(), self._proxy
        while True:
            due, data = await held.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if data is None:  # broken off: no orderly end for the other side
                return
            if not data:
                await proxy.passes.wait()
                with suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
                return
            while data:
                await proxy.passes.wait()
                rate = proxy.bytes_per_s
                part = data if rate == float("inf") else data[: max(1, int(rate / 50))]
                try:
                    await loop.sock_sendall(sink, part)
                except BrokenPipeError:  # after a half close: what comes has nobody to read it
                    part = data
                data = data[len(part) :]
                if is_up:
                    proxy.bytes_up += len(part)
                else:
                    proxy.bytes_down += len(part)
                if rate != float("inf"):
                    await asyncio.sleep(len(part) / rate)
