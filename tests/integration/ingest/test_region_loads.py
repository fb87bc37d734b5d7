"""Loads and imports into collections with regions: interruptions, pruning and items that fail."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from imagesearch_client import Client, Embedding, Hit, Image, NotFoundError, Region, RegionEmbedding
from imagesearch_client.from_messages import image_regions_from
from tests.harness.command import Command
from tests.integration.ingest.conftest import (
    DIMENSION,
    FINGERPRINT,
    MAX_REGIONS,
    Run,
    check_stored,
    ids,
    image_with_regions,
    parts_of,
    write_images,
)
from tests.integration.ingest.test_interrupted_loads import is_consistent, signal_when
from tests.relay import Relay

MODEL = "mobilenet-max-native256"
# More than a stream has in flight.
IMAGES = 20


def photograph(number: int) -> bytes:
    """Return a small image with a bright square on noise, so that it has salient regions."""
    dice = np.random.default_rng(number)
    pixels = dice.integers(0, 80, (96, 128, 3), np.uint8)
    left, top = dice.integers(0, 80), dice.integers(0, 48)
    pixels[top : top + 40, left : left + 40] = dice.integers(100, 255, (40, 40, 3), np.uint8)
    file = BytesIO()
    PillowImage.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_folder(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:02}.png").write_bytes(photograph(number))
    return folder


def embedded(relay: Relay, folder: Path) -> dict[str, tuple[Embedding | None, Sequence[RegionEmbedding]]]:
    """Return the vector and the regions that the embedder returned for each file that it embedded, by name."""
    found: dict[str, tuple[Embedding | None, Sequence[RegionEmbedding]]] = {}
    for path in folder.iterdir():
        response = relay.responses.get(hashlib.sha256(path.read_bytes()).hexdigest())
        if response is not None:
            regions = image_regions_from(response.regions)
            assert regions.proposals
            found[path.name] = (regions.embedding, regions.proposals)
    return found


def stored(client: Client, name: str) -> list[Image]:
    return list(client.list(name, with_regions=True, strong=True))


def hits_of_regions(client: Client, name: str, image: Image) -> list[Hit]:
    """Return the hits of a search of regions by the vector of the first region of an image."""
    return client.search(name, image.regions[0].embedding, match="regions", limit=100, strong=True)


def test_an_interrupted_load_that_is_repeated_stores_each_image_with_its_regions(
    run: Run, client: Client, name: str, tmp_path: Path, embedder_address: str
) -> None:
    client.create_collection(name, model=MODEL, max_regions=MAX_REGIONS)
    folder = make_folder(tmp_path / "photos", IMAGES)
    with Relay(embedder_address) as relay:
        relay.pause = 0.05
        thread = signal_when(lambda: relay.embedded)
        report = run(folder, embedder=relay.address, streams=1)
        thread.join()
        assert (report.stopped, is_consistent(report)) == ("interrupted", True)
        assert 0 < report.stored < IMAGES
        assert parts_of(stored(client, name)) == embedded(relay, folder)
        again = run(folder, embedder=relay.address, streams=1)
        assert (again.stored, again.skipped, again.failed) == (IMAGES - report.stored, report.stored, 0)
        assert parts_of(stored(client, name)) == embedded(relay, folder)
        # Each image was embedded once.
        assert len(relay.responses) == relay.embedded.total() == IMAGES
    first = stored(client, name)[0]
    hits = hits_of_regions(client, name, first)
    assert sorted(hit.image.id for hit in hits) == ids(client, name)
    assert (hits[0].image.id, hits[0].region) == (first.id, first.regions[0].box)


def test_pruned_and_replaced_images_lose_their_regions(
    run: Run, client: Client, name: str, tmp_path: Path, embedder_address: str
) -> None:
    client.create_collection(name, model=MODEL, max_regions=MAX_REGIONS)
    folder = make_folder(tmp_path / "photos", 4)
    (folder / "text.png").write_text("no image")
    with Relay(embedder_address) as relay:
        report = run(folder, embedder=relay.address)
        assert (report.stored, report.reasons) == (4, {"IMAGE_FORMAT_UNSUPPORTED": 1})
        before = {image.id: image for image in stored(client, name)}
        assert parts_of(list(before.values())) == embedded(relay, folder)
        gone = (folder / "03.png").rename(tmp_path / "gone.png")
        (folder / "02.png").write_bytes(photograph(99))
        report = run(folder, embedder=relay.address, prune=True, prune_above=0.5)
        assert (report.stored, report.removed, report.stopped) == (1, 1, "")
        assert parts_of(stored(client, name)) == embedded(relay, folder)
        for image in (before["02.png"], before["03.png"]):
            # Their former regions are found no more.
            hits = hits_of_regions(client, name, image)
            assert sorted(hit.image.id for hit in hits) == ["00.png", "01.png", "02.png"]
            assert hits[0].score < 0.999
        gone.rename(folder / "03.png")
        assert run(folder, embedder=relay.address, prune=True).stored == 1
        assert parts_of(stored(client, name)) == embedded(relay, folder)
        hits = hits_of_regions(client, name, before["03.png"])
        assert (len(hits), hits[0].image.id) == (4, "03.png")
        assert hits[0].score == pytest.approx(1, abs=1e-4)


def test_an_import_stores_changed_regions_only(command: Command, client: Client, name: str, tmp_path: Path) -> None:
    images = [image_with_regions(number) for number in range(8)]
    file = tmp_path / "images.parquet"
    write_images(file, images)
    assert json.loads(command("import", file, "--json"))["stored"] == 8
    assert client.get_collection(name).max_regions == MAX_REGIONS
    check_stored(client, name, images)
    # Only the regions differ: other boxes, other vectors, fewer, none, and more.
    others = [image_with_regions(number, version=1) for number in range(8)]
    changed = [replace(image, regions=other.regions) for image, other in zip(images, others, strict=True)]
    write_images(file, images[:4] + changed[4:])
    report = json.loads(command("import", file, "--json"))
    assert (report["stored"], report["skipped"], report["failed"]) == (4, 4, 0)
    check_stored(client, name, images[:4] + changed[4:])


BOX = Region(0, 0, 1, 1)
VECTOR = Embedding(np.ones(DIMENSION, np.float32), FINGERPRINT)
ZERO = Embedding(np.zeros(DIMENSION, np.float32), FINGERPRINT)
NAN = Embedding(np.full(DIMENSION, np.nan, np.float32), FINGERPRINT)
WRONG = {
    "REGION_INVALID": [
        [RegionEmbedding(BOX, VECTOR), RegionEmbedding(Region(0.5, 0, 0.5, 1), VECTOR)],
        [RegionEmbedding(BOX, VECTOR, float("nan"))],
        [RegionEmbedding(Region(0, 0, 1, float("nan")), VECTOR)],
    ],
    "VECTOR_ZERO": [[RegionEmbedding(BOX, VECTOR), RegionEmbedding(BOX, ZERO)]],
    "VECTOR_NOT_FINITE": [[RegionEmbedding(BOX, VECTOR), RegionEmbedding(BOX, NAN)]],
    "TOO_MANY_REGIONS": [[RegionEmbedding(BOX, VECTOR)] * (MAX_REGIONS + 1)],
}


def test_an_item_that_fails_leaves_no_regions(command: Command, client: Client, name: str, tmp_path: Path) -> None:
    good = [image_with_regions(number) for number in range(4)]
    wrong = [(reason, regions) for reason, some in WRONG.items() for regions in some]
    bad = [
        replace(image_with_regions(100 + number), regions=tuple(regions)) for number, (_, regions) in enumerate(wrong)
    ]
    file = tmp_path / "images.parquet"
    write_images(file, [*good[:2], *bad, *good[2:]])
    shown = command("import", file, code=1)
    for reason, some in WRONG.items():
        assert f"{len(some)} x {reason}" in shown
    check_stored(client, name, good)
    for image in bad:
        with pytest.raises(NotFoundError):
            client.get(name, image.id, strong=True)
    # An image whose new regions are wrong keeps the stored ones.
    broken = [replace(image, regions=tuple(regions)) for image, (_, regions) in zip(good, wrong, strict=False)]
    write_images(file, broken)
    assert f"{len(broken)} failed" in command("import", file, code=1)
    check_stored(client, name, good)


def test_an_import_into_a_collection_without_regions_stores_nothing_of_them(
    command: Command, client: Client, name: str, tmp_path: Path
) -> None:
    client.create_collection(name, dimension=DIMENSION, fingerprint=FINGERPRINT)
    images = [image_with_regions(number) for number in range(4)]
    write_images(tmp_path / "images.parquet", images)
    shown = command("import", tmp_path / "images.parquet", code=1)
    assert "3 x REGIONS_UNSUPPORTED" in shown
    # The first image has no regions.
    assert parts_of(stored(client, name)) == parts_of(images[:1])
