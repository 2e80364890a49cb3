"""A page in a real browser, and the server that it comes from: the page posts what it has found to `/found`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Pages", "browser_here", "browsing", "serving_pages"]

_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def browser_here() -> str:
    """A real browser; skips the test where there is none."""
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here: apt-get install {_BROWSERS[0]}")
    return found


class Pages:
    """Serves one page, and takes what it has found.

    Attributes:
        page: what a browser gets.
        origin: where it comes from, as in `http://127.0.0.1:5000`.
        found: what the page has posted.
    """

    def __init__(self) -> None:
        self.page = ""
        self.origin = ""
        self.found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = b""
        if head.startswith("post /found"):
            size = int(head.partition("content-length: ")[2].split("\r\n")[0])
            self.found.set_result(json.loads(await reader.readexactly(size)))
        else:
            body = self.page.encode()
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {len(body)}\r\n".encode())
        writer.write(b"connection: close\r\n\r\n" + body)
        writer.close()


@asynccontextmanager
async def serving_pages() -> AsyncIterator[Pages]:
    """Pages on a free port of loopback."""
    pages = Pages()
    server = await asyncio.start_server(pages.answer, "127.0.0.1", 0)
    async with server:
        pages.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield pages


@asynccontextmanager
async def browsing(browser: str, url: str, folder: Path) -> AsyncIterator[None]:
    """A browser that shows a page while the block lasts; its profile is in `folder`."""
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
    process = await asyncio.create_subprocess_exec(
        *(browser, *options, f"--user-data-dir={folder / 'profile'}", url),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        # What is started may be a script around the browser, whose end would leave the browser behind.
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
