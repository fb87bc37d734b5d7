"""The transfer of a ledger to a copy of its collection."""

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imagesearch_client.types import Collection, Index, Metric
from imagesearch_ingest.load import ledger_transfer
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_database import LedgerError
from imagesearch_ingest.load.ledger_files import default_ledger_path, transfer_default_ledgers
from imagesearch_ingest.load.ledger_rows import CollectionIdentity, ItemState, LedgerRow
from imagesearch_ingest.load.ledger_transfer import transfer_ledger


def collection(name: str, day: int = 1, fingerprint: str = "vgg16-1234") -> Collection:
    made = datetime(2026, 1, day, tzinfo=UTC)
    return Collection(name, "vgg16", 4, fingerprint, Metric.COSINE, Index.FLAT, "", {}, made)


OLD, NEW = collection("shop_v1"), collection("shop_v2", 2, "mobilenet-5678")


def row(
    key: str, state: ItemState = ItemState.DONE, *, sha256: str = "", original: str = "", image_id: str = ""
) -> LedgerRow:
    return LedgerRow(key, image_id or key, f"/photos/{key}", 10, "1", sha256 or key, "about", state, original=original)


def filled(path: Path, of: Collection, rows: Sequence[LedgerRow], source: str = "/photos") -> Path:
    with Ledger(path) as ledger:
        ledger.bind(CollectionIdentity.of(of))
        ledger.start_run()
        ledger.record(rows, ledger.source_number(source))
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    rows = [row("a"), row("b"), row("c", ItemState.FAILED), row("d", ItemState.DUPLICATE, sha256="a", original="a")]
    return filled(tmp_path / "old.ledger", OLD, rows)


def states(path: Path, of: Collection) -> dict[str, ItemState]:
    """Return the state of each item, as a load into the collection would find it."""
    with Ledger(path) as ledger:
        ledger.bind(CollectionIdentity.of(of))
        ledger.start_run()
        return {key: found.state for key, found in ledger.look_up(["a", "b", "c", "d", "e"]).items()}


ALL = {"a": ItemState.DONE, "b": ItemState.DONE, "c": ItemState.FAILED, "d": ItemState.DUPLICATE}


def test_transfer_copies_items_with_their_sources(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "below" / "new.ledger"
    before = everything(old)
    assert transfer_ledger(old, new, OLD, NEW) == 4
    assert states(new, NEW) == ALL
    assert everything(old) == before
    assert states(old, OLD) == ALL
    # The ledger belongs to the new collection only.
    with Ledger(new) as ledger, pytest.raises(LedgerError, match="collection shop_v2"):
        ledger.bind(CollectionIdentity.of(OLD))


def everything(path: Path) -> list[list[tuple[object, ...]]]:
    with sqlite3.connect(path) as rows:
        found = [
            rows.execute(query).fetchall()
            for query in ("SELECT * FROM facts", "SELECT * FROM sources", "SELECT * FROM items")
        ]
    rows.close()
    return found


def test_transfer_copies_every_column(old: Path, tmp_path: Path) -> None:
    with sqlite3.connect(old) as rows:
        rows.execute("UPDATE items SET attempts = 7, uris_due = 1, first_time = 1.5, last_time = 2.5 WHERE key = 'a'")
        rows.execute("INSERT INTO left_ids VALUES ('left')")
    rows.close()
    new = tmp_path / "new.ledger"
    transfer_ledger(old, new, OLD, NEW)
    with sqlite3.connect(new) as rows:
        columns = [name for _, name, *_ in rows.execute("PRAGMA table_info(items)")]
    rows.close()
    assert set(columns) == {*ledger_transfer.COLUMNS, "source", "run"}
    same = [columns.index(name) for name in ledger_transfer.COLUMNS]
    for one, other in zip(everything(old)[2], everything(new)[2], strict=True):
        assert [one[index] for index in same] == [other[index] for index in same]
    with Ledger(new) as ledger:
        assert ledger.abandoned_ids() == ["left"]


def test_items_without_a_copied_image_are_loaded_again(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.ledger"
    # The ids may be an iterator of any length.
    assert transfer_ledger(old, new, OLD, NEW, iter(["a", "c", "unknown"])) == 2
    # A duplicate without its original is loaded itself.
    assert states(new, NEW) == {"b": ItemState.DONE, "d": ItemState.FREED}


def test_items_recorded_after_the_last_copy_are_loaded_again(old: Path, tmp_path: Path) -> None:
    with sqlite3.connect(old) as rows:
        rows.execute("UPDATE items SET last_time = 100")
        rows.execute("UPDATE items SET last_time = 200 WHERE key = 'b'")
    rows.close()
    for new in (tmp_path / "new.ledger", old):
        assert transfer_ledger(old, new, OLD, NEW, before=200) == 3
        assert "b" not in states(new, NEW)


def test_transferred_items_keep_their_sources_for_pruning(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.ledger"
    # The number of this source in the old ledger belongs to another source in the new one.
    filled(new, NEW, [row("e")], "/elsewhere")
    transfer_ledger(old, new, OLD, NEW)
    with Ledger(new) as ledger:
        ledger.bind(CollectionIdentity.of(NEW))
        ledger.start_run()
        ledger.look_up(["a", "c", "d"])
        assert [found.key for rows in ledger.missing(ledger.source_number("/photos")) for found in rows] == ["b"]
        assert [found.key for rows in ledger.missing(ledger.source_number("/elsewhere")) for found in rows] == ["e"]


def test_later_recorded_item_wins(old: Path, tmp_path: Path) -> None:
    new = filled(tmp_path / "new.ledger", NEW, [row("a", sha256="changed"), row("b", ItemState.FAILED), row("e")])
    with sqlite3.connect(new) as rows:
        rows.execute("UPDATE items SET last_time = 1 WHERE key = 'b'")
    rows.close()
    assert transfer_ledger(old, new, OLD, NEW, ["a"]) == 5
    # The duplicate is freed, because its original has changed meanwhile.
    assert states(new, NEW) == {**ALL, "d": ItemState.FREED, "e": ItemState.DONE}
    with Ledger(new) as ledger:
        assert ledger.look_up(["a"])["a"].sha256 == "changed"


def test_transfer_can_be_repeated(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.ledger"
    for _ in range(2):
        assert transfer_ledger(old, new, OLD, NEW) == 4
    for _ in range(2):
        assert transfer_ledger(old, old, OLD, NEW, ["b"]) == 3


def test_one_file_becomes_the_ledger_of_the_new_collection(old: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.ledger"
    link.symlink_to(old)
    assert transfer_ledger(old, link, OLD, NEW, ["a"]) == 3
    assert states(old, NEW) == {"b": ItemState.DONE, "c": ItemState.FAILED, "d": ItemState.FREED}


def test_ledger_of_a_removed_collection_is_replaced(old: Path, tmp_path: Path) -> None:
    removed = collection("shop_v2", 1)
    new = filled(tmp_path / "new.ledger", removed, [row("a", sha256="other"), row("e")])
    assert transfer_ledger(old, new, OLD, NEW) == 4
    assert states(new, NEW) == ALL


def test_ledgers_of_other_collections_are_refused_and_unchanged(old: Path, tmp_path: Path) -> None:
    other = filled(tmp_path / "other.ledger", collection("other"), [row("x")])
    before = everything(other), everything(old)
    for former, new in ((old, other), (other, tmp_path / "new.ledger"), (other, other)):
        with pytest.raises(LedgerError, match=r"other\.ledger is the ledger of other"):
            transfer_ledger(former, new, OLD, NEW)
    again = collection("shop_v1", 9)
    for new in (tmp_path / "new.ledger", old):
        with pytest.raises(LedgerError, match="created at 2026-01-01"):
            transfer_ledger(old, new, again, NEW)
    assert (everything(other), everything(old)) == before


def test_transfer_refuses_a_ledger_in_use(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.ledger"
    for held in (old, new):
        with Ledger(held), pytest.raises(LedgerError, match="in use"):
            transfer_ledger(old, new, OLD, NEW)


def test_transfer_without_old_ledger_creates_none(tmp_path: Path) -> None:
    assert transfer_ledger(tmp_path / "gone.ledger", tmp_path / "new.ledger", OLD, NEW) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("same", [False, True])
def test_killed_transfer_leaves_the_new_ledger_unchanged(tmp_path: Path, same: bool) -> None:
    rows = [row(f"{number:05}") for number in range(3000)]
    old = filled(tmp_path / "old.ledger", OLD, rows)
    new = old if same else tmp_path / "new.ledger"
    program = (
        "import os, sys; from pathlib import Path; from tests.unit.ingest.load.test_ledger_transfer import *\n"
        # At the end of the transaction.
        "ledger_transfer._count = lambda rows: os.kill(os.getpid(), 9)\n"
        "transfer_ledger(Path(sys.argv[1]), Path(sys.argv[2]), OLD, NEW, ['00001'])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(old), str(new)], check=False)
    assert done.returncode == -9
    with Ledger(new) as ledger:
        assert ledger.collection == (CollectionIdentity.of(OLD) if same else None)
        assert sum(ledger.counts().values()) == (3000 if same else 0)
    assert transfer_ledger(old, new, OLD, NEW, ["00001"]) == 2999
    with Ledger(new) as ledger:
        assert ledger.counts() == {ItemState.DONE: 2999}


@pytest.fixture
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "imagesearch"


def test_default_ledgers_of_all_service_addresses_are_transferred(state_home: Path) -> None:
    names = ["127.0.0.1:50052", "search.local:50052", "dns:///search:50052"]
    for number, target in enumerate(names):
        filled(default_ledger_path(target, "shop_v1"), OLD, [row(f"{number}{key}") for key in "ab"])
    # A collection of the same name at another service, and a collection with a longer name.
    filled(default_ledger_path("staging:50052", "shop_v1"), collection("shop_v1", 9), [row("x")])
    filled(default_ledger_path(names[0], "shop_v10"), collection("shop_v10"), [row("x")])
    handed = transfer_default_ledgers(OLD, NEW, iter(["0a"]))
    assert sorted((each.new, each.items, each.error) for each in handed) == sorted(
        (default_ledger_path(target, "shop_v2"), 1 if number == 0 else 2, "") for number, target in enumerate(names)
    )
    assert {each.old for each in handed} == {default_ledger_path(target, "shop_v1") for target in names}
    assert len(list(state_home.glob("shop_v2@*.ledger"))) == 3


def test_ledger_in_use_does_not_block_other_transfers(state_home: Path) -> None:
    assert not state_home.exists()
    assert transfer_default_ledgers(OLD, NEW) == []
    for target in ("one", "two"):
        filled(default_ledger_path(target, "shop_v1"), OLD, [row("a")])
    with Ledger(default_ledger_path("one", "shop_v1")):
        first, second = transfer_default_ledgers(OLD, NEW)
    assert (first.items, second.items, second.error) == (0, 1, "")
    assert "in use" in first.error
