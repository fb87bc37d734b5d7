"""A Milvus server with users and mutual TLS, and its user for the search service."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient

from grpc_kit.credentials import ClientTls
from search_service.adapters.milvus_connection import MilvusConnection
from tests.milvus_server import MilvusProcess
from tests.unit.grpc_kit.certificates import Authority

ROOT, PASSWORD, DATABASE = "root:Milvus", "a good secret", "shop"


@dataclass(frozen=True)
class Guarded:
    """Where the server is, and the files that it takes."""

    uri: str
    tls: ClientTls
    folder: Path

    def connection(self, token: str = ROOT, database: str = "") -> MilvusConnection:
        return MilvusConnection(self.uri, token, database, self.tls)

    @contextmanager
    def client(self, token: str = ROOT, database: str = "") -> Iterator[MilvusClient]:
        client = MilvusClient(timeout=20, **self.connection(token, database).options())
        try:
            yield client
        finally:
            client.close()

    @property
    def files(self) -> dict[str, str]:
        """The search service's settings of TLS."""
        return {
            "milvus_ca": str(self.tls.authority),
            "milvus_certificate": str(self.tls.certificate),
            "milvus_key": str(self.tls.key),
        }


@contextmanager
def guarded_milvus(folder: Path, *, tls_mode: int = 2) -> Iterator[Guarded]:
    """Run a server that asks for passwords and, with mode 2, for clients' certificates."""
    authority = Authority(folder, "ca")
    own, client = authority.issue("milvus"), authority.issue("search")
    tls = ClientTls(authority.file, client.certificate, client.key) if tls_mode == 2 else ClientTls(authority.file)
    settings = {
        "common.security.authorizationEnabled": "true",
        "common.security.tlsMode": str(tls_mode),
        "tls.serverPemPath": str(own.certificate),
        "tls.serverKeyPath": str(own.key),
        "tls.caPemPath": str(authority.file),
        "proxy.maxRoleNum": "100",
    }
    options: dict[str, Any] = MilvusConnection("https://", ROOT, tls=tls).options()
    probing = {name: value for name, value in options.items() if name.endswith("_path")}
    with MilvusProcess(folder / "data", settings=settings, client={"token": ROOT, "secure": True, **probing}) as server:
        yield Guarded(server.uri, tls, folder)
