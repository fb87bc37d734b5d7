"""Reindexes into a new collection, on both backends."""

import dataclasses
import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpc_kit.errors import AlreadyExistsError
from imagesearch_client import (
    Client,
    Embedding,
    HnswParameters,
    Image,
    Index,
    Metric,
    NewImage,
    Region,
)
from imagesearch_ingest.reindex.new_collection import Change, create_new_collection
from imagesearch_ingest.reindex.reindexing import Reindexing

COUNT = 450


@pytest.fixture
def client(search_address: str) -> Iterator[Client]:
    with Client(search_address) as client:
        yield client


def write(client: Client, collection: str, images: list[NewImage]) -> None:
    assert [result.error for result in client.write(collection, images) if result.error] == []


def ready(number: int, **fields: object) -> NewImage:
    vector = np.random.default_rng(number).normal(size=8).tolist()
    made = NewImage(
        f"i{number:04d}", Embedding(vector, "elsewhere"), f"u/{number}", {"number": number, "tag": ["a", "b"]}
    )
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def kept(image: Image) -> tuple[object, ...]:
    assert image.embedding is not None
    return image.uri, image.attributes, image.content_sha256, image.region, list(image.embedding.values)


def contents(client: Client, collection: str) -> dict[str, tuple[object, ...]]:
    return {image.id: kept(image) for image in client.list(collection, with_vector=True, strong=True)}


def test_reindex_copies_all_images_and_moves_the_alias(client: Client, name: str) -> None:
    client.create_collection(
        name, dimension=8, fingerprint="elsewhere", description="shoes", labels={"team": "a"}, ttl=timedelta(days=9)
    )
    images = [ready(number) for number in range(COUNT)]
    images[7] = ready(7, region=Region(0, 0.25, 0.5, 1), content_sha256="ab" * 32)
    write(client, name, images)
    alias, new = f"{name}_now", f"{name}_2"
    client.set_alias(alias, name)
    old = client.get_collection(alias)
    change = Change(index=Index.HNSW, index_parameters=HnswParameters(32, 300), metric=Metric.L2)
    made = create_new_collection(client, old, new, change)
    assert (made.index, made.index_parameters, made.metric) == (Index.HNSW, HnswParameters(32, 300), Metric.L2)
    assert (made.ttl, made.description, made.labels) == (old.ttl, "shoes", {"team": "a"})
    steps: list[int] = []
    reindexing = Reindexing(client, old, made, Path(), steps.append)
    reindexing.copy()
    reindexing.move([alias])
    report = reindexing.report
    assert (report.count, report.source_count, report.failed) == (COUNT, COUNT, [])
    assert report.complete
    assert not report.embedded_anew
    assert report.moved == {alias: name}
    assert client.list_aliases()[alias] == new
    assert set(steps) == {0}
    assert contents(client, new) == contents(client, name)
    assert contents(client, new)["i0007"][2:4] == ("ab" * 32, Region(0, 0.25, 0.5, 1))
    with pytest.raises(AlreadyExistsError):
        create_new_collection(client, old, new, change)
    client.delete_alias(alias)


def test_reindex_copies_changes_made_meanwhile(client: Client, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client.create_collection(name, dimension=8, fingerprint="elsewhere")
    write(client, name, [ready(number) for number in range(COUNT)])
    old = client.get_collection(name)
    made = create_new_collection(client, old, f"{name}_2", Change())
    done = False

    def meddle(_: int) -> None:
        """Change images in the middle of the copy, both copied ones and others."""
        nonlocal done
        if not done:
            done = True
            client.delete(name, ["i0000", "i0449"])
            client.update(name, "i0001", attributes={"number": -1})
            write(client, name, [ready(2, uri="again"), ready(9000), ready(9001)])

    reindexing = Reindexing(client, old, made, Path(), meddle)
    reindexing.copy()
    assert reindexing.report.complete
    copied = contents(client, made.name)
    assert copied == contents(client, name)
    assert {"i0000", "i0449"}.isdisjoint(copied)
    assert {"i9000", "i9001"} <= copied.keys()
    # At the last moment, and then through the alias, which wins.
    alias = f"{name}_now"
    client.set_alias(alias, name)
    write(client, alias, [ready(9002), ready(3, uri="old"), ready(4, uri="old")])
    client.delete(alias, ["i0010"])
    finish = client.finish_reindex

    def finish_and_write(source: str, aliases: list[str], *, allow_fewer: bool = False) -> dict[str, str]:
        previous = finish(source, aliases, allow_fewer=allow_fewer)
        write(client, alias, [ready(3, uri="newer"), ready(9003)])
        client.delete(alias, ["i0006"])
        return previous

    monkeypatch.setattr(client, "finish_reindex", finish_and_write)
    reindexing.move([alias])
    assert reindexing.report.moved == {alias: name}
    copied = contents(client, alias)
    assert {"i9002", "i9003"} <= copied.keys()
    assert {"i0006", "i0010"}.isdisjoint(copied)
    assert (copied["i0003"][0], copied["i0004"][0]) == ("newer", "old")
    monkeypatch.undo()
    client.delete_alias(alias)


def test_reindex_copies_an_image_changed_between_read_and_write_again(client: Client, name: str) -> None:
    client.create_collection(name, dimension=8, fingerprint="elsewhere")
    write(client, name, [ready(number) for number in range(20)])
    old = client.get_collection(name)
    made = create_new_collection(client, old, f"{name}_2", Change())
    reindexing = Reindexing(client, old, made, Path(), lambda _: None)
    listed = client.list

    def list_then_change(collection: str, **options: Any) -> Iterator[Image]:
        """Change an image after it was read and before it is written."""
        for image in listed(collection, **options):
            if image.id == "i0007" and image.uri == "u/7":
                client.update(name, "i0007", uri="changed")
            yield image

    client.list = list_then_change  # type: ignore[method-assign]
    reindexing.copy()
    client.list = listed  # type: ignore[method-assign]
    assert reindexing.report.complete
    assert contents(client, made.name)["i0007"][0] == "changed"


def test_reindex_compares_images_and_not_only_counts(client: Client, name: str) -> None:
    """One image cannot be copied and another is deleted meanwhile, so both collections have the same number."""
    client.create_collection(name, dimension=8, fingerprint="elsewhere")
    write(client, name, [ready(0, uri="gone.jpg"), ready(1, uri="gone_too.jpg")])
    old = client.get_collection(name)
    made = create_new_collection(client, old, f"{name}_2", Change(model="mobilenet"))

    def delete() -> None:
        client.delete(name, ["i0001"])

    # The command runs again with another spelling of the model's name, and resumes the same copy.
    assert (made.model, create_new_collection(client, old, made.name, Change(model="MobileNet-avg"))) == (
        "mobilenet",
        made,
    )
    reindexing = Reindexing(client, old, made, Path("/nowhere"), lambda _: delete())
    reindexing.copy()
    assert not reindexing.report.complete
    assert "i0000" in [result.id for result in reindexing.report.failed]


def test_reindex_to_another_model_embeds_the_files_again(
    client: Client, name: str, photographs: dict[str, Path], tmp_path: Path
) -> None:
    client.create_collection(name, dimension=8, fingerprint="elsewhere")
    (tmp_path / "cat.jpg").write_bytes(photographs["chelsea"].read_bytes())
    (tmp_path / "changed.jpg").write_bytes(b"other bytes")
    sha = hashlib.sha256(photographs["chelsea"].read_bytes()).hexdigest()
    write(
        client,
        name,
        [
            ready(0, uri=str(photographs["coffee"])),
            ready(1, uri="cat.jpg", content_sha256=sha, region=Region(0, 0, 0.5, 0.5)),
            ready(2, uri="gone.jpg"),
            ready(3, uri="changed.jpg", content_sha256=sha),
            ready(4, uri=f"file://{photographs['coins']}"),
        ],
    )
    old = client.get_collection(name)
    made = create_new_collection(client, old, f"{name}_2", Change(model="mobilenet"))
    reindexing = Reindexing(client, old, made, tmp_path, lambda _: None)
    reindexing.copy()
    report = reindexing.report
    assert report.embedded_anew
    assert not report.complete
    assert (report.source_count, report.count) == (5, 3)
    assert sorted(result.id for result in report.failed) == ["i0002", "i0003"]
    assert {result.error.reason for result in report.failed if result.error} == {"FILE_UNUSABLE"}
    found = client.get(made.name, "i0001", with_vector=True, strong=True)
    assert found.embedding is not None
    assert (found.embedding.fingerprint, found.region, found.content_sha256) == (
        made.fingerprint,
        Region(0, 0, 0.5, 0.5),
        sha,
    )
    hit = client.search_by_image(made.name, photographs["coffee"].read_bytes(), limit=1, strong=True)[0]
    assert (hit.image.id, round(hit.score, 4)) == ("i0000", 1.0)
    assert hit.image.attributes == {"number": 0, "tag": ["a", "b"]}
