"""A load through an alias uses the ledger of the current collection, however the alias was moved."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagesearch_client import Client, Embedding, NewImage
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_files import default_ledger_path
from tests.harness.command import Command
from tests.integration.ingest.conftest import ids, png

FILES = 6


@pytest.fixture
def alias(command: Command, client: Client, name: str, folder: Path) -> Iterator[str]:
    """An alias of the test's collection. The folder was loaded through it."""
    client.create_collection(name)
    client.set_alias(f"{name}_now", name)
    assert ingest(command, folder, f"{name}_now")["stored"] == FILES
    yield f"{name}_now"
    client.delete_alias(f"{name}_now")
    for made in client.list_collections():
        if made.name.startswith(name):
            client.delete_collection(made.name)


def ingest(command: Command, folder: Path, collection: str, *options: str | Path) -> Any:
    return json.loads(command("ingest", folder, "-c", collection, *options, "--json"))


def reindex_elsewhere(command: Command, tmp_path: Path, alias: str, new: str) -> str:
    """Reindex on a machine without a ledger; return the standard error."""
    return command.run("reindex", "-c", alias, "--new", new, XDG_STATE_HOME=str(tmp_path / "elsewhere")).stderr


def test_ledger_follows_an_alias_that_another_machine_moved(
    command: Command, client: Client, alias: str, name: str, folder: Path, tmp_path: Path
) -> None:
    assert f"no ledger of {name}" in reindex_elsewhere(command, tmp_path, alias, f"{name}_2")
    (folder / "a.png").unlink()
    (folder / "new.png").write_bytes(png(50))
    report = ingest(command, folder, alias, "--prune", "--max-failed", "1")
    assert (report["skipped"], report["stored"], report["removed"]) == (FILES - 1, 1, 1)
    assert "a.png" not in ids(client, f"{name}_2")
    assert "a.png" in ids(client, name)
    # The old collection's ledger is still valid when the alias moves back.
    client.set_alias(alias, name)
    report = ingest(command, folder, alias, "--prune")
    assert (report["skipped"], report["stored"], report["removed"]) == (FILES - 1, 1, 1)


def test_ledger_follows_an_alias_to_a_reused_name(
    command: Command, client: Client, alias: str, name: str, folder: Path, tmp_path: Path
) -> None:
    # As with reindexes that alternate between two names.
    for old, new in ((name, f"{name}_2"), (f"{name}_2", name)):
        reindex_elsewhere(command, tmp_path, alias, new)
        assert ingest(command, folder, alias)["skipped"] == FILES
        client.delete_collection(old)
    # By its own name, a recreated collection is refused as before.
    client.create_collection(f"{name}_2")
    assert "--restart" in command("ingest", folder, "-c", f"{name}_2", code=3)


def test_given_ledger_follows_its_alias_there_and_back(
    command: Command, client: Client, alias: str, name: str, folder: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "mine.ledger"
    ingest(command, folder, alias, "--ledger", ledger)
    reindex_elsewhere(command, tmp_path, alias, f"{name}_2")
    assert ingest(command, folder, alias, "--ledger", ledger)["skipped"] == FILES
    client.set_alias(alias, name)
    assert ingest(command, folder, alias, "--ledger", ledger)["skipped"] == FILES
    # By its own name, the other collection is refused as before.
    assert "--restart" in command("ingest", folder, "-c", f"{name}_2", "--ledger", ledger, code=3)


def test_only_unchanged_copies_are_skipped(
    command: Command, client: Client, alias: str, name: str, folder: Path, tmp_path: Path
) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    assert ingest(command, folder, alias, "--max-failed", "1")["failed"] == 1
    reindex_elsewhere(command, tmp_path, alias, f"{name}_2")
    # One image is missing from the copy, and one has other content there.
    client.delete(alias, ["a.png"])
    old = client.get_collection(name)
    assert old.name == name
    other = tmp_path / "other" / "b.png"
    other.parent.mkdir()
    other.write_bytes(png(60))
    ingest(command, other.parent, alias, "--ledger", tmp_path / "other.ledger")
    report = ingest(command, folder, alias, "--max-failed", "1")
    assert (report["skipped"], report["stored"], report["failed"]) == (FILES - 2, 2, 1)


def test_alias_to_an_unrelated_collection_transfers_no_items(
    command: Command, client: Client, alias: str, name: str, folder: Path
) -> None:
    # One image of the ledger failed after it was stored, and its file is missing now.
    (folder / "gone.png").write_bytes(png(90))
    ingest(command, folder, alias)
    (folder / "gone.png").write_bytes(b"no image")
    ingest(command, folder, alias, "--max-failed", "1")
    (folder / "gone.png").unlink()
    other = client.create_collection(f"{name}_other")
    vector = Embedding([1.0] * other.dimension, other.fingerprint)
    assert all(result.error is None for result in client.write(other.name, [NewImage("gone.png", vector)]))
    client.set_alias(alias, other.name)
    report = ingest(command, folder, alias, "--prune")
    assert (report["stored"], report["removed"]) == (FILES, 0)
    assert "gone.png" in ids(client, other.name)


@pytest.mark.parametrize("spelling", ["localhost:{}", "dns:///127.0.0.1:{}", "DNS:127.0.0.1:{}", " 127.0.0.1:{} "])
def test_spellings_of_an_address_have_one_ledger(spelling: str) -> None:
    assert default_ledger_path(spelling.format(50052), "c") == default_ledger_path("127.0.0.1:50052", "c")


def test_other_addresses_have_other_ledgers() -> None:
    names = ["127.0.0.1:50052", "127.0.0.1:50053", "localhost.example:50052", "search:50052", "dns:///search-2:50052"]
    assert len({default_ledger_path(each, "c") for each in names}) == len(names)


def test_ledger_of_another_address_is_taken_over(
    command: Command, alias: str, name: str, folder: Path, search_address: str, tmp_path: Path
) -> None:
    mine = tmp_path / "state" / "imagesearch" / default_ledger_path(search_address, name).name
    mine.rename(mine.with_name(default_ledger_path("search.example:50052", name).name))
    report = ingest(command, folder, alias)
    assert (report["skipped"], report["stored"]) == (FILES, 0)
    with Ledger(mine) as ledger:
        assert ledger.aliases == {alias}


def test_dry_run_uses_the_ledger_of_the_load(
    command: Command, client: Client, alias: str, name: str, folder: Path, tmp_path: Path
) -> None:
    def rehearse(*options: str | Path, code: int = 0) -> str:
        return command("ingest", folder, "--dry-run", "-c", alias, "--json", *options, code=code)

    assert json.loads(rehearse())["skipped"] == FILES
    reindex_elsewhere(command, tmp_path, alias, f"{name}_2")
    before = sorted((tmp_path / "state" / "imagesearch").iterdir())
    assert json.loads(rehearse())["skipped"] == FILES
    assert sorted((tmp_path / "state" / "imagesearch").iterdir()) == before
    # A dry run refuses what a load refuses.
    client.create_collection(f"{name}_3")
    ledger = tmp_path / "other.ledger"
    ingest(command, folder, f"{name}_3", "--ledger", ledger)
    assert f"is the ledger of the collection {name}_3" in rehearse("--ledger", ledger, code=3)


def test_dry_run_without_a_service_names_its_ledger(command: Command, folder: Path) -> None:
    found = command.run("ingest", folder, "--dry-run", "-c", "live", "--target", "127.0.0.1:1")
    assert "live@127.0.0.1_1.ledger, which does not exist: every image counts as new" in found.stderr.replace("\n", "")


def test_alias_moved_during_a_load_stops_it(
    command: Command, client: Client, alias: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_collection(f"{name}_2")
    (folder / "new.png").write_bytes(png(70))
    store = Ledger.record

    def move_and_record(ledger: Ledger, *arguments: Any) -> None:
        client.set_alias(alias, f"{name}_2")
        store(ledger, *arguments)

    monkeypatch.setattr(Ledger, "record", move_and_record)
    shown = command("ingest", folder, "-c", alias, "--json", code=3)
    moved = f"the alias {alias} pointed at {name} when the load began, and points at {name}_2 now"
    assert f"COLLECTION_MOVED: {moved}" in shown
