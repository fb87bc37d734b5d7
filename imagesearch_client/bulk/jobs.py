"""Loads as a program asks for them."""

import asyncio
import glob
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grpc_kit.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from imagesearch_client.bulk.accounts import Account, RejectsFile
from imagesearch_client.bulk.destinations import Destination, DryRun, IntoCollection, Route
from imagesearch_client.bulk.handing_on import hand_on, is_ledger_of
from imagesearch_client.bulk.ledger import Binding, Ledger, LedgerError
from imagesearch_client.bulk.load import Load, LoadOptions
from imagesearch_client.client import Client
from imagesearch_client.sources.items import Source
from imagesearch_client.types import Collection


@dataclass(frozen=True)
class Files:
    """What a load reads and writes on this machine."""

    ledger: Path | None
    """None keeps it in memory: another run knows nothing of this one."""
    rejects: Path | None = None
    """A line of JSON for each image that was not stored; None writes none."""
    restart: bool = False
    """Forgets what the ledger has of runs before."""


def default_ledger(target: str, collection: str) -> Path:
    """Where the ledger of a collection is, where nobody says: below $XDG_STATE_HOME, which is ~/.local/state."""
    return _ledgers() / f"{collection}@{re.sub('[^A-Za-z0-9.-]+', '_', target.strip())}.ledger"


def _ledgers() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "imagesearch"


@dataclass(frozen=True)
class HandedOn:
    """What became of one ledger of a collection that was copied into another one."""

    old: Path
    new: Path
    items: int
    """Items that the new ledger has of it."""
    error: str = ""
    """Why it could not be handed on; a load into the new collection then begins anew."""


def hand_on_default_ledgers(
    source: Collection, target: Collection, missing: Iterable[str] = (), before: float = math.inf
) -> list[HandedOn]:
    """Hands on every ledger of `source` in the default place: there is one for each name of a search service.

    `hand_on` says what that is. Ledgers of a collection of the same name elsewhere are passed over.
    """
    found: list[HandedOn] = []
    lost = frozenset(missing)
    for old in sorted(_ledgers().glob(f"{glob.escape(source.name)}@*.ledger")):
        new = old.with_name(target.name + old.name.removeprefix(source.name))
        try:
            if is_ledger_of(old, source):
                found.append(HandedOn(old, new, hand_on(old, new, source, target, lost, before)))
        except LedgerError as error:
            found.append(HandedOn(old, new, 0, str(error)))
    return found


def ensure_collection(client: Client, name: str) -> Collection:
    """The collection of a name; made for the embedder's default model where there is none. Raises ServiceError."""
    try:
        return client.get_collection(name)
    except NotFoundError:
        try:
            return client.create_collection(name)
        except AlreadyExistsError:
            # Somebody else made it a moment ago.
            return client.get_collection(name)


def load(
    client: Client,
    collection: Collection,
    sources: Sequence[Source],
    route: Route,
    files: Files,
    options: LoadOptions,
    account: Account,
) -> None:
    """Loads sources into a collection. The account says what came of it, and grows meanwhile.

    The window is the route's, and attributes that the collection has are kept, whatever the options say of both.

    In the main thread it listens to SIGINT and SIGTERM: the first leaves calls in flight some seconds, the second ends
    it now.
    Raises LedgerError, ServiceError, CredentialsError and OSError before it begins.
    """
    if not route.ready and not collection.model:
        raise FailedPreconditionError(
            "MODEL_UNKNOWN",
            f"{collection.name} is of vectors made elsewhere ({collection.fingerprint}), and no embedder makes them; "
            "it takes ready ones, by import",
        )
    with Ledger(files.ledger) as ledger, RejectsFile(files.rejects) as rejects:
        options = replace(options, window=route.window, keep_attributes=client.count(collection.name) > 0)
        ledger.bind(Binding.of(collection), restart=files.restart)

        async def run() -> None:
            async with IntoCollection(client, collection, route, account.wait_for) as destination:
                await _run(destination, sources, ledger, options, account, rejects)

        asyncio.run(run())


def rehearse(sources: Sequence[Source], files: Files, options: LoadOptions, account: Account) -> None:
    """Reads and decodes what a load would load, and writes nothing but the rejects. Raises LedgerError and OSError."""
    known = files.ledger if files.ledger is not None and files.ledger.exists() and not files.restart else None
    with Ledger(known, read_only=True) as ledger, RejectsFile(files.rejects) as rejects:
        asyncio.run(_run(DryRun(), sources, ledger, options, account, rejects))


async def _run(
    destination: Destination,
    sources: Sequence[Source],
    ledger: Ledger,
    options: LoadOptions,
    account: Account,
    rejects: RejectsFile,
) -> None:
    await Load(destination, ledger, options, account, rejects).run(sources)
