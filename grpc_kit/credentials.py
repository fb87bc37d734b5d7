"""TLS from files, for servers and for clients, and the bearer tokens that go over it."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc


class CredentialsError(OSError):
    """Files of TLS that cannot be used. The message names them."""


@dataclass(frozen=True)
class ServerTls:
    """The files of a server."""

    certificate: Path
    """Its certificate and those between it and the authority's, PEM."""
    key: Path
    """The certificate's private key, PEM."""
    client_authority: Path | None = None
    """Certificates of the authorities whose clients alone may connect, PEM; None lets every client in."""

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files: connections made after these were replaced use the new ones.

        Raises CredentialsError where the files cannot be used now. Later such a state leaves the last good one in use.
        """
        configuration = self._configuration()
        # The published types do not know that None is "unchanged", as gRPC's own documentation has it.
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", _Reloading(self))
        return grpc.dynamic_ssl_server_credentials(
            configuration, fetch, require_client_authentication=self.client_authority is not None
        )

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        paths = [self.certificate, self.key, *([self.client_authority] if self.client_authority else [])]
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in (path.stat() for path in paths))

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        # gRPC itself would say nothing of a key that does not belong to the certificate until a client comes.
        check_pair(self.certificate, self.key)
        return grpc.ssl_server_certificate_configuration(
            [(read(self.key), read(self.certificate))],
            read_authority(self.client_authority) if self.client_authority else None,
        )


class _Reloading:
    """Gives the configuration when the files have changed since the last time."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._stamp = tls._stamp()  # noqa: SLF001 - a part of ServerTls

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            stamp = self._tls._stamp()  # noqa: SLF001 - as above
            if stamp == self._stamp:
                return None
            configuration = self._tls._configuration()  # noqa: SLF001 - as above
        except OSError:
            # In the middle of being replaced.
            return None
        self._stamp = stamp
        return configuration


@dataclass(frozen=True)
class ClientTls:
    """How a client knows its server, and what it shows of itself."""

    authority: Path | None = None
    """Certificates of the authorities that the server's may come from, PEM; None takes gRPC's list of public ones."""
    certificate: Path | None = None
    """The client's own certificate, for a server that asks for one, PEM."""
    key: Path | None = None
    """That certificate's private key, PEM."""


def channel_credentials(tls: ClientTls | None, token: str) -> grpc.ChannelCredentials | None:
    """What a channel is opened with; None is plain text. Raises CredentialsError.

    A token goes with each call as "authorization: Bearer TOKEN", and over TLS only: in plain text anybody on the way
    could take it.
    """
    token = _checked(token)
    if tls is None:
        if token:
            raise CredentialsError("a token is sent over TLS only: turn on TLS for the connection too")
        return None
    if tls.certificate is not None and tls.key is not None:
        check_pair(tls.certificate, tls.key)
    elif tls.certificate is not None or tls.key is not None:
        raise CredentialsError("a client's certificate and its key are set together or not at all")
    channel = grpc.ssl_channel_credentials(
        read_authority(tls.authority) if tls.authority else None,
        read(tls.key) if tls.key else None,
        read(tls.certificate) if tls.certificate else None,
    )
    if not token:
        return channel
    return grpc.composite_channel_credentials(channel, grpc.access_token_call_credentials(token))


def _checked(token: str) -> str:
    """Return a token without the white space around it, such as a file's last line break. Raises CredentialsError."""
    plain = token.strip()
    if token and not plain:
        raise CredentialsError("the token is blank: set a token, or none")
    if not (plain.isascii() and plain.isprintable()):
        raise CredentialsError("the token has characters that a call's header cannot carry: use letters and digits")
    return plain


def check_pair(certificate: Path, key: Path) -> None:
    """Raises CredentialsError where these are no certificate and its key."""
    # The password keeps OpenSSL from asking for one on the terminal.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise CredentialsError(f"{certificate} and {key} are no certificate and its key, in PEM: {error}") from None


def read_authority(path: Path) -> bytes:
    """A file of authorities' certificates. Raises CredentialsError where it has none: gRPC would say so to nobody."""
    content = read(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=content.decode("ascii"))
        found = context.cert_store_stats()["x509"]
    except (ssl.SSLError, ValueError):
        # ValueError: no text at all, or no ASCII.
        found = 0
    if not found:
        raise CredentialsError(f"{path} has no authority's certificate, in PEM")
    return content


def read(path: Path) -> bytes:
    """A file's bytes. Raises CredentialsError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"{path} cannot be read: {error.strerror}") from None
