import dataclasses
import json
import os
import signal
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from grpc_kit.errors import DeadlineExceededError, UnavailableError
from imagesearch_analysis.snapshot import DATABASE_FILE, VECTORS_FILE, Origin, Snapshot, SnapshotError
from imagesearch_analysis.snapshot_writer import SnapshotWriter, retry_timeouts
from imagesearch_cli.snapshots import snapshot_of as snapshot_of_collection
from imagesearch_client import AttributeValue, Metric, Region
from imagesearch_client.listing import ListingPosition
from tests.unit.analysis.snapshots import image_of, normal, snapshot_of

ORIGIN = Origin("shoes", "f", "cosine", 4, state="1")


def test_a_snapshot_returns_the_written_images(tmp_path: Path) -> None:
    vectors = normal(5, 4)
    attributes: dict[str, AttributeValue] = {"price": 1.5, "kind": "ä", "tags": ["a", "b"], "new": True, "size": 41}
    with SnapshotWriter(tmp_path, ORIGIN) as writer:
        writer.add(
            [image_of(0, vectors[0], attributes, "u/0", "ab", Region(0, 0.25, 0.5, 1))], ListingPosition("t1", "i00000")
        )
        writer.add([image_of(n, vectors[n], {}) for n in range(1, 5)], ListingPosition(complete=True))
    with Snapshot(tmp_path) as snapshot:
        assert (len(snapshot), snapshot.collection, snapshot.fingerprint) == (5, "shoes", "f")
        assert (snapshot.vectors == vectors).all()
        assert isinstance(snapshot.vectors, np.memmap)
        image = snapshot.image(0)
        assert (image.id, image.uri, image.content_sha256) == ("i00000", "u/0", "ab")
        assert image.region == Region(0, 0.25, 0.5, 1)
        assert repr(sorted(image.attributes.items())) == repr(sorted(attributes.items()))
        assert snapshot.image(1).region is None
        assert list(snapshot.ids) == [f"i{n:05d}" for n in range(5)] == snapshot.ids[:]
        assert (snapshot.ids[-1], snapshot.ids[1:3], snapshot.ids[::2]) == (
            "i00004",
            ["i00001", "i00002"],
            ["i00000", "i00002", "i00004"],
        )
        values = {name: snapshot.attribute_values(name)[0] for name in attributes}
        assert values == {"price": "1.5", "kind": "ä", "tags": '["a","b"]', "new": "true", "size": "41"}
        assert list(snapshot.attribute_values("kind")) == ["ä", None, None, None, None]
        assert (snapshot.position("i00003"), snapshot.position("i9")) == (3, None)
        for missing in (5, -6):
            with pytest.raises(IndexError):
                snapshot.ids[missing]
        with pytest.raises(IndexError, match="no position 5 among 5"):
            snapshot.image(5)
        with pytest.raises(ValueError, match="cannot be an attribute name"):
            snapshot.attribute_values("a') --")


def test_attribute_values_that_differ_slightly_stay_different(tmp_path: Path) -> None:
    values: dict[str, AttributeValue] = {
        "a": 0.1 + 0.2,
        "b": 0.3,
        "c": 1.0,
        "d": 1,
        "e": True,
        "f": "1",
        "g": 2**53 + 1,
    }
    with SnapshotWriter(tmp_path, ORIGIN) as writer:
        writer.add([image_of(0, normal(1, 4)[0], values)], ListingPosition(complete=True))
    with Snapshot(tmp_path) as snapshot:
        assert [snapshot.attribute_values(name)[0] for name in values] == [
            "0.30000000000000004",
            "0.3",
            "1.0",
            "1",
            "true",
            "1",
            "9007199254740993",
        ]


@pytest.mark.parametrize("metric", Metric)
def test_vectors_of_a_block_have_unit_length_only_for_cosine(tmp_path: Path, metric: Metric) -> None:
    vectors = 7 * normal(5, 4)
    vectors[3] = 0
    with snapshot_of(tmp_path, vectors, metric) as snapshot:
        block = snapshot.block(2, 9)
        expected = vectors[2:].astype(np.float64)
        if metric is Metric.COSINE:
            expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-9)
        assert block == pytest.approx(expected, abs=1e-6)
        assert snapshot.block(5, 9).shape == (0, 4)


def test_a_snapshot_may_be_empty(tmp_path: Path) -> None:
    with snapshot_of(tmp_path, normal(0, 4)) as snapshot:
        assert (len(snapshot), snapshot.vectors.shape, list(snapshot.ids)) == (0, (0, 4), [])


def test_an_incomplete_page_is_dropped(tmp_path: Path) -> None:
    vectors = normal(6, 4)
    with SnapshotWriter(tmp_path, ORIGIN) as writer:
        writer.add([image_of(n, vectors[n], {}) for n in range(3)], ListingPosition("t1", "i00002"))
    # A killed run can leave vectors that the database does not record.
    with (tmp_path / VECTORS_FILE).open("ab") as file:
        file.write(b"\1" * 20)
    with pytest.raises(SnapshotError, match="not complete; run the command again"):
        Snapshot(tmp_path)
    with SnapshotWriter(tmp_path, ORIGIN) as writer:
        assert (writer.rows, writer.position) == (3, ListingPosition("t1", "i00002"))
        writer.add([image_of(n, vectors[n], {}) for n in range(3, 6)], ListingPosition(complete=True))
    with Snapshot(tmp_path) as snapshot:
        assert (snapshot.vectors == vectors).all()


def test_a_changed_collection_is_read_again(tmp_path: Path) -> None:
    with snapshot_of(tmp_path, normal(3, 4)) as old:
        changed = dataclasses.replace(old.origin, state="2")
        with SnapshotWriter(tmp_path, changed) as writer:
            assert (writer.rows, writer.position) == (0, ListingPosition())
            writer.add([image_of(0, normal(1, 4)[0], {})], ListingPosition(complete=True))
        # The open snapshot stays readable.
        assert len(old.vectors) == 3
        assert old.ids[2] == "i00002"
    assert len(Snapshot(tmp_path)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"collection": "hats"}, "of the collection shoes, not of hats"),
        ({"fingerprint": "g"}, "of the fingerprint f, not of g"),
        ({"condition": "0a"}, "of another filter"),
    ],
)
def test_a_snapshot_of_another_origin_is_rejected_without_replace(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    with SnapshotWriter(tmp_path, ORIGIN) as writer:
        writer.add([image_of(0, normal(1, 4)[0], {})], ListingPosition(complete=True))
    other = dataclasses.replace(ORIGIN, **change)  # type: ignore[arg-type]
    with pytest.raises(SnapshotError, match=message):
        SnapshotWriter(tmp_path, other)
    assert len(Snapshot(tmp_path)) == 1
    with SnapshotWriter(tmp_path, other, replace=True) as writer:
        assert writer.rows == 0


def test_the_names_in_stored_snapshots_do_not_change(tmp_path: Path) -> None:
    # A folder with other names would not be recognised as a snapshot, and would be replaced without a question.
    with SnapshotWriter(tmp_path, ORIGIN) as writer:
        writer.add([image_of(0, normal(1, 4)[0], {})], ListingPosition(complete=True))
    with sqlite3.connect(tmp_path / DATABASE_FILE) as database:
        stored = {name: json.loads(value) for name, value in database.execute("SELECT name, value FROM about")}
    assert stored.keys() == {"origin", "place"}
    assert list(stored["origin"]) == ["collection", "fingerprint", "metric", "dimension", "condition", "state"]
    assert list(stored["place"]) == ["token", "last_id", "lean", "complete"]


def test_a_folder_with_other_files_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(SnapshotError, match=r"'letter\.txt'"):
        SnapshotWriter(tmp_path, ORIGIN)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_two_commands_cannot_write_one_folder(tmp_path: Path) -> None:
    with SnapshotWriter(tmp_path, ORIGIN), pytest.raises(SnapshotError, match="by another command"):
        SnapshotWriter(tmp_path, ORIGIN)


def test_damaged_snapshots_raise_an_error(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="contains no snapshot"):
        Snapshot(tmp_path)
    snapshot_of(tmp_path, normal(3, 4)).close()
    with (tmp_path / VECTORS_FILE).open("rb+") as file:
        file.truncate(20)
    with pytest.raises(SnapshotError, match="not complete"):
        Snapshot(tmp_path)
    (tmp_path / DATABASE_FILE).write_bytes(b"no database" * 100)
    with pytest.raises(SnapshotError, match="cannot be read"):
        Snapshot(tmp_path)
    with pytest.raises(SnapshotError, match="cannot be read"):
        SnapshotWriter(tmp_path, ORIGIN)


def test_a_run_starts_again_after_a_kill_before_the_tables_exist(tmp_path: Path) -> None:
    SnapshotWriter(tmp_path, ORIGIN).__exit__(None, None, None)
    (tmp_path / DATABASE_FILE).write_bytes(b"")
    with SnapshotWriter(tmp_path, ORIGIN) as writer:
        assert writer.rows == 0


def test_only_calls_with_an_expired_deadline_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("imagesearch_client.retrying.time.sleep", pauses.append)
    expired = DeadlineExceededError("MILVUS_TIMEOUT", "expired")
    outcomes: list[Exception | str] = [expired, expired, expired, "there"]

    def call() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert retry_timeouts(call) == "there"
    assert pauses == pytest.approx([0.1, 0.2, 0.4], rel=0.25)
    outcomes[:] = [expired]
    with pytest.raises(DeadlineExceededError):
        retry_timeouts(call, retry_seconds=0)
    outcomes[:] = [UnavailableError("UNAVAILABLE", "nobody"), "there"]
    with pytest.raises(UnavailableError):
        retry_timeouts(call)


def test_a_full_disk_is_detected_before_reading_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 200 * 2**20
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    maximum = (free - 64 * 2**20) // (ORIGIN.dimension * 4 + 512)
    with SnapshotWriter(tmp_path / "enough", ORIGIN) as writer:
        writer.check_space(maximum)
    with (
        pytest.raises(SnapshotError, match=r"needs about 209\.7 MB, and 209\.7 MB are free; use --snapshot FOLDER"),
        SnapshotWriter(tmp_path / "small", ORIGIN) as writer,
    ):
        writer.check_space(maximum + 1)
    assert not (tmp_path / "small").exists()
    # Images that were read before need no more space.
    with SnapshotWriter(tmp_path / "kept", ORIGIN) as writer:
        writer.add([image_of(0, np.ones(ORIGIN.dimension, np.float32), {})], ListingPosition())
        writer.check_space(maximum + 1)
        with pytest.raises(SnapshotError, match="not enough disk space"):
            writer.check_space(maximum + 2)
    with SnapshotWriter(tmp_path / "kept", ORIGIN) as writer:
        assert writer.rows == 1


def test_a_small_collection_needs_only_little_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    with SnapshotWriter(tmp_path / "snapshot", ORIGIN) as writer:
        writer.check_space(18)
        with pytest.raises(SnapshotError, match=r"needs about 51\.2 MB, and 1\.0 MB are free"):
            writer.check_space(int(25.6e6 / (ORIGIN.dimension * 4 + 512)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_temporary_snapshot_is_removed_when_a_signal_stops_the_command(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.signal(number, signal.SIG_DFL)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[str] = []

    def stop(*_: object, **__: object) -> None:
        seen.extend(path.name for path in tmp_path.iterdir())
        os.kill(os.getpid(), number)

    monkeypatch.setattr("imagesearch_cli.snapshots.read_snapshot", stop)
    with pytest.raises(SystemExit) as ended, snapshot_of_collection("127.0.0.1:1", "shoes", None, None):
        pass
    signal.signal(number, handler)
    assert ended.value.code == 128 + number
    assert [name.startswith("imagesearch-") for name in seen] == [True]
    assert list(tmp_path.iterdir()) == []
