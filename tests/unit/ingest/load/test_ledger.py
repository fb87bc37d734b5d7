"""The ledger of a load."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_database import LedgerError
from imagesearch_ingest.load.ledger_rows import CollectionIdentity, ItemState, LedgerRow

COLLECTION = CollectionIdentity("images", "2026-01-01T00:00:00+00:00", "vgg16-1234")
CONTENT = "a" * 64


def row(key: str, state: ItemState = ItemState.DONE, *, sha256: str = CONTENT, original: str = "") -> LedgerRow:
    return LedgerRow(key, key, f"/photos/{key}", 10, "1", sha256, "about", state, original=original)


@pytest.fixture
def ledger() -> Ledger:
    """Return a bound ledger in its first run."""
    ledger = Ledger(None)
    ledger.bind(COLLECTION)
    ledger.source_number("/photos")
    ledger.start_run()
    return ledger


def test_recorded_items_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "of.ledger"
    program = (
        "import os, sys; from pathlib import Path; from tests.unit.ingest.load.test_ledger import *\n"
        "ledger = Ledger(Path(sys.argv[1])); ledger.bind(COLLECTION); ledger.start_run()\n"
        "ledger.record([row('a.jpg'), row('b.jpg', ItemState.FAILED)], ledger.source_number('/photos'))\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    with Ledger(path) as ledger:
        ledger.bind(COLLECTION)
        ledger.start_run()
        known = ledger.look_up(["a.jpg", "b.jpg", "c.jpg"])
    assert {key: found.state for key, found in known.items()} == {"a.jpg": ItemState.DONE, "b.jpg": ItemState.FAILED}


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (CollectionIdentity("other", COLLECTION.create_time, COLLECTION.fingerprint), "collection images"),
        (CollectionIdentity("images", COLLECTION.create_time, "resnet"), "fingerprint vgg16-1234"),
        (CollectionIdentity("images", "2026-02-02T00:00:00+00:00", COLLECTION.fingerprint), "2026-01-01"),
    ],
)
def test_ledger_refuses_another_collection_or_fingerprint(
    ledger: Ledger, other: CollectionIdentity, named: str
) -> None:
    ledger.record([row("a.jpg")], 1)
    with pytest.raises(LedgerError, match=named):
        ledger.bind(other)
    assert ledger.counts() == {ItemState.DONE: 1}
    ledger.bind(other, restart=True)
    assert ledger.counts() == {}


def test_only_one_process_can_open_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "of.ledger"
    with Ledger(path) as ledger:
        ledger.bind(COLLECTION)
        with pytest.raises(LedgerError, match="in use"):
            Ledger(path)


def test_foreign_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "photos.sqlite"
    with closing(sqlite3.connect(path)) as rows:
        rows.execute("CREATE TABLE albums (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="is another program's database; name another file by --ledger"):
        Ledger(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_foreign_file_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8 no ledger at all" * 100)
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger(path)
    assert path.read_bytes().startswith(b"\xff\xd8")


def test_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "of.ledger"
    with Ledger(path) as ledger:
        ledger.bind(COLLECTION)
    with sqlite3.connect(path) as rows:
        rows.execute("UPDATE facts SET value = '999' WHERE name = 'version'")
    rows.close()
    with pytest.raises(LedgerError, match="another version"):
        Ledger(path)


def test_full_disk_is_reported_and_earlier_rows_are_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "of.ledger")
    ledger.bind(COLLECTION)
    ledger.start_run()
    # SQLite then behaves as on a full disk.
    ledger._rows.execute("PRAGMA max_page_count = 12")

    def record_all() -> None:
        for n in range(100):
            ledger.record([row(f"{n}_{m}" * 20) for m in range(100)], 1)

    with pytest.raises(LedgerError, match="full"):
        record_all()
    # Earlier transactions are kept and readable.
    kept = ledger.counts().get(ItemState.DONE, 0)
    assert kept % 100 == 0
    ledger._rows.execute("PRAGMA max_page_count = 100000")
    ledger.record([row("more")], 1)
    assert ledger.counts()[ItemState.DONE] == kept + 1
    ledger.close()


def test_attempts_are_counted(ledger: Ledger) -> None:
    ledger.record([row("a.jpg", ItemState.FAILED)], 1)
    ledger.record([row("a.jpg")], 1)
    assert ledger.attempts("a.jpg") == 2
    assert ledger.attempts("b.jpg") == 0


def test_missing_items_are_those_of_the_source_that_the_run_did_not_list(ledger: Ledger) -> None:
    other = ledger.source_number("/elsewhere")
    ledger.record([row(f"{n:04}.jpg") for n in range(2500)], 1)
    ledger.record([row("else.jpg")], other)
    ledger.start_run()
    ledger.look_up(["0001.jpg", "2000.jpg"])
    gone = [found.key for rows in ledger.missing(1) for found in rows]
    assert len(gone) == len(set(gone)) == 2498
    assert not {"0001.jpg", "2000.jpg", "else.jpg"}.intersection(gone)


def test_missing_items_can_be_removed_while_iterating(ledger: Ledger) -> None:
    ledger.record([row(f"{n:04}.jpg") for n in range(2500)], 1)
    ledger.start_run()
    removed = 0
    for rows in ledger.missing(1):
        ledger.remove(rows)
        removed += len(rows)
    assert removed == 2500
    assert ledger.counts() == {}


def test_duplicates_are_freed_when_their_original_is_missing_or_changes(ledger: Ledger) -> None:
    def again() -> None:
        ledger.record([row("a"), row("b", ItemState.DUPLICATE, original="a"), row("c", sha256="c")], 1)

    again()
    assert ledger.original_of(CONTENT, "b") == next(iter(ledger.look_up(["a"]).values()))
    assert ledger.original_of(CONTENT, "a") is None
    ledger.remove([row("a")])
    assert ledger.look_up(["b"])["b"].state is ItemState.FREED
    assert ledger.has_freed([1])
    assert not ledger.has_freed([2])
    again()
    ledger.record([row("a", sha256="other")], 1)
    assert ledger.look_up(["b"])["b"].state is ItemState.FREED
    again()
    ledger.record([row("a", ItemState.FAILED)], 1)
    assert ledger.look_up(["b"])["b"].state is ItemState.FREED
    again()
    ledger.record([row("a"), row("c")], 1)
    assert ledger.look_up(["b"])["b"].state is ItemState.DUPLICATE


def test_duplicate_uris_are_due_until_they_are_stored(ledger: Ledger) -> None:
    def due() -> dict[str, list[str]]:
        return {found.key: uris for found, uris in ledger.duplicate_uris_due()}

    ledger.record(
        [row("a"), row("b", ItemState.DUPLICATE, original="a"), row("c", ItemState.DUPLICATE, original="a")], 1
    )
    assert due() == {"a": ["/photos/b", "/photos/c"]}
    ledger.mark_duplicate_uris_stored(row("a"))
    assert due() == {}
    # Storing the image again removes the attribute.
    ledger.record([row("a")], 1)
    assert due() == {"a": ["/photos/b", "/photos/c"]}
    ledger.mark_duplicate_uris_stored(row("a"))
    ledger.remove([row("c", ItemState.DUPLICATE, original="a")])
    assert due() == {"a": ["/photos/b"]}


def test_ids_of_other_items_are_found(ledger: Ledger) -> None:
    same = LedgerRow("x.jpg", "a.jpg", "/x", None, "", CONTENT, "about", ItemState.DONE)
    ledger.record([row("a.jpg"), row("b.jpg"), same], 1)
    assert ledger.ids_of_other_items(["a.jpg", "b.jpg"], [row("a.jpg"), row("b.jpg")]) == {"a.jpg"}
    assert ledger.ids_of_other_items(["a.jpg", "c.jpg"], [row("a.jpg"), same]) == set()


def test_former_ids_are_abandoned_until_they_are_forgotten(ledger: Ledger) -> None:
    def stored_as(image_id: str, state: ItemState = ItemState.DONE) -> LedgerRow:
        return LedgerRow(
            "a.jpg", image_id, "/a.jpg", 1, "", CONTENT, "about", state, original="b" if image_id == "" else ""
        )

    ledger.record([stored_as("1")], 1)
    ledger.record([stored_as("1", ItemState.FAILED)], 1)
    assert ledger.abandoned_ids() == []
    ledger.record([stored_as("2")], 1)
    ledger.record([stored_as("", ItemState.DUPLICATE)], 1)
    assert ledger.abandoned_ids() == ["1", "2"]
    ledger.forget_abandoned_ids(["1"])
    assert ledger.abandoned_ids() == ["2"]


def test_read_only_ledger_is_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "of.ledger"
    with Ledger(path) as ledger:
        ledger.bind(COLLECTION)
        ledger.start_run()
        ledger.record([row("a.jpg")], ledger.source_number("/photos"))
    before = path.read_bytes()
    with Ledger(path, read_only=True) as ledger:
        ledger.start_run()
        assert ledger.look_up(["a.jpg"])["a.jpg"].state is ItemState.DONE
    assert path.read_bytes() == before
