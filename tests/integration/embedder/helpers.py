"""Helpers of this folder: a running embedder, its metrics, images and requests, and checks of answers."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from tests.harness.processes import EmbedderProcess, metric

DETAILS_KEY = "grpc-status-details-bin"
# Minimum cosine of two vectors of the same image that need not be exactly equal.
SAME = 0.9999
TIMEOUT_SECONDS = 30

Stub: TypeAlias = "embedder_pb2_grpc.EmbedderServiceAsyncStub"


@dataclass(frozen=True)
class Embedder:
    """A running embedder."""

    address: str
    metrics_address: str
    process: EmbedderProcess
    log: Path

    @property
    def process_id(self) -> int:
        self.process.check()
        return self.process.pid

    def metric(self, sample: str, **labels: str) -> float:
        """Return the sum of the samples with this name and these labels."""
        return metric(self.metrics_address, sample, **labels)

    def in_flight(self, lane: str) -> int:
        return int(self.metric("embedder_images_in_flight", lane=lane))

    def answered(self, result: str) -> int:
        return int(self.metric("embedder_images_total", result=result))

    def images_run(self) -> int:
        """Return the number of images that the model has run."""
        return int(self.metric("embedder_batch_size_sum"))

    def memory(self, of: str) -> int:
        """Return the current memory ("VmRSS") or its maximum ("VmHWM") in MiB."""
        lines = Path(f"/proc/{self.process_id}/status").read_text().splitlines()
        return int(dict(line.split(":", 1) for line in lines)[of].split()[0]) // 1024

    def begin_peak(self) -> None:
        """Reset the maximum "VmHWM" (proc(5), clear_refs)."""
        Path(f"/proc/{self.process_id}/clear_refs").write_text("5")


StartEmbedder: TypeAlias = Callable[..., AbstractContextManager[Embedder]]


@dataclass(frozen=True)
class Vectors:
    """The vectors of all photographs, by sequential calls of Embed."""

    names: list[str]
    values: NDArray[np.float32]
    """float32[N, 512]."""
    fingerprints: list[str]

    def of(self, name: str) -> NDArray[np.float32]:
        row: NDArray[np.float32] = self.values[self.names.index(name)]
        return row


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "the condition did not become true"
        await asyncio.sleep(0.01)


def channel_to(embedder: Embedder) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(embedder.address, [("grpc.enable_http_proxy", 0)])


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def plain_image(number: int) -> bytes:
    """Return a small PNG file. Each of the first 65,536 numbers has a different colour."""
    return png(Image.new("RGB", (16, 16), (number % 256, 255 - number % 256, (100 + number // 256) % 256)))


def slow_image(number: int) -> bytes:
    """Return a small PNG file of 40 megapixels, which takes some tenths of a second to decode."""
    return png(Image.new("L", (8000, 5000), number))


def embed_request(content: bytes, region: encoded_image_pb2.Region | None = None) -> embedder_pb2.EmbedRequest:
    return embedder_pb2.EmbedRequest(image=encoded_image_pb2.EncodedImage(content=content, region=region))


def item(request_id: str, content: bytes) -> embedder_pb2.EmbedStreamRequest:
    return embedder_pb2.EmbedStreamRequest(request_id=request_id, image=encoded_image_pb2.EncodedImage(content=content))


async def vector_of(
    stub: Stub, content: bytes, region: encoded_image_pb2.Region | None = None, **options: Any
) -> NDArray[np.float32]:
    response = await stub.Embed(embed_request(content, region), **options)
    return np.array(response.embedding.values, np.float32)


async def answers(
    stub: Stub, items: Iterable[embedder_pb2.EmbedStreamRequest], **options: Any
) -> list[embedder_pb2.EmbedStreamResponse]:
    return [response async for response in stub.EmbedStream(iter(items), **options)]


def stream_to(
    address: str, items: Iterable[embedder_pb2.EmbedStreamRequest], timeout: float | None = None
) -> Iterator[embedder_pb2.EmbedStreamResponse]:
    """Yield the answers to a stream, from a thread, then raise the error that ended it.

    grpc.aio reports INTERNAL instead of the server's status if the stream ends while it sends a message. The
    synchronous client has no such race.
    """
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        yield from embedder_pb2_grpc.EmbedderServiceStub(channel).EmbedStream(iter(items), timeout=timeout)


def vectors_by(embedder: Embedder, photographs: Mapping[str, bytes]) -> Vectors:
    with grpc.insecure_channel(embedder.address, [("grpc.enable_http_proxy", 0)]) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        embeddings = [stub.Embed(embed_request(content)).embedding for content in photographs.values()]
    values = np.array([embedding.values for embedding in embeddings], np.float32)
    return Vectors(list(photographs), values, [embedding.fingerprint for embedding in embeddings])


def cosines(some: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine of each row and the same row of the other matrix, float64[N]."""
    some, others = some.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    products: NDArray[np.float64] = (some * others).sum(axis=1) / lengths
    return products


def cosine(some: ArrayLike, other: ArrayLike) -> float:
    return float(cosines(np.array([some]), np.array([other]))[0])


def status_of(error: grpc.aio.AioRpcError | grpc.Call) -> status_pb2.Status:
    return status_pb2.Status.FromString(dict(error.trailing_metadata() or ())[DETAILS_KEY])


def info_of(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


def assert_overloaded(error: grpc.aio.AioRpcError, **limits: str) -> None:
    """Check that an error contains the limits and a retry delay."""
    status = status_of(error)
    retry = error_details_pb2.RetryInfo()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert info_of(status).reason == "OVERLOADED"
    assert limits.items() <= dict(info_of(status).metadata).items()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToNanoseconds() >= 100_000_000
