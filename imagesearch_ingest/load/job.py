"""Loads as a program asks for them."""

import asyncio
import glob
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from grpc_kit.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from imagesearch_client import Client
from imagesearch_client.types import Collection
from imagesearch_ingest.event_loop import run_coroutine
from imagesearch_ingest.load.destination import CollectionDestination, Destination, Route
from imagesearch_ingest.load.dry_run_destination import DryRunDestination
from imagesearch_ingest.load.ledger import CollectionIdentity, Ledger, LedgerError
from imagesearch_ingest.load.ledger_transfer import is_ledger_of, transfer_ledger
from imagesearch_ingest.load.load_run import LoadOptions, LoadRun
from imagesearch_ingest.load.report import LoadReport, RejectsFile
from imagesearch_ingest.sources.items import Source


@dataclass(frozen=True)
class LocalFiles:
    """What a load reads and writes on this machine."""

    ledger: Path | None
    """None keeps it in memory: another run knows nothing of this one."""
    rejects: Path | None = None
    """A line of JSON for each image that was not stored; None writes none."""
    restart: bool = False
    """Forgets what the ledger has of runs before."""
    alias: str = ""
    """The name that the user gave the collection by, if that is an alias: a ledger follows its aliases."""


@dataclass(frozen=True)
class PlannedCollection:
    """A collection that a load makes when it stores the first image. A load that stores nothing leaves none."""

    collection: Collection
    """What it will be, but for its time of creation."""
    make: Callable[[], Collection]
    """Makes it, or returns the one that another process has made meanwhile. Raises ServiceError."""


def default_ledger_path(target: str, collection: str) -> Path:
    """Where the ledger of a collection is, where nobody says: below $XDG_STATE_HOME, which is ~/.local/state."""
    return default_ledger_folder() / f"{collection}@{address_in_file_name(target)}.ledger"


def address_in_file_name(target: str) -> str:
    """Return the name of a search service in the names of its ledgers: one for the usual spellings of an address."""
    address = re.sub("^(dns:(//[^/]*/)?|ipv4:)", "", target.strip().lower())
    return re.sub("[^a-z0-9.-]+", "_", re.sub(r"^localhost(?=:|$)", "127.0.0.1", address))


def default_ledger_folder() -> Path:
    """Return the folder of the ledgers that are not named by the user."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "imagesearch"


@dataclass(frozen=True)
class LedgerTransfer:
    """What became of one ledger of a collection that was copied into another one."""

    old: Path
    new: Path
    items: int
    """Items that the new ledger has of it."""
    error: str = ""
    """Why it could not be handed on; a load into the new collection then begins anew."""


def transfer_default_ledgers(
    source: Collection, target: Collection, missing: Iterable[str] = (), before: float = math.inf
) -> list[LedgerTransfer]:
    """Hands on every ledger of `source` in the default place: there is one for each name of a search service.

    `transfer_ledger` says what that is. Ledgers of a collection of the same name elsewhere are passed over.
    """
    found: list[LedgerTransfer] = []
    lost = frozenset(missing)
    for old in sorted(default_ledger_folder().glob(f"{glob.escape(source.name)}@*.ledger")):
        new = old.with_name(target.name + old.name.removeprefix(source.name))
        try:
            if is_ledger_of(old, source):
                found.append(LedgerTransfer(old, new, transfer_ledger(old, new, source, target, lost, before)))
        except LedgerError as error:
            found.append(LedgerTransfer(old, new, 0, str(error)))
    return found


def ensure_collection(client: Client, name: str) -> Collection:
    """The collection of a name; made for the embedder's default model where there is none. Raises ServiceError."""
    found = plan_collection(client, name)
    return found.make() if isinstance(found, PlannedCollection) else found


def plan_collection(client: Client, name: str) -> Collection | PlannedCollection:
    """Return the collection of a name, or one to be made for the embedder's default model. Raises ServiceError."""
    return get_or_plan_collection(
        client, name, lambda *, validate_only: client.create_collection(name, validate_only=validate_only)
    )


class CreateCollection(Protocol):
    """Makes a collection, or only checks that it could be made. Raises ServiceError."""

    def __call__(self, *, validate_only: bool) -> Collection:
        """Return the collection."""


def get_or_plan_collection(client: Client, name: str, create: CreateCollection) -> Collection | PlannedCollection:
    """Return the collection of a name, or the one that `create` makes of it when it is needed. Raises ServiceError."""

    def make() -> Collection:
        try:
            return create(validate_only=False)
        except AlreadyExistsError:
            # Another process has made it since.
            return client.get_collection(name)

    try:
        return client.get_collection(name)
    except NotFoundError:
        try:
            return PlannedCollection(create(validate_only=True), make)
        except AlreadyExistsError:
            return client.get_collection(name)


def load(
    client: Client,
    collection: Collection | PlannedCollection,
    sources: Sequence[Source],
    route: Route,
    files: LocalFiles,
    options: LoadOptions,
    account: LoadReport,
) -> None:
    """Loads sources into a collection. The account says what came of it, and grows meanwhile.

    A collection that is planned is made when its first image is about to be stored, and not before. The window and the
    patience are the route's, and attributes that the collection has are kept, whatever the options say of them.

    In the main thread it listens to SIGINT and SIGTERM: the first leaves calls in flight some seconds, the second ends
    it now. In a notebook, whose event loop runs already, the load runs in a thread, and the notebook's interrupt does
    the same.
    Raises LedgerError, ServiceError, CredentialsError and OSError before it begins.
    """
    run_coroutine(lambda: load_async(client, collection, sources, route, files, options, account))


async def load_async(
    client: Client,
    collection: Collection | PlannedCollection,
    sources: Sequence[Source],
    route: Route,
    files: LocalFiles,
    options: LoadOptions,
    account: LoadReport,
) -> None:
    """Does what `load` does, for a program with an event loop of its own. Leaves signals to the program.

    If its task is cancelled it gives up what is in flight, and the next load of the same ledger does that.
    """
    into = collection.collection if isinstance(collection, PlannedCollection) else collection
    if not route.ready and not into.model:
        raise FailedPreconditionError(
            "MODEL_UNKNOWN",
            f"{into.name} is of vectors made elsewhere ({into.fingerprint}), and no embedder makes them; "
            "it takes ready ones, by import",
        )
    with Ledger(files.ledger) as ledger, RejectsFile(files.rejects) as rejects:
        make = _making(collection, ledger) if isinstance(collection, PlannedCollection) else None
        has_images = make is None and await asyncio.to_thread(client.count, into.name) > 0
        options = replace(options, window=route.window, patience=route.patience, keep_attributes=has_images)
        binding = CollectionIdentity.of(into)
        ledger.bind(replace(binding, create_time="") if make else binding, restart=files.restart)
        ledger.know_aliases({files.alias} - {"", into.name})
        async with CollectionDestination(client, into, route, account.wait_for, make) as destination:
            await _run(destination, sources, ledger, options, account, rejects)


def _making(get_or_plan_collection: PlannedCollection, ledger: Ledger) -> Callable[[], Collection]:
    def make() -> Collection:
        made = get_or_plan_collection.make()
        # Before the first image is recorded: the ledger must not be taken for that of a later collection of the name.
        ledger.bind(CollectionIdentity.of(made))
        return made

    return make


def dry_run(sources: Sequence[Source], files: LocalFiles, options: LoadOptions, account: LoadReport) -> None:
    """Reads and decodes what a load would load, and writes nothing but the rejects. Raises LedgerError and OSError."""
    run_coroutine(lambda: dry_run_async(sources, files, options, account))


async def dry_run_async(
    sources: Sequence[Source], files: LocalFiles, options: LoadOptions, account: LoadReport
) -> None:
    """Does what `dry_run` does, for a program with an event loop of its own."""
    known = files.ledger if files.ledger is not None and files.ledger.exists() and not files.restart else None
    with Ledger(known, read_only=True) as ledger, RejectsFile(files.rejects) as rejects:
        await _run(DryRunDestination(), sources, ledger, options, account, rejects)


async def _run(
    destination: Destination,
    sources: Sequence[Source],
    ledger: Ledger,
    options: LoadOptions,
    account: LoadReport,
    rejects: RejectsFile,
) -> None:
    await LoadRun(destination, ledger, options, account, rejects).run(sources)
    # Programs have sources of their own, which may make no remarks.
    account.remarks += [remark for source in sources for remark in getattr(source, "remarks", ())]
