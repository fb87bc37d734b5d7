"""Collections read to the disk, and the neighbours of all their images against exact searches."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from imagesearch_analysis.nearest import nearest
from imagesearch_analysis.snapshot import SnapshotError, take
from imagesearch_client import Client, Embedding, Metric, NewImage, NotFoundError, listing, number

COUNT, DIMENSION = 2500, 32


@pytest.fixture
def either(search_address: str) -> Iterator[Client]:
    """A client of a service on each backend."""
    with Client(search_address, timeout=60) as client:
        yield client


def fill(client: Client, name: str, metric: Metric = Metric.COSINE, count: int = COUNT) -> None:
    client.create_collection(name, dimension=DIMENSION, fingerprint="elsewhere", metric=metric)
    vectors = np.random.default_rng(1).normal(size=(count, DIMENSION))
    images = [
        NewImage(f"i{n:05d}", Embedding(vectors[n].tolist(), "elsewhere"), f"u/ü/{n}", {"number": n}, None, "ab" * 32)
        for n in range(count)
    ]
    assert [result.error for result in client.write(name, images) if result.error] == []


@pytest.mark.parametrize("metric", Metric)
def test_neighbours_are_those_of_an_exact_search(either: Client, name: str, tmp_path: Path, metric: Metric) -> None:
    fill(either, name, metric, 600)
    with take(either, name, tmp_path) as snapshot:
        assert (len(snapshot), snapshot.metric) == (600, metric)
        found = nearest(snapshot, snapshot.block(0, 10), 10, but=np.arange(10))
        ids = snapshot.ids
        for row in range(10):
            hits = either.search_by_id(name, ids[row], limit=10, exact=True, strong=True)
            assert [ids[position] for position in found.positions[row]] == [hit.image.id for hit in hits]
            assert found.scores[row] == pytest.approx([hit.score for hit in hits], abs=1e-5)
            assert found.distances[row] == pytest.approx([hit.distance for hit in hits], abs=1e-5)


def test_a_snapshot_has_what_the_collection_has(client: Client, name: str, tmp_path: Path) -> None:
    fill(client, name)
    client.set_alias(f"{name}_now", name)
    told: list[int] = []
    with take(client, f"{name}_now", tmp_path, tell=told.append) as snapshot:
        assert (told[0], told[-1], snapshot.collection) == (0, COUNT, name)
        for position, image in enumerate(client.list(name, with_vector=True, page_size=500, strong=True)):
            described = snapshot.describe(position)
            assert (described.id, described.uri, described.content_sha256) == (
                image.id,
                image.uri,
                image.content_sha256,
            )
            assert described.attributes == image.attributes
            assert image.embedding is not None
            assert snapshot.vectors[position].tolist() == list(image.embedding.values)
    again: list[int] = []
    take(client, name, tmp_path, tell=again.append).close()
    assert again == [COUNT]
    client.delete_alias(f"{name}_now")


def take_and_wait(target: str, name: str, folder: Path, reached: Event) -> None:
    """Reads some pages, and then waits to be killed."""
    listing.PAGE_BYTES = 100 * 2048

    def tell(rows: int) -> None:
        if rows > COUNT // 2:
            reached.set()
            multiprocessing.Event().wait()

    with Client(target, timeout=60) as client:
        take(client, name, folder, tell=tell)


def test_a_reading_that_was_killed_goes_on(client: Client, lite_address: str, name: str, tmp_path: Path) -> None:
    fill(client, name)
    context = multiprocessing.get_context("spawn")
    reached = context.Event()
    process = context.Process(target=take_and_wait, args=(lite_address, name, tmp_path / "killed", reached))
    process.start()
    assert reached.wait(60)
    with pytest.raises(SnapshotError, match="by another command"):
        take(client, name, tmp_path / "killed")
    process.kill()
    process.join()
    told: list[int] = []
    with (
        take(client, name, tmp_path / "killed", tell=told.append) as resumed,
        take(client, name, tmp_path / "straight") as straight,
    ):
        assert COUNT // 2 < told[0] < COUNT
        assert (resumed.vectors == straight.vectors).all()
        assert list(resumed.ids) == list(straight.ids)


def test_a_snapshot_is_taken_anew_when_anything_has_changed(client: Client, name: str, tmp_path: Path) -> None:
    fill(client, name, count=300)
    take(client, name, tmp_path).close()
    client.update(name, "i00007", attributes={"sold": True})
    with take(client, name, tmp_path) as snapshot:
        assert snapshot.values("sold")[7] == "true"
    client.delete(name, ["i00003"])
    with take(client, name, tmp_path) as snapshot:
        assert (len(snapshot), snapshot.position("i00003")) == (299, None)
    client.delete_collection(name)
    fill(client, name, count=20)
    with take(client, name, tmp_path) as snapshot:
        assert len(snapshot) == 20


def test_a_folder_is_of_one_collection_and_one_filter(client: Client, name: str, tmp_path: Path) -> None:
    fill(client, name, count=30)
    fill(client, f"{name}_b", count=10)
    with take(client, name, tmp_path / "few", where=number("number", lt=12)) as few:
        assert list(few.ids) == [f"i{n:05d}" for n in range(12)]
    for other, said in ((name, "of another filter"), (f"{name}_b", f"of the collection {name}, and not of {name}_b")):
        with pytest.raises(SnapshotError, match=said):
            take(client, other, tmp_path / "few")
    with take(client, f"{name}_b", tmp_path / "few", replace=True) as replaced:
        assert len(replaced) == 10
    with pytest.raises(NotFoundError):
        take(client, f"{name}_c", tmp_path / "none")
    assert not (tmp_path / "none").exists()
