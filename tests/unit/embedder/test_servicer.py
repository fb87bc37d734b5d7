"""The servicer on a real server, with a fake model."""

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2
from prometheus_client import CollectorRegistry

from embedder_service.api.servicer import DOMAIN, EmbedderServicer
from embedder_service.core import image_decoding
from embedder_service.core.embed_images import ModelPipeline
from embedder_service.core.image_decoding import ImageDecoder
from grpc_kit.channel import open_channel
from grpc_kit.server.grpc_server import Server, Service
from grpc_kit.server.settings import ServerSettings
from grpc_kit.status import DETAILS_KEY
from tests.unit.embedder.test_embed_images import Serving, image, network, serving

__all__ = ["network", "serving"]
CORRUPT = image(1, 2, 3).content[:-30]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Keeps the garbage collector from coming by."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("method", ["Embed", "EmbedStream"])
async def test_a_refused_image_is_not_kept_in_memory(serving: Serving, method: str) -> None:
    async with stub_of(serving) as stub:
        before = images_in_memory()
        for _ in range(20):
            await refused(stub, method)
        kept = images_in_memory() - before
    # The last one may still be on its way out.
    assert kept <= 1


@asynccontextmanager
async def stub_of(serving: Serving) -> "AsyncIterator[embedder_pb2_grpc.EmbedderServiceAsyncStub]":
    async with serving() as at:
        servicer = EmbedderServicer(at.images, 8, 2**20)
        service = Service(
            embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
            lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
        )
        server = Server([service], ServerSettings(), DOMAIN, CollectorRegistry())
        async with open_channel(await server.start(), 1_000_000) as channel:
            yield embedder_pb2_grpc.EmbedderServiceStub(channel)
        await server.stop()


@pytest.mark.parametrize("method", ["Embed", "EmbedStream"])
@pytest.mark.parametrize("fault", [TypeError("a secret"), AttributeError("a secret"), OSError("a secret")], ids=repr)
async def test_an_error_of_our_own_code_while_decoding_is_internal_and_logged(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, method: str, fault: Exception
) -> None:
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(image_decoding, "fit", failing(fault))
        async with stub_of(serving) as stub:
            status = await answer(stub, method)
    assert (status.code, reason_of(status)) == (grpc.StatusCode.INTERNAL.value[0], "INTERNAL")
    assert "secret" not in status.message
    (logged,) = [line for line in logs if line["event"] == "call failed"]
    assert (logged["log_level"], logged["exc_info"]) == ("error", fault)


@pytest.mark.parametrize("method", ["Embed", "EmbedStream"])
@pytest.mark.parametrize("ours", ["image_decoding.fit", "ImageDecoder.decode", "ModelPipeline.key"])
async def test_a_lack_of_memory_anywhere_is_a_temporary_refusal(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, method: str, ours: str
) -> None:
    owners = {"image_decoding": image_decoding, "ImageDecoder": ImageDecoder, "ModelPipeline": ModelPipeline}
    owner, name = ours.split(".")
    async with stub_of(serving) as stub:
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
            patch.setattr(owners[owner], name, failing(MemoryError()))
            status = await answer(stub, method)
        assert (status.code, reason_of(status)) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "OUT_OF_MEMORY")
        assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
        assert {"call failed", "no memory to decode an image"} & {line["event"] for line in logs}
        # The same image succeeds when there is memory.
        assert (await answer(stub, method)).code == 0


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def reason_of(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return str(info.reason)


async def answer(stub: "embedder_pb2_grpc.EmbedderServiceAsyncStub", method: str) -> status_pb2.Status:
    """What becomes of a good image; code 0 is a vector."""
    sent = encoded_image_pb2.EncodedImage(content=image(1, 2, 3).content)
    if method == "EmbedStream":
        (response,) = [each async for each in stub.EmbedStream(iter([embedder_pb2.EmbedStreamRequest(image=sent)]))]
        return response.error
    try:
        await stub.Embed(embedder_pb2.EmbedRequest(image=sent))
    except grpc.aio.AioRpcError as error:
        details = dict(error.trailing_metadata() or ())[DETAILS_KEY]
        assert isinstance(details, bytes)
        return status_pb2.Status.FromString(details)
    return status_pb2.Status()


async def refused(stub: "embedder_pb2_grpc.EmbedderServiceAsyncStub", method: str) -> None:
    sent = encoded_image_pb2.EncodedImage(content=CORRUPT)
    if method == "Embed":
        with pytest.raises(grpc.aio.AioRpcError, match="cannot be decoded"):
            await stub.Embed(embedder_pb2.EmbedRequest(image=sent))
        return
    async for response in stub.EmbedStream(iter([embedder_pb2.EmbedStreamRequest(image=sent)])):
        assert "cannot be decoded" in response.error.message


def images_in_memory() -> int:
    return sum(type(thing).__name__ in ("EncodedImage", "EmbedRequest") for thing in gc.get_objects())
