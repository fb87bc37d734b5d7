"""Loads while another client changes the collection."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from imagesearch_client import Client
from imagesearch_client.types import NewImage
from tests.integration.ingest.conftest import Run, png
from tests.relay import Relay

IMAGES = 60


@pytest.fixture
def sixty(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"{number:02}.png" for number in range(IMAGES)]
    for number, path in enumerate(paths):
        path.write_bytes(png(number))
    return paths


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def set_prices(client: Client, name: str, relay: Relay) -> None:
    """Set an attribute of every image as soon as the first images are at the embedder."""
    while not relay.in_flight:
        time.sleep(0.01)
    for number in range(IMAGES):
        client.update(name, f"{number:02}.png", attributes={"price": number})


def prices(client: Client, name: str) -> dict[str, object]:
    return {image.id: image.attributes.get("price") for image in client.list(name, strong=True)}


def test_attributes_set_during_embedding_are_kept(
    run: Run,
    client: Client,
    name: str,
    sixty: list[Path],
    embedder_address: str,
    thread: ThreadPoolExecutor,
) -> None:
    run(sixty[0].parent)
    for number, path in enumerate(sixty):
        path.write_bytes(png(number + 100))
    with Relay(embedder_address) as relay:
        relay.pause = 0.02
        setting: Future[None] = thread.submit(set_prices, client, name, relay)
        report = run(sixty[0].parent, embedder=relay.address)
        setting.result(30)
    assert report.stored == IMAGES
    assert prices(client, name) == {f"{number:02}.png": number for number in range(IMAGES)}


def test_attributes_set_during_a_metadata_update_are_kept(
    run: Run, client: Client, name: str, sixty: list[Path], thread: ThreadPoolExecutor
) -> None:
    run(sixty[0].parent)
    moved = sixty[0].parent.rename(sixty[0].parent.with_name("elsewhere"))

    def set_all() -> None:
        for number in range(IMAGES):
            client.update(name, f"{number:02}.png", attributes={"price": number})

    setting: Future[None] = thread.submit(set_all)
    report = run(moved)
    setting.result(30)
    assert (report.updated, report.stored) == (IMAGES, 0)
    assert prices(client, name) == {f"{number:02}.png": number for number in range(IMAGES)}
    assert client.get(name, "00.png", strong=True).uri == str(moved / "00.png")


def test_metadata_update_never_restores_an_older_vector(run: Run, client: Client, name: str, sixty: list[Path]) -> None:
    """If another load has stored newer content, the image is embedded again instead."""
    folder = sixty[0].parent
    for path in sixty[2:]:
        path.unlink()
    run(folder)
    moved = folder.rename(folder.with_name("elsewhere"))
    # Another client stores other content under both ids.
    first, second = (client.get(name, path.name, with_vector=True, strong=True) for path in sixty[:2])
    assert second.embedding is not None
    list(client.write(name, [NewImage("00.png", second.embedding, content_sha256="f" * 64)]))
    report = run(moved)
    assert (report.updated, report.stored) == (1, 1)
    found = client.get(name, "00.png", with_vector=True, strong=True)
    assert found.content_sha256 == first.content_sha256
    assert found.embedding is not None
    assert first.embedding is not None
    assert list(found.embedding.values) == pytest.approx(list(first.embedding.values), abs=1e-5)
