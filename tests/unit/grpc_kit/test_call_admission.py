"""Admission of calls and reception of their messages, with real calls on the loopback interface."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2

from grpc_kit.server import allocation
from grpc_kit.server.interceptors import open_streams, request_receiver
from grpc_kit.status import from_rpc_error
from tests.unit.grpc_kit.example import SERVICE, Running, Serving, failure, stream

LARGE = 16_000_000
GET = f"/{SERVICE}/GetModel"


class CountingProxy:
    """Forwards bytes between clients and a server, and counts the bytes to the server."""

    def __init__(self) -> None:
        self.sent = 0
        self.address = ""

    @asynccontextmanager
    async def before(self, address: str) -> AsyncIterator[None]:
        host, _, port = address.rpartition(":")

        async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
            while data := await reader.read(65536):
                self.sent += len(data) * counted
                writer.write(data)
                await writer.drain()
            writer.close()

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            from_server, to_server = await asyncio.open_connection(host, port)
            await asyncio.gather(
                copy(reader, to_server, counted=True), copy(from_server, writer, counted=False), return_exceptions=True
            )

        server = await asyncio.start_server(connect, "127.0.0.1", 0, limit=65536)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield
        server.close()


def large_requests() -> dict[str, Any]:
    image = encoded_image_pb2.EncodedImage(content=bytes(LARGE))
    return {
        "Embed": embedder_pb2.EmbedRequest(image=image),
        "EmbedStream": embedder_pb2.EmbedStreamRequest(image=image),
    }


@pytest.mark.parametrize("method", ["Embed", "EmbedStream"])
async def test_the_server_receives_no_large_message_from_a_caller_without_a_token(
    serving: Serving, method: str
) -> None:
    proxy = CountingProxy()
    async with (
        serving(tokens="secret", max_message_bytes=2 * LARGE) as running,
        proxy.before(running.address),
        grpc.aio.insecure_channel(proxy.address, [("grpc.max_send_message_length", -1)]) as channel,
    ):
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        request = large_requests()[method]
        call: Any = stub.Embed(request) if method == "Embed" else anext(aiter(stub.EmbedStream(iter([request]))))
        error = await failure(call)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert from_rpc_error(error).reason == "TOKEN_MISSING"
        await asyncio.sleep(0.2)
    assert proxy.sent < 2_000_000


async def test_a_call_beyond_the_limit_is_refused_but_a_health_call_is_not(serving: Serving) -> None:
    async with serving(max_concurrent_calls=2) as running:
        waiting = [asyncio.create_task(running.get("wait")) for _ in range(2)]
        await running.servicer.begun.wait()
        await asyncio.sleep(0.1)
        stub = embedder_pb2_grpc.EmbedderServiceStub(running.channel)
        refusal = from_rpc_error(await failure(stub.ListModels(embedder_pb2.ListModelsRequest())))
        assert (refusal.reason, refusal.metadata) == ("OVERLOADED", {"max_concurrent_calls": "2"})
        assert refusal.retry_after
        assert "2 calls are in flight; the maximum is 2" in refusal.message
        await health_pb2_grpc.HealthStub(running.channel).Check(health_pb2.HealthCheckRequest())  # type: ignore[attr-defined]
        running.servicer.may_end.set()
        assert await asyncio.gather(*waiting) == ["wait", "wait"]
        # The calls that ended have released their slots.
        for _ in range(5):
            await stub.ListModels(embedder_pb2.ListModelsRequest())


async def test_cancelled_and_silent_calls_release_their_slots(serving: Serving) -> None:
    async with serving(max_concurrent_calls=2) as running:
        for _ in range(4):
            with pytest.raises(grpc.aio.AioRpcError):
                await running.get("wait", timeout=0.1)
            method: Any = running.channel.stream_unary(GET)
            refusal = from_rpc_error(await failure(method(iter(()))))
            assert refusal.reason == "REQUEST_MISSING"
        assert await running.get("fine") == "fine"


async def test_a_message_of_another_type_is_refused_with_a_reason(serving: Serving) -> None:
    async with serving() as running:
        method: Any = running.channel.unary_unary(GET)
        refusal = from_rpc_error(await failure(method(b"\xff\xff\xff")))
    assert refusal.reason == "REQUEST_INVALID"


async def test_a_message_without_memory_is_refused_with_a_retry_delay(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as running:
        method: Any = running.channel.unary_unary(GET)
        # Protobuf reports it as a bad message.
        monkeypatch.setattr(allocation, "has_failed", lambda: True)
        refusal = from_rpc_error(await failure(method(b"\xff\xff\xff")))
    assert refusal.reason == "OUT_OF_MEMORY"
    assert refusal.retry_after is not None


async def never_ending(name: str) -> AsyncIterator[embedder_pb2.EmbedStreamRequest]:
    yield embedder_pb2.EmbedStreamRequest(request_id=name)
    await asyncio.Event().wait()


async def test_a_stream_beyond_the_limit_waits_for_another_one_to_end(serving: Serving) -> None:
    async with serving(max_streams=1) as running:
        first = asyncio.create_task(stream(running.channel, ["wait"]))
        await running.servicer.begun.wait()
        second = asyncio.create_task(stream(running.channel, ["second"]))
        await asyncio.sleep(0.2)
        assert not second.done()
        running.servicer.may_end.set()
        assert (await first, await second) == (["wait"], ["second"])


async def test_a_stream_that_waited_too_long_is_refused(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_streams, "WAIT_SECONDS", 0.1)
    async with serving(max_streams=1) as running:
        open_still = embedder_pb2_grpc.EmbedderServiceStub(running.channel).EmbedStream(never_ending("a"))
        await running.servicer.received.wait()
        refusal = from_rpc_error(await failure(stream(running.channel, ["b"])))
        assert (refusal.reason, refusal.metadata) == ("OVERLOADED", {"max_streams": "1"})
        assert refusal.retry_after
        open_still.cancel()


async def test_an_idle_stream_is_ended_for_a_waiting_one_but_a_busy_stream_is_not(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_streams, "IDLE_SECONDS", 0.2)
    async with serving(max_streams=2) as running:
        stub = embedder_pb2_grpc.EmbedderServiceStub(running.channel)
        busy = asyncio.create_task(stream(running.channel, ["wait"]))
        await running.servicer.begun.wait()

        async def nothing() -> AsyncIterator[embedder_pb2.EmbedStreamRequest]:
            await asyncio.Event().wait()
            yield embedder_pb2.EmbedStreamRequest()

        idle = asyncio.ensure_future(anext(aiter(stub.EmbedStream(nothing()))))
        await asyncio.sleep(0.5)
        assert await asyncio.wait_for(stream(running.channel, ["c"]), 4) == ["c"]
        refusal = from_rpc_error(await failure(idle))
        assert (refusal.reason, refusal.retry_after is not None) == ("STREAM_IDLE", True)
        running.servicer.may_end.set()
        assert await busy == ["wait"]


@asynccontextmanager
async def slow_uploads(running: Running, count: int) -> AsyncIterator[list["asyncio.Task[grpc.aio.AioRpcError]"]]:
    """Start unary calls whose message never arrives."""

    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    method: Any = running.channel.stream_unary(GET)
    calls = [method(nothing()) for _ in range(count)]
    failures = [asyncio.create_task(failure(call)) for call in calls]
    yield failures
    for call in calls:
        call.cancel()
    await asyncio.gather(*failures, return_exceptions=True)


async def test_small_requests_overtake_slow_ones_and_too_many_slow_ones_are_refused(serving: Serving) -> None:
    async with serving(max_slow_requests=3) as running, slow_uploads(running, 8) as slow:
        began = asyncio.get_running_loop().time()
        for number in range(20):
            assert await running.get(f"fine#{number}") == f"fine#{number}"
        assert asyncio.get_running_loop().time() - began < 5
        done, waiting = await asyncio.wait(slow, timeout=2)
        assert (len(done), len(waiting)) == (5, 3)
        refusals = [from_rpc_error(call.result()) for call in done]
        assert {(refusal.reason, refusal.metadata["max_slow_requests"]) for refusal in refusals} == {
            ("OVERLOADED", "3")
        }
        assert all(refusal.retry_after for refusal in refusals)


async def test_a_call_whose_request_never_arrives_times_out(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_receiver, "SLOW_SECONDS", 0.3)
    async with serving() as running, slow_uploads(running, 1) as (slow,):
        error = await asyncio.wait_for(slow, 5)
        assert from_rpc_error(error).reason == "RECEIVE_TIMEOUT"


async def test_connections_beyond_the_limit_are_closed_and_earlier_ones_stay(serving: Serving) -> None:
    async with serving(max_connections=1) as running:
        assert await running.get("fine") == "fine"
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(running.address, options) as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            error = await failure(stub.ListModels(embedder_pb2.ListModelsRequest(), timeout=5))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert await running.get("fine") == "fine"
