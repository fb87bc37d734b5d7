"""TLS credentials from files, for servers and clients, and bearer tokens."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc


class CredentialsError(OSError):
    """TLS files that cannot be used. The message names them."""


@dataclass(frozen=True)
class ServerTls:
    """The TLS files of a server."""

    certificate: Path
    """PEM file with the certificate and the intermediate certificates."""
    key: Path
    """PEM file with the certificate's private key."""
    client_authority: Path | None = None
    """PEM file with certificates of authorities. Only their clients may connect; None admits every client."""

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files: new connections use replaced files.

        Raises CredentialsError if the files cannot be used now. If they become unusable later, the last valid ones stay
        in use.
        """
        configuration = self._configuration()
        # By gRPC's documentation None means "unchanged"; the published types do not allow it.
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", _Reloading(self))
        return grpc.dynamic_ssl_server_credentials(
            configuration, fetch, require_client_authentication=self.client_authority is not None
        )

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        paths = [self.certificate, self.key, *([self.client_authority] if self.client_authority else [])]
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in (path.stat() for path in paths))

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        # gRPC would not report a key of another certificate before the first client connects.
        check_pair(self.certificate, self.key)
        return grpc.ssl_server_certificate_configuration(
            [(read(self.key), read(self.certificate))],
            read_authority(self.client_authority) if self.client_authority else None,
        )


class _Reloading:
    """Returns the configuration if the files have changed since the last call."""

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
            # The files are being replaced.
            return None
        self._stamp = stamp
        return configuration


@dataclass(frozen=True)
class ClientTls:
    """The TLS files of a client."""

    authority: Path | None = None
    """PEM file with the authorities that the client trusts; None trusts the public authorities known to gRPC."""
    certificate: Path | None = None
    """PEM file with the client's certificate, for a server that requires one."""
    key: Path | None = None
    """PEM file with the certificate's private key."""


def channel_credentials(tls: ClientTls | None, token: str) -> grpc.ChannelCredentials | None:
    """Return the credentials of a channel; None means plain text. Raises CredentialsError.

    Each call sends the token as "authorization: Bearer TOKEN". A token needs TLS: without encryption others could read
    it.
    """
    token = _checked(token)
    if tls is None:
        if token:
            raise CredentialsError("a token needs TLS: turn on TLS for the connection too")
        return None
    if tls.certificate is not None and tls.key is not None:
        check_pair(tls.certificate, tls.key)
    elif tls.certificate is not None or tls.key is not None:
        raise CredentialsError("set a client's certificate and its key together, or neither")
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
        raise CredentialsError("the token is blank: set a token, or leave it unset")
    if not (plain.isascii() and plain.isprintable()):
        raise CredentialsError("the token has characters that a gRPC header cannot contain: use printable ASCII")
    return plain


def check_pair(certificate: Path, key: Path) -> None:
    """Raise CredentialsError unless the files are a certificate and its private key."""
    # Without a password argument OpenSSL would ask for one on the terminal.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise CredentialsError(
            f"{certificate} and {key} are not a certificate and its private key in PEM format: {error}"
        ) from None


def read_authority(path: Path) -> bytes:
    """Return the content of a file of authorities. Raises CredentialsError if it has none: gRPC would not report it."""
    content = read(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=content.decode("ascii"))
        found = context.cert_store_stats()["x509"]
    except (ssl.SSLError, ValueError):
        # ValueError: the content is empty or not ASCII.
        found = 0
    if not found:
        raise CredentialsError(f"{path} has no certificate of an authority in PEM format")
    return content


def read(path: Path) -> bytes:
    """Return the bytes of a file. Raises CredentialsError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"{path} cannot be read: {error.strerror}") from None
