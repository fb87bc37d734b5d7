"""Find the file of a collection's ledger. A ledger follows the aliases and the copies of its collection."""

import glob
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from grpc_kit.errors import NotFoundError, ServiceError
from imagesearch_client.client import Client
from imagesearch_client.types import Collection
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_database import LedgerError
from imagesearch_ingest.load.ledger_rows import CollectionIdentity
from imagesearch_ingest.load.ledger_transfer import is_ledger_of, transfer_ledger, transfer_stored_items
from imagesearch_ingest.load.planned_collection import PlannedCollection

Notify = Callable[[str], None]


def default_ledger_folder() -> Path:
    """Return the folder of ledgers without a file name of the user: $XDG_STATE_HOME, by default ~/.local/state."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "imagesearch"


def default_ledger_path(target: str, collection: str) -> Path:
    """Return the default file of a collection's ledger, for the search service at `target`."""
    return default_ledger_folder() / f"{collection}@{address_in_file_name(target)}.ledger"


def address_in_file_name(target: str) -> str:
    """Return the address of a search service as the names of its ledgers contain it.

    The usual spellings of one address have the same result.
    """
    address = re.sub("^(dns:(//[^/]*/)?|ipv4:)", "", target.strip().lower())
    return re.sub("[^a-z0-9.-]+", "_", re.sub(r"^localhost(?=:|$)", "127.0.0.1", address))


@dataclass(frozen=True)
class LedgerTransfer:
    """The result of transferring one ledger to a copy of its collection."""

    old: Path
    new: Path
    items: int
    """Items in the new ledger."""
    error: str = ""
    """Why the ledger was not transferred; the next load into the copy then loads everything."""


def transfer_default_ledgers(
    source: Collection, target: Collection, missing: Iterable[str] = (), before: float = math.inf
) -> list[LedgerTransfer]:
    """Transfer every ledger of `source` in the default folder to `target`, as `transfer_ledger` does.

    There is one ledger for each address of the search service. Ledgers of other collections with the same name stay.
    """
    transfers: list[LedgerTransfer] = []
    missing_ids = frozenset(missing)
    for old in sorted(default_ledger_folder().glob(f"{glob.escape(source.name)}@*.ledger")):
        new = old.with_name(target.name + old.name.removeprefix(source.name))
        try:
            if is_ledger_of(old, source):
                items = transfer_ledger(old, new, source, target, missing_ids, before)
                transfers.append(LedgerTransfer(old, new, items))
        except LedgerError as error:
            transfers.append(LedgerTransfer(old, new, 0, str(error)))
    return transfers


def ledger_for_load(
    client: Client,
    name: str,
    into: Collection | PlannedCollection,
    target: str,
    given: Path | None,
    notify: Notify,
    *,
    restart: bool = False,
) -> Path:
    """Return the ledger for a load into the collection that `name` names.

    The ledger takes over the known items of other ledgers in three cases:
    - The collection has no ledger in the default folder. Candidates are its ledgers for other spellings of `target`,
      and the ledger of the collection to which the alias `name` led before.
    - `name` is an alias, and the default ledger belongs to a removed collection of the same name.
    - The ledger `given` by the user belongs to the collection to which the alias `name` led before.
    Taken over items are compared with the collection, so that the load skips no image that is not stored.

    `notify` receives a line for each of these ledgers. With `restart` nothing is taken over. Raises LedgerError and
    ServiceError.
    """
    collection = into.collection if isinstance(into, PlannedCollection) else into
    path = given or default_ledger_path(target, collection.name)
    if restart or isinstance(into, PlannedCollection):
        return path
    for former in _former_ledgers(name, collection, target, path, notify, is_given=given is not None):
        notify(f"taking over {former}: comparing its items with the images of {collection.name}")
        try:
            count = transfer_stored_items(client, former, path, collection)
        except LedgerError as error:
            notify(f"{former} was not taken over, so its images are loaded again: {error}")
        else:
            notify(f"{path} has {count} items now")
    return path


def ledger_for_dry_run(
    client: Client, name: str, target: str, given: Path | None, notify: Notify, *, restart: bool = False
) -> Path:
    """Return the ledger that a load would use, and change nothing.

    If the search service cannot say which collection `name` names, `name` is assumed to be the collection's own name.
    `notify` then receives the path of the assumed ledger. Raises LedgerError if a load would refuse the ledger.
    """
    if restart:
        # The dry run does not read it.
        return given or default_ledger_path(target, name)
    try:
        collection = client.get_collection(name)
    except NotFoundError:
        path = given or default_ledger_path(target, name)
        with _read(path) as ledger:
            if (found := ledger.collection) is not None:
                ledger.check_collection(CollectionIdentity(name, "", found.fingerprint))
        return path
    except ServiceError as error:
        path = given or default_ledger_path(target, name)
        existence = "" if path.exists() else ", which does not exist: every image counts as new"
        notify(
            f"the search service at {target} cannot say which collection {name} names ({error.message}); "
            f"using the ledger {path}{existence}"
        )
        return path
    path = given or default_ledger_path(target, collection.name)
    if former := next(_former_ledgers(name, collection, target, path, notify, is_given=given is not None), None):
        notify(f"a load would take over {former}, and compare its items with the images of {collection.name}")
        return former
    with _read(path) as ledger:
        ledger.check_collection(CollectionIdentity.of(collection))
    return path


def _read(path: Path) -> Ledger:
    """Open a ledger to read it; an empty one if the file does not exist. Raises LedgerError."""
    return Ledger(path if path.exists() else None, read_only=True)


def _former_ledgers(
    name: str, collection: Collection, target: str, path: Path, notify: Notify, *, is_given: bool
) -> Iterator[Path]:
    """Yield the ledgers whose items the ledger `path` takes over, the last used one first."""
    wanted, is_alias = CollectionIdentity.of(collection), name != collection.name
    candidates = [path] if is_given and path.exists() else []
    if not is_given and (not path.exists() or (is_alias and _belongs_to_removed_collection(path, wanted))):
        folder, address = default_ledger_folder(), address_in_file_name(target)
        found = {*folder.glob(f"{glob.escape(collection.name)}@*.ledger"), *folder.glob(f"*@{address}.ledger")}
        candidates = sorted(found - {path}, key=lambda each: each.stat().st_mtime, reverse=True)
    for each in candidates:
        try:
            with Ledger(each, read_only=True) as ledger:
                identity, aliases = ledger.collection, ledger.aliases
        except LedgerError as error:
            # The load itself reports errors of its own ledger.
            if each != path:
                notify(f"skipping a ledger: {error}")
            continue
        belonged_to_alias = identity not in (None, wanted) and is_alias and name in aliases
        if belonged_to_alias or (identity == wanted and each != path):
            yield each


def _belongs_to_removed_collection(path: Path, wanted: CollectionIdentity) -> bool:
    """Return whether a ledger belongs to a removed collection with the same name."""
    try:
        with Ledger(path, read_only=True) as ledger:
            found = ledger.collection
    except LedgerError:
        return False
    return found is not None and found.collection == wanted.collection and found != wanted
