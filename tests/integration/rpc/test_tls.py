"""TLS and mTLS from files, with renewal while connections live."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme

from meshcast.rpc import (
    ChannelSettings,
    NotReady,
    Precondition,
    Server,
    ServingStatus,
    TlsSettings,
    channel,
    mesh_errors,
    probe,
    server_credentials,
)

Serve = Callable[..., Awaitable[Server]]
PLAIN = ChannelSettings(plain=True)


async def echo(text: str, context: Any) -> str:
    (names,) = [context.auth_context().get("x509_subject_alternative_name", [b""])]
    return f"{text} {b','.join(names).decode()}"


class Files:
    """An authority and the files of one process in a folder."""

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        self.certificate, self.key, self.authority = folder / "tls.crt", folder / "tls.key", folder / "ca.crt"
        self._ca = authority
        authority.cert_pem.write_to_path(str(self.authority))

    def issue(self, *names: str) -> None:
        """Writes a new pair as a careful renewal does: each file is replaced, the key first."""
        issued = self._ca.issue_cert(*names)
        self.replace(self.key, issued.private_key_pem.bytes())
        self.replace(self.certificate, b"".join(part.bytes() for part in issued.cert_chain_pems))

    @staticmethod
    def replace(path: Path, content: bytes) -> None:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        os.replace(fresh, path)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    (tmp_path / "server").mkdir()
    made = Files(tmp_path / "server", authority)
    made.issue("127.0.0.1")
    return made


def server_tls(files: Files, *, mutual: bool = False) -> TlsSettings:
    client_ca = files.authority if mutual else None
    return TlsSettings(certificate=files.certificate, key=files.key, client_ca=client_ca)


def client_tls(files: Files, **options: Any) -> TlsSettings:
    return TlsSettings(server_ca=files.authority, **options)


async def test_a_client_that_trusts_the_authority_gets_through_and_plaintext_does_not(
    serve: Serve, kinds_service: Any, ask: Any, files: Files
) -> None:
    server = await serve(kinds_service(echo), tls=server_tls(files))
    async with channel(server.address, tls=client_tls(files)) as to_server:
        assert await ask(to_server, "Unary", ["a"]) == ["a "]
    assert await probe(server.address, timeout_s=5, tls=client_tls(files)) is ServingStatus.SERVING
    with pytest.raises(NotReady):
        await probe(server.address, timeout_s=5)


async def test_a_client_that_trusts_another_authority_is_refused(serve: Serve, files: Files, tmp_path: Path) -> None:
    server = await serve(tls=server_tls(files))
    stranger = Files(tmp_path, trustme.CA())
    with pytest.raises(NotReady):
        await probe(server.address, timeout_s=5, tls=client_tls(stranger))


async def test_with_mtls_only_clients_of_the_authority_get_through_and_are_known_by_name(
    serve: Serve, kinds_service: Any, ask: Any, files: Files, authority: trustme.CA, tmp_path: Path
) -> None:
    server = await serve(kinds_service(echo), tls=server_tls(files, mutual=True))
    client = Files(tmp_path, authority)
    client.issue("gateway.mesh")
    identity = client_tls(client, certificate=client.certificate, key=client.key)
    async with channel(server.address, tls=identity) as to_server:
        assert await ask(to_server, "Unary", ["a"]) == ["a gateway.mesh"]
    with pytest.raises(NotReady):
        await probe(server.address, timeout_s=5, tls=client_tls(client))


async def test_a_renewed_certificate_serves_the_next_handshake_and_old_connections_live_on(
    serve: Serve, kinds_service: Any, ask: Any, files: Files
) -> None:
    files.issue("old.mesh")
    server = await serve(kinds_service(echo), tls=server_tls(files))
    async with channel(server.address, settings=PLAIN, tls=client_tls(files, server_name="old.mesh")) as before:
        await ask(before, "Unary")
        files.issue("new.mesh")
        async with channel(server.address, settings=PLAIN, tls=client_tls(files, server_name="new.mesh")) as after:
            await ask(after, "Unary")
        await ask(before, "Unary")
    with pytest.raises(NotReady), mesh_errors():
        async with channel(server.address, settings=PLAIN, tls=client_tls(files, server_name="old.mesh")) as late:
            await ask(late, "Unary", timeout=5)


@pytest.mark.parametrize("broken", ["half", "empty", "gone", "other key"])
async def test_a_pair_that_does_not_fit_is_not_taken_and_the_last_good_one_serves_on(
    serve: Serve, kinds_service: Any, ask: Any, files: Files, authority: trustme.CA, broken: str
) -> None:
    server = await serve(kinds_service(echo), tls=server_tls(files))
    whole = files.certificate.read_bytes()
    with structlog.testing.capture_logs() as logged:
        match broken:
            case "half":
                files.replace(files.certificate, whole[: len(whole) // 2])
            case "empty":
                files.replace(files.certificate, b"")
            case "gone":
                files.certificate.unlink()
            case _:
                files.replace(files.key, authority.issue_cert("127.0.0.1").private_key_pem.bytes())
        for _ in range(2):
            async with channel(server.address, settings=PLAIN, tls=client_tls(files)) as to_server:
                await ask(to_server, "Unary")
    assert [line["event"] for line in logged].count("renewed certificate not taken") == 1
    files.issue("127.0.0.1")
    async with channel(server.address, settings=PLAIN, tls=client_tls(files)) as to_server:
        await ask(to_server, "Unary")


async def test_authorities_that_are_half_written_are_not_taken_and_warned_about_once(
    serve: Serve, kinds_service: Any, ask: Any, files: Files, authority: trustme.CA, tmp_path: Path
) -> None:
    clients = tmp_path / "clients.crt"
    authority.cert_pem.write_to_path(str(clients))
    mutual = TlsSettings(certificate=files.certificate, key=files.key, client_ca=clients)
    server = await serve(kinds_service(echo), tls=mutual)
    identity = client_tls(files, certificate=files.certificate, key=files.key)
    with structlog.testing.capture_logs() as logged:
        for content in (clients.read_bytes()[:200], b""):
            files.replace(clients, content)
            for _ in range(2):
                async with channel(server.address, settings=PLAIN, tls=identity) as to_server:
                    await ask(to_server, "Unary")
    assert [line["event"] for line in logged].count("renewed certificate not taken") == 2


def test_files_that_cannot_serve_are_named_at_start_up(files: Files, authority: trustme.CA, tmp_path: Path) -> None:
    with pytest.raises(Precondition, match=r"both tls\.certificate and tls\.key"):
        server_credentials(TlsSettings(certificate=files.certificate))
    with pytest.raises(Precondition, match=r"cannot read tls\.key .*none\.key"):
        server_credentials(TlsSettings(certificate=files.certificate, key=tmp_path / "none.key"))
    files.replace(files.key, authority.issue_cert("127.0.0.1").private_key_pem.bytes())
    with pytest.raises(Precondition, match="are no pair"):
        server_credentials(server_tls(files))
    files.issue("127.0.0.1")
    for content in (b"", b"-----BEGIN CERTIFICATE-----\nZm94\n"):
        files.replace(files.authority, content)
        with pytest.raises(Precondition, match=r"tls\.client_ca .* holds no certificate"):
            server_credentials(server_tls(files, mutual=True))
