"""What needs an embedder of its own: other settings, other weights, its memory and its end."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import image_pb2
from PIL import Image

from embedder_service.adapters import weights
from embedder_service.adapters.weights import VGG16

DETAILS_KEY = "grpc-status-details-bin"


def plain_image(shade: int) -> bytes:
    """A small PNG file."""
    file = BytesIO()
    Image.new("RGB", (16, 16), (shade, 255 - shade, 100)).save(file, "PNG")
    return file.getvalue()


def embed_request(content: bytes) -> embedder_pb2.EmbedRequest:
    return embedder_pb2.EmbedRequest(image=image_pb2.EncodedImage(content=content))


@pytest.fixture(scope="module")
def own_weights(published_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A file of fine-tuned weights, and the digest of its tensors."""
    tensors = weights.read(published_weights, VGG16)
    tensors["block5_conv3/bias"] = tensors["block5_conv3/bias"] + np.float32(0.5)
    path = tmp_path_factory.mktemp("weights") / "own.h5"
    weights.write(path, tensors)
    yield path, weights.tensors_sha256(tensors)
    path.unlink()


@pytest.fixture(scope="module")
def own_embedder(start_embedder: Any, own_weights: tuple[Path, str]) -> Iterator[Any]:
    """An embedder with fine-tuned weights, that takes two Embed calls at a time."""
    path, sha256 = own_weights
    with start_embedder(weights=str(path), weights_sha256=sha256, max_pending="2") as service:
        yield service


@pytest.fixture
async def own_stub(own_embedder: Any) -> "AsyncIterator[embedder_pb2_grpc.EmbedderServiceAsyncStub]":
    async with grpc.aio.insecure_channel(own_embedder.address) as channel:
        yield embedder_pb2_grpc.EmbedderServiceStub(channel)


async def test_weights_of_ones_own_give_other_vectors_and_another_fingerprint(
    own_stub: Any, own_weights: tuple[Path, str], photographs: Mapping[str, bytes], vectors: Any
) -> None:
    model = (await own_stub.GetModel(embedder_pb2.GetModelRequest())).model
    embedding = (await own_stub.Embed(embed_request(photographs["coffee.png"]))).embedding
    assert model.weights_sha256 == own_weights[1] != VGG16.sha256
    assert embedding.fingerprint == model.fingerprint
    assert model.fingerprint not in vectors.fingerprints
    assert np.abs(np.array(embedding.values) - vectors.of("coffee.png")).max() > 1e-3


async def test_calls_over_the_limit_are_refused_with_when_to_try_again_and_the_others_answered(own_stub: Any) -> None:
    calls = [own_stub.Embed(embed_request(plain_image(shade))) for shade in range(40)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    answered = [outcome for outcome in outcomes if isinstance(outcome, embedder_pb2.EmbedResponse)]
    assert len(answered) >= 2
    assert len(refused) >= 1
    assert len(answered) + len(refused) == 40
    for error in refused:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())[DETAILS_KEY])
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        assert [detail.Unpack(into) for detail, into in zip(status.details, (info, retry), strict=True)]
        assert (info.reason, dict(info.metadata)) == ("OVERLOADED", {"max_pending": "2"})
        assert retry.retry_delay.ToSeconds() >= 1


async def test_the_bulk_lane_refuses_nothing_however_many_come(own_stub: Any) -> None:
    async def ids(call: Any) -> list[str]:
        return [response.request_id async for response in call if response.HasField("embedding")]

    def items() -> Iterator[embedder_pb2.EmbedStreamRequest]:
        for number in range(12):
            image = image_pb2.EncodedImage(content=plain_image(number))
            yield embedder_pb2.EmbedStreamRequest(request_id=str(number), image=image)

    streams = await asyncio.gather(*(ids(own_stub.EmbedStream(items())) for _ in range(4)))
    assert [sorted(stream, key=int) for stream in streams] == [[str(number) for number in range(12)]] * 4


def peak_memory(process_id: int) -> int:
    """The most memory that a process has had, in MiB."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process_id}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) // 1024


async def test_a_gif_of_a_few_bytes_is_refused_before_it_takes_memory(own_embedder: Any, own_stub: Any) -> None:
    side = 40_000
    screen = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\x00\x00" + b"\x00\x00\x00\xff\xff\xff"
    to_be_cleared = b"\x21\xf9\x04\x08\x00\x00\x00\x00"
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, side, side) + b"\x00\x02\x02\x4c\x01\x00\x3b"
    process_id = own_embedder.process._process.pid
    before = peak_memory(process_id)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await own_stub.Embed(embed_request(screen + to_be_cleared + frame))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert peak_memory(process_id) - before < 300


async def test_calls_under_way_complete_when_the_service_is_asked_to_stop(start_embedder: Any) -> None:
    with start_embedder() as service:
        async with grpc.aio.insecure_channel(service.address) as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            # All of them fit into the connection's first window, so the server has the others when one is answered.
            calls = [asyncio.ensure_future(stub.Embed(embed_request(plain_image(shade)))) for shade in range(24)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            assert sum(call.done() for call in calls) < 24
            exit_code = await asyncio.to_thread(service.process.stop)
            responses = await asyncio.gather(*calls)
    assert [len(response.embedding.values) for response in responses] == [512] * 24
    assert exit_code == 0
    assert "Traceback" not in service.log.read_text()
