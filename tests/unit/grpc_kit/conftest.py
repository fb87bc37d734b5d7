"""A small service of the embedder's contract, on a real server of grpc_kit."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from grpc_kit.channel import open_channel
from grpc_kit.errors import NotFoundError, UnavailableError
from grpc_kit.server import Server, Service
from grpc_kit.settings import ServerSettings

SECRET = "the password is hunter2"  # noqa: S105 - what must not be told


class Example(embedder_pb2_grpc.EmbedderServiceServicer):
    """GetModel does what the request's name says. EmbedStream does so for each request_id when it has read them all."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.received = asyncio.Event()
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def act(self, name: str) -> None:
        self.calls[name] += 1
        match name:
            case "fault":
                raise ValueError(SECRET)
            case "refuse":
                raise NotFoundError("NO_SUCH_THING", "there is none", field="name", metadata={"a": "b"}, retry_after=2)
            case "fail twice" if self.calls[name] <= 2:
                raise UnavailableError("BUSY", "not now")
            case "wait":
                self.begun.set()
                try:
                    await self.may_end.wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise

    async def GetModel(self, request: embedder_pb2.GetModelRequest, context: Any) -> embedder_pb2.GetModelResponse:
        await self.act(request.name)
        return embedder_pb2.GetModelResponse(model=embedder_pb2.Model(name=request.name))

    async def EmbedStream(
        self, request_iterator: AsyncIterator[embedder_pb2.EmbedStreamRequest], context: Any
    ) -> AsyncIterator[embedder_pb2.EmbedStreamResponse]:
        ids = []
        async for request in request_iterator:
            ids.append(request.request_id)
            self.received.set()
        for request_id in ids:
            await self.act(request_id)
            yield embedder_pb2.EmbedStreamResponse(request_id=request_id)

    async def Embed(self, request: embedder_pb2.EmbedRequest, context: Any) -> embedder_pb2.EmbedResponse:
        return embedder_pb2.EmbedResponse()

    async def ListModels(
        self, request: embedder_pb2.ListModelsRequest, context: Any
    ) -> embedder_pb2.ListModelsResponse:
        return embedder_pb2.ListModelsResponse()


@dataclass(frozen=True)
class Running:
    """A server at work, its servicer, and a channel to it."""

    servicer: Example
    server: Server
    address: str
    channel: grpc.aio.Channel

    async def get(self, name: str, **options: Any) -> str:
        stub = embedder_pb2_grpc.EmbedderServiceStub(self.channel)
        response = await stub.GetModel(embedder_pb2.GetModelRequest(name=name), **options)
        return response.model.name


Serving: TypeAlias = Callable[..., AbstractAsyncContextManager[Running]]


def make_server(servicer: Example, **settings: Any) -> Server:
    service = Service(
        embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
        lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
    )
    return Server([service], ServerSettings(**settings), "example.domain")


@pytest.fixture
def serving() -> Serving:
    @asynccontextmanager
    async def with_settings(**settings: Any) -> AsyncIterator[Running]:
        servicer = Example()
        server = make_server(servicer, **settings)
        address = await server.start()
        try:
            async with open_channel(
                address, 1_000_000, ["imagesearch.embedder.v1.EmbedderService/GetModel"]
            ) as channel:
                yield Running(servicer, server, address, channel)
        finally:
            servicer.may_end.set()
            await server.stop()

    return with_settings


@pytest.fixture
def secret() -> str:
    """What the servicer's fault says."""
    return SECRET
