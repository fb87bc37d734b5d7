"""A small implementation of the embedder's contract on a real server of grpc_kit, and calls to it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from prometheus_client import CollectorRegistry

from grpc_kit.errors import NotFoundError, UnavailableError
from grpc_kit.server import stages
from grpc_kit.server.grpc_server import Server, Service
from grpc_kit.server.settings import ServerSettings
from grpc_kit.server.tracing import trace_metadata
from grpc_kit.status import DETAILS_KEY

SERVICE = "imagesearch.embedder.v1.EmbedderService"
SECRET = "the password is hunter2"  # noqa: S105 - what must not be reported


class Example(embedder_pb2_grpc.EmbedderServiceServicer):
    """GetModel does what the request's name says up to a "#". EmbedStream does so for each request_id when it has read
    them all.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.received = asyncio.Event()
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def act(self, name: str) -> None:
        self.calls[name] += 1
        match name.partition("#")[0]:
            case "fault":
                raise ValueError(SECRET)
            case "refuse":
                raise NotFoundError("NO_SUCH_THING", "there is none", field="name", metadata={"a": "b"}, retry_after=2)
            case "fail twice" if self.calls[name] <= 2:
                raise UnavailableError("BUSY", "not now")
            case "unavailable":
                raise UnavailableError("BUSY", "not now")
            case "staged":
                for seconds in (0.25, 0.5):
                    stages.record("decode", 100.0, 100.0 + seconds)
                stages.record("inference", 100.0, 102.0)
            case "staged refusal":
                stages.record("decode", 100.0, 100.25)
                raise NotFoundError("NO_SUCH_THING", "there is none")
            case "wait":
                self.begun.set()
                try:
                    await self.may_end.wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise

    async def GetModel(self, request: embedder_pb2.GetModelRequest, context: Any) -> embedder_pb2.GetModelResponse:
        await self.act(request.name)
        name = dict(trace_metadata()).get("traceparent", "") if request.name == "traceparent" else request.name
        return embedder_pb2.GetModelResponse(model=embedder_pb2.Model(name=name))

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

    async def EmbedRegions(
        self, request: embedder_pb2.EmbedRegionsRequest, context: Any
    ) -> embedder_pb2.EmbedRegionsResponse:
        return embedder_pb2.EmbedRegionsResponse()

    async def ListModels(
        self, request: embedder_pb2.ListModelsRequest, context: Any
    ) -> embedder_pb2.ListModelsResponse:
        return embedder_pb2.ListModelsResponse()


@dataclass(frozen=True)
class Running:
    """A running server with its servicer, metrics and a channel."""

    servicer: Example
    server: Server
    registry: CollectorRegistry
    address: str
    channel: grpc.aio.Channel

    async def get(self, name: str, **options: Any) -> str:
        stub = embedder_pb2_grpc.EmbedderServiceStub(self.channel)
        response = await stub.GetModel(embedder_pb2.GetModelRequest(name=name), **options)
        return response.model.name


Serving: TypeAlias = Callable[..., AbstractAsyncContextManager[Running]]


def make_server(servicer: Example, registry: CollectorRegistry, **settings: Any) -> Server:
    service = Service(
        embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
        lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
    )
    return Server([service], ServerSettings(**settings), "example.domain", registry)


async def stream(channel: grpc.aio.Channel, ids: Sequence[str], **options: Any) -> list[str]:
    async def requests() -> AsyncIterator[embedder_pb2.EmbedStreamRequest]:
        for request_id in ids:
            yield embedder_pb2.EmbedStreamRequest(request_id=request_id)

    call = embedder_pb2_grpc.EmbedderServiceStub(channel).EmbedStream(requests(), **options)
    return [response.request_id async for response in call]


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value


def details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailing = dict(error.trailing_metadata() or ())
    return status_pb2.Status.FromString(trailing[DETAILS_KEY])


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert details_of(error).details[0].Unpack(info)
    return info
