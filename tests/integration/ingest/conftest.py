"""Both services for loads, and images to load."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from PIL import Image as PillowImage

from imagesearch_client import Client, Embedding, Image, Region, RegionEmbedding
from imagesearch_ingest.load.bulk_clients import Endpoint
from imagesearch_ingest.load.job import LoadJob, load
from imagesearch_ingest.load.load_options import LoadOptions, LoadServices, LocalFiles
from imagesearch_ingest.load.planned_collection import ensure_collection
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions
from imagesearch_ingest.vector_files.formats import write_vectors
from imagesearch_ingest.vector_files.rows import FileInfo, Rows, Summary


@pytest.fixture(scope="session")
def search_address(lite_address: str) -> str:
    return lite_address


@pytest.fixture
def client(search_address: str) -> Iterator[Client]:
    with Client(search_address, timeout=60) as client:
        yield client


def png(number: int) -> bytes:
    """Write a small image with its own colour."""
    file = BytesIO()
    colour = (37 * number % 256, 91 * number % 256, number % 256)
    PillowImage.new("RGB", (48 + number // 256, 32), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of six images, two of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for number, path in enumerate(("a.png", "b.png", "c.png", "d.png", "below/e.png", "below/f.png")):
        (folder / path).write_bytes(png(number))
    return folder


Run: TypeAlias = Callable[..., LoadReport]


@pytest.fixture
def run(client: Client, search_address: str, embedder_address: str, name: str, tmp_path: Path) -> Run:
    """Load sources into the test's collection, as `imagesearch ingest` does."""

    def run(
        *sources: Path | str,
        embedder: str = embedder_address,
        via_search: bool = False,
        restart: bool = False,
        retry_seconds: float = 30.0,
        streams: int = 2,
        rejects: Path | None = None,
        source_options: SourceOptions | None = None,
        search: str = search_address,
        ledger: Path | None = None,
        **options: object,
    ) -> LoadReport:
        opened = [open_source(str(source), source_options or SourceOptions()) for source in sources]
        services = LoadServices(Endpoint(search), None if via_search else Endpoint(embedder), streams)
        files = LocalFiles(ledger or tmp_path / "of.ledger", rejects, restart)
        load_options = LoadOptions(retry_seconds=retry_seconds, **options)  # type: ignore[arg-type]
        return load(LoadJob(client, ensure_collection(client, name), opened, services, files, load_options))

    return run


def ids(client: Client, name: str) -> list[str]:
    """Return the ids of a collection."""
    return [image.id for image in client.list(name, strong=True)]


DIMENSION, MAX_REGIONS = 16, 3
# The fingerprint of the vectors of `image_with_regions`.
FINGERPRINT = "test"


def image_with_regions(number: int, version: int = 0) -> Image:
    """Return an image with 0 to MAX_REGIONS regions. Its vectors and boxes are those of no other number or version."""
    dice = np.random.default_rng([number, version])

    def vector() -> Embedding:
        return Embedding(dice.normal(size=DIMENSION).astype(np.float32), FINGERPRINT)

    regions = []
    for each in range((number + version) % (MAX_REGIONS + 1)):
        right, bottom = dice.uniform(0.1, 1, 2).astype(np.float32).tolist()
        regions.append(RegionEmbedding(Region(0, 0, right, bottom), vector(), float(each)))
    time = datetime(2026, 1, 1, tzinfo=UTC)
    return Image(f"{number:05}", "", {}, "", time, time, vector(), regions=tuple(regions))


def write_images(path: Path, images: Sequence[Image]) -> None:
    """Write images with their regions to a Parquet file, as an export does."""
    rows, summary = Rows.from_images(images, DIMENSION, with_regions=True), Summary()
    summary.add(rows)
    notes = {"format_version": "1", "fingerprint": FINGERPRINT, "max_regions": str(MAX_REGIONS)}
    write_vectors(path, FileInfo(summary, DIMENSION, notes), lambda _: iter([rows]))


def parts_of(
    images: Iterator[Image] | Sequence[Image],
) -> dict[str, tuple[Embedding | None, Sequence[RegionEmbedding]]]:
    """Return the vectors and the regions of images by id."""
    return {image.id: (image.embedding, image.regions) for image in images}


def check_stored(client: Client, name: str, images: Sequence[Image]) -> None:
    """Check that a collection has exactly these images, each once and with its own regions, for reads and searches."""
    stored = list(client.list(name, with_regions=True, strong=True))
    assert len(stored) == len(images)
    assert parts_of(stored) == parts_of(images)
    boxes = {image.id: [region.box for region in image.regions] for image in images}
    query = Embedding(np.ones(DIMENSION, np.float32), FINGERPRINT)
    hits = list(client.search_all(name, query, match="regions", limit=1000, strong=True, exact=True))
    assert sorted(hit.image.id for hit in hits) == sorted(image_id for image_id, own in boxes.items() if own)
    assert all(hit.region in boxes[hit.image.id] for hit in hits)
