"""Tests of `deploy.milvus.role`: its privileges against Milvus' contract and the README, and its options."""

import re
from pathlib import Path

import pytest
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from deploy.milvus import role
from deploy.milvus.role import PRIVILEGES

README = Path(role.__file__).parents[1] / "README.md"
# Every request that the adapters send. Requests that connect need no privilege.
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
# Milvus grants it together with Load.
WITH_LOAD = ("Collection", "GetLoadState")
# Milvus 2.3 requires it. Newer releases list the collections on which a user has a privilege.
TO_LIST = ("Global", "ShowCollections")


def test_granted_privileges_are_those_of_milvus_contract() -> None:
    """In the pinned pymilvus (Milvus 2.6), each request names the privilege that it needs."""
    needed = set()
    for name in REQUESTS:
        options = milvus_pb2.DESCRIPTOR.message_types_by_name[f"{name}Request"].GetOptions()
        if not options.HasExtension(common_pb2.privilege_ext_obj):
            continue
        wanted = options.Extensions[common_pb2.privilege_ext_obj]
        privilege = common_pb2.ObjectPrivilege.Name(wanted.object_privilege).removeprefix("Privilege")
        needed.add((common_pb2.ObjectType.Name(wanted.object_type), privilege))
    assert needed | {TO_LIST} == {(privilege.object_type, privilege.name) for privilege in PRIVILEGES} | {WITH_LOAD}


def test_readme_lists_the_granted_privileges() -> None:
    rows = re.findall(r"^   \| (\w+) \| (.+) \|$", README.read_text(), re.MULTILINE)
    assert rows[1:] == [(privilege.name, privilege.needed_for) for privilege in PRIVILEGES]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["http://milvus:19530", "--ca", "ca.pem"], "require an address that starts with https://"),
        (["http://milvus:19530", "--server-name", "milvus"], "require an address that starts with https://"),
        (["https://milvus:19530", "--ca", "ca.pem", "--key", "a.key"], "--key requires --certificate"),
        (["https://milvus:19530", "--certificate", "a.crt", "--key", "a.key"], "--certificate requires --key and --ca"),
        (["https://milvus:19530", "--password", "secret"], "unrecognized arguments: --password"),
    ],
)
def test_rejects_inconsistent_options(options: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        role.main(options)
    assert problem in capsys.readouterr().err


def test_error_names_missing_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(role.ADMIN_PASSWORD, raising=False)
    monkeypatch.setattr("sys.stdin", Path("/dev/null").open())  # noqa: SIM115 - closed with the test's process
    with pytest.raises(SystemExit, match="Password of root: set MILVUS_ADMIN_PASSWORD, or write the password"):
        role.main(["http://127.0.0.1:1"])
