"""Snapshots of collections, and neighbors in them against exact searches of the service."""

import multiprocessing
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
from pymilvus import MilvusClient

from grpc_kit.errors import ServiceError
from imagesearch_analysis.codes import mean_vector
from imagesearch_analysis.exact_search import nearest
from imagesearch_analysis.snapshot import SnapshotError
from imagesearch_analysis.snapshot_writer import take_snapshot
from imagesearch_client import (
    Client,
    Embedding,
    Metric,
    NewImage,
    NotFoundError,
    Region,
    RegionEmbedding,
    listing,
    number,
)

COUNT, DIMENSION = 2500, 32


@pytest.fixture
def either(search_address: str) -> Iterator[Client]:
    """Return a client of the service on each backend."""
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
def test_neighbors_equal_those_of_an_exact_search(either: Client, name: str, tmp_path: Path, metric: Metric) -> None:
    fill(either, name, metric, 600)
    with take_snapshot(either, name, tmp_path) as snapshot:
        assert (len(snapshot), snapshot.metric) == (600, metric)
        found = nearest(snapshot, snapshot.block(0, 10), 10, excluded=np.arange(10))
        ids = snapshot.ids
        for row in range(10):
            hits = either.search_by_id(name, ids[row], limit=10, exact=True, strong=True)
            assert [ids[position] for position in found.positions[row]] == [hit.image.id for hit in hits]
            assert found.scores[row] == pytest.approx([hit.score for hit in hits], abs=1e-5)
            assert found.distances[row] == pytest.approx([hit.distance for hit in hits], abs=1e-5)


def test_a_snapshot_equals_its_collection_and_is_used_again(client: Client, name: str, tmp_path: Path) -> None:
    fill(client, name)
    client.set_alias(f"{name}_now", name)
    progress: list[int] = []
    with take_snapshot(client, f"{name}_now", tmp_path, on_progress=progress.append) as snapshot:
        assert (progress[0], progress[-1], snapshot.collection) == (0, COUNT, name)
        for position, image in enumerate(client.list(name, with_vector=True, page_size=500, strong=True)):
            stored = snapshot.image(position)
            assert (stored.id, stored.uri, stored.content_sha256) == (
                image.id,
                image.uri,
                image.content_sha256,
            )
            assert stored.attributes == image.attributes
            assert image.embedding is not None
            assert snapshot.vectors[position].tolist() == list(image.embedding.values)
    again: list[int] = []
    take_snapshot(client, name, tmp_path, on_progress=again.append).close()
    assert again == [COUNT]
    client.delete_alias(f"{name}_now")


def test_analyses_read_no_regions(server_address: str, milvus_uri: str, name: str, tmp_path: Path) -> None:
    box, vector = Region(0, 0, 0.5, 0.5), Embedding([1.0, 2.0], "elsewhere")
    regions = [RegionEmbedding(box, vector, 1.0)]
    with Client(server_address, timeout=60) as client, closing(MilvusClient(milvus_uri)) as milvus:
        client.create_collection(name, dimension=2, fingerprint="elsewhere", max_regions=64)
        images = [NewImage(f"i{n}", vector, regions=regions) for n in range(3)]
        assert [result.error for result in client.write(name, images)] == [None] * 3
        assert client.get(name, "i0", with_regions=True, strong=True).regions[0].box == box
        (companion,) = [each for each in milvus.list_collections() if each.endswith(name) and each != name]
        milvus.drop_collection(companion)
        with pytest.raises(ServiceError):
            client.get(name, "i0", with_regions=True, strong=True)
        with take_snapshot(client, name, tmp_path) as snapshot:
            assert len(snapshot) == 3
        assert len(mean_vector(client, name)) == 2
        client.delete_collection(name)


def take_and_wait(target: str, name: str, folder: Path, reached: Event) -> None:
    """Read some pages, and wait to be killed."""
    listing.PAGE_BYTES = 100 * 2048

    def wait(rows: int) -> None:
        if rows > COUNT // 2:
            reached.set()
            multiprocessing.Event().wait()

    with Client(target, timeout=60) as client:
        take_snapshot(client, name, folder, on_progress=wait)


def test_a_killed_snapshot_is_resumed(client: Client, lite_address: str, name: str, tmp_path: Path) -> None:
    fill(client, name)
    context = multiprocessing.get_context("spawn")
    reached = context.Event()
    process = context.Process(target=take_and_wait, args=(lite_address, name, tmp_path / "killed", reached))
    process.start()
    assert reached.wait(60)
    with pytest.raises(SnapshotError, match="by another command"):
        take_snapshot(client, name, tmp_path / "killed")
    process.kill()
    process.join()
    progress: list[int] = []
    with (
        take_snapshot(client, name, tmp_path / "killed", on_progress=progress.append) as resumed,
        take_snapshot(client, name, tmp_path / "straight") as straight,
    ):
        assert COUNT // 2 < progress[0] < COUNT
        assert (resumed.vectors == straight.vectors).all()
        assert list(resumed.ids) == list(straight.ids)


def test_any_change_of_the_collection_takes_a_new_snapshot(client: Client, name: str, tmp_path: Path) -> None:
    fill(client, name, count=300)
    take_snapshot(client, name, tmp_path).close()
    client.update(name, "i00007", attributes={"sold": True})
    with take_snapshot(client, name, tmp_path) as snapshot:
        assert snapshot.attribute_values("sold")[7] == "true"
    client.delete(name, ["i00003"])
    with take_snapshot(client, name, tmp_path) as snapshot:
        assert (len(snapshot), snapshot.position("i00003")) == (299, None)
    client.delete_collection(name)
    fill(client, name, count=20)
    with take_snapshot(client, name, tmp_path) as snapshot:
        assert len(snapshot) == 20


def test_a_folder_belongs_to_one_collection_and_one_filter(client: Client, name: str, tmp_path: Path) -> None:
    fill(client, name, count=30)
    fill(client, f"{name}_b", count=10)
    with take_snapshot(client, name, tmp_path / "few", where=number("number", lt=12)) as few:
        assert list(few.ids) == [f"i{n:05d}" for n in range(12)]
    for other, message in ((name, "of another filter"), (f"{name}_b", f"of the collection {name}, not of {name}_b")):
        with pytest.raises(SnapshotError, match=message):
            take_snapshot(client, other, tmp_path / "few")
    with take_snapshot(client, f"{name}_b", tmp_path / "few", replace=True) as replaced:
        assert len(replaced) == 10
    with pytest.raises(NotFoundError):
        take_snapshot(client, f"{name}_c", tmp_path / "none")
    assert not (tmp_path / "none").exists()
