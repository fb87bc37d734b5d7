"""Compares the search service with pymilvus: overhead, throughput, recall and paging, on a Milvus server and on Lite.

The vectors are clustered, like those of photographs. Both sides ask for ten hits with id, uri and attributes, with the
same consistency and index parameters. pymilvus runs in this process with the same number of threads.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import grpc
import numpy as np
from imagesearch.search.v1 import collection_pb2, collection_pb2_grpc, search_pb2, search_pb2_grpc
from imagesearch.types.v1 import embedding_pb2
from numpy.typing import NDArray
from pymilvus import MilvusClient

from benchmarks import photographs
from benchmarks.report import Report, arguments, percentile
from benchmarks.serving import embedder, processor_seconds, resident_bytes
from demo.local_stack import ServiceProcess, free_port
from grpc_kit.channel import open_blocking_channel
from imagesearch_analysis.exact_search import nearest
from imagesearch_analysis.vectors import ArrayVectors
from imagesearch_client import Client, Embedding, ImageFile, Metric, NewImage
from tests.milvus_server import MilvusProcess

PARTS = ("server", "lite", "image", "paging")
DIMENSION = 512
FINGERPRINT = "benchmark"
SIZE = 100_000
LITE_SIZES = (1_000, 10_000, 50_000)
CLUSTERS = 500
QUERIES = 200
CALLS = 200
LITE_CALLS = 50
CALLERS = 8
SECONDS = 8.0
LIMIT = 10
EFS = (16, 32, 64, 128, 256, 512)
MANY = 1000
PAGED = 50_000
IMAGES = 64
STABLE_CHECKS = 3
QUIET_SECONDS = 60
# Fraction of one CPU.
QUIET_SHARE = 0.1
MAX_MESSAGE_BYTES = 24 * 1024 * 1024
FIELDS = ["id", "uri", "attributes", "content_sha256", "create_time", "update_time"]

Matrix: TypeAlias = NDArray[np.float32]


def clustered(count: int, seed: int = 0) -> Matrix:
    """Return unit vectors around centres, float32[count, 512]."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(CLUSTERS, DIMENSION)).astype(np.float32)
    noise = generator.normal(size=(count, DIMENSION)).astype(np.float32)
    vectors = centres[generator.integers(0, CLUSTERS, count)] + 0.7 * noise
    unit: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@contextmanager
def service(milvus_uri: str, embedder_address: str = "127.0.0.1:1") -> Iterator[tuple[str, int]]:
    """Run a search service with default settings; yield its address and process id."""
    address = f"127.0.0.1:{free_port()}"
    environment = {
        "SEARCH_LISTEN_ADDRESS": address,
        "SEARCH_MILVUS_URI": milvus_uri,
        "SEARCH_EMBEDDER_TARGET": embedder_address,
    }
    with (
        TemporaryDirectory() as folder,
        ServiceProcess("search_service", address, environment, Path(folder) / "log") as process,
    ):
        yield address, process.pid


@dataclass(frozen=True)
class Bench:
    """A collection to search through the service and through pymilvus."""

    name: str
    address: str
    queries: Matrix
    stub: search_pb2_grpc.SearchServiceStub
    milvus: MilvusClient | None
    """None if only the service can open the store, as with Milvus Lite."""

    def request(self, number: int, **fields: Any) -> search_pb2.SearchRequest:
        """Return the request for a query."""
        vector = self.queries[number % len(self.queries)]
        embedding = embedding_pb2.Embedding(values=vector.tolist(), fingerprint=FINGERPRINT)
        asked = {"limit": LIMIT, **fields}
        return search_pb2.SearchRequest(collection=self.name, query=search_pb2.Query(embedding=embedding), **asked)

    def by_service(self, number: int, **fields: Any) -> list[str]:
        """Return the ids of the hits of a query, through the service."""
        return [hit.image.id for hit in self.stub.Search(self.request(number, **fields), timeout=60).hits]

    def by_pymilvus(self, number: int, ef: int = 128) -> list[str]:
        """Return the ids of the hits of a query, through pymilvus."""
        assert self.milvus is not None  # noqa: S101 - only parts with a Milvus server call this
        (hits,) = self.milvus.search(
            self.name,
            data=[self.queries[number % len(self.queries)]],
            limit=LIMIT,
            output_fields=FIELDS,
            search_params={"metric_type": "COSINE", "params": {"ef": ef}},
            consistency_level="Bounded",
            timeout=60,
        )
        return [hit["id"] for hit in hits]

    def by_stream(self, seconds: float) -> float:
        """Return the queries per second of one SearchStream."""
        end = time.perf_counter() + seconds

        def requests() -> Iterator[search_pb2.SearchStreamRequest]:
            for number in itertools.count():
                if time.perf_counter() > end:
                    return
                yield search_pb2.SearchStreamRequest(request_id=str(number), request=self.request(number))

        began = time.perf_counter()
        answered = 0
        for response in self.stub.SearchStream(requests()):
            if response.WhichOneof("result") != "response":
                raise RuntimeError(response.error.message)
            answered += 1
        return answered / (time.perf_counter() - began)


def one_by_one(ask: Callable[[int], object], calls: int = CALLS) -> list[float]:
    """Return the seconds of sequential calls."""
    return [_seconds_of(ask, number) for number in range(calls)]


def _seconds_of(ask: Callable[[int], object], number: int) -> float:
    began = time.perf_counter()
    ask(number)
    return time.perf_counter() - began


def alternate(asks: Sequence[Callable[[int], object]], calls: int = CALLS) -> list[list[float]]:
    """Return the seconds of alternating calls of several kinds, so that a slower machine slows all of them."""
    times: list[list[float]] = [[] for _ in asks]
    for number in range(calls):
        for ask, own in zip(asks, times, strict=True):
            own.append(_seconds_of(ask, number))
    return times


def concurrent_rate(ask: Callable[[int], object], callers: int, seconds: float) -> float:
    """Return the calls per second of concurrent callers that each call again after each response."""
    end = time.perf_counter() + seconds

    def call(caller: int) -> int:
        done = 0
        while time.perf_counter() < end:
            ask(caller * 1000 + done)
            done += 1
        return done

    began = time.perf_counter()
    with ThreadPoolExecutor(callers) as threads:
        total = sum(threads.map(call, range(callers)))
    return total / (time.perf_counter() - began)


def fill(address: str, name: str, vectors: Matrix, index: "collection_pb2.IndexType.ValueType") -> None:
    """Create a collection and write the vectors through the service."""
    wanted = collection_pb2.Collection(
        name=name, dimension=DIMENSION, fingerprint=FINGERPRINT, index=collection_pb2.Index(type=index)
    )
    with open_blocking_channel(address, MAX_MESSAGE_BYTES) as channel:
        stub = collection_pb2_grpc.CollectionServiceStub(channel)
        stub.CreateCollection(collection_pb2.CreateCollectionRequest(collection=wanted), timeout=60)
    with Client(address, timeout=60) as client:
        images = (
            NewImage(f"i{number:06d}", Embedding(vector.tolist(), FINGERPRINT), attributes={"number": number})
            for number, vector in enumerate(vectors)
        )
        for result in client.write(name, images):
            if result.error is not None:
                raise result.error


def wait_for_index(milvus: MilvusClient, name: str, count: int) -> None:
    """Wait until Milvus has sealed, compacted and indexed all rows. Before that it searches without the index."""
    milvus.flush(name)
    job = milvus.compact(name)
    quiet = 0
    # A compaction creates new segments, and Milvus starts to index them some time later.
    while quiet < STABLE_CHECKS:
        time.sleep(2)
        index = milvus.describe_index(name, "vector")
        built = int(index.get("indexed_rows", 0)) >= count and not int(index.get("pending_index_rows", 0))
        quiet = quiet + 1 if built and milvus.get_compaction_state(job) == "Completed" else 0
    milvus.release_collection(name)
    milvus.load_collection(name)


def wait_for_quiet(server: MilvusProcess) -> None:
    """Wait until Milvus is idle. Some time after a load it merges segments and indexes them again."""
    pid, quiet = server.pid, 0
    if pid is None:
        raise RuntimeError("Milvus is not running")
    while quiet < QUIET_SECONDS:
        before = processor_seconds(pid)
        time.sleep(2)
        quiet = quiet + 2 if processor_seconds(pid) - before < 2 * QUIET_SHARE else 0


def recall(found: Sequence[Sequence[str]], vectors: Matrix, queries: Matrix, limit: int = LIMIT) -> float:
    """Return the fraction of the true nearest neighbors that was found."""
    truth = nearest(ArrayVectors(vectors, Metric.IP), queries, limit).positions
    true_ids = [{f"i{number:06d}" for number in row} for row in truth]
    return statistics.mean(len(ids & set(hits)) / limit for ids, hits in zip(true_ids, found, strict=True))


def compare(report: Report, bench: Bench, rounds: int, label: str) -> None:
    """Measure latency and throughput of both sides, alternating."""
    figures: dict[str, list[float]] = {name: [] for name in ("service", "pymilvus", "calls", "peer", "stream")}
    for _ in range(rounds):
        for name, times in zip(("pymilvus", "service"), alternate((bench.by_pymilvus, bench.by_service)), strict=True):
            figures[name].append(percentile(times, 50))
        figures["peer"].append(concurrent_rate(bench.by_pymilvus, CALLERS, SECONDS))
        figures["calls"].append(concurrent_rate(bench.by_service, CALLERS, SECONDS))
        figures["stream"].append(bench.by_stream(SECONDS))
    peer = report.median(f"{label}_pymilvus_p50_seconds", figures["pymilvus"])
    own = report.median(f"{label}_search_p50_seconds", figures["service"])
    peer_rate = report.median(f"{label}_pymilvus_{CALLERS}_threads_per_second", figures["peer"])
    rate = report.median(f"{label}_search_{CALLERS}_callers_per_second", figures["calls"])
    stream_rate = report.median(f"{label}_search_stream_per_second", figures["stream"])
    report.ratio("overhead_ms", 1000 * (own - peer), "<= 1.5")
    report.ratio("unary_over_pymilvus", rate / peer_rate, ">= 0.85")
    report.ratio("stream_over_pymilvus", stream_rate / peer_rate, ">= 1.0")


def on_a_server(report: Report, rounds: int) -> None:
    """Measure 100,000 vectors in Milvus 2.3.5 with the default index."""
    vectors, queries = clustered(SIZE), clustered(QUERIES, seed=1)
    with TemporaryDirectory() as folder, MilvusProcess(Path(folder)) as server, service(server.uri) as (address, _):
        milvus = MilvusClient(uri=server.uri)
        began = time.perf_counter()
        fill(address, "bench", vectors, collection_pb2.INDEX_TYPE_UNSPECIFIED)
        report.figure("server_writes_per_second", SIZE / (time.perf_counter() - began))
        wait_for_index(milvus, "bench", SIZE)
        wait_for_quiet(server)
        with open_blocking_channel(address, MAX_MESSAGE_BYTES) as channel:
            bench = Bench("bench", address, queries, search_pb2_grpc.SearchServiceStub(channel), milvus)
            one_by_one(bench.by_service)
            one_by_one(bench.by_pymilvus)
            compare(report, bench, rounds, "server")
            found = [bench.by_service(number) for number in range(QUERIES)]
            report.ratio("recall_at_10", recall(found, vectors, queries), ">= 0.99")
            for ef in EFS:
                parameters = search_pb2.SearchParameters(ef=ef)
                times = one_by_one(lambda number, p=parameters: bench.by_service(number, parameters=p))  # type: ignore[misc]
                report.figure(f"server_ef_{ef}_p50_seconds", percentile(times, 50))
                found = [bench.by_service(number, parameters=parameters) for number in range(QUERIES)]
                report.figure(f"server_ef_{ef}_recall_at_10", recall(found, vectors, queries))
            many = one_by_one(lambda number: bench.by_service(number, limit=MANY), LITE_CALLS)
            report.figure(f"server_limit_{MANY}_p50_seconds", percentile(many, 50))
            found = [bench.by_service(number, limit=MANY) for number in range(LITE_CALLS)]
            report.figure(f"server_recall_at_{MANY}", recall(found, vectors, queries[:LITE_CALLS], MANY))


def on_lite(report: Report, rounds: int) -> None:
    """Measure Milvus Lite by collection size. Only one process can open the file, so both sides open it alternately.

    Both open a closed file, so that all rows are in data files for both.
    """
    queries = clustered(QUERIES, seed=1)
    for size in LITE_SIZES:
        with TemporaryDirectory() as folder:
            path = str(Path(folder) / "milvus.db")
            with lite_service(path, queries) as bench:
                began = time.perf_counter()
                fill(bench.address, "bench", clustered(size), collection_pb2.INDEX_TYPE_AUTOINDEX)
                report.figure(f"lite_{size}_writes_per_second", size / (time.perf_counter() - began))
                one_by_one(bench.by_service, 10)
                just_filled = percentile(one_by_one(bench.by_service, LITE_CALLS), 50)
                report.figure(f"lite_{size}_just_filled_p50_seconds", just_filled)
            own_times, peer_times = [], []
            for _ in range(rounds):
                with lite_service(path, queries) as bench:
                    one_by_one(bench.by_service, 10)
                    own_times.append(percentile(one_by_one(bench.by_service, LITE_CALLS), 50))
                peer_times.append(lite_alone(path, queries))
            own = report.median(f"lite_{size}_search_p50_seconds", own_times)
            peer = report.median(f"lite_{size}_pymilvus_p50_seconds", peer_times)
            with lite_service(path, queries) as bench:
                rates = [concurrent_rate(bench.by_service, CALLERS, SECONDS / 2) for _ in range(rounds)]
                report.median(f"lite_{size}_search_{CALLERS}_callers_per_second", rates)
                streams = [bench.by_stream(SECONDS / 2) for _ in range(rounds)]
                stream = report.median(f"lite_{size}_search_stream_per_second", streams)
            report.figure(f"lite_{size}_gathering_gains", stream * own)
            if size == 10_000:  # noqa: PLR2004 - the size of the target
                report.ratio("lite_overhead_ms", 1000 * (own - peer), "<= 1.5")


@contextmanager
def lite_service(path: str, queries: Matrix) -> Iterator[Bench]:
    """Run a search service on a file of Milvus Lite."""
    with service(path) as (address, _), open_blocking_channel(address, MAX_MESSAGE_BYTES) as channel:
        yield Bench("bench", address, queries, search_pb2_grpc.SearchServiceStub(channel), None)


def lite_alone(path: str, queries: Matrix) -> float:
    """Return the p50 of pymilvus with a file of Milvus Lite, in this process."""
    milvus = MilvusClient(uri=path)
    milvus.load_collection("bench")
    with grpc.insecure_channel("127.0.0.1:1") as nowhere:
        bench = Bench("bench", "", queries, search_pb2_grpc.SearchServiceStub(nowhere), milvus)
        one_by_one(bench.by_pymilvus, 10)
        p50 = percentile(one_by_one(bench.by_pymilvus, LITE_CALLS), 50)
    milvus.close()
    from milvus_lite.server_manager import server_manager_instance  # noqa: PLC0415 - not needed with a server

    server_manager_instance.release_server(path)
    return p50


def by_image(report: Report, rounds: int) -> None:
    """Compare a search by image with an embedding followed by a search by vector."""
    images = photographs.jpegs(IMAGES)
    vectors = clustered(1000)
    figures: dict[str, list[float]] = {"embed": [], "vector": [], "image": []}
    with (
        TemporaryDirectory() as folder,
        embedder() as (embedder_address, _),
        service(str(Path(folder) / "milvus.db"), embedder_address) as (address, _),
        Client(address) as client,
        open_blocking_channel(embedder_address, MAX_MESSAGE_BYTES) as channel,
    ):
        fingerprint = client.create_collection("bench").fingerprint
        new = (NewImage(f"i{n}", Embedding(vector.tolist(), fingerprint)) for n, vector in enumerate(vectors))
        for result in client.write("bench", new):
            if result.error is not None:
                raise result.error
        one, embed = Embedding(vectors[0].tolist(), fingerprint), _embed_call(channel)
        calls: dict[str, Callable[[int], object]] = {
            "embed": lambda number: embed(images[number]),
            "vector": lambda _: client.search("bench", one),
            "image": lambda number: client.search("bench", ImageFile(images[number])),
        }
        for _ in range(rounds):
            for name, times in zip(calls, alternate(list(calls.values()), IMAGES), strict=True):
                figures[name].append(percentile(times, 50))
    parts = [report.median(f"{name}_p50_seconds", figures[name]) for name in ("embed", "vector", "image")]
    report.ratio("image_over_parts", parts[2] / (parts[0] + parts[1]), "<= 1.15")


def _embed_call(channel: grpc.Channel) -> Callable[[bytes], object]:
    from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc  # noqa: PLC0415
    from imagesearch.types.v1 import encoded_image_pb2  # noqa: PLC0415

    stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
    return lambda content: stub.Embed(
        embedder_pb2.EmbedRequest(image=encoded_image_pb2.EncodedImage(content=content)), timeout=60
    )


def paging(report: Report) -> None:
    """Read all of 50,000 hits in pages, from a Milvus server."""
    vectors = clustered(PAGED)
    with TemporaryDirectory() as folder, MilvusProcess(Path(folder)) as server, service(server.uri) as (address, pid):
        fill(address, "bench", vectors, collection_pb2.INDEX_TYPE_HNSW)
        wait_for_index(MilvusClient(uri=server.uri), "bench", PAGED)
        with Client(address, timeout=120) as client:
            query = Embedding(clustered(1, seed=1)[0].tolist(), FINGERPRINT)
            client.search("bench", query, limit=1000)
            before, began = resident_bytes(pid), time.perf_counter()
            ids = [hit.image.id for hit in client.search_all("bench", query, limit=1000)]
            report.figure("paging_hits", len(ids), str(PAGED))
            report.figure("paging_repeats", len(ids) - len(set(ids)), "0")
            report.figure("paging_gaps", PAGED - len(set(ids)), "0")
            report.figure("paging_page_of_1000_seconds", (time.perf_counter() - began) / (PAGED / 1000))
            report.figure("paging_memory_growth_mb", (resident_bytes(pid) - before) / 1e6, "flat")


def main() -> None:
    """Measure, print the table and write the report."""
    options = arguments("search_latency", __doc__, PARTS)
    parts = options.only or list(PARTS)
    report = Report("search_latency")
    measures: dict[str, Callable[[], None]] = {
        "server": lambda: on_a_server(report, options.rounds),
        "lite": lambda: on_lite(report, options.rounds),
        "image": lambda: by_image(report, options.rounds),
        "paging": lambda: paging(report),
    }
    for part in parts:
        measures[part]()
        report.save(options.json)
    report.finish(options.json)


if __name__ == "__main__":
    main()
