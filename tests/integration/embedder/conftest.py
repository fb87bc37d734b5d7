"""Fixtures: embedders in separate processes, with the published weights.

`pytest tests/integration/embedder --write-golden` writes golden.npz again. Commit it only after an intended change of
vectors, which also needs a new fingerprint.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import skimage
import sklearn
from imagesearch.embedder.v1 import embedder_pb2_grpc

from demo.photographs import PHOTOGRAPHS
from embedder_service.adapters import weights_files
from embedder_service.adapters.weights_files import VGG16
from tests.harness.processes import EmbedderProcess
from tests.integration.embedder.helpers import Embedder, StartEmbedder, Stub, Vectors, channel_to, vectors_by


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write tests/integration/embedder/golden.npz again")
    parser.addoption("--mutations", type=int, default=600, help="number of mutated images in the soak test")


@pytest.fixture(scope="session")
def published_weights() -> Path:
    """Return the file that `make weights` fetches."""
    path = weights_files.default_cache() / VGG16.file_name
    weights_files.read_verified(path, VGG16)
    return path


@pytest.fixture(scope="session")
def start_embedder(tmp_path_factory: pytest.TempPathFactory) -> StartEmbedder:
    """Return a function that starts an embedder. Its keywords are settings."""

    @contextmanager
    def start(**settings: str) -> Iterator[Embedder]:
        log = tmp_path_factory.mktemp("embedder") / "log"
        # Small, because each batch size is run once at start.
        with EmbedderProcess(log, **{"max_batch_size": "2", **settings}) as process:
            yield Embedder(process.address, process.metrics_address, process, log)

    return start


@pytest.fixture(scope="session")
def embedder(start_embedder: StartEmbedder, published_weights: Path) -> Iterator[Embedder]:
    """The embedder that the tests of this folder share, with default settings except the batch size."""
    with start_embedder(weights=str(published_weights), max_batch_size="4") as service:
        yield service


@pytest.fixture(scope="session")
def exact_embedder(start_embedder: StartEmbedder, published_weights: Path) -> Iterator[Embedder]:
    """An embedder that computes in float32, for exact comparisons."""
    with start_embedder(weights=str(published_weights), precision="float32") as service:
        yield service


@pytest.fixture
async def stub(embedder: Embedder) -> AsyncIterator[Stub]:
    """A stub with gRPC's default settings, without a proxy."""
    async with channel_to(embedder) as channel:
        yield embedder_pb2_grpc.EmbedderServiceStub(channel)


@pytest.fixture
async def exact_stub(exact_embedder: Embedder) -> AsyncIterator[Stub]:
    async with channel_to(exact_embedder) as channel:
        yield embedder_pb2_grpc.EmbedderServiceStub(channel)


@pytest.fixture(scope="session")
def photographs() -> Mapping[str, bytes]:
    """Photographs of scikit-image and scikit-learn by file name: grey and colour, PNG and JPEG."""
    folder = Path(skimage.__file__).parent / "data"
    paths = [folder / name for name in PHOTOGRAPHS]
    paths += [Path(sklearn.__file__).parent / "datasets" / "images" / name for name in ("china.jpg", "flower.jpg")]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="session")
def vectors(embedder: Embedder, photographs: Mapping[str, bytes]) -> Vectors:
    return vectors_by(embedder, photographs)


@pytest.fixture(scope="session")
def exact_vectors(exact_embedder: Embedder, photographs: Mapping[str, bytes]) -> Vectors:
    return vectors_by(exact_embedder, photographs)
