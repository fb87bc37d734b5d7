"""Overload: which requests wait, are refused or are shared, and what happens when a process dies."""

import asyncio
import itertools
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2

from grpc_kit.channel import RETRYABLE
from tests.integration.embedder.helpers import (
    SAME,
    Embedder,
    StartEmbedder,
    Stub,
    Vectors,
    answers,
    assert_overloaded,
    channel_to,
    cosine,
    embed_request,
    info_of,
    item,
    plain_image,
    slow_image,
    status_of,
    stream_to,
    until,
    vector_of,
)

CALLERS = 8
# A name for each test's images, so that none is known to a cache or under way for another one.
numbers = itertools.count(1000, 1000)


@pytest.fixture(scope="module")
def narrow_embedder(start_embedder: StartEmbedder) -> Iterator[Embedder]:
    """An embedder that takes four Embed calls, 16 images of loads or a mebibyte at a time, and keeps ten vectors."""
    settings = {
        "max_pending": "4",
        "max_pending_bulk": "16",
        "stream_window": "8",
        "max_pending_bytes": str(1024 * 1024),
        "cache_vectors": "10",
    }
    with start_embedder(models="mobilenet", **settings) as service:
        yield service


@pytest.fixture
async def narrow_stub(narrow_embedder: Embedder) -> AsyncIterator[Stub]:
    async with channel_to(narrow_embedder) as channel:
        yield embedder_pb2_grpc.EmbedderServiceStub(channel)


async def refusal(call: Awaitable[embedder_pb2.EmbedResponse]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value


async def test_embed_calls_go_ahead_of_a_load(narrow_stub: Stub, narrow_embedder: Embedder) -> None:
    first = next(numbers)
    answered: Counter[str] = Counter()

    async def load(begin: int) -> None:
        items = [item(str(number), plain_image(number)) for number in range(begin, begin + 16)]
        async for response in narrow_stub.EmbedStream(iter(items)):
            answered[response.request_id] += 1

    # Each stream has 8 images in flight; together they fill the bulk lane's 16 places.
    loads = [asyncio.create_task(load(first + 16 * stream)) for stream in range(3)]
    await until(lambda: narrow_embedder.in_flight("bulk") == 16)
    meanwhile = []
    for number in range(4):
        before = answered.total()
        await vector_of(narrow_stub, plain_image(first + 500 + number))
        meanwhile.append(answered.total() - before)
    assert answered.total() < 3 * 16
    await asyncio.gather(*loads)
    # One run that had begun, and the images that had been answered and not been read yet.
    assert max(meanwhile) <= 8
    assert answered == Counter(str(number) for number in range(first, first + 3 * 16))


async def test_a_load_makes_progress_while_embed_calls_saturate_the_model(
    narrow_stub: Stub, narrow_embedder: Embedder
) -> None:
    first = next(numbers)
    stop = asyncio.Event()
    ids = itertools.count(first)

    async def calls() -> int:
        done = 0
        while not stop.is_set():
            await vector_of(narrow_stub, plain_image(next(ids)))
            done += 1
        return done

    callers = [asyncio.create_task(calls()) for _ in range(4)]
    await until(lambda: narrow_embedder.in_flight("interactive") >= 3)
    streamed = await answers(narrow_stub, [item(str(n), plain_image(first + 900 + n)) for n in range(6)])
    assert not any(caller.done() for caller in callers)
    stop.set()
    assert sum(await asyncio.gather(*callers)) > 0
    assert all(response.HasField("embedding") for response in streamed)
    assert len(streamed) == 6


async def test_a_call_above_max_pending_is_refused_and_the_others_are_answered(
    narrow_stub: Stub, narrow_embedder: Embedder
) -> None:
    calls = [asyncio.ensure_future(narrow_stub.Embed(embed_request(slow_image(shade)))) for shade in range(4)]
    await until(lambda: narrow_embedder.in_flight("interactive") == 4)
    refused = await refusal(narrow_stub.Embed(embed_request(plain_image(next(numbers)))))
    assert not any(call.done() for call in calls)
    assert_overloaded(refused, max_pending="4")
    responses = await asyncio.gather(*calls)
    assert [len(response.embedding.values) for response in responses] == [1024] * 4
    await until(lambda: narrow_embedder.in_flight("interactive") == 0)


async def test_all_of_many_concurrent_calls_are_answered(narrow_stub: Stub, narrow_embedder: Embedder) -> None:
    first, refused_before = next(numbers), narrow_embedder.answered("OVERLOADED")
    calls = [narrow_stub.Embed(embed_request(plain_image(number)), timeout=60) for number in range(first, first + 30)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    vectors = [outcome for outcome in outcomes if isinstance(outcome, embedder_pb2.EmbedResponse)]
    errors = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert len(vectors) + len(errors) == 30
    assert len(vectors) >= 4
    assert {len(response.embedding.values) for response in vectors} == {1024}
    for error in errors:
        assert_overloaded(error, max_pending="4")
    assert narrow_embedder.answered("OVERLOADED") - refused_before == len(errors)
    assert narrow_embedder.in_flight("interactive") == 0


async def test_a_call_above_max_pending_bytes_is_refused_and_a_stream_waits(
    narrow_stub: Stub, narrow_embedder: Embedder
) -> None:
    padding = bytes(600 * 1024)
    large = asyncio.ensure_future(narrow_stub.Embed(embed_request(slow_image(10) + padding)))
    await until(lambda: narrow_embedder.in_flight("interactive") == 1)
    refused = await refusal(narrow_stub.Embed(embed_request(plain_image(next(numbers)) + padding)))
    small = await vector_of(narrow_stub, plain_image(next(numbers)))
    assert_overloaded(refused, max_pending_bytes=str(1024 * 1024))
    assert len(small) == len((await large).embedding.values) == 1024

    most = 0.0
    first = next(numbers)
    items = (item(str(number), plain_image(first + number) + padding) for number in range(12))
    async for response in narrow_stub.EmbedStream(items):
        assert response.HasField("embedding")
        most = max(most, narrow_embedder.metric("embedder_pending_bytes", lane="bulk"))
    assert most <= 1024 * 1024


async def test_an_image_above_max_pending_bytes_is_admitted_alone(narrow_stub: Stub) -> None:
    content = plain_image(next(numbers)) + bytes(2 * 1024 * 1024)
    assert len(await vector_of(narrow_stub, content)) == 1024
    (response,) = await answers(narrow_stub, [item("", content + b"0")])
    assert response.HasField("embedding")


async def test_equal_concurrent_images_are_embedded_once(
    stub: Stub, embedder: Embedder, photographs: Mapping[str, bytes], vectors: Vectors
) -> None:
    before = {result: embedder.answered(result) for result in ("embedded", "shared")}
    run_before = embedder.images_run()
    together = await asyncio.gather(*(vector_of(stub, photographs["ihc.png"]) for _ in range(20)))
    after = {result: embedder.answered(result) - count for result, count in before.items()}
    run = embedder.images_run() - run_before
    assert after["embedded"] == run <= 5
    assert after["shared"] == 20 - run
    for vector in together:
        np.testing.assert_array_equal(vector, together[0])
    assert cosine(together[0], vectors.of("ihc.png")) >= SAME


async def test_a_repeated_image_is_answered_from_the_cache(
    narrow_stub: Stub, narrow_embedder: Embedder, photographs: Mapping[str, bytes]
) -> None:
    content = photographs["coins.png"]
    region = encoded_image_pb2.Region(x0=0.25, y0=0, x1=1, y1=1)

    async def embed(region: encoded_image_pb2.Region | None) -> tuple[list[float], int, int]:
        cached, run = narrow_embedder.answered("cached"), narrow_embedder.images_run()
        response = await narrow_stub.Embed(embed_request(content, region))
        return (
            list(response.embedding.values),
            narrow_embedder.answered("cached") - cached,
            narrow_embedder.images_run() - run,
        )

    whole, *first = await embed(None)
    again, *second = await embed(None)
    part, *other_region = await embed(region)
    part_again, *same_region = await embed(region)
    assert (first, second, other_region, same_region) == ([0, 1], [1, 0], [0, 1], [1, 0])
    assert (again, part_again) == (whole, part)
    assert cosine(whole, part) < SAME
    (streamed,) = await answers(narrow_stub, [item("", content)])
    assert list(streamed.embedding.values) == whole


async def test_the_cache_drops_the_least_recently_used_vector(narrow_stub: Stub, narrow_embedder: Embedder) -> None:
    first = next(numbers)
    oldest = plain_image(first)
    await vector_of(narrow_stub, oldest)
    await answers(narrow_stub, [item(str(number), plain_image(number)) for number in range(first + 1, first + 11)])
    cached = narrow_embedder.answered("cached")
    await vector_of(narrow_stub, plain_image(first + 10))
    assert narrow_embedder.answered("cached") == cached + 1
    await vector_of(narrow_stub, oldest)
    assert narrow_embedder.answered("cached") == cached + 1


async def test_images_whose_deadline_passed_are_not_embedded(stub: Stub, embedder: Embedder) -> None:
    first = next(numbers)
    run, embedded = embedder.images_run(), embedder.answered("embedded")
    calls = [stub.Embed(embed_request(plain_image(number)), timeout=0.2) for number in range(first, first + 40)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    codes = Counter(
        outcome.code() if isinstance(outcome, grpc.aio.AioRpcError) else grpc.StatusCode.OK for outcome in outcomes
    )
    assert codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert codes[grpc.StatusCode.DEADLINE_EXCEEDED] >= 20
    await until(lambda: embedder.in_flight("interactive") == 0 and embedder.metric("embedder_queue_size") == 0)
    # What was in the network when the time was over ran to its end, and no further batch began.
    await asyncio.sleep(0.5)
    assert embedder.images_run() - run <= codes[grpc.StatusCode.OK] + 2 * 8
    assert embedder.answered("embedded") - embedded <= codes[grpc.StatusCode.OK] + 8


CLIENT = """
import sys
import grpc
from imagesearch.embedder.v1 import embedder_pb2_grpc
from tests.integration.embedder.helpers import embed_request, item, plain_image, slow_image

with grpc.insecure_channel(sys.argv[1], [("grpc.enable_http_proxy", 0)]) as channel:
    stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
    if sys.argv[2] == "stream":
        for _ in stub.EmbedStream(item(str(number), plain_image(number)) for number in range(60000)):
            pass
    else:
        image = slow_image(100)
        for call in [stub.Embed.future(embed_request(image + bytes([number]))) for number in range(24)]:
            call.result()
"""


@pytest.mark.parametrize(("kind", "lane", "places"), [("stream", "bulk", 16), ("calls", "interactive", 16)])
async def test_a_killed_caller_releases_its_slots_and_does_not_affect_others(
    stub: Stub,
    embedder: Embedder,
    photographs: Mapping[str, bytes],
    vectors: Vectors,
    kind: str,
    lane: str,
    places: int,
) -> None:
    stop = asyncio.Event()

    async def neighbour() -> int:
        rounds = 0
        while not stop.is_set() or not rounds:
            assert cosine(await vector_of(stub, photographs["moon.png"]), vectors.of("moon.png")) >= SAME
            rounds += 1
        return rounds

    client = await asyncio.create_subprocess_exec(sys.executable, "-c", CLIENT, embedder.address, kind)
    try:
        await until(lambda: embedder.in_flight(lane) >= places)
        beside = asyncio.create_task(neighbour())
        await asyncio.sleep(0.2)
        assert client.returncode is None
    finally:
        client.kill()
        await client.wait()
    stop.set()
    assert await beside >= 1
    await until(lambda: embedder.in_flight(lane) == 0)
    await until(lambda: embedder.metric("grpc_server_in_flight") == 0)
    assert cosine(await vector_of(stub, photographs["moon.png"]), vectors.of("moon.png")) >= SAME


class Load:
    """Callers that call as fast as they are answered, and a stream, until the service is gone."""

    def __init__(self, stub: Stub, address: str) -> None:
        self._stub = stub
        self._address = address
        self.vectors = 0
        self.errors: list[grpc.aio.AioRpcError] = []
        self.streamed: list[str] = []
        self.stream_error: grpc.RpcError | None = None
        self._ids = itertools.count(next(numbers) + 20_000)
        self._tasks = [asyncio.create_task(self._call()) for _ in range(CALLERS)]
        self._tasks.append(asyncio.create_task(asyncio.to_thread(self._stream)))

    async def _call(self) -> None:
        try:
            while True:
                assert len(await vector_of(self._stub, plain_image(next(self._ids)))) == 1024
                self.vectors += 1
        except grpc.aio.AioRpcError as error:
            self.errors.append(error)

    def _stream(self) -> None:
        try:
            for response in stream_to(self._address, (item(str(n), plain_image(n)) for n in range(20_000))):
                assert response.HasField("embedding")
                self.streamed.append(response.request_id)
        except grpc.RpcError as error:
            self.stream_error = error

    async def until_it_flows(self) -> None:
        await until(lambda: self.vectors >= 2 * CALLERS and len(self.streamed) >= 10)

    async def ended(self) -> None:
        await asyncio.wait_for(asyncio.gather(*self._tasks), 30)


@dataclass(frozen=True)
class Stopped:
    """A service that was asked to stop under load."""

    load: Load
    exit_code: int
    log: list[dict[str, object]]


@pytest.fixture(scope="module")
def stopped(start_embedder: StartEmbedder) -> Stopped:
    with start_embedder(models="mobilenet", log_format="json") as service:
        load, exit_code = asyncio.run(stop_under_load(service))
    lines = service.log.read_text().splitlines()
    return Stopped(load, exit_code, [json.loads(line) for line in lines if line.startswith("{")])


async def stop_under_load(service: Embedder) -> tuple[Load, int]:
    async with channel_to(service) as channel:
        load = Load(embedder_pb2_grpc.EmbedderServiceStub(channel), service.address)
        await load.until_it_flows()
        exit_code = await asyncio.to_thread(service.process.stop)
        await load.ended()
    return load, exit_code


def test_sigterm_under_load_answers_every_call_that_was_admitted(stopped: Stopped) -> None:
    calls = Counter(
        (str(line["method"]).split("/")[-1], line["code"]) for line in stopped.log if line["event"] == "call"
    )
    assert stopped.exit_code == 0
    assert calls == {("Embed", "OK"): stopped.load.vectors, ("EmbedStream", "UNAVAILABLE"): 1}


def test_sigterm_under_load_cuts_a_stream_when_what_was_read_is_answered(stopped: Stopped) -> None:
    error, streamed = stopped.load.stream_error, stopped.load.streamed
    assert isinstance(error, grpc.Call)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert info_of(status_of(error)).reason == "STOPPING"
    # No item is missing among those before the last one.
    assert sorted(streamed, key=int) == [str(number) for number in range(len(streamed))]


def test_sigterm_under_load_ends_calls_that_were_not_admitted_so_that_channels_repeat_them(stopped: Stopped) -> None:
    assert len(stopped.load.errors) == CALLERS
    assert {error.code().name for error in stopped.load.errors} <= set(RETRYABLE)


@pytest.mark.soak
async def test_sigkill_under_load_is_unavailable_and_a_restart_serves_through_the_same_channel(
    start_embedder: StartEmbedder, photographs: Mapping[str, bytes]
) -> None:
    with start_embedder(models="mobilenet") as service:
        async with channel_to(service) as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            before = await vector_of(stub, photographs["moon.png"])
            load = Load(stub, service.address)
            await load.until_it_flows()
            assert service.process.kill() == -signal.SIGKILL
            await load.ended()
            assert [error.code() for error in load.errors] == [grpc.StatusCode.UNAVAILABLE] * CALLERS
            assert isinstance(load.stream_error, grpc.Call)
            assert load.stream_error.code() is grpc.StatusCode.UNAVAILABLE

            service.process.start()
            again = await vector_of(stub, photographs["moon.png"], wait_for_ready=True, timeout=60)
            assert cosine(again, before) >= SAME
            streamed = await answers(stub, [item(str(number), plain_image(number)) for number in range(8)])
            assert all(response.HasField("embedding") for response in streamed)
