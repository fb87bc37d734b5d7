"""The servicer on a real server, with a network that the test can look into."""

import gc
from collections.abc import Iterator

import grpc
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2
from prometheus_client import CollectorRegistry

from embedder_service.api.servicer import DOMAIN, EmbedderServicer
from grpc_kit.channel import open_channel
from grpc_kit.server import Server, Service
from grpc_kit.settings import ServerSettings
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
async def test_an_image_that_is_refused_is_not_kept(serving: Serving, method: str) -> None:
    async with serving() as at:
        servicer = EmbedderServicer(at.images, 8)
        service = Service(
            embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
            lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
        )
        server = Server([service], ServerSettings(), DOMAIN, CollectorRegistry())
        async with open_channel(await server.start(), 1_000_000) as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            before = images_in_memory()
            for _ in range(20):
                await refused(stub, method)
            kept = images_in_memory() - before
        await server.stop()
    # The last one may still be on its way out.
    assert kept <= 1


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
