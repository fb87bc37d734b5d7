"""The connection to Milvus: address, user, database and TLS."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import grpc
from pymilvus.exceptions import MilvusException

from grpc_kit.credentials import ClientTls, CredentialsError, check_pair, read_authority

SERVER_SCHEMES = ("http://", "https://", "tcp://", "unix:")
DATABASE_NOT_FOUND = 800


@dataclass(frozen=True)
class MilvusConnection:
    """The address of a Milvus, and the credentials for it."""

    uri: str
    """A path that ends in .db for Milvus Lite; http://HOST:PORT or https://HOST:PORT for a server."""
    token: str = field(default="", repr=False)
    """USER:PASSWORD or an API key for a server."""
    database: str = ""
    """A database of the server; empty for its default database."""
    tls: ClientTls | None = None
    """Certificates beyond gRPC's list of public authorities. The scheme https turns TLS on."""
    server_name: str = ""
    """The name in the server's certificate; empty for the host of the address."""

    @property
    def is_lite(self) -> bool:
        """Return whether this is Milvus Lite, which runs in this process."""
        return not self.uri.startswith(SERVER_SCHEMES)

    @property
    def shows_token(self) -> bool:
        """Return whether the token is sent over the network in plain text."""
        return bool(self.token) and not self.is_lite and not self.uri.startswith("https://") and not self._is_local

    @property
    def _is_local(self) -> bool:
        host = urlsplit(self.uri).hostname or "localhost"
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def check(self) -> None:
        """Raise OSError with the name of the setting if the address or a TLS file is wrong."""
        if self.is_lite and not self.uri.endswith(".db"):
            raise OSError(
                f"the address of Milvus is {self.uri!r}; it must be a path that ends in .db, or http://HOST:PORT"
            )
        if self.tls is None:
            return
        try:
            if self.tls.authority is not None:
                read_authority(self.tls.authority)
        except CredentialsError as error:
            raise OSError(f"SEARCH_MILVUS_CA: {error}") from None
        try:
            if self.tls.certificate is not None and self.tls.key is not None:
                check_pair(self.tls.certificate, self.tls.key)
        except CredentialsError as error:
            raise OSError(f"SEARCH_MILVUS_CERTIFICATE and SEARCH_MILVUS_KEY: {error}") from None

    def options(self) -> dict[str, Any]:
        """Return the arguments for `MilvusClient` and `AsyncMilvusClient`."""
        # Without `dedicated`, pymilvus shares a channel between clients with one address and token but different TLS.
        options: dict[str, Any] = {"uri": self.uri, "token": self.token, "db_name": self.database, "dedicated": True}
        if self.tls is not None and self.tls.certificate is not None:
            options |= {
                "ca_pem_path": str(self.tls.authority),
                "client_pem_path": str(self.tls.certificate),
                "client_key_path": str(self.tls.key),
            }
        elif self.tls is not None and self.tls.authority is not None:
            # pymilvus reads `ca_pem_path` only together with a client certificate.
            options["server_pem_path"] = str(self.tls.authority)
        if self.server_name:
            options["server_name"] = self.server_name
        return options

    def problem(self, error: BaseException) -> str:
        """Return what an operator must change so that a connection succeeds; empty if a retry may succeed."""
        if isinstance(error, MilvusException) and error.code == DATABASE_NOT_FOUND:
            return f"Milvus has no database {self.database!r}: create it, or correct SEARCH_MILVUS_DATABASE"
        # pymilvus raises the same error for every failure to connect. Its cause is the error of gRPC.
        refused = error if isinstance(error, grpc.RpcError) else error.__cause__
        if not isinstance(refused, grpc.Call | grpc.aio.AioRpcError):
            return ""
        details = refused.details() or ""
        if refused.code() is grpc.StatusCode.UNAUTHENTICATED:
            return "Milvus refuses SEARCH_MILVUS_TOKEN: it must be USER:PASSWORD of a Milvus user, or an API key"
        if refused.code() is grpc.StatusCode.PERMISSION_DENIED:
            return f"the user in SEARCH_MILVUS_TOKEN needs another privilege; Milvus says: {details}"
        return next((words for text, words in TLS_PROBLEMS.items() if text in details), "")


# Texts in gRPC errors of failed TLS connections, and what to do.
TLS_PROBLEMS = {
    "CERTIFICATE_VERIFY_FAILED": "Milvus' certificate is not signed by an authority in SEARCH_MILVUS_CA (unset: by a "
    "public one), or it has expired: set SEARCH_MILVUS_CA to the certificate of the authority that signed it",
    "Hostname Verification": "Milvus' certificate is for another name than the host in SEARCH_MILVUS_URI: set "
    "SEARCH_MILVUS_SERVER_NAME to a name in the certificate",
    "WRONG_VERSION_NUMBER": "Milvus does not use TLS on this port: set SEARCH_MILVUS_URI to http://HOST:PORT, or turn "
    "TLS on in Milvus",
    "TSI_DATA_CORRUPTED": "Milvus refuses the client's certificate, or asks for one: set SEARCH_MILVUS_CERTIFICATE and "
    "SEARCH_MILVUS_KEY to a certificate from an authority that Milvus trusts",
}
