"""Cancelled callers on a real server: nothing of their images stays in memory, and nothing is blocked."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2
from prometheus_client import CollectorRegistry

from embedder_service.api.servicer import DOMAIN, EmbedderServicer
from embedder_service.core.types import Lane
from grpc_kit.channel import open_channel
from grpc_kit.server.grpc_server import Server, Service
from grpc_kit.server.settings import ServerSettings
from tests.unit.embedder.doubles import until
from tests.unit.embedder.test_embed_images import MeanColour, Serving, image, network, serving
from tests.unit.embedder.test_servicer import images_in_memory, no_collector

__all__ = ["network", "no_collector", "serving"]


@asynccontextmanager
async def served(servicer: EmbedderServicer) -> AsyncIterator["embedder_pb2_grpc.EmbedderServiceAsyncStub"]:
    service = Service(
        embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
        lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
    )
    server = Server([service], ServerSettings(), DOMAIN, CollectorRegistry())
    async with open_channel(await server.start(), 1_000_000) as channel:
        yield embedder_pb2_grpc.EmbedderServiceStub(channel)
    await server.stop()


def request_of(number: int) -> embedder_pb2.EmbedStreamRequest:
    content = image(number % 256, number // 256, 7).content
    return embedder_pb2.EmbedStreamRequest(
        request_id=str(number), image=encoded_image_pb2.EncodedImage(content=content)
    )


async def gives_up(
    stub: "embedder_pb2_grpc.EmbedderServiceAsyncStub", method: str, requests: list[embedder_pb2.EmbedStreamRequest]
) -> None:
    if method == "Embed":
        with pytest.raises(grpc.aio.AioRpcError, match=r"(?i)deadline"):
            await stub.Embed(embedder_pb2.EmbedRequest(image=requests[0].image), timeout=0.05)
        return
    # gRPC's client fails by "execute_batch" when its deadline passes while it sends.
    with pytest.raises(grpc.aio.AioRpcError, match=r"(?i)deadline|execute_batch"):
        _ = [response async for response in stub.EmbedStream(iter(requests), timeout=0.05)]


def messages_in_memory() -> int:
    return sum(type(thing).__name__ == "EmbedStreamRequest" for thing in gc.get_objects())


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("method", ["Embed", "EmbedStream"])
async def test_images_of_cancelled_callers_are_not_kept_in_memory(
    serving: Serving, network: MeanColour, method: str
) -> None:
    async with serving(4, 4) as at, served(EmbedderServicer(at.images, 8, 2**20)) as stub:
        network.gate.clear()
        before = images_in_memory() + messages_in_memory()
        for number in range(20):
            # Of a stream's images four are admitted, and the next one waits.
            await gives_up(stub, method, [request_of(10 * number + image) for image in range(10)])
        await until(lambda: not any(at.admission.in_flight(lane) + at.admission.pending_bytes(lane) for lane in Lane))
        kept = images_in_memory() + messages_in_memory() - before
        network.gate.set()
    # The last one may still be on its way out.
    assert kept <= 1


async def test_a_stream_refuses_invalid_items_while_its_lane_is_full(serving: Serving, network: MeanColour) -> None:
    async with serving(bulk=1) as at, served(EmbedderServicer(at.images, 8, 2**20)) as stub:
        network.gate.clear()
        waits = await at.send(image(1, 1, 1), Lane.BULK)
        requests = [
            embedder_pb2.EmbedStreamRequest(
                request_id="1", model="mode", image=encoded_image_pb2.EncodedImage(content=b"1")
            ),
            embedder_pb2.EmbedStreamRequest(request_id="2" * 129, image=encoded_image_pb2.EncodedImage(content=b"2")),
        ]
        found = [response async for response in stub.EmbedStream(iter(requests), timeout=10)]
        assert [(response.request_id, response.error.message[:24]) for response in found] == [
            ("1", "no model is called 'mode"),
            ("2" * 128, "request_id has 129 chara"),
        ]
        network.gate.set()
        await waits
