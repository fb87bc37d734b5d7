"""Tests that need their own embedder: other settings, other weights, memory, and the end of the process."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import grpc
import numpy as np
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from embedder_service.adapters import weights_files
from embedder_service.adapters.weights_files import VGG16
from tests.integration.embedder.helpers import (
    Embedder,
    StartEmbedder,
    Stub,
    Vectors,
    answers,
    assert_overloaded,
    channel_to,
    embed_request,
    item,
    plain_image,
    slow_image,
    until,
)


@pytest.fixture(scope="module")
def own_weights(published_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A file of fine-tuned weights, and the digest of its tensors."""
    tensors = weights_files.read(published_weights, VGG16)
    tensors["block5_conv3/bias"] = tensors["block5_conv3/bias"] + np.float32(0.5)
    path = tmp_path_factory.mktemp("weights") / "own.h5"
    weights_files.write(path, tensors)
    yield path, weights_files.tensors_sha256(tensors)
    path.unlink()


@pytest.fixture(scope="module")
def own_embedder(start_embedder: StartEmbedder, own_weights: tuple[Path, str]) -> Iterator[Embedder]:
    """An embedder with fine-tuned weights, that takes two Embed calls at a time."""
    path, sha256 = own_weights
    with start_embedder(weights=str(path), weights_sha256=sha256, max_pending="2") as service:
        yield service


@pytest.fixture
async def own_stub(own_embedder: Embedder) -> AsyncIterator[Stub]:
    async with channel_to(own_embedder) as channel:
        yield embedder_pb2_grpc.EmbedderServiceStub(channel)


async def test_own_weights_have_other_vectors_and_another_fingerprint(
    own_stub: Stub, own_weights: tuple[Path, str], photographs: Mapping[str, bytes], vectors: Vectors
) -> None:
    model = (await own_stub.GetModel(embedder_pb2.GetModelRequest())).model
    embedding = (await own_stub.Embed(embed_request(photographs["coffee.png"]))).embedding
    assert model.weights_sha256 == own_weights[1] != VGG16.sha256
    assert embedding.fingerprint == model.fingerprint
    assert model.fingerprint not in vectors.fingerprints
    assert np.abs(np.array(embedding.values) - vectors.of("coffee.png")).max() > 1e-3


def test_own_weights_are_served_with_a_warning(own_embedder: Embedder, embedder: Embedder) -> None:
    assert "served without this check" in own_embedder.log.read_text()
    assert "served without this check" not in embedder.log.read_text()


async def test_calls_above_the_limit_are_refused_with_a_retry_delay(own_stub: Stub) -> None:
    calls = [own_stub.Embed(embed_request(plain_image(shade))) for shade in range(12)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    answered = [outcome for outcome in outcomes if isinstance(outcome, embedder_pb2.EmbedResponse)]
    assert len(answered) >= 2
    assert len(refused) >= 1
    assert len(answered) + len(refused) == 12
    for error in refused:
        assert_overloaded(error, max_pending="2")


async def test_the_bulk_lane_refuses_no_image(own_stub: Stub) -> None:
    async def ids(first: int) -> list[str]:
        items = [item(str(number), plain_image(number)) for number in range(first, first + 6)]
        return [response.request_id for response in await answers(own_stub, items) if response.HasField("embedding")]

    streams = await asyncio.gather(*(ids(1000 * stream) for stream in range(4)))
    assert [sorted(stream, key=int) for stream in streams] == [
        [str(1000 * stream + number) for number in range(6)] for stream in range(4)
    ]


async def test_a_tiny_gif_of_huge_size_is_refused_before_it_uses_memory(own_embedder: Embedder, own_stub: Stub) -> None:
    side = 40_000
    screen = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\x00\x00" + b"\x00\x00\x00\xff\xff\xff"
    to_be_cleared = b"\x21\xf9\x04\x08\x00\x00\x00\x00"
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, side, side) + b"\x00\x02\x02\x4c\x01\x00\x3b"
    before = own_embedder.memory("VmHWM")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await own_stub.Embed(embed_request(screen + to_be_cleared + frame))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert own_embedder.memory("VmHWM") - before < 300


async def test_calls_in_flight_complete_after_sigterm_and_metrics_are_served_until_then(
    start_embedder: StartEmbedder,
) -> None:
    with start_embedder(models="mobilenet") as service:
        async with channel_to(service) as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            calls = [asyncio.ensure_future(stub.Embed(embed_request(plain_image(shade)))) for shade in range(60)]
            await until(lambda: service.metric("grpc_server_started_total", grpc_method="Embed") == 60)
            assert sum(call.done() for call in calls) < 60
            calls.extend(asyncio.ensure_future(stub.Embed(embed_request(slow_image(shade)))) for shade in range(12))
            await until(lambda: service.metric("grpc_server_started_total", grpc_method="Embed") == 72)
            service.process.ask_to_stop()
            await until(lambda: service.metric("grpc_server_draining") == 1)
            assert service.metric("grpc_server_in_flight", grpc_method="Embed") > 0
            assert service.metric("grpc_server_serving") == 0
            responses = await asyncio.gather(*calls)
            exit_code = await asyncio.to_thread(service.process.stop)
    assert [len(response.embedding.values) for response in responses] == [1024] * 72
    assert exit_code == 0
    assert "Traceback" not in service.log.read_text()
