"""A Milvus server with users and mutual TLS, and its user for the search service."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import MilvusClient

from grpc_kit.credentials import ClientTls
from grpc_kit.deadline import Deadline
from search_service.adapters.milvus_connection import MilvusConnection
from search_service.adapters.milvus_store import MilvusStore
from search_service.core import types
from tests.milvus_server import MilvusProcess
from tests.unit.grpc_kit.certificates import Authority

ROOT, PASSWORD, DATABASE = "root:Milvus", "a good secret", "shop"
# Milvus takes up to ten seconds until a change of a role counts.
EFFECT_SECONDS = 12
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


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


def strip_public_role(root: MilvusClient) -> None:
    """Take from every user what Milvus gives to all: after that, what works is the doing of the user's own role."""
    for entry in root.describe_role("public", db_name="*")["privileges"]:
        root.revoke_privilege(
            "public", entry["object_type"], entry["privilege"], entry["object_name"], db_name=entry["db_name"]
        )


@asynccontextmanager
async def store_of(milvus: MilvusConnection) -> AsyncIterator[MilvusStore]:
    store = MilvusStore(milvus)
    try:
        yield store
    finally:
        await store.close()


def soon() -> Deadline:
    return Deadline.after(30)


def collection_of(name: str, dimension: int = 4) -> types.Collection:
    return types.Collection(name, dimension, "elsewhere", NOW)


def images_of(dimension: int = 4) -> list[types.StoredImage]:
    vectors = np.eye(dimension, dtype=np.float32)
    return [types.StoredImage(f"i{n}", create_time=NOW, update_time=NOW, vector=row) for n, row in enumerate(vectors)]
