"""A Milvus server with users and TLS: the user of the search service has the necessary privileges and no others."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import grpc
import numpy as np
import pytest
from pymilvus import DataType, MilvusClient
from structlog.testing import capture_logs

from deploy.milvus import role
from deploy.milvus.role import PRIVILEGES, Privilege
from grpc_kit.credentials import ClientTls
from grpc_kit.errors import FailedPreconditionError
from imagesearch_client import Client, Embedding, NewImage, StoredImage, number
from search_service.adapters.milvus_store import MilvusStore
from search_service.core import types
from search_service.core.ports import Nearest
from tests.harness.certificates import Authority
from tests.integration.search.conftest import StartSearch
from tests.integration.search.guarded_milvus import (
    DATABASE,
    PASSWORD,
    Guarded,
    collection_of,
    guarded_milvus,
    images_of,
    is_denied,
    soon,
    store_of,
    strip_public_role,
    wait_for_role,
)

USER, TOKEN = "imagesearch", f"imagesearch:{PASSWORD}"
DIMENSION, BITS = 96, 64
RunRole: TypeAlias = Callable[..., None]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_milvus(tmp_path_factory.mktemp("guarded")) as server:
        with server.client() as root:
            strip_public_role(root)
        yield server


@pytest.fixture(scope="module")
def run_role(guarded: Guarded) -> RunRole:
    """Return a function that runs the command that creates the user; keywords are the passwords in its environment."""

    def run(*options: str, admin: str = "Milvus", new_admin: str = "", user: str = PASSWORD) -> None:
        files = ("--ca", str(guarded.tls.authority), "--certificate", str(guarded.tls.certificate))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(role.ADMIN_PASSWORD, admin)
            patch.setenv(role.NEW_ADMIN_PASSWORD, new_admin)
            patch.setenv(role.USER_PASSWORD, user)
            role.main([guarded.uri, *files, "--key", str(guarded.tls.key), *options])

    return run


@pytest.fixture(scope="module")
def user(guarded: Guarded, run_role: RunRole) -> str:
    """Return the token of the search service's user."""
    run_role("--database", DATABASE)
    with guarded.client(TOKEN, DATABASE) as client:
        wait_for_role(client)
    return TOKEN


def image(number: int) -> NewImage:
    vector = np.random.default_rng(number).normal(size=DIMENSION).tolist()
    return NewImage(f"i{number:03d}", Embedding(vector, "elsewhere"), attributes={"number": number})


def test_service_works_as_its_milvus_user(guarded: Guarded, user: str, start_search: StartSearch, name: str) -> None:
    settings = {"milvus_uri": guarded.uri, "milvus_token": user, "milvus_database": DATABASE, **guarded.files}
    with start_search(embedder_target="127.0.0.1:1", **settings) as address, Client(address) as client:
        assert client.is_serving()
        client.create_collection(name, dimension=DIMENSION, fingerprint="elsewhere")
        assert name in {found.name for found in client.list_collections()}
        assert [result.error for result in client.write(name, map(image, range(200))) if result.error] == []
        assert client.count(name) == 200
        assert client.search(name, StoredImage("i007"), strong=True)
        client.update(name, "i007", attributes={"number": 1007})
        assert client.get(name, "i007", strong=True).attributes == {"number": 1007}
        for _ in ("made", "moved"):
            client.set_alias(f"{name}_now", name)
        assert client.list_aliases()[f"{name}_now"] == name
        client.delete_alias(f"{name}_now")

        client.create_codes(name, np.random.default_rng(1).normal(size=(BITS, DIMENSION + 1)).tolist())
        assert list(client.encode_images(name))[-1].encoded == 200
        assert client.search(name, StoredImage("i008"), coarse=50, strong=True)
        client.delete_codes(name)
        assert client.delete(name, ["i001"]) == 1
        assert client.delete_where(name, number("number", gte=1000)) == 1
        with guarded.client(database=DATABASE) as root, guarded.client() as elsewhere:
            assert name in root.list_collections()
            assert name not in elsewhere.list_collections()
        client.delete_collection(name)
        assert name not in {found.name for found in client.list_collections()}


FORBIDDEN: Mapping[str, Callable[[MilvusClient], object]] = {
    "make users": lambda client: client.create_user("other", "a long password"),
    "list users": lambda client: client.list_users(),
    "give roles": lambda client: client.grant_role(USER, "admin"),
    "change roles": lambda client: client.grant_privilege(USER, "Global", "*", "*", db_name=DATABASE),
    "remove roles": lambda client: client.drop_role(USER),
    "make databases": lambda client: client.create_database("other"),
    "remove databases": lambda client: client.drop_database("foreign"),
    "insert, which makes a second row of an id": lambda client: client.insert(
        "base", [{"id": 1, "vector": [0.0, 1.0]}]
    ),
    "rename collections": lambda client: client.rename_collection("base", "renamed"),
    "release collections": lambda client: client.release_collection("base"),
    "drop indexes": lambda client: client.drop_index("base", "vector"),
    "make partitions": lambda client: client.create_partition("base", "part"),
    "flush": lambda client: client.flush("base"),
    "compact": lambda client: client.compact("base"),
}
ELSEWHERE: Mapping[str, Callable[[MilvusClient], object]] = {
    "list": lambda client: client.list_collections(),
    "describe": lambda client: client.describe_collection("foreign"),
    "read": lambda client: client.query("foreign", filter="id >= 0", limit=1),
    "search": lambda client: client.search("foreign", [[0.0, 1.0]], limit=1),
    "write": lambda client: client.upsert("foreign", [{"id": 1, "vector": [0.0, 1.0]}]),
    "delete": lambda client: client.delete("foreign", filter="id >= 0"),
    "make collections": lambda client: client.create_collection("mine", dimension=2),
    "remove collections": lambda client: client.drop_collection("foreign"),
    "make aliases": lambda client: client.create_alias("foreign", "mine"),
    "list aliases": lambda client: client.list_aliases(db_name="foreign"),
}


@pytest.fixture(scope="module")
def others(guarded: Guarded) -> None:
    """Create a collection of another application, one in another database, and a user without a role."""
    with guarded.client() as root:
        root.create_database("foreign")
        root.create_user("nobody", PASSWORD)
    for database, collection in ((DATABASE, "base"), ("foreign", "foreign")):
        with guarded.client(database=database) as root:
            schema = root.create_schema()
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
            root.create_collection(collection, schema=schema)


@pytest.mark.usefixtures("others")
def test_milvus_user_has_no_other_privileges(guarded: Guarded, user: str) -> None:
    for database, calls in ((DATABASE, FORBIDDEN), ("foreign", ELSEWHERE)):
        with guarded.client(user, database) as client:
            assert [what for what, call in calls.items() if not is_denied(call, client)] == [], database


@pytest.mark.usefixtures("user")
def test_role_command_is_idempotent_and_revokes_extra_privileges(
    guarded: Guarded, run_role: RunRole, capsys: pytest.CaptureFixture[str]
) -> None:
    done = f"{USER} can use the database {DATABASE}: set SEARCH_MILVUS_TOKEN to {USER}:PASSWORD"
    capsys.readouterr()
    run_role("--database", DATABASE)
    assert capsys.readouterr().out.splitlines() == [done]
    with guarded.client() as root:
        root.grant_role(USER, "admin")
        root.grant_privilege(USER, "Collection", "Flush", "*", db_name=DATABASE)
        root.revoke_privilege(USER, "Collection", "Search", "*", db_name=DATABASE)
    run_role("--database", DATABASE)
    assert capsys.readouterr().out.splitlines() == [
        "granted Search: searching by vectors and by codes",
        "revoked Flush on *: the search service does not need it",
        f"revoked the role admin from {USER}",
        done,
        "Milvus applies all changes within about ten seconds",
    ]
    with guarded.client() as root:
        granted = root.describe_role(USER, db_name=DATABASE)["privileges"]
        assert {entry["privilege"] for entry in granted} == {privilege.name for privilege in PRIVILEGES}
        assert root.describe_user(USER)["roles"] == (USER,)


@pytest.mark.usefixtures("user")
def test_role_command_reports_errors(run_role: RunRole, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Privilege("Global", "TeleportCollection", "moving at once")
    with monkeypatch.context() as patch:
        patch.setattr(role, "PRIVILEGES", (*PRIVILEGES, new))
        with pytest.raises(SystemExit, match=r"needs: TeleportCollection \(for moving at once\)"):
            run_role("--database", DATABASE)
    with pytest.raises(SystemExit, match="refuses the password of root; correct MILVUS_ADMIN_PASSWORD"):
        run_role(admin="wrong")
    with pytest.raises(SystemExit, match="exists and has another password; set MILVUS_USER_PASSWORD"):
        run_role("--database", DATABASE, user="another one")
    with pytest.raises(SystemExit, match="root is the administrator; --user must name another user"):
        run_role("--user", "root")


@pytest.mark.usefixtures("user")
def test_role_command_changes_the_administrator_password(run_role: RunRole) -> None:
    change = ("--database", DATABASE, "--change-admin-password")
    run_role(*change, new_admin="another one")
    with pytest.raises(SystemExit, match="refuses the password of root"):
        run_role("--database", DATABASE)
    run_role(*change, admin="another one", new_admin="Milvus")


async def found(store: MilvusStore, collection: types.Collection) -> list[str]:
    nearest = Nearest(3, types.View.ID, types.Consistency.STRONG, None)
    (hits,) = await store.search(collection, [np.ones(collection.dimension, np.float32)], nearest, soon())
    return [hit.image.id for hit in hits]


@pytest.mark.usefixtures("others")
async def test_databases_of_one_server_are_separate(guarded: Guarded, name: str) -> None:
    async with (
        store_of(guarded.connection(database=DATABASE)) as one,
        store_of(guarded.connection(database="foreign")) as other,
    ):
        # One name and different dimensions: neither may be mistaken for the other.
        sizes = {one: collection_of(name, 4), other: collection_of(name, 6)}
        for store, collection in sizes.items():
            await store.create_collection(collection, soon())
            await store.set_alias(types.Alias(f"{name}_now", name), soon())
        for store, collection in sizes.items():
            await store.upsert(collection, images_of(collection.dimension), soon())
            assert (await store.get_collection(name, soon())).dimension == collection.dimension
            assert types.Alias(f"{name}_now", name) in await store.list_aliases(soon())
        await one.delete(sizes[one], ["i0"], soon())
        counts = [
            await store.count(collection, None, types.Consistency.STRONG, soon()) for store, collection in sizes.items()
        ]
        assert counts == [3, 6]
        for store, collection in sizes.items():
            assert len(await found(store, collection)) == 3
        await one.delete_alias(f"{name}_now", soon())
        await one.delete_collection(sizes[one], soon())
        assert types.Alias(f"{name}_now", name) in await other.list_aliases(soon())
        await other.delete_alias(f"{name}_now", soon())
        await other.delete_collection(sizes[other], soon())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("authority", "not signed by an authority in SEARCH_MILVUS_CA"),
        ("no certificate", "asks for one: set SEARCH_MILVUS_CERTIFICATE and SEARCH_MILVUS_KEY"),
        ("certificate", "refuses the client's certificate"),
        ("name", "set SEARCH_MILVUS_SERVER_NAME to a name in the certificate"),
        ("password", "refuses SEARCH_MILVUS_TOKEN: it must be USER:PASSWORD"),
        ("database", "no database 'nowhere': create it, or correct SEARCH_MILVUS_DATABASE"),
        ("privilege", "the user in SEARCH_MILVUS_TOKEN needs another privilege"),
        ("no TLS", "does not use TLS on this port: set SEARCH_MILVUS_URI to http://HOST:PORT"),
    ],
)
@pytest.mark.usefixtures("others")
async def test_connection_problems_are_logged(guarded: Guarded, tmp_path: Path, changed: str, words: str) -> None:
    good = guarded.connection()
    stranger = Authority(tmp_path, "stranger")
    foreign = stranger.issue("foreign")
    tls, plain = guarded.tls, grpc.server(ThreadPoolExecutor(1))
    port = plain.add_insecure_port("127.0.0.1:0")
    plain.start()
    changes: dict[str, dict[str, object]] = {
        "authority": {"tls": dataclasses.replace(tls, authority=stranger.file)},
        "no certificate": {"tls": ClientTls(tls.authority)},
        "certificate": {"tls": ClientTls(tls.authority, foreign.certificate, foreign.key)},
        "name": {"server_name": "milvus.example.com"},
        "password": {"token": "root:wrong"},
        "database": {"database": "nowhere"},
        "privilege": {"token": f"nobody:{PASSWORD}"},
        "no TLS": {"uri": f"https://127.0.0.1:{port}"},
    }
    try:
        # A working connection with the same address and password is not reused.
        async with store_of(good) as working, store_of(dataclasses.replace(good, **changes[changed])) as store:  # type: ignore[arg-type]
            await working.check(soon())
            with capture_logs() as logs, pytest.raises(FailedPreconditionError) as refused:
                await store.check(soon())
            # The error suggests no retry.
            assert refused.value.retry_after is None
            assert words in "".join(str(entry.get("problem", "")) for entry in logs)
            await working.check(soon())
    finally:
        plain.stop(None)
