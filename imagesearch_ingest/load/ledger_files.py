"""Which file is the ledger of a load: a ledger follows the aliases and the copies of its collection."""

import glob
from collections.abc import Callable, Iterator
from pathlib import Path

from grpc_kit.errors import NotFoundError, ServiceError
from imagesearch_client import Client
from imagesearch_client.types import Collection
from imagesearch_ingest.load.job import (
    PlannedCollection,
    address_in_file_name,
    default_ledger_folder,
    default_ledger_path,
)
from imagesearch_ingest.load.ledger import CollectionIdentity, Ledger, LedgerError
from imagesearch_ingest.load.ledger_transfer import transfer_stored_items

Tell = Callable[[str], None]


def ledger_for_load(
    client: Client,
    name: str,
    into: Collection | PlannedCollection,
    target: str,
    given: Path | None,
    tell: Tell,
    *,
    restart: bool = False,
) -> Path:
    """Return the ledger of a load into the collection that `name` names; `given` is the file that the user names.

    If the collection has no ledger in the default place, or an alias leads to it and that ledger is of a removed
    collection of the same name, it takes over what other ledgers there know of its images:
    those that are kept for another spelling of `target`, and those of the collection that the alias `name` led to
    before. So does a `given` ledger of that collection. What is taken over is compared with the collection, so that
    no image is skipped that is not there. `tell` receives a line for each of these ledgers. With `restart` nothing is
    taken over.

    Raises LedgerError and ServiceError.
    """
    collection = into.collection if isinstance(into, PlannedCollection) else into
    path = given or default_ledger_path(target, collection.name)
    if restart or isinstance(into, PlannedCollection):
        return path
    for former in _formers(name, collection, target, path, tell, is_given=given is not None):
        tell(f"{former} is compared with the images of {collection.name}, and goes on as its ledger")
        try:
            count = transfer_stored_items(client, former, path, collection)
        except LedgerError as error:
            tell(f"it was not handed on, so that its images are loaded again: {error}")
        else:
            tell(f"{path} accounts for {count} images")
    return path


def ledger_for_dry_run(
    client: Client, name: str, target: str, given: Path | None, tell: Tell, *, restart: bool = False
) -> Path:
    """Return the ledger that a load would go by, and change nothing.

    If the search service cannot be asked which collection the name is, it is taken for a collection's own name, and
    `tell` receives which ledger that is. Raises LedgerError if the load would refuse the ledger.
    """
    if restart:
        # It is not read.
        return given or default_ledger_path(target, name)
    try:
        collection = client.get_collection(name)
    except NotFoundError:
        path = given or default_ledger_path(target, name)
        with _read(path) as ledger:
            if (found := ledger.binding) is not None:
                ledger.check(CollectionIdentity(name, "", found.fingerprint))
        return path
    except ServiceError as error:
        path = given or default_ledger_path(target, name)
        tell(
            f"the search service at {target} was not asked which collection {name} is ({error.message}); "
            f"assumed is the ledger {path}{'' if path.exists() else ', which is not there: every image counts as new'}"
        )
        return path
    path = given or default_ledger_path(target, collection.name)
    formers = list(_formers(name, collection, target, path, tell, is_given=given is not None))
    if formers:
        tell(f"{formers[0]} would be compared with the images of {collection.name}, and go on as its ledger")
        return formers[0]
    with _read(path) as ledger:
        ledger.check(CollectionIdentity.of(collection))
    return path


def _read(path: Path) -> Ledger:
    """Open a ledger to read it; an empty one if it does not exist. Raises LedgerError."""
    return Ledger(path if path.exists() else None, read_only=True)


def _formers(
    name: str, collection: Collection, target: str, path: Path, tell: Tell, *, is_given: bool
) -> Iterator[Path]:
    """Yield the ledgers whose knowledge the ledger in `path` is to take over, the one that was used last first."""
    wanted, is_alias = CollectionIdentity.of(collection), name != collection.name
    candidates = [path] if is_given and path.exists() else []
    if not is_given and (not path.exists() or (is_alias and _is_of_a_removed_collection(path, wanted))):
        folder, spelled = default_ledger_folder(), address_in_file_name(target)
        found = {*folder.glob(f"{glob.escape(collection.name)}@*.ledger"), *folder.glob(f"*@{spelled}.ledger")}
        candidates = sorted(found - {path}, key=lambda each: each.stat().st_mtime, reverse=True)
    for each in candidates:
        try:
            with Ledger(each, read_only=True) as ledger:
                binding, aliases = ledger.binding, ledger.aliases
        except LedgerError as error:
            # The load itself reports what is wrong with its own.
            if each != path:
                tell(f"a ledger was not looked at: {error}")
            continue
        is_of_alias = binding not in (None, wanted) and is_alias and name in aliases
        if is_of_alias or (binding == wanted and each != path):
            yield each


def _is_of_a_removed_collection(path: Path, wanted: CollectionIdentity) -> bool:
    """Return whether a ledger is of a collection of the same name that was removed since."""
    try:
        with Ledger(path, read_only=True) as ledger:
            found = ledger.binding
    except LedgerError:
        return False
    return found is not None and found.collection == wanted.collection and found != wanted
