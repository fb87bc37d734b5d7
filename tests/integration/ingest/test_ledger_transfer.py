"""After a reindex the next load through the alias continues with the new collection."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from imagesearch_client import Client, NewImage
from imagesearch_client.types import Collection
from imagesearch_ingest.load.bulk_clients import Endpoint
from imagesearch_ingest.load.job import LoadJob, load
from imagesearch_ingest.load.ledger_database import LedgerError
from imagesearch_ingest.load.ledger_files import default_ledger_path, transfer_default_ledgers
from imagesearch_ingest.load.ledger_transfer import transfer_ledger
from imagesearch_ingest.load.load_options import LoadOptions, LoadServices, LocalFiles
from imagesearch_ingest.load.planned_collection import ensure_collection
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions
from tests.integration.ingest.conftest import ids, png
from tests.relay import Relay

Ingest: TypeAlias = Callable[..., tuple[LoadReport, int]]


@pytest.fixture
def alias(client: Client, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An alias of the test's collection."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    client.create_collection(name)
    client.set_alias(f"{name}_now", name)
    yield f"{name}_now"
    client.delete_alias(f"{name}_now")
    client.delete_collection(f"{name}_2")


@pytest.fixture
def ingest(client: Client, search_address: str, embedder_address: str, alias: str) -> Ingest:
    """Load a source through the alias, as `imagesearch ingest` does; return the report and the count of embeddings."""

    def ingest(source: Path, ledger: Path | None = None, **options: Any) -> tuple[LoadReport, int]:
        into = ensure_collection(client, alias)
        files = LocalFiles(ledger or default_ledger_path(search_address, into.name))
        with Relay(embedder_address) as relay:
            services = LoadServices(Endpoint(search_address), Endpoint(relay.address), 2)
            opened = [open_source(str(source), SourceOptions())]
            report = load(LoadJob(client, into, opened, services, files, LoadOptions(**options)))
            return report, relay.embedded.total()

    return ingest


def copied(client: Client, alias: str, without: str = "") -> tuple[Collection, Collection]:
    """Copy the alias' collection without one image, and move the alias to the copy."""
    old = client.get_collection(alias)
    new = client.create_collection(f"{old.name}_2", model=old.model, fingerprint=old.fingerprint)
    images = client.list(old.name, with_vector=True, strong=True)
    wanted = [
        NewImage(image.id, image.embedding, image.uri, image.attributes, content_sha256=image.content_sha256)
        for image in images
        if image.embedding is not None and image.id != without
    ]
    assert all(result.error is None for result in client.write(new.name, wanted))
    client.set_alias(alias, new.name)
    return old, new


def test_next_load_skips_copies_and_embeds_changes(client: Client, alias: str, ingest: Ingest, folder: Path) -> None:
    report, embedded = ingest(folder)
    assert (report.stored, embedded) == (6, 6)
    old, new = copied(client, alias)
    (handed,) = transfer_default_ledgers(old, new)
    assert (handed.items, handed.error) == (6, "")
    report, embedded = ingest(folder)
    assert (report.listed, report.skipped, report.stored, embedded) == (6, 6, 0, 0)
    (folder / "a.png").write_bytes(png(100))
    report, embedded = ingest(folder)
    assert (report.skipped, report.stored, embedded) == (5, 1, 1)
    (folder / "new.png").write_bytes(png(101))
    report, embedded = ingest(folder)
    assert (report.skipped, report.stored, embedded) == (6, 1, 1)
    # Missing images are removed only from the new collection.
    (folder / "b.png").unlink()
    report, embedded = ingest(folder, prune=True)
    assert (report.removed, embedded) == (1, 0)
    assert "b.png" not in ids(client, new.name)
    assert "b.png" in ids(client, old.name)


def test_next_load_embeds_images_that_were_not_copied(client: Client, alias: str, ingest: Ingest, folder: Path) -> None:
    ingest(folder)
    old, new = copied(client, alias, without="c.png")
    transfer_default_ledgers(old, new, ["c.png"])
    report, embedded = ingest(folder)
    assert (report.skipped, report.stored, embedded) == (5, 1, 1)
    assert ids(client, new.name) == ids(client, old.name)


def test_given_ledger_is_transferred(client: Client, alias: str, ingest: Ingest, folder: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "of.ledger"
    ingest(folder, ledger)
    old, new = copied(client, alias)
    with pytest.raises(LedgerError, match="--restart"):
        ingest(folder, ledger)
    transfer_ledger(ledger, ledger, old, new)
    report, embedded = ingest(folder, ledger)
    assert (report.skipped, embedded) == (6, 0)


def test_without_transfer_every_image_is_embedded_again(
    client: Client, alias: str, ingest: Ingest, folder: Path
) -> None:
    ingest(folder)
    copied(client, alias)
    assert ingest(folder)[1] == 6
