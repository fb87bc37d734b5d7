"""Create a Milvus user for the search service, with only the privileges that the service needs.

    $ python -m deploy.milvus.role http://127.0.0.1:19530 --database imagesearch

The command reads passwords from MILVUS_ADMIN_PASSWORD and MILVUS_USER_PASSWORD, or asks for them. You can run it again:
it creates what is missing and revokes what the service does not need.
"""

import argparse
import getpass
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from grpc_kit.credentials import ClientTls
from search_service.adapters.milvus_connection import MilvusConnection

ROLE, USER, ADMIN = "imagesearch", "imagesearch", "root"
ADMIN_PASSWORD, NEW_ADMIN_PASSWORD, USER_PASSWORD = (
    "MILVUS_ADMIN_PASSWORD",
    "MILVUS_NEW_ADMIN_PASSWORD",
    "MILVUS_USER_PASSWORD",
)
DEFAULT_DATABASE, EVERY = "default", "*"
CALL_SECONDS = 20.0
# Part of Milvus' error for a privilege that it does not know.
UNKNOWN_PRIVILEGE = "not found the privilege"


class RoleError(Exception):
    """The user cannot be created. The message tells what to change."""


@dataclass(frozen=True)
class Privilege:
    """A privilege, as Milvus names it."""

    object_type: str
    """Global or Collection. Milvus grants either kind for one database."""
    name: str
    needed_for: str


# Milvus 2.3 to 2.6 know all of these. Load includes reading the progress of a load.
PRIVILEGES = (
    Privilege("Global", "ShowCollections", "listing collections, starting, and the health check"),
    Privilege("Global", "DescribeCollection", "reading collections' settings, and listing aliases"),
    Privilege("Global", "CreateCollection", "creating collections and binary codes, and noting a collection's codes"),
    Privilege("Global", "DropCollection", "deleting collections and binary codes"),
    Privilege("Global", "CreateAlias", "creating and moving aliases"),
    Privilege("Global", "DropAlias", "deleting aliases"),
    Privilege("Global", "ListAliases", "listing, creating and moving aliases"),
    Privilege("Collection", "CreateIndex", "creating collections and binary codes"),
    Privilege("Collection", "IndexDetail", "loading existing collections when the service starts"),
    Privilege(
        "Collection", "Load", "creating collections and binary codes, and loading collections when the service starts"
    ),
    Privilege("Collection", "Upsert", "writing images and their codes"),
    Privilege("Collection", "Delete", "deleting images and their codes"),
    Privilege("Collection", "Query", "reading, listing and counting images"),
    Privilege("Collection", "Search", "searching by vectors and by codes"),
)


def main(arguments: list[str] | None = None) -> None:
    """Create the user. Exit with 1 and one line if that fails."""
    options = _options(arguments)
    # pymilvus logs a traceback for each failed call; the message below has the same text.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    milvus = MilvusConnection(
        options.uri,
        f"{options.admin}:{_secret(ADMIN_PASSWORD, f'Password of {options.admin}')}",
        tls=ClientTls(options.ca, options.certificate, options.key) if options.ca else None,
        server_name=options.server_name,
    )
    try:
        milvus.check()
        if options.change_admin_password:
            milvus = change_password(milvus, _secret(NEW_ADMIN_PASSWORD, f"New password of {options.admin}"))
        password = _secret(USER_PASSWORD, f"Password of {options.user}")
        changes = 0
        for line in make_user(milvus, options.user, password, options.role, options.database):
            print(line, flush=True)
            changes += 1
        database = options.database or DEFAULT_DATABASE
        print(f"{options.user} can use the database {database}: set SEARCH_MILVUS_TOKEN to {options.user}:PASSWORD")
        if changes:
            print("Milvus applies all changes within about ten seconds")
    except (RoleError, OSError) as error:
        sys.exit(str(error))
    except (MilvusException, grpc.RpcError) as error:
        if _is_refused_password(error):
            sys.exit(f"Milvus at {options.uri} refuses the password of {options.admin}; correct {ADMIN_PASSWORD}")
        sys.exit(f"Milvus at {options.uri}: {milvus.problem(error) or _text(error)}")


def change_password(milvus: MilvusConnection, new: str) -> MilvusConnection:
    """Change the administrator's password. Return a connection that uses the new one."""
    user, _, old = milvus.token.partition(":")
    client = MilvusClient(timeout=CALL_SECONDS, **milvus.options())
    try:
        client.update_password(user, old, new)
    finally:
        client.close()
    return replace(milvus, token=f"{user}:{new}")


def make_user(milvus: MilvusConnection, user: str, password: str, role: str, database: str) -> Iterator[str]:
    """Create the database, the role and the user if they are missing. Yield a line of text for each change.

    Raises RoleError, MilvusException or grpc.RpcError.
    """
    if user == milvus.token.partition(":")[0]:
        raise RoleError(f"{user} is the administrator; --user must name another user, for the search service only")
    database = database or DEFAULT_DATABASE
    client = MilvusClient(timeout=CALL_SECONDS, **milvus.options())
    try:
        if database not in client.list_databases():
            client.create_database(database)
            yield f"created the database {database}"
        if role not in client.list_roles():
            client.create_role(role)
            yield f"created the role {role}"
        yield from _grant(client, role, database)
        if user not in client.list_users():
            client.create_user(user, password)
            yield f"created the user {user}"
        yield from _give_role(client, user, role)
    finally:
        client.close()
    _check_user(replace(milvus, token=f"{user}:{password}", database=database))


def _grant(client: MilvusClient, role: str, database: str) -> Iterator[str]:
    wanted = {(privilege.object_type, privilege.name): privilege for privilege in PRIVILEGES}
    granted = {
        (entry["object_type"], entry["privilege"], entry["object_name"])
        for entry in client.describe_role(role, db_name=database)["privileges"]
    }
    unknown = []
    for (object_type, name), privilege in wanted.items():
        if (object_type, name, EVERY) in granted:
            continue
        try:
            client.grant_privilege(role, object_type, name, EVERY, db_name=database)
        except MilvusException as error:
            if UNKNOWN_PRIVILEGE not in str(error.message):
                raise
            unknown.append(f"{name} (for {privilege.needed_for})")
        else:
            yield f"granted {name}: {privilege.needed_for}"
    for object_type, name, object_name in sorted(granted):
        if object_name != EVERY or (object_type, name) not in wanted:
            client.revoke_privilege(role, object_type, name, object_name, db_name=database)
            yield f"revoked {name} on {object_name}: the search service does not need it"
    if unknown:
        raise RoleError(
            f"this Milvus does not know privileges that the search service needs: {', '.join(unknown)}; "
            "use Milvus 2.3.5 or newer"
        )


def _give_role(client: MilvusClient, user: str, role: str) -> Iterator[str]:
    roles = client.describe_user(user).get("roles", ())
    if role not in roles:
        client.grant_role(user, role)
        yield f"granted {user} the role {role}"
    for other in roles:
        if other != role:
            client.revoke_role(user, other)
            yield f"revoked the role {other} from {user}"


def _check_user(milvus: MilvusConnection) -> None:
    """Log in as the user. Raise RoleError if Milvus refuses the password."""
    user = milvus.token.partition(":")[0]
    try:
        client = MilvusClient(timeout=CALL_SECONDS, **milvus.options())
    except MilvusException as error:
        if not _is_refused_password(error):
            raise
        raise RoleError(
            f"the user {user} exists and has another password; set {USER_PASSWORD} to it, or delete the user first"
        ) from None
    client.close()


def _secret(variable: str, prompt: str) -> str:
    """Return a password from the environment, or from the terminal or standard input."""
    found = os.environ.get(variable)
    if not found:
        found = getpass.getpass(f"{prompt}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not found:
        sys.exit(f"{prompt}: set {variable}, or write the password to standard input")
    return found


def _is_refused_password(error: Exception) -> bool:
    refused = error.__cause__
    return isinstance(refused, grpc.Call) and refused.code() is grpc.StatusCode.UNAUTHENTICATED


def _text(error: Exception) -> str:
    details = error.details() if isinstance(error, grpc.Call) else getattr(error, "message", "")
    return str(details or error)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.milvus.role",
        description="Create a Milvus user for the search service, with only the privileges that the service needs.",
        epilog=f"The command reads passwords from {ADMIN_PASSWORD}, {NEW_ADMIN_PASSWORD} and {USER_PASSWORD}, or asks "
        "for them in this order. Without a terminal, it reads one password per line from standard input.",
    )
    parser.add_argument("uri", help="address of Milvus, http://HOST:19530 or https://HOST:19530")
    parser.add_argument(
        "--database", default="", help="database of the service, created if missing (default: Milvus' default database)"
    )
    parser.add_argument("--user", default=USER, help="user of the search service (default: %(default)s)")
    parser.add_argument("--role", default=ROLE, help="role of that user (default: %(default)s)")
    parser.add_argument("--admin", default=ADMIN, help="administrator that creates the user (default: %(default)s)")
    parser.add_argument(
        "--change-admin-password", action="store_true", help="first change the administrator's password"
    )
    parser.add_argument("--ca", type=Path, help="file of certificate authorities, as in SEARCH_MILVUS_CA")
    parser.add_argument("--certificate", type=Path, help="client certificate, as in SEARCH_MILVUS_CERTIFICATE")
    parser.add_argument("--key", type=Path, help="key of the client certificate, as in SEARCH_MILVUS_KEY")
    parser.add_argument(
        "--server-name", default="", help="name in Milvus' certificate, as in SEARCH_MILVUS_SERVER_NAME"
    )
    options = parser.parse_args(arguments)
    for_tls = (options.ca, options.certificate, options.key, options.server_name)
    if any(for_tls) and not options.uri.startswith("https://"):
        parser.error("--ca, --certificate, --key and --server-name require an address that starts with https://")
    if bool(options.certificate) != bool(options.key) or (options.certificate and not options.ca):
        parser.error("--certificate requires --key and --ca, and --key requires --certificate")
    return options


if __name__ == "__main__":
    main()
