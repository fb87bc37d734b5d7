"""A load that stores nothing creates no collection."""

from pathlib import Path

import numpy as np
import pytest

from grpc_kit.errors import NotFoundError
from imagesearch_client import Client
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_rows import CollectionIdentity
from tests.harness.command import Command
from tests.integration.ingest.conftest import png

NOBODY = "127.0.0.1:1"


def assert_missing(client: Client, name: str) -> None:
    with pytest.raises(NotFoundError):
        client.get_collection(name)


def test_load_that_cannot_start_creates_no_collection(
    command: Command, client: Client, name: str, folder: Path, tmp_path: Path
) -> None:
    assert "EMBEDDER_AWAY" in command("ingest", folder, "--embedder", NOBODY, code=3)
    assert_missing(client, name)
    ledger = tmp_path / "other.ledger"
    with Ledger(ledger) as other:
        other.bind(CollectionIdentity("other", "2026-01-01T00:00:00+00:00", "f"))
    assert "is the ledger of the collection other" in command("ingest", folder, "--ledger", ledger, code=3)
    assert_missing(client, name)
    (tmp_path / "no.ledger").write_bytes(b"no ledger" * 100)
    assert "is not a ledger" in command("ingest", folder, "--ledger", tmp_path / "no.ledger", code=3)
    assert_missing(client, name)


def test_load_whose_images_all_fail_creates_no_collection(
    command: Command, client: Client, name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    shown = command("ingest", folder, code=1)
    assert "IMAGE_FORMAT_UNSUPPORTED" in shown
    assert_missing(client, name)
    (folder / "b.png").write_bytes(png(1))
    assert "1 stored" in command("ingest", folder, code=1)
    assert client.count(name) == 1
    # The ledger is bound to the collection that was created meanwhile.
    client.delete_collection(name)
    assert "belongs to a collection that was created at" in command("ingest", folder, code=3)
    assert_missing(client, name)
    assert "belongs to a collection that was created at" in command("ingest", folder, "--dry-run", code=3)
    assert "1 stored" in command("ingest", folder, "--restart", code=1)


def test_ledger_without_stored_items_can_be_bound_again(
    command: Command, client: Client, name: str, folder: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "of.ledger"
    command("ingest", folder, "--embedder", NOBODY, "--ledger", ledger, code=3)
    client.create_collection(name, model="mobilenet-max")
    assert "6 of 6 images stored" in command("ingest", folder, "--ledger", ledger)
    client.delete_collection(name)


@pytest.mark.parametrize("length", [1e-30, 1e30])
def test_import_whose_vectors_are_all_refused_creates_no_collection(
    command: Command, client: Client, name: str, tmp_path: Path, length: float
) -> None:
    path = tmp_path / "v.npz"
    np.savez(path, features=np.full((3, 8), length, np.float32), ids=np.array(["a", "b", "c"]))
    for metric in ("cosine", "l2", "ip"):
        shown = command("import", path, "--fingerprint", "x", "--metric", metric, code=1)
        assert "3 x VECTOR_LENGTH_INVALID" in shown
        assert "v.npz, row 1" in shown
        assert_missing(client, name)


def test_collection_created_for_refused_images_is_named(
    command: Command, client: Client, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "v.npz"
    np.savez(path, features=np.ones((1, 8), np.float32), ids=np.array(["x" * 600]))
    shown = command("import", path, "--fingerprint", "x", code=1)
    assert f"`imagesearch collections delete {name}` deletes it" in " ".join(shown.split())
    assert client.count(name) == 0


def test_refused_reindex_names_its_copy(command: Command, client: Client, name: str) -> None:
    for number in (1, 2):
        client.create_collection(f"{name}_{number}", dimension=2, fingerprint="f")
    client.start_reindex(f"{name}_1", f"{name}_2")
    shown = command("reindex", "-c", f"{name}_1", "--new", f"{name}_3", code=1)
    assert "REINDEX_RUNNING" in shown
    assert f"{name}_3 is empty; `imagesearch collections delete {name}_3` deletes it" in " ".join(shown.split())
