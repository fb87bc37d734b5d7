"""Loads of folders into a real collection."""

import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpc_kit.errors import FailedPreconditionError, UnavailableError
from imagesearch_client import Client
from imagesearch_client.filters import parse
from imagesearch_ingest.load.bulk_clients import Endpoint
from imagesearch_ingest.load.image_reader import read_image
from imagesearch_ingest.load.job import LoadJob, load_async
from imagesearch_ingest.load.ledger_database import LedgerError
from imagesearch_ingest.load.load_options import LoadServices, LocalFiles
from imagesearch_ingest.load.planned_collection import ensure_collection
from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions
from imagesearch_ingest.sources.uri_reader import UriReader
from tests.integration.ingest.conftest import Run, ids, png
from tests.relay import Relay
from tests.unit.ingest.sources.scripted_server import Answer, serving

ALL = ["a.png", "b.png", "below/e.png", "below/f.png", "c.png", "d.png"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_images_are_stored_once_and_then_skipped(run: Run, client: Client, name: str, folder: Path) -> None:
    report = run(folder)
    assert (report.listed, report.stored, report.failed, report.stopped) == (6, 6, 0, "")
    assert report.expected == 6
    assert ids(client, name) == ALL
    image = client.get(name, "below/e.png", with_vector=True, strong=True)
    assert image.uri == str(folder / "below" / "e.png")
    assert image.content_sha256 == digest(folder / "below" / "e.png")
    again = run(folder)
    assert (again.listed, again.stored, again.skipped, again.bytes) == (6, 0, 6, 0)


def test_vectors_equal_those_of_the_search_service(run: Run, client: Client, name: str, folder: Path) -> None:
    run(folder)
    direct = client.get(name, "a.png", with_vector=True, strong=True)
    run(folder, via_search=True, restart=True)
    through = client.get(name, "a.png", with_vector=True, strong=True)
    assert direct.embedding is not None
    assert through.embedding is not None
    assert direct.embedding.fingerprint == through.embedding.fingerprint
    # The last bits depend on the batch size, and images of other tests may share the batch.
    assert list(direct.embedding.values) == pytest.approx(list(through.embedding.values), abs=1e-5)
    assert direct.content_sha256 == through.content_sha256


def test_changed_images_are_embedded_again_and_keep_attributes(
    run: Run, client: Client, name: str, folder: Path, embedder_address: str
) -> None:
    run(folder)
    client.update(name, "a.png", attributes={"price": 3})
    (folder / "a.png").write_bytes(png(100))
    # Another modification time with the same content.
    os.utime(folder / "b.png", ns=(1, 1))
    with Relay(embedder_address) as relay:
        report = run(folder, embedder=relay.address)
        assert relay.embedded.total() == 1
    assert (report.stored, report.skipped) == (1, 5)
    image = client.get(name, "a.png", strong=True)
    assert image.attributes == {"price": 3}
    assert image.content_sha256 == digest(folder / "a.png")
    assert run(folder).skipped == 6


def test_compare_content_finds_hidden_changes(run: Run, folder: Path) -> None:
    path = folder / "a.png"
    path.write_bytes(png(1).ljust(400, b"\0"))
    run(folder)
    time = path.stat().st_mtime_ns
    path.write_bytes(png(100).ljust(400, b"\0"))
    os.utime(path, ns=(time, time))
    assert run(folder).skipped == 6
    report = run(folder, compare_content=True)
    assert (report.stored, report.skipped) == (1, 5)


def test_moved_folder_updates_uris_without_embedding(
    run: Run, client: Client, name: str, folder: Path, embedder_address: str
) -> None:
    run(folder)
    client.update(name, "a.png", attributes={"price": 3})
    moved = folder.rename(folder.with_name("elsewhere"))
    with Relay(embedder_address) as relay:
        report = run(moved, embedder=relay.address)
        assert relay.embedded.total() == 0
    assert (report.updated, report.stored) == (6, 0)
    image = client.get(name, "a.png", strong=True)
    assert image.uri == str(moved / "a.png")
    assert image.attributes == {"price": 3}
    assert run(moved).skipped == 6


def test_new_attributes_need_no_embedding(
    run: Run, client: Client, name: str, folder: Path, embedder_address: str
) -> None:
    manifest = folder / "products.csv"
    manifest.write_text("path,id,price,kind\na.png,sku-1,3,hat\nb.png,sku-2,4,shoe\n")
    run(manifest)
    assert client.get(name, "sku-1", strong=True).attributes == {"price": 3, "kind": "hat"}
    manifest.write_text("path,id,price\na.png,sku-1,5\nb.png,sku-2,4\n")
    with Relay(embedder_address) as relay:
        report = run(manifest, embedder=relay.address)
        assert relay.embedded.total() == 0
    assert report.updated == 2
    # A manifest replaces all attributes of its images.
    assert client.get(name, "sku-1", strong=True).attributes == {"price": 5}


def test_dates_and_numbers_of_a_manifest_are_comparable(run: Run, client: Client, name: str, folder: Path) -> None:
    manifest = folder / "products.csv"
    rows = ["a.png, 2024-04-30, 5, 9007199254740992", "b.png, 2024-05-01, null, 9007199254740993", "c.png,, 12, 1"]
    manifest.write_text("\n".join(["path, day, price, number", *rows]))
    assert run(manifest).stored == 3

    def fitting(text: str) -> list[str]:
        return [image.id for image in client.list(name, where=parse(text), strong=True)]

    assert client.get(name, "b.png", strong=True).attributes == {"day": "2024-05-01", "number": 2**53 + 1}
    assert fitting("day>=2024-05-01") == ["b.png"]
    assert fitting("day<2024-05-01") == ["a.png"]
    assert fitting("!day<2024-05-01") == ["b.png", "c.png"]
    assert fitting("price<10") == ["a.png"]
    assert fitting("number>=9007199254740993") == ["b.png"]


def test_parquet_images_are_loaded_and_reindexed(run: Run, client: Client, name: str, tmp_path: Path) -> None:
    images = [{"bytes": png(number), "path": f"{number}.png"} for number in range(40)]
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": images, "label": range(40)}), path, row_group_size=7)
    assert (run(path).stored, run(path).skipped) == (40, 40)
    image = client.get(name, "train.parquet/3.png", strong=True)
    assert (image.uri, image.attributes) == (f"parquet://image/4::{path}", {"label": 3})
    assert client.search_by_image(name, png(3), limit=1, strong=True)[0].image.id == image.id
    with UriReader() as reader:
        content, sha256 = read_image(partial(reader.read, image.uri), 10**6)
    assert (content, sha256) == (png(3), image.content_sha256)


def test_deleted_vector_is_embedded_again(run: Run, client: Client, name: str, folder: Path) -> None:
    run(folder)
    client.delete(name, ["a.png"])
    moved = folder.rename(folder.with_name("elsewhere"))
    report = run(moved)
    assert (report.updated, report.stored) == (5, 1)
    assert ids(client, name) == ALL


def test_failed_images_are_reported_and_retried_on_request(
    run: Run, client: Client, name: str, folder: Path, tmp_path: Path
) -> None:
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no image")
    (folder / "cut.png").write_bytes(png(50)[:60])
    rejects = tmp_path / "rejects.jsonl"
    report = run(folder, rejects=rejects)
    assert (report.stored, report.failed, report.failed_before) == (6, 3, 0)
    assert report.reasons == {"FILE_EMPTY": 1, "IMAGE_FORMAT_UNSUPPORTED": 1, "IMAGE_CORRUPT": 1}
    lines = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert {line["id"]: line["_reason"] for line in lines} == {
        "cut.png": "IMAGE_CORRUPT",
        "empty.png": "FILE_EMPTY",
        "text.png": "IMAGE_FORMAT_UNSUPPORTED",
    }
    again = run(folder, rejects=rejects)
    assert (again.skipped, again.failed, again.failed_before, again.bytes) == (6, 3, 3, 0)
    assert len(rejects.read_text().splitlines()) == 3
    (folder / "text.png").write_bytes(png(60))
    mended = run(folder)
    assert (mended.stored, mended.failed, mended.failed_before) == (1, 2, 2)
    tried = run(folder, retry_failed=True)
    assert (tried.stored, tried.failed, tried.failed_before) == (0, 2, 0)
    assert ids(client, name) == sorted([*ALL, "text.png"])


def test_file_of_rejects_is_a_source(run: Run, client: Client, name: str, folder: Path, tmp_path: Path) -> None:
    manifest = folder / "products.jsonl"
    rows = [{"path": "a.png", "id": "1", "price": 3.5}, {"path": "late.png", "id": "2", "price": 4, "tags": ["x", "y"]}]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rejects = tmp_path / "rejects.jsonl"
    assert run(manifest, rejects=rejects).reasons == {"UNREADABLE": 1}
    (folder / "late.png").write_bytes(png(70))
    report = run(rejects)
    assert (report.stored, report.failed) == (1, 0)
    image = client.get(name, "2", strong=True)
    assert image.attributes == {"price": 4, "tags": ["x", "y"]}
    assert image.uri == str(folder / "late.png")
    assert run(manifest).skipped == 2


def test_pruning_removes_only_missing_images(run: Run, client: Client, name: str, folder: Path) -> None:
    run(folder)
    other = folder.with_name("other")
    other.mkdir()
    (other / "z.png").write_bytes(png(80))
    run(other)
    (folder / "a.png").unlink()
    shutil.rmtree(folder / "below")
    assert run(folder).removed == 0
    assert len(ids(client, name)) == 7
    report = run(folder, prune=True, prune_above=0.5)
    assert (report.removed, report.skipped) == (3, 3)
    assert ids(client, name) == ["b.png", "c.png", "d.png", "z.png"]


def test_pruning_is_refused_after_an_incomplete_listing(
    run: Run, client: Client, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder)
    scandir = os.scandir

    def failing(path: str) -> object:
        if str(path).endswith("below"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    report = run(folder, prune=True)
    assert report.stopped.startswith("PRUNE_REFUSED")
    assert report.reasons == {"FOLDER_UNREADABLE": 1}
    monkeypatch.undo()
    assert ids(client, name) == ALL
    shutil.rmtree(folder)
    folder.mkdir()
    assert run(folder, prune=True).stopped.startswith("PRUNE_REFUSED")
    assert ids(client, name) == ALL


def test_pruning_is_refused_if_a_source_is_empty(
    run: Run, client: Client, name: str, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "disk"
    other.mkdir()
    (other / "z.png").write_bytes(png(80))
    run(folder, other)
    (other / "z.png").unlink()
    report = run(folder, other, prune=True)
    assert report.stopped.startswith("PRUNE_REFUSED")
    assert report.removed == 0
    assert len(ids(client, name)) == 7


def test_pruning_keeps_images_of_other_sources(
    run: Run, client: Client, name: str, folder: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    rows = [f"{folder / letter}.png,{letter}" for letter in "abc"]
    first.write_text("\n".join(["path,id", *rows]))
    second.write_text("\n".join(["path,id", *rows[:2]]))
    run(first)
    run(second)
    second.write_text("\n".join(["path,id", rows[0]]))
    assert run(second, prune=True).removed == 0
    assert ids(client, name) == ["a", "b", "c"]
    first.write_text("\n".join(["path,id", *rows[:2]]))
    assert run(first, prune=True, prune_above=1.0).removed == 1
    assert ids(client, name) == ["a", "b"]


def test_distant_shared_id_is_rejected_in_every_run(run: Run, client: Client, name: str, folder: Path) -> None:
    manifest = folder / "products.csv"
    done = [f"a.png,{number}" for number in range(60)]
    rows = ["b.png,twin", *done, *(f"nowhere.png,{number}" for number in range(100, 1300)), "c.png,twin"]
    manifest.write_text("\n".join(["path,id", *rows]))
    for _ in range(2):
        report = run(manifest)
        assert report.reasons["ID_TWICE"] == 1
        assert client.get(name, "twin", strong=True).uri == str(folder / "b.png")


def test_invalid_id_does_not_affect_other_images(run: Run, client: Client, name: str, folder: Path) -> None:
    client.create_collection(name)
    run(folder, limit=1)
    manifest = folder / "products.csv"
    manifest.write_text("\n".join(["path", "b.png", "c.png", f"{'x/../' * 200}d.png", "below/e.png"]))
    listing = folder / "list.txt"
    listing.write_text("\n".join(["c.png", f"{'below/../' * 80}d.png", "below/e.png"]))
    for source in (manifest, listing):
        report = run(source)
        assert report.stored + report.skipped >= 3
        assert set(report.reasons) <= {"ID_INVALID", "UNREADABLE"}


def test_image_failed_for_its_attributes_is_retried_with_new_ones(
    run: Run, client: Client, name: str, folder: Path
) -> None:
    manifest = folder / "products.jsonl"
    manifest.write_text(json.dumps({"path": "a.png", "id": "1", "text": "x" * 40_000}))
    assert run(manifest).reasons == {"ATTRIBUTE_INVALID": 1}
    assert run(manifest).failed_before == 1
    manifest.write_text(json.dumps({"path": "a.png", "id": "1", "text": "x"}))
    assert run(manifest).stored == 1
    assert client.get(name, "1", strong=True).attributes == {"text": "x"}


def test_limit_continues_from_run_to_run(run: Run, client: Client, name: str, folder: Path) -> None:
    accounts = [run(folder, limit=4) for _ in range(3)]
    assert [report.stored for report in accounts] == [4, 2, 0]
    assert not any(report.stopped for report in accounts)
    assert ids(client, name) == ALL


def test_dedup_stores_equal_content_once_with_all_uris(
    run: Run, client: Client, name: str, folder: Path, embedder_address: str
) -> None:
    for copy in ("aa.png", "ab.png", "below/aa.png"):
        shutil.copyfile(folder / "a.png", folder / copy)
    with Relay(embedder_address) as relay:
        report = run(folder, dedup=True, embedder=relay.address)
        assert relay.embedded.most_common(1)[0][1] == 1
    assert (report.stored, report.duplicates) == (6, 3)
    stored = [image for image in client.list(name, strong=True) if "other_uris" in image.attributes]
    (original,) = stored
    same = {str(folder / each) for each in ("a.png", "aa.png", "ab.png", "below/aa.png")}
    others = original.attributes["other_uris"]
    assert isinstance(others, list)
    assert {original.uri, *others} == same
    assert run(folder, dedup=True).skipped == 9

    # A duplicate replaces it, with the remaining uris.
    Path(original.uri).unlink()
    report = run(folder, dedup=True, prune=True, prune_above=1.0)
    assert report.removed == 1
    (heir,) = [image for image in client.list(name, strong=True) if "other_uris" in image.attributes]
    others = heir.attributes["other_uris"]
    assert isinstance(others, list)
    assert {heir.uri, *others} == same - {original.uri}
    assert len(ids(client, name)) == 6
    assert report.skipped >= 0
    # Without `dedup` every image is stored.
    assert run(folder).stored == 2
    assert len(ids(client, name)) == 8


def test_renamed_duplicate_is_counted_once(run: Run, client: Client, name: str, folder: Path) -> None:
    run(folder, dedup=True)
    (folder / "a.png").rename(folder / "new.png")
    report = run(folder, dedup=True, prune=True, prune_above=1.0)
    assert (report.listed, report.stored, report.skipped, report.duplicates, report.removed) == (6, 1, 5, 0, 1)
    assert "new.png" in ids(client, name)
    assert not any("other_uris" in image.attributes for image in client.list(name, strong=True))


def test_content_can_be_the_id(run: Run, client: Client, name: str, folder: Path) -> None:
    options = SourceOptions(by_content=True)
    shutil.copyfile(folder / "a.png", folder / "same.png")
    assert run(folder, source_options=options).stored == 7
    contents = sorted({digest(path) for path in folder.rglob("*.png")})
    assert ids(client, name) == contents
    (folder / "b.png").write_bytes(png(100))
    (folder / "same.png").unlink()
    run(folder, source_options=options, prune=True, prune_above=1.0)
    contents = sorted({digest(path) for path in folder.rglob("*.png")})
    assert ids(client, name) == contents


def test_files_that_swap_names_are_both_kept(run: Run, client: Client, name: str, folder: Path) -> None:
    options = SourceOptions(by_content=True)
    run(folder, source_options=options)
    (folder / "a.png").rename(folder / "tmp")
    (folder / "b.png").rename(folder / "a.png")
    (folder / "tmp").rename(folder / "b.png")
    report = run(folder, source_options=options)
    assert report.failed == 0
    contents = sorted({digest(path) for path in folder.rglob("*.png")})
    assert ids(client, name) == contents
    uris = {image.content_sha256: image.uri for image in client.list(name, strong=True)}
    assert uris[digest(folder / "a.png")] == str(folder / "a.png")


def test_rejects_on_a_full_disk_stop_the_load(run: Run, folder: Path) -> None:
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    report = run(folder, rejects=Path("/dev/full"))
    assert report.stopped.startswith("REJECTS_UNWRITABLE")
    assert report.listed == report.done
    (folder / "empty.png").unlink()
    assert run(folder, retry_failed=True).reasons == {"IMAGE_FORMAT_UNSUPPORTED": 1}


def test_shared_id_is_rejected_and_names_both_files(run: Run, client: Client, name: str, folder: Path) -> None:
    manifest = folder / "products.csv"
    manifest.write_text("path,id\na.png,1\nb.png,2\nc.png,1\na.png,1\n")
    rejects = folder / "rejects.jsonl"
    for _ in range(2):
        report = run(manifest, rejects=rejects)
        assert report.reasons == {"ID_TWICE": 1}
        assert str(folder / "a.png") in report.first_rejects[0].message
    # Loading the rejects does not replace the other image.
    assert run(rejects).stored == 0
    assert ids(client, name) == ["1", "2"]
    assert client.get(name, "1", strong=True).uri == str(folder / "a.png")


def test_unreliable_embedder_loses_no_image(
    run: Run, client: Client, name: str, folder: Path, embedder_address: str
) -> None:
    for number in range(60):
        (folder / f"{number:02}.png").write_bytes(png(number + 100))
    with Relay(embedder_address, refused=0.5, broken=0.2) as relay:
        report = run(folder, embedder=relay.address, streams=4)
        assert relay.refusals > 20
        assert (report.stored, report.failed) == (66, 0), report
        # Images of broken calls were embedded, but their answers were lost. They are few.
        assert relay.embedded.total() < 2 * 66
    assert len(ids(client, name)) == 66


def test_image_that_breaks_its_calls_fails_alone(run: Run, folder: Path, embedder_address: str) -> None:
    with Relay(embedder_address) as relay:
        relay.poison = digest(folder / "b.png")
        report = run(folder, embedder=relay.address, retry_seconds=4)
        assert (report.stored, report.reasons) == (5, {"UNAVAILABLE": 1}), report
        assert report.first_rejects[0].where == str(folder / "b.png")


def test_unavailable_service_stops_the_load_without_loss(run: Run, folder: Path, embedder_address: str) -> None:
    with Relay(embedder_address, refused=1.0) as relay:
        report = run(folder, embedder=relay.address, retry_seconds=2)
    assert (report.stored, report.failed) == (0, 0)
    assert "every call to the embedder failed for 2 s" in report.stopped
    assert run(folder).stored == 6


@pytest.mark.alone
def test_frozen_service_stops_the_load_after_the_retry_budget(run: Run, folder: Path, embedder_address: str) -> None:
    with Relay(embedder_address) as relay:
        relay.frozen = True
        report = run(folder, embedder=relay.address, retry_seconds=2)
    assert "every call to the embedder failed for 2 s" in report.stopped
    assert report.seconds < 4


def test_search_service_is_refused_as_an_embedder(run: Run, folder: Path, search_address: str) -> None:
    with pytest.raises(UnavailableError, match="no embedder answers"):
        run(folder, embedder=search_address)


def test_missing_embedder_is_reported_before_the_load(run: Run, folder: Path) -> None:
    with pytest.raises(UnavailableError, match="no embedder answers at 127"):
        run(folder, embedder="127.0.0.1:1")


def test_other_model_is_refused_before_the_load(run: Run, folder: Path, embedder_address: str) -> None:
    with Relay(embedder_address) as relay:
        relay.fingerprint = "mobilenet-other"
        with pytest.raises(FailedPreconditionError, match="mobilenet-other"):
            run(folder, embedder=relay.address)
        assert not relay.embedded


def test_foreign_vectors_are_not_mixed_with_the_embedders(run: Run, client: Client, name: str, folder: Path) -> None:
    client.create_collection(name, fingerprint="elsewhere", dimension=512)
    with pytest.raises(FailedPreconditionError, match="come from elsewhere"):
        run(folder)


def test_ledger_refuses_a_recreated_collection(run: Run, client: Client, name: str, folder: Path) -> None:
    run(folder)
    client.delete_collection(name)
    with pytest.raises(LedgerError, match="--restart"):
        run(folder)
    assert run(folder, restart=True).stored == 6


def test_ledger_on_a_full_disk_stops_the_load_and_the_next_run_resumes(
    run: Run, client: Client, name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imagesearch_ingest.load.ledger import Ledger  # noqa: PLC0415

    record = Ledger.record

    def on_a_full_disk(self: Ledger, *arguments: object) -> None:
        # SQLite then behaves as on a full disk: it cannot add a page.
        (pages,) = self._rows.execute("PRAGMA page_count").fetchone()
        self._rows.execute(f"PRAGMA max_page_count = {pages}")
        record(self, *arguments)  # type: ignore[arg-type]

    for number in range(60):
        (folder / f"{'long' * 40}{number:02}.png").write_bytes(png(number + 100))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record", on_a_full_disk)
        report = run(folder)
    assert "LEDGER_UNUSABLE" in report.stopped
    assert "full" in report.stopped
    done = run(folder)
    assert done.stored + done.skipped == 66
    assert not done.failed
    assert len(ids(client, name)) == 66
    with sqlite3.connect(tmp_path / "of.ledger") as rows:
        assert rows.execute("SELECT count(*) FROM items WHERE state = 'done'").fetchone() == (66,)
    rows.close()


def test_several_sources_are_one_load(run: Run, folder: Path) -> None:
    listing = folder / "list.txt"
    listing.write_text("a.png\nb.png\n")
    report = run(folder, listing, folder / "c.png")
    assert (report.listed, report.stored, report.skipped) == (9, 6, 3)


def test_invalid_source_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing"):
        run(tmp_path / "nothing")


async def test_load_runs_where_an_event_loop_runs(run: Run, client: Client, name: str, folder: Path) -> None:
    report = run(folder)
    assert (report.stored, report.stopped) == (6, "")
    assert ids(client, name) == ALL


async def test_program_can_await_a_load(
    client: Client, name: str, folder: Path, search_address: str, embedder_address: str
) -> None:
    services = LoadServices(Endpoint(search_address), Endpoint(embedder_address), streams=2)
    source = open_source(str(folder), SourceOptions())
    into = await asyncio.to_thread(ensure_collection, client, name)
    report = await load_async(LoadJob(client, into, [source], services, LocalFiles(None)))
    assert (report.stored, report.stopped) == (6, "")
    assert ids(client, name) == ALL


def test_files_of_a_busy_server_are_stored_and_can_be_read_again(
    run: Run, client: Client, name: str, tmp_path: Path
) -> None:
    with serving() as server:
        targets = ["/im%2Cage.png?s=1%2C2", "/a::b%23.png", "/away.png"]
        busy = Answer(status=503, headers={"Retry-After": "1"})
        server.answers |= {target: [busy, Answer(png(number))] for number, target in enumerate(targets)}
        server.answers["/away.png"] = Answer(status=429)
        path = tmp_path / "list.txt"
        path.write_text("\n".join(server.address + target for target in targets))
        report = run(path, retry_seconds=3.0, readers=2)
        assert (report.stored, report.reasons, report.stopped) == (2, {"UNREADABLE_NOW": 1}, "")
        server.answers["/away.png"] = Answer(png(9))
        report = run(path, retry_seconds=3.0)
        assert (report.stored, report.skipped, report.failed_before) == (1, 2, 0)
        assert set(server.targets) == set(targets)
        with UriReader() as reader:
            for image in client.list(name, strong=True):
                assert hashlib.sha256(reader.read(image.uri, 10_000)).hexdigest() == image.content_sha256
        assert {image.uri for image in client.list(name)} == {server.address + target for target in targets}
