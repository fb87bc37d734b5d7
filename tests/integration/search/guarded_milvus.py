"""A Milvus server with users and mutual TLS, and the user of the search service."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from grpc_kit.credentials import ClientTls
from grpc_kit.deadline import Deadline
from search_service.adapters.milvus_connection import MilvusConnection
from search_service.adapters.milvus_store import MilvusStore
from search_service.core import types
from tests.harness.certificates import Authority
from tests.milvus_server import MilvusProcess

ROOT, PASSWORD, DATABASE = "root:Milvus", "a good secret", "shop"
# Milvus applies changes of roles one by one, within about ten seconds, or longer on a busy machine.
EFFECT_SECONDS = 60
# Calls that show whether a user has a privilege: Milvus checks it before it looks for the collection.
PROBES: Mapping[str, Callable[[MilvusClient], object]] = {
    "ShowCollections": lambda client: client.list_collections(),
    "DescribeCollection": lambda client: client.describe_collection("nothing"),
    "DropCollection": lambda client: client.drop_collection("nothing"),
    "CreateAlias": lambda client: client.create_alias("nothing", "none"),
    "DropAlias": lambda client: client.drop_alias("none"),
    "ListAliases": lambda client: client.list_aliases(),
    "IndexDetail": lambda client: client.list_indexes("nothing"),
    "Load": lambda client: client.load_collection("nothing"),
    "Delete": lambda client: client.delete("nothing", filter="id > 0"),
    "Query": lambda client: client.query("nothing", filter="id > 0"),
}
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@dataclass(frozen=True)
class Guarded:
    """The address of the server, and its TLS files."""

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
        """Return the TLS settings of the search service."""
        return {
            "milvus_ca": str(self.tls.authority),
            "milvus_certificate": str(self.tls.certificate),
            "milvus_key": str(self.tls.key),
        }


@contextmanager
def guarded_milvus(folder: Path, *, tls_mode: int = 2) -> Iterator[Guarded]:
    """Run a server that requires passwords and, with mode 2, client certificates."""
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
    """Revoke the privileges that all users have, so that only the user's own role counts."""
    for entry in root.describe_role("public", db_name="*")["privileges"]:
        root.revoke_privilege(
            "public", entry["object_type"], entry["privilege"], entry["object_name"], db_name=entry["db_name"]
        )


def is_denied(call: Callable[[MilvusClient], object], client: MilvusClient) -> bool:
    """Return whether Milvus refuses a call because the user lacks the privilege."""
    try:
        call(client)
    except MilvusException:
        return False
    except grpc.RpcError as error:
        return isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.PERMISSION_DENIED
    return False


def wait_for_role(client: MilvusClient, missing: str = "") -> None:
    """Wait until Milvus applies the role of the client's user: that of the service without one privilege."""
    deadline = time.monotonic() + EFFECT_SECONDS
    while wrong := [name for name, call in PROBES.items() if is_denied(call, client) is not (name == missing)]:
        assert time.monotonic() < deadline, wrong
        time.sleep(0.2)


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
