"""The embedder's contract over real gRPC."""

import asyncio
import itertools
import re
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from io import BytesIO
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from imagesearch.embedder.v1 import embedder_pb2
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2
from PIL import Image

from embedder_service.adapters.weights_files import VGG16
from tests.integration.embedder.helpers import (
    SAME,
    Embedder,
    Stub,
    Vectors,
    answers,
    cosine,
    embed_request,
    item,
    plain_image,
    status_of,
    stream_to,
    until,
)

SERVICE = "imagesearch.embedder.v1.EmbedderService"
MEBIBYTE = 1024 * 1024


def half_a_jpeg() -> bytes:
    file = BytesIO()
    Image.effect_noise((300, 300), 60).save(file, "JPEG")
    return file.getvalue()[: file.tell() // 2]


def png_without_pixels(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


class Bad(NamedTuple):
    """Input that is refused, and how."""

    content: bytes
    reason: str
    message: str
    field: str = "image.content"
    region: encoded_image_pb2.Region | None = None
    model: str = ""
    code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT

    @property
    def image(self) -> encoded_image_pb2.EncodedImage:
        return encoded_image_pb2.EncodedImage(content=self.content, region=self.region)


def bad_region(x0: float, y0: float, x1: float, y1: float, message: str) -> Bad:
    region = encoded_image_pb2.Region(x0=x0, y0=y0, x1=x1, y1=y1)
    return Bad(plain_image(1), "REGION_INVALID", message, "image.region", region)


FORMATS = "use JPEG, PNG, WEBP, GIF, TIFF, BMP, AVIF, HEIC"
MOST_PIXELS = "the maximum is 50000000"
BAD_INPUT = {
    "no bytes": Bad(b"", "IMAGE_MISSING", "image.content is empty"),
    "text": Bad(b"a text", "IMAGE_FORMAT_UNSUPPORTED", FORMATS),
    "SVG": Bad(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "IMAGE_FORMAT_UNSUPPORTED", FORMATS),
    "half a JPEG": Bad(half_a_jpeg(), "IMAGE_CORRUPT", "cannot be decoded"),
    "PNG without pixels": Bad(png_without_pixels(9, 9), "IMAGE_CORRUPT", "cannot be decoded"),
    "60 megapixels": Bad(png_without_pixels(6_000, 10_000), "IMAGE_DIMENSIONS_TOO_LARGE", MOST_PIXELS),
    "10 gigapixels": Bad(png_without_pixels(100_000, 100_000), "IMAGE_DIMENSIONS_TOO_LARGE", MOST_PIXELS),
    "a byte over 20 MiB": Bad(bytes(20 * MEBIBYTE + 1), "IMAGE_TOO_LARGE", "the maximum is 20971520"),
    "region reversed": bad_region(0.5, 0, 0.25, 1, "0 <= x0 < x1 <= 1"),
    "region of NaN": bad_region(float("nan"), 0, 1, 1, "x0=nan"),
    "region outside": bad_region(0, 0, 1, 1.5, "y1=1.5"),
    "region without numbers": bad_region(0, 0, 0, 0, "0 <= x0 < x1 <= 1"),
    "region of half a pixel": bad_region(0.5, 0, 0.52, 1, "less than one pixel of the image, which has 16 x 16"),
    "unknown model": Bad(
        plain_image(1),
        "MODEL_NOT_FOUND",
        "'vgg19'; this server has vgg16",
        "model",
        model="vgg19",
        code=grpc.StatusCode.NOT_FOUND,
    ),
}


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value


def facts(status: status_pb2.Status) -> tuple[str, str, list[str]]:
    """Reason, domain and fields of a refusal."""
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    for detail in status.details[1:]:
        detail.Unpack(bad_request)
    return info.reason, info.domain, [violation.field for violation in bad_request.field_violations]


async def embed(stub: Stub, content: bytes, **options: Any) -> embedding_pb2.Embedding:
    request = embedder_pb2.EmbedRequest(image=encoded_image_pb2.EncodedImage(content=content))
    return (await stub.Embed(request, **options)).embedding


def bad_item(request_id: str, bad: Bad) -> embedder_pb2.EmbedStreamRequest:
    return embedder_pb2.EmbedStreamRequest(request_id=request_id, model=bad.model, image=bad.image)


def assert_same_vector(some: Iterable[float], others: Iterable[float]) -> None:
    """The same up to what bfloat16 leaves of a number."""
    assert cosine(list(some), list(others)) >= SAME


def assert_equal_vector(some: Iterable[float], others: Iterable[float]) -> None:
    """The same up to the order of additions, which depends on the size of a batch."""
    np.testing.assert_allclose(np.array(list(some)), np.array(list(others)), atol=1e-5)


@pytest.mark.parametrize("name", BAD_INPUT)
async def test_bad_input_is_refused_with_code_reason_field_and_limit(stub: Stub, name: str) -> None:
    bad = BAD_INPUT[name]
    error = await failure(stub.Embed(embedder_pb2.EmbedRequest(model=bad.model, image=bad.image)))
    status = status_of(error)
    assert (error.code(), status.code) == (bad.code, bad.code.value[0])
    assert facts(status) == (bad.reason, "embedder.imagesearch", [bad.field])
    assert bad.message in status.message
    assert error.details() == status.message


async def test_a_stream_refuses_bad_items_like_embed_and_serves_the_others(stub: Stub) -> None:
    items = []
    for number, (name, bad) in enumerate(BAD_INPUT.items()):
        items += [item(f"good {number}", plain_image(number * 17)), bad_item(name, bad)]
    results = {response.request_id: response for response in await answers(stub, items)}
    assert len(results) == 2 * len(BAD_INPUT)
    for number, (name, bad) in enumerate(BAD_INPUT.items()):
        alone = await failure(stub.Embed(embedder_pb2.EmbedRequest(model=bad.model, image=bad.image)))
        assert results[name].error == status_of(alone)
        assert_same_vector(
            results[f"good {number}"].embedding.values, (await embed(stub, plain_image(number * 17))).values
        )


async def test_a_long_stream_of_images_and_junk_answers_each_item_once(stub: Stub) -> None:
    junk = [bad for bad in BAD_INPUT.values() if len(bad.content) < MEBIBYTE]
    good = set(range(0, 100, 7))
    items = [
        item(f"item {number}", plain_image(number)) if number in good else bad_item(f"item {number}", choice)
        for number, choice in zip(range(100), itertools.cycle(junk), strict=False)
    ]
    responses = await answers(stub, items)
    assert Counter(response.request_id for response in responses) == Counter(f"item {number}" for number in range(100))
    embedded = {response.request_id for response in responses if response.WhichOneof("result") == "embedding"}
    assert embedded == {f"item {number}" for number in good}


async def test_request_ids_of_up_to_128_characters_are_returned_unchanged(stub: Stub) -> None:
    ids = ["", "same", "same", "ä" * 128, "b" * 129, "c" * 100_000]
    responses = await answers(stub, [item(request_id, plain_image(1)) for request_id in ids])
    assert sorted(response.request_id for response in responses) == sorted(request_id[:128] for request_id in ids)
    refused = [response for response in responses if response.WhichOneof("result") == "error"]
    assert {response.request_id for response in refused} == {"b" * 128, "c" * 128}
    for response in refused:
        assert facts(response.error) == ("REQUEST_ID_TOO_LONG", "embedder.imagesearch", ["request_id"])
        assert "the maximum is 128" in response.error.message


async def test_an_empty_stream_ends(stub: Stub) -> None:
    assert await answers(stub, []) == []


async def test_a_region_is_embedded_like_the_cropped_image(stub: Stub, photographs: Mapping[str, bytes]) -> None:
    cut = BytesIO()
    Image.open(BytesIO(photographs["coffee.png"])).crop((150, 100, 450, 300)).save(cut, "PNG")
    region = encoded_image_pb2.Region(x0=0.25, y0=0.25, x1=0.75, y1=0.75)
    image = encoded_image_pb2.EncodedImage(content=photographs["coffee.png"], region=region)
    response = await stub.Embed(embedder_pb2.EmbedRequest(image=image))
    assert_same_vector(response.embedding.values, (await embed(stub, cut.getvalue())).values)


async def test_concurrent_calls_return_equal_vectors_in_float32(
    exact_stub: Stub, photographs: Mapping[str, bytes], exact_vectors: Vectors
) -> None:
    some = dict(list(photographs.items())[:8])
    together = await asyncio.gather(*(embed(exact_stub, content) for content in some.values()))
    streamed = await answers(exact_stub, [item(name, content) for name, content in some.items()])
    for name, embedding in zip(some, together, strict=True):
        assert_equal_vector(embedding.values, exact_vectors.of(name))
    for response in streamed:
        assert_equal_vector(response.embedding.values, exact_vectors.of(response.request_id))


async def test_concurrent_calls_return_the_vectors_of_sequential_calls(
    stub: Stub, photographs: Mapping[str, bytes], vectors: Vectors
) -> None:
    some = dict(list(photographs.items())[:8])
    together = await asyncio.gather(*(embed(stub, content) for content in some.values()))
    streamed = await answers(stub, [item(name, content) for name, content in some.items()])
    for name, embedding in zip(some, together, strict=True):
        assert_same_vector(embedding.values, vectors.of(name))
    for response in streamed:
        assert_same_vector(response.embedding.values, vectors.of(response.request_id))


async def test_get_model_describes_the_vectors(stub: Stub, vectors: Vectors) -> None:
    model = (await stub.GetModel(embedder_pb2.GetModelRequest())).model
    assert (model.name, model.default, model.dimension, model.input_size) == ("vgg16", True, 512, 224)
    assert (model.head, model.normalisation, model.weights_sha256) == ("avg", "l2", VGG16.sha256)
    assert model.precision in {"float32", "bfloat16"}
    assert (model.limits.max_image_bytes, model.limits.max_image_pixels) == (20 * MEBIBYTE, 50_000_000)
    assert model.execution.max_batch_size >= 1
    assert model.execution.threads >= 1
    assert set(vectors.fingerprints) == {model.fingerprint}


async def test_a_call_returns_the_times_of_its_stages(stub: Stub) -> None:
    call = stub.Embed(embed_request(plain_image(2)))
    await call
    timing = str(dict(await call.trailing_metadata() or ())["server-timing"])
    stages = {name: float(spent) for name, spent in re.findall(r"(\w+);dur=([\d.]+)", timing)}
    assert {"decode", "inference", "total"} <= stages.keys() <= {"decode", "queue", "inference", "total"}
    assert stages["total"] >= stages["inference"] > 0


async def test_list_models_equals_get_model(stub: Stub) -> None:
    named = await stub.GetModel(embedder_pb2.GetModelRequest(name="vgg16"))
    assert list((await stub.ListModels(embedder_pb2.ListModelsRequest())).models) == [named.model]


@pytest.mark.parametrize("spelling", ["vgg16-avg", " VGG16 ", "vgg16-squash224"])
async def test_every_spelling_of_a_name_is_the_same_model_in_every_call(spelling: str, stub: Stub) -> None:
    described = (await stub.GetModel(embedder_pb2.GetModelRequest(name=spelling))).model
    assert described.name == "vgg16"
    image = encoded_image_pb2.EncodedImage(content=plain_image(7))
    embedded = (await stub.Embed(embedder_pb2.EmbedRequest(model=spelling, image=image))).embedding
    streamed = [
        response.embedding
        async for response in stub.EmbedStream(iter([embedder_pb2.EmbedStreamRequest(model=spelling, image=image)]))
    ]
    assert {found.fingerprint for found in [embedded, *streamed]} == {described.fingerprint}


async def test_get_model_refuses_an_unknown_name(stub: Stub) -> None:
    error = await failure(stub.GetModel(embedder_pb2.GetModelRequest(name="vgg19")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert facts(status_of(error)) == ("MODEL_NOT_FOUND", "embedder.imagesearch", ["name"])


async def test_a_message_above_the_limit_is_refused_and_the_channel_stays_usable(stub: Stub) -> None:
    error = await failure(embed(stub, bytes(25 * MEBIBYTE)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len((await embed(stub, plain_image(1))).values) == 512


async def test_a_passed_deadline_is_reported(stub: Stub, embedder: Embedder) -> None:
    error = await failure(embed(stub, plain_image(1), timeout=0.001))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    items = [item(str(number), plain_image(number)) for number in range(1000)]
    with pytest.raises(grpc.RpcError) as failed:
        await asyncio.to_thread(lambda: list(stream_to(embedder.address, items, timeout=0.5)))
    assert isinstance(failed.value, grpc.Call)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len((await embed(stub, plain_image(1))).values) == 512


async def test_cancelled_streams_release_their_slots(stub: Stub, embedder: Embedder) -> None:
    async def endless(first: int) -> AsyncIterator[embedder_pb2.EmbedStreamRequest]:
        for number in itertools.count(first):
            yield item(str(number), plain_image(number))

    # Each may hold 32 of the bulk lane's 64 places.
    calls = [stub.EmbedStream(endless(10_000 * stream)) for stream in range(4)]
    for call in calls:
        await anext(aiter(call))
    for call in calls:
        call.cancel()
    assert len(await answers(stub, [item(str(number), plain_image(number)) for number in range(5)])) == 5
    await until(lambda: embedder.in_flight("bulk") == 0)
    async with grpc.aio.insecure_channel(embedder.address) as channel:
        assert await health_of(channel, "") == health_pb2.HealthCheckResponse.SERVING


async def health_of(channel: grpc.aio.Channel, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    response = await stub.Check(request)  # type: ignore[attr-defined]
    return int(response.status)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_is_serving(embedder: Embedder, service: str) -> None:
    async with grpc.aio.insecure_channel(embedder.address) as channel:
        assert await health_of(channel, service) == health_pb2.HealthCheckResponse.SERVING


async def test_health_of_an_unknown_service_is_not_found(embedder: Embedder) -> None:
    async with grpc.aio.insecure_channel(embedder.address) as channel:
        error = await failure(health_of(channel, "imagesearch.search.v1.SearchService"))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_and_describes_the_service(embedder: Embedder) -> None:
    async with grpc.aio.insecure_channel(embedder.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        ]
        call = stub.ServerReflectionInfo(iter(requests))  # type: ignore[operator]
        listed, described = [response async for response in call]
    assert SERVICE in {service.name for service in listed.list_services_response.service}
    files = b"".join(described.file_descriptor_response.file_descriptor_proto)
    assert b"EmbedStreamRequest" in files
