"""The embedder as users run it: a process of its own, with the published weights.

`pytest tests/integration/embedder --write-golden` writes golden.npz again; commit it only after a change that is meant
to change the vectors, which then needs a new fingerprint too.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc
import numpy as np
import pytest
import skimage
import sklearn
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import image_pb2
from numpy.typing import NDArray

from demo.local_stack import ServiceProcess, free_port
from demo.photographs import PHOTOGRAPHS
from embedder_service.adapters import weights
from embedder_service.adapters.weights import VGG16


@dataclass(frozen=True)
class Embedder:
    """A service that is up."""

    address: str
    process: ServiceProcess
    log: Path


StartEmbedder: TypeAlias = Callable[..., AbstractContextManager[Embedder]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write tests/integration/embedder/golden.npz again")


@pytest.fixture(scope="session")
def published_weights() -> Path:
    """The file that `make weights` fetches."""
    path = weights.default_cache() / VGG16.file_name
    weights.read_verified(path, VGG16)
    return path


@pytest.fixture(scope="session")
def start_embedder(tmp_path_factory: pytest.TempPathFactory) -> StartEmbedder:
    """Starts an embedder; keywords are its settings."""

    @contextmanager
    def start(**settings: str) -> Iterator[Embedder]:
        address = f"127.0.0.1:{free_port()}"
        environment = {f"EMBEDDER_{name.upper()}": value for name, value in settings.items()}
        environment["EMBEDDER_LISTEN_ADDRESS"] = address
        log = tmp_path_factory.mktemp("embedder") / "log"
        with ServiceProcess("embedder_service", address, environment, log) as process:
            yield Embedder(address, process, log)

    return start


@pytest.fixture(scope="session")
def embedder(start_embedder: StartEmbedder, published_weights: Path) -> Iterator[Embedder]:
    """The one that all tests share, with default settings."""
    with start_embedder(weights=str(published_weights)) as service:
        yield service


@pytest.fixture
async def stub(embedder: Embedder) -> "AsyncIterator[embedder_pb2_grpc.EmbedderServiceAsyncStub]":
    """The contract's own client, with gRPC's default settings but for the proxy."""
    async with grpc.aio.insecure_channel(embedder.address, [("grpc.enable_http_proxy", 0)]) as channel:
        yield embedder_pb2_grpc.EmbedderServiceStub(channel)


@pytest.fixture(scope="session")
def photographs() -> Mapping[str, bytes]:
    """Files of photographs by name: scikit-image's and scikit-learn's, grey and colour, PNG and JPEG."""
    folder = Path(skimage.__file__).parent / "data"
    paths = [folder / name for name in PHOTOGRAPHS]
    paths += [Path(sklearn.__file__).parent / "datasets" / "images" / name for name in ("china.jpg", "flower.jpg")]
    return {path.name: path.read_bytes() for path in paths}


@dataclass(frozen=True)
class Vectors:
    """What Embed gave for each photograph, one call after the other."""

    names: list[str]
    values: NDArray[np.float32]
    """float32[N, 512]."""
    fingerprints: list[str]

    def of(self, name: str) -> NDArray[np.float32]:
        row: NDArray[np.float32] = self.values[self.names.index(name)]
        return row


@pytest.fixture(scope="session")
def vectors(embedder: Embedder, photographs: Mapping[str, bytes]) -> Vectors:
    with grpc.insecure_channel(embedder.address, [("grpc.enable_http_proxy", 0)]) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        embeddings = [
            stub.Embed(embedder_pb2.EmbedRequest(image=image_pb2.EncodedImage(content=content))).embedding
            for content in photographs.values()
        ]
    values = np.array([embedding.values for embedding in embeddings], np.float32)
    return Vectors(list(photographs), values, [embedding.fingerprint for embedding in embeddings])
