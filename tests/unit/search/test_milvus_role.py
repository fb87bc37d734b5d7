"""The privileges that the command gives the search service's Milvus user, against what is written of them elsewhere."""

import re
from pathlib import Path

import pytest
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from deploy.milvus import role
from deploy.milvus.role import PRIVILEGES

README = Path(role.__file__).parents[1] / "README.md"
# Every request that the adapters send. Milvus asks for no privilege for the requests that connect.
REQUESTS = [
    "ShowCollections",
    "DescribeCollection",
    "CreateCollection",
    "AlterCollection",
    "DropCollection",
    "CreateAlias",
    "AlterAlias",
    "DropAlias",
    "ListAliases",
    "CreateIndex",
    "DescribeIndex",
    "LoadCollection",
    "GetLoadingProgress",
    "GetLoadState",
    "Upsert",
    "Delete",
    "Query",
    "Search",
]
# Milvus gives it together with Load.
WITH_LOAD = ("Collection", "GetLoadState")
# Milvus 2.3 asks for it. Newer ones list the collections for which a user has a privilege.
TO_LIST = ("Global", "ShowCollections")


def test_milvus_contract_asks_for_these_privileges() -> None:
    """The contract of the pinned pymilvus, Milvus 2.6: each request names the privilege that it needs."""
    needed = set()
    for name in REQUESTS:
        options = milvus_pb2.DESCRIPTOR.message_types_by_name[f"{name}Request"].GetOptions()
        if not options.HasExtension(common_pb2.privilege_ext_obj):
            continue
        wanted = options.Extensions[common_pb2.privilege_ext_obj]
        privilege = common_pb2.ObjectPrivilege.Name(wanted.object_privilege).removeprefix("Privilege")
        needed.add((common_pb2.ObjectType.Name(wanted.object_type), privilege))
    assert needed | {TO_LIST} == {(privilege.object_type, privilege.name) for privilege in PRIVILEGES} | {WITH_LOAD}


def test_the_readme_has_the_same_privileges() -> None:
    rows = re.findall(r"^   \| (\w+) \| (.+) \|$", README.read_text(), re.MULTILINE)
    assert rows[1:] == [(privilege.name, privilege.needed_for) for privilege in PRIVILEGES]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["http://milvus:19530", "--ca", "ca.pem"], "need an address that begins with https://"),
        (["http://milvus:19530", "--server-name", "milvus"], "need an address that begins with https://"),
        (["https://milvus:19530", "--ca", "ca.pem", "--key", "a.key"], "are given together"),
        (["https://milvus:19530", "--certificate", "a.crt", "--key", "a.key"], "are given together"),
        (["https://milvus:19530", "--password", "secret"], "unrecognized arguments: --password"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        role.main(options)
    assert problem in capsys.readouterr().err


def test_a_missing_password_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(role.ADMIN_PASSWORD, raising=False)
    monkeypatch.setattr("sys.stdin", Path("/dev/null").open())  # noqa: SIM115 - closed with the test's process
    with pytest.raises(SystemExit, match="Password of root: set MILVUS_ADMIN_PASSWORD, or give it on standard input"):
        role.main(["http://127.0.0.1:1"])
