"""Both services for loads, and images to load."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import pytest
from PIL import Image as PillowImage

from imagesearch_client import Client
from imagesearch_ingest.load.bulk_clients import Endpoint
from imagesearch_ingest.load.job import LoadJob, load
from imagesearch_ingest.load.load_options import LoadOptions, LoadServices, LocalFiles
from imagesearch_ingest.load.planned_collection import ensure_collection
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions


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
