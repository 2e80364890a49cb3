"""TLS of the HTTP door: the gateway's own certificate, its renewal, and client certificates where they are asked."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from meshcast.gateway import GatewaySettings, serving
from meshcast.rpc import Precondition, RpcSettings, TlsSettings
from meshcast.rpc.tls import server_context


class Files:
    """A certificate and its key as files, which can be issued anew."""

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        self.certificate, self.key, self.ca = folder / "tls.crt", folder / "tls.key", folder / "ca.crt"
        self._authority = authority
        authority.cert_pem.write_to_path(self.ca)
        self.issue()

    def issue(self) -> None:
        """Writes a new pair, each file at once."""
        issued = self._authority.issue_cert("localhost", "127.0.0.1")
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        for path, content in ((self.certificate, chain), (self.key, issued.private_key_pem.bytes())):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            os.replace(new, path)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    return Files(tmp_path, authority)


@asynccontextmanager
async def door(tls: TlsSettings) -> AsyncIterator[int]:
    """A gateway without routes; gives its HTTP port."""
    rpc = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0)
    async with serving(GatewaySettings(routes={}), rpc, tls=tls, http_port=0) as server:
        assert server.http_address.startswith("https://")
        yield int(server.http_address.rpartition(":")[2])


async def served(port: int, context: ssl.SSLContext) -> tuple[bytes, Any]:
    """The status line of an answer, and the server's certificate."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            certificate = writer.get_extra_info("ssl_object").getpeercert()
            writer.write(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            return (await reader.read()).partition(b"\r\n")[0], certificate
        finally:
            writer.close()


async def test_the_door_has_the_gateways_certificate_and_follows_its_renewal(files: Files) -> None:
    context = ssl.create_default_context(cafile=str(files.ca))
    async with door(TlsSettings(certificate=files.certificate, key=files.key)) as port:
        status, first = await served(port, context)
        files.issue()
        again, second = await served(port, context)
        with pytest.raises(ssl.SSLError):
            await served(port, ssl.create_default_context())
    assert status == again == b"HTTP/1.1 200 OK"
    assert first["serialNumber"] != second["serialNumber"]


async def test_client_certificates_are_asked_for_where_an_authority_is_set(files: Files, authority: trustme.CA) -> None:
    context = ssl.create_default_context(cafile=str(files.ca))
    tls = TlsSettings(certificate=files.certificate, key=files.key, client_ca=files.ca)
    async with door(tls) as port:
        try:
            status, _ = await served(port, context)
        except (ssl.SSLError, ConnectionError):
            status = b""
        assert status == b"", "a caller without a certificate was answered"
        authority.issue_cert("caller@example.org").configure_cert(context)
        assert (await served(port, context))[0] == b"HTTP/1.1 200 OK"


def test_files_that_cannot_serve_are_named(files: Files, tmp_path: Path) -> None:
    assert server_context(TlsSettings()) is None
    with pytest.raises(Precondition, match="both"):
        server_context(TlsSettings(certificate=files.certificate))
    with pytest.raises(Precondition, match="cannot read"):
        server_context(TlsSettings(certificate=files.certificate, key=tmp_path / "none"))
