"""An embedder with two real models: callers that send too many images, and callers that give up."""

import asyncio
import itertools
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from io import BytesIO

import grpc
import numpy as np
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2
from numpy.typing import NDArray
from PIL import Image

from embedder_service.settings import EmbedderSettings
from tests.integration.embedder.helpers import (
    SAME,
    Embedder,
    StartEmbedder,
    Stub,
    assert_overloaded,
    channel_to,
    cosine,
    plain_image,
    until,
    vector_of,
)
from tests.unit.docs.test_memory_limits import embedder_parts

MEBIBYTE = 1024 * 1024
SLOW, FAST = "vgg16", "mobilenet"
PENDING = 4
SETTINGS = {
    "max_pending": str(PENDING),
    "max_pending_bulk": str(PENDING),
    "max_pending_bytes": str(32 * MEBIBYTE),
    "max_image_bytes": str(11 * MEBIBYTE),
    "max_message_bytes": str(12 * MEBIBYTE),
    "max_image_pixels": "4000000",
    "max_decoding_pixels": "4000000",
    "max_streams": "6",
    "max_slow_requests": "2",
    "decode_threads": "1",
}
LIMITS = EmbedderSettings.model_validate({"models": f"{SLOW},{FAST}", **SETTINGS})
ATTACK_SECONDS = 4.0
# Additional memory that glibc and TensorFlow keep, in MiB.
SLACK = 64
numbers = itertools.count(60_000, 7)


@pytest.fixture(scope="module")
def service(start_embedder: StartEmbedder) -> Iterator[Embedder]:
    with start_embedder(models=f"{SLOW},{FAST}", **SETTINGS) as service:
        yield service


@pytest.fixture(scope="module")
def idle_memory(service: Embedder) -> int:
    """Return the memory of the service before the attack, in MiB."""
    return service.memory("VmRSS")


@pytest.fixture
async def channel(service: Embedder) -> AsyncIterator[grpc.aio.Channel]:
    async with channel_to(service) as channel:
        yield channel


@pytest.fixture
async def stub(channel: grpc.aio.Channel) -> Stub:
    return embedder_pb2_grpc.EmbedderServiceStub(channel)


def request_of(model: str, content: bytes) -> embedder_pb2.EmbedRequest:
    return embedder_pb2.EmbedRequest(model=model, image=encoded_image_pb2.EncodedImage(content=content))


def large_image() -> bytes:
    """Return a new file of 8 MB and 4 megapixels. Decoding takes some tenths of a second."""
    file = BytesIO()
    Image.new("RGB", (2000, 2000), (1, 2, 3)).save(file, "PNG", compress_level=1)
    return file.getvalue() + os.urandom(8) + bytes(8_000_000)


class Callers:
    """Callers on several connections that send large images and give up soon. `ended` counts the results of calls."""

    def __init__(self, service: Embedder) -> None:
        self._service = service
        self._ends = time.monotonic() + ATTACK_SECONDS
        self.ended: Counter[str] = Counter()
        self._base = large_image()

    async def attack(self, seconds: float) -> None:
        """Send images for ATTACK_SECONDS. Each call has a timeout of `seconds`, each stream twice as long."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as callers:
            for _ in range(3):
                channel = await stack.enter_async_context(
                    grpc.aio.insecure_channel(
                        self._service.address, [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
                    )
                )
                stub: Stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
                for model in (SLOW, FAST):
                    callers.create_task(self._call(stub, model, seconds))
                    callers.create_task(self._call(stub, model, seconds))
                    callers.create_task(self._stream(stub, model, seconds))

    def _content(self) -> bytes:
        return self._base + os.urandom(8)

    async def _call(self, stub: Stub, model: str, seconds: float) -> None:
        while time.monotonic() < self._ends:
            try:
                await stub.Embed(request_of(model, self._content()), timeout=seconds)
                self.ended["OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.ended[error.code().name] += 1

    async def _stream(self, stub: Stub, model: str, seconds: float) -> None:
        while time.monotonic() < self._ends:
            requests = (
                embedder_pb2.EmbedStreamRequest(
                    model=model, image=encoded_image_pb2.EncodedImage(content=self._content())
                )
                for _ in range(20)
            )
            try:
                async for _ in stub.EmbedStream(requests, timeout=2 * seconds):
                    self.ended["streamed"] += 1
            except grpc.aio.AioRpcError as error:
                self.ended[f"stream: {error.code().name}"] += 1


@pytest.mark.alone
@pytest.mark.parametrize("seconds", [0.2, 1.5])
async def test_memory_stays_within_the_limit_when_callers_give_up(
    service: Embedder, idle_memory: int, stub: Stub, photographs: Mapping[str, bytes], seconds: float
) -> None:
    expected = await vector_of(stub, photographs["moon.png"])
    service.begin_peak()
    callers = Callers(service)
    attack = asyncio.create_task(callers.attack(seconds))
    answered = 0
    while not attack.done():
        try:
            assert cosine(await vector_of(stub, photographs["moon.png"]), expected) >= SAME
            answered += 1
        except grpc.aio.AioRpcError as error:
            # The embedder may refuse the call only because the lane is full.
            assert_overloaded(error)
            await asyncio.sleep(0.1)
    await attack
    print(f"{callers.ended}; {answered} other calls; memory before {idle_memory} MiB, peak {service.memory('VmHWM')}")  # noqa: T201
    allowed = sum(embedder_parts(LIMITS)[1:]) + SLACK
    assert service.memory("VmHWM") - idle_memory < allowed
    await until(lambda: service.metric("embedder_pending_bytes") == service.metric("embedder_images_in_flight") == 0)
    assert cosine(await vector_of(stub, photographs["moon.png"]), expected) >= SAME
    assert answered >= 1
    if seconds > 1:
        assert callers.ended["RESOURCE_EXHAUSTED"] > 0


async def test_a_full_queue_of_a_slow_model_does_not_refuse_calls_to_a_fast_model(stub: Stub) -> None:
    stop = asyncio.Event()
    refused: list[grpc.aio.AioRpcError] = []

    async def call_slow_model() -> None:
        while not stop.is_set():
            try:
                await stub.Embed(request_of(SLOW, plain_image(next(numbers))))
            except grpc.aio.AioRpcError as error:
                refused.append(error)
                await asyncio.sleep(0.02)

    callers = [asyncio.create_task(call_slow_model()) for _ in range(3 * PENDING)]
    await until(lambda: len(refused) >= 5)
    for _ in range(5):
        response = await stub.Embed(request_of(FAST, plain_image(next(numbers))), timeout=30)
        assert len(response.embedding.values) == 1024
    stop.set()
    await asyncio.gather(*callers)
    for error in refused:
        assert_overloaded(error, max_pending=str(PENDING), model=SLOW)


async def test_a_load_of_a_slow_model_does_not_block_a_load_of_a_fast_model(service: Embedder, stub: Stub) -> None:
    def items(model: str, count: int) -> Iterator[embedder_pb2.EmbedStreamRequest]:
        for _ in range(count):
            content = encoded_image_pb2.EncodedImage(content=plain_image(next(numbers)))
            yield embedder_pb2.EmbedStreamRequest(model=model, image=content)

    slow = stub.EmbedStream(items(SLOW, 200))
    await until(lambda: service.in_flight("bulk") == PENDING)
    fast = [response async for response in stub.EmbedStream(items(FAST, 6), timeout=30)]
    assert [len(response.embedding.values) for response in fast] == [1024] * 6
    assert service.in_flight("bulk") == PENDING
    slow.cancel()


async def test_a_busy_slow_model_leaves_a_fast_model_its_share_of_bytes(service: Embedder, stub: Stub) -> None:
    stop = asyncio.Event()
    base = large_image()

    async def call_slow_model() -> None:
        while not stop.is_set():
            try:
                await stub.Embed(request_of(SLOW, base + os.urandom(8)))
            except grpc.aio.AioRpcError as error:
                assert_overloaded(error)

    callers = [asyncio.create_task(call_slow_model()) for _ in range(3 * PENDING)]
    await until(lambda: service.metric("embedder_pending_bytes", lane="interactive") > 16 * MEBIBYTE)
    began = time.monotonic()
    vectors: list[NDArray[np.float32]] = []
    while len(vectors) < 3:
        assert time.monotonic() - began < 30, "the fast model's callers get no share of the bytes"
        try:
            vectors.append(await vector_of_fast_model(stub, base + os.urandom(8)))
        except grpc.aio.AioRpcError as error:
            assert_overloaded(error)
            await asyncio.sleep(0.1)
    stop.set()
    await asyncio.gather(*callers)
    assert {len(vector) for vector in vectors} == {1024}


async def vector_of_fast_model(stub: Stub, content: bytes) -> NDArray[np.float32]:
    response = await stub.Embed(request_of(FAST, content))
    return np.array(response.embedding.values, np.float32)


async def test_a_model_that_is_not_served_takes_no_slot(service: Embedder, stub: Stub) -> None:
    calls = [asyncio.ensure_future(stub.Embed(request_of(SLOW, plain_image(next(numbers))))) for _ in range(PENDING)]
    await until(lambda: service.in_flight("interactive") == PENDING or all(call.done() for call in calls))
    for _ in range(2 * PENDING):
        with pytest.raises(grpc.aio.AioRpcError, match="no model is called 'vgg20'"):
            await stub.Embed(request_of("vgg20", plain_image(next(numbers))))
    assert len(await vector_of_fast_model(stub, plain_image(next(numbers)))) == 1024
    await asyncio.gather(*calls)
