"""TLS from files: server credentials that follow a renewed certificate, and channel credentials."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from .errors import Precondition

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """Certificates of a process, as PEM files; the table `[tls]`.

    Args:
        certificate: this process's certificate chain, leaf first. Servers need it for TLS; clients present it in mTLS.
        key: private key of `certificate`.
        client_ca: server side: authorities that client certificates must come from. Set = mTLS is required.
        server_ca: client side: authorities of the servers; None takes the system's.
        server_name: client side: name that the server's certificate must carry, when it is not the target's.
        client: True when this process reaches its peers by TLS without `server_ca`, with the system's authorities.
    """

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    server_ca: Path | None = None
    server_name: str = ""
    client: bool = False


def server_credentials(settings: TlsSettings) -> grpc.ServerCredentials | None:
    """Credentials of a server; None when no certificate is set, for plaintext.

    Files are looked at on each handshake and read again when they have changed; a pair that does not fit together, as
    while a renewal is being written, is not taken, nor are authorities that are no certificates: the last good files
    serve on, and a warning is logged once.

    Raises:
        Precondition: a file is missing or unreadable, or certificate and key do not fit together.
    """
    source = _certificate_files(settings)
    if source is None:
        return None
    return grpc.dynamic_ssl_server_credentials(
        source.load(),
        source.changed,  # type: ignore[arg-type]  # None means unchanged; the stub does not know
        require_client_authentication=settings.client_ca is not None,
    )


def server_context(settings: TlsSettings) -> ssl.SSLContext | None:
    """The same certificates for a server that is not grpc's; None when no certificate is set, for plaintext.

    Files are followed as by `server_credentials`.

    Raises:
        Precondition: a file is missing or unreadable, or certificate and key do not fit together.
    """
    source = _certificate_files(settings)
    if source is None:
        return None
    source.load()
    latest = first = source.context()

    def renew(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal latest
        if source.changed() is not None:
            with contextlib.suppress(Precondition):  # changed once more: the next handshake looks again
                latest = source.context()
        if latest is not first:
            connection.context = latest

    first.sni_callback = renew  # called in each handshake, with or without a name
    return first


def channel_credentials(settings: TlsSettings) -> grpc.ChannelCredentials | None:
    """Credentials of a channel; None when the settings ask for plaintext.

    grpc has no rotation on the client's side: make a new channel for a renewed client certificate.

    Raises:
        Precondition: a file is missing or unreadable, or only one of certificate and key is set.
    """
    if settings.server_ca is None and not settings.client:
        return None
    if (settings.certificate is None) != (settings.key is None):
        raise Precondition("TLS needs both tls.certificate and tls.key")
    return grpc.ssl_channel_credentials(
        root_certificates=None if settings.server_ca is None else _read(settings.server_ca, "server_ca"),
        private_key=None if settings.key is None else _read(settings.key, "key"),
        certificate_chain=None if settings.certificate is None else _read(settings.certificate, "certificate"),
    )


def _certificate_files(settings: TlsSettings) -> _CertificateFiles | None:
    """The files of a server's certificate; None when none is set."""
    if settings.certificate is None and settings.key is None and settings.client_ca is None:
        return None
    if settings.certificate is None or settings.key is None:
        raise Precondition("TLS needs both tls.certificate and tls.key")
    return _CertificateFiles(settings.certificate, settings.key, settings.client_ca)


class _CertificateFiles:
    """Certificate, key and authority on disk, and whether they have changed since the last good read."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._stamp: tuple[tuple[int, int, int], ...] = ()
        self._refused: tuple[tuple[int, int, int], ...] | None = None
        self._lock = threading.Lock()  # handshakes run on grpc's own threads

    def load(self) -> grpc.ServerCertificateConfiguration:
        """The files as they are now; raises Precondition when they cannot serve."""
        with contextlib.suppress(OSError):  # the read below says which file is missing
            self._stamp = self._stamps()  # before the read: what changes after it is then seen as a change
        return self._configuration()

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The files when they have changed and fit together; None otherwise. Never raises: grpc would drop the port."""
        with self._lock:
            stamp: tuple[tuple[int, int, int], ...] = ()
            try:
                stamp = self._stamps()
                if stamp in (self._stamp, self._refused):
                    return None
                configuration = self._configuration()
                if self._stamps() != stamp:
                    return None  # still being written: the next handshake looks again
            except (Precondition, OSError) as error:
                if stamp != self._refused:
                    self._refused = stamp
                    log.warning("renewed certificate not taken", certificate=str(self._certificate), error=str(error))
                return None
            self._stamp = stamp
            log.info("renewed certificate taken", certificate=str(self._certificate))
            return configuration

    def _stamps(self) -> tuple[tuple[int, int, int], ...]:
        files = [path for path in (self._certificate, self._key, self._client_ca) if path is not None]
        stats = [os.stat(path) for path in files]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        key, chain = _read(self._key, "key"), _read(self._certificate, "certificate")
        root = None if self._client_ca is None else _read(self._client_ca, "client_ca")
        self.context()
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=root)

    def context(self) -> ssl.SSLContext:
        """The files as they are now, for servers that are not grpc's; raises Precondition when they cannot serve."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._certificate, self._key, password="")  # else a locked key asks the terminal
        except ssl.SSLError as error:
            raise Precondition(
                f"tls.certificate {self._certificate} and tls.key {self._key} are no pair: {error.reason or error}"
            ) from error
        try:
            if self._client_ca is not None:
                context.load_verify_locations(self._client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except ssl.SSLError as error:
            raise Precondition(
                f"tls.client_ca {self._client_ca} holds no certificate: {error.reason or error}"
            ) from error
        return context


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Precondition(f"cannot read tls.{name} {path}: {error.strerror}") from error
