"""Memory of the search service with callers that send more than it can hold."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2

from demo.local_stack import free_port
from grpc_kit.channel import channel_options
from grpc_kit.status import from_rpc_error
from tests.harness.processes import SearchProcess, metric

MEBIBYTE = 1024 * 1024
MAX_MESSAGE_BYTES = 24 * MEBIBYTE
DIMENSION = 512
VECTOR = embedding_pb2.Embedding(values=[0.1] * DIMENSION, fingerprint="slow")
PHOTOGRAPH = encoded_image_pb2.EncodedImage(content=os.urandom(5_000_000))
# Seconds in which callers send as much as possible while the embedder does not answer.
HELD_SECONDS = 4
# docs/operate/limits.md states what the service needs at the defaults; each of these attacks needs less.
MOST_BYTES = 550 * MEBIBYTE
STORED = 500


class SlowEmbedder(embedder_pb2_grpc.EmbedderServiceServicer):
    """An embedder that does not answer until the test resumes it."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def GetModel(self, request: embedder_pb2.GetModelRequest, context: Any) -> embedder_pb2.GetModelResponse:
        return embedder_pb2.GetModelResponse(
            model=embedder_pb2.Model(name="slow", dimension=DIMENSION, fingerprint="slow")
        )

    def ListModels(self, request: embedder_pb2.ListModelsRequest, context: Any) -> embedder_pb2.ListModelsResponse:
        return embedder_pb2.ListModelsResponse()

    def Embed(self, request: embedder_pb2.EmbedRequest, context: Any) -> embedder_pb2.EmbedResponse:
        self.go_on.wait(60)
        return embedder_pb2.EmbedResponse(embedding=VECTOR)

    def EmbedRegions(
        self, request: embedder_pb2.EmbedRegionsRequest, context: Any
    ) -> embedder_pb2.EmbedRegionsResponse:
        raise NotImplementedError

    def EmbedStream(
        self, request_iterator: Iterator[embedder_pb2.EmbedStreamRequest], context: Any
    ) -> Iterator[embedder_pb2.EmbedStreamResponse]:
        for request in request_iterator:
            self.go_on.wait(60)
            yield embedder_pb2.EmbedStreamResponse(request_id=request.request_id, embedding=VECTOR)


class Attacked:
    """A search service with a slow embedder, and callers that count their results."""

    def __init__(self, process: SearchProcess, embedder: SlowEmbedder) -> None:
        self.process = process
        self.embedder = embedder
        self.answers: Counter[str] = Counter()
        self._channels: list[grpc.Channel] = []
        self._threads: list[threading.Thread] = []

    def connect(self) -> grpc.Channel:
        options = [
            *channel_options(MAX_MESSAGE_BYTES),
            # Otherwise gRPC buffers megabytes of responses for a caller that does not read.
            ("grpc.http2.bdp_probe", 0),
        ]
        channel = grpc.insecure_channel(self.process.address, options)
        self._channels.append(channel)
        return channel

    def call(self, caller: Callable[..., Iterator[str]], *arguments: object) -> None:
        """Run a caller in a thread. It yields the result of each request; a refused call counts once."""

        def count() -> None:
            try:
                for answer in caller(*arguments):
                    self.answers[answer] += 1
            except grpc.RpcError as error:
                refusal = from_rpc_error(error)
                self.answers[f"{refusal.reason}, retry: {refusal.retry_after is not None}"] += 1

        self._threads.append(threading.Thread(target=count, daemon=True))
        self._threads[-1].start()

    def finish(self) -> None:
        """Resume the embedder after some time, and wait for all callers."""
        threading.Event().wait(HELD_SECONDS)
        self.embedder.go_on.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), f"a caller waits for an answer; so far there were {self.answers}"

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def processor_seconds(self) -> float:
        """Return the CPU seconds of the service."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int:
        """Return the peak memory of the service."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SearchProcess, SlowEmbedder]]:
    """One service for all attacks: an attack must leave nothing behind that breaks the next one."""
    embedder, folder = SlowEmbedder(), tmp_path_factory.mktemp("attacked")
    server = grpc.server(ThreadPoolExecutor(100), options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
    embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(embedder, server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    settings = {
        "milvus_uri": str(folder / "milvus.db"),
        "embedder_target": target,
        "metrics_address": f"127.0.0.1:{free_port()}",
    }
    with SearchProcess(folder / "log", **settings) as process:
        with grpc.insecure_channel(process.address) as channel:
            wanted = collection_pb2.Collection(name="photos", model="slow")
            request = collection_pb2.CreateCollectionRequest(collection=wanted)
            collection_pb2_grpc.CollectionServiceStub(channel).CreateCollection(request)
        yield process, embedder
    server.stop(0)


@pytest.fixture
def attacked(service: tuple[SearchProcess, SlowEmbedder]) -> Iterator[Attacked]:
    process, embedder = service
    # Reset the peak (proc(5), clear_refs).
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    embedder.go_on.clear()
    attacked = Attacked(process, embedder)
    yield attacked
    embedder.go_on.set()
    attacked.close()


def photograph_query() -> search_pb2.SearchRequest:
    return search_pb2.SearchRequest(collection="photos", limit=5, query=search_pb2.Query(image=PHOTOGRAPH))


def search_stream(channel: grpc.Channel, count: int) -> Iterator[str]:
    requests = (
        search_pb2.SearchStreamRequest(request_id=str(number), request=photograph_query()) for number in range(count)
    )
    responses = search_pb2_grpc.SearchServiceStub(channel).SearchStream(requests)
    answered = [response.request_id for response in responses if response.WhichOneof("result") == "response"]
    assert sorted(answered) == sorted(str(number) for number in range(count))
    yield from ["answered"] * len(answered)


def write_stream(channel: grpc.Channel, prefix: str, count: int) -> Iterator[str]:
    requests = (
        image_pb2.WriteImagesRequest(
            request_id=str(number), collection="photos", id=f"{prefix}-{number}", image=PHOTOGRAPH
        )
        for number in range(count)
    )
    responses = list(image_pb2_grpc.ImageServiceStub(channel).WriteImages(requests))
    assert [response.request_id for response in responses] == [str(number) for number in range(count)]
    yield from [response.WhichOneof("result") or "" for response in responses]


def search_once(channel: grpc.Channel) -> Iterator[str]:
    search_pb2_grpc.SearchServiceStub(channel).Search(photograph_query())
    yield "answered"


@pytest.mark.alone
def test_many_large_queries_of_one_stream_are_all_answered_in_bounded_memory(attacked: Attacked) -> None:
    attacked.call(search_stream, attacked.connect(), 100)
    attacked.finish()
    assert attacked.answers == {"answered": 100}
    assert attacked.peak_bytes() < MOST_BYTES


@pytest.mark.alone
def test_many_streams_and_calls_of_large_images_are_answered_or_refused_in_bounded_memory(attacked: Attacked) -> None:
    for number in range(8):
        channel = attacked.connect()
        for _ in range(4):
            attacked.call(search_stream, channel, 3)
        for _ in range(8):
            attacked.call(search_once, channel)
        for part in range(4):
            attacked.call(write_stream, channel, f"{number}-{part}", 3)
    attacked.finish()
    answers = attacked.answers
    refused = answers.pop("OVERLOADED, retry: True", 0)
    assert set(answers) <= {"answered", "written"}
    # Answered streams of three requests, and calls; a refused stream has no response.
    assert answers.total() + refused >= 64 + 64
    # The maximum number of open streams, and the calls that fit into the budget.
    assert answers.total() >= 12 * 3
    assert attacked.peak_bytes() < MOST_BYTES
    # Refused calls leave nothing behind.
    assert list(search_once(attacked.connect())) == ["answered"]


def vector_query(limit: int) -> search_pb2.SearchRequest:
    query = search_pb2.Query(embedding=VECTOR)
    return search_pb2.SearchRequest(collection="photos", limit=limit, query=query, view=image_pb2.IMAGE_VIEW_FULL)


@pytest.mark.alone
def test_callers_that_never_read_use_bounded_memory_and_delay_no_other_caller(attacked: Attacked) -> None:
    images = image_pb2_grpc.ImageServiceStub(attacked.connect())
    writes = (
        image_pb2.WriteImagesRequest(request_id="r", collection="photos", id=str(number), embedding=VECTOR)
        for number in range(STORED)
    )
    assert all(response.WhichOneof("result") == "written" for response in images.WriteImages(writes))
    unread = []
    for _ in range(8):
        requests = (
            search_pb2.SearchStreamRequest(request_id=str(number), request=vector_query(STORED))
            for number in range(256)
        )
        unread.append(search_pb2_grpc.SearchServiceStub(attacked.connect()).SearchStream(requests))
    # Wait until the service produces no more for callers that do not read. Responses in gRPC's buffer use the caller's
    # memory.
    deadline, seen = time.monotonic() + 60, 0.0
    while (used := attacked.processor_seconds()) - seen > 0.1:
        assert time.monotonic() < deadline, "the service goes on to make answers that nobody reads"
        seen = used
        time.sleep(1)
    searches = search_pb2_grpc.SearchServiceStub(attacked.connect())
    began = time.monotonic()
    for _ in range(5):
        assert len(searches.Search(vector_query(STORED), timeout=20).hits) == STORED
    assert time.monotonic() - began < 10
    assert attacked.peak_bytes() < MOST_BYTES
    for call in unread:
        call.cancel()


# This test stops the service, so it is the last one.
def test_metrics_are_served_until_the_last_call_has_ended(attacked: Attacked) -> None:
    address = attacked.process.metrics_address
    attacked.call(search_once, attacked.connect())
    wait_until(lambda: metric(address, "grpc_server_in_flight", grpc_method="Search") == 1)
    attacked.process.ask_to_stop()
    wait_until(lambda: metric(address, "grpc_server_draining") == 1)
    assert metric(address, "grpc_server_in_flight", grpc_method="Search") == 1
    assert metric(address, "grpc_server_serving") == 0
    attacked.embedder.go_on.set()
    wait_until(lambda: attacked.answers == {"answered": 1})
    assert attacked.process.stop() == 0
    with pytest.raises(ConnectionError):
        metric(address, "grpc_server_draining")


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.02)
