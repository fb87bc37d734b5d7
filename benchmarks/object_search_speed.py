"""Measures what regions cost: the latency of searches, the bytes of an image, and the rate of loads.

The searches and the bytes are measured with 100,000 images of 8 regions in Milvus 2.3.5. The vectors are random and
clustered. Each region resembles its image, as the regions of a photograph do, so a search has to read several regions
for each image that it returns. Everything is written and searched through the search service. `object_search` calls
this module: `python -m benchmarks.object_search --only searches --only loads`.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from imagesearch.search.v1 import filter_pb2, search_pb2, search_pb2_grpc
from imagesearch.types.v1 import embedding_pb2
from pymilvus import MilvusClient

from benchmarks.report import Report, percentile
from benchmarks.search_latency import (
    DIMENSION,
    FINGERPRINT,
    MAX_MESSAGE_BYTES,
    alternate,
    clustered,
    service,
    wait_for_index,
    wait_for_quiet,
)
from benchmarks.serving import embedder
from grpc_kit.channel import open_blocking_channel
from imagesearch_client import Client, Embedding, NewImage, Region, RegionEmbedding
from tests.milvus_server import MilvusProcess

IMAGES, REGIONS = 100_000, 8
# Standard deviation of the difference between the vectors of an image and of a region, in units of the vector's length.
# Two regions of one image then have a cosine of about 0.83.
SPREAD = 0.45
WRITERS = 4
QUERIES, CALLS, FILTERED_CALLS = 200, 200, 100
LIMIT = 10
NAME = "bench"
MODEL = "vgg16-max-native512"
PHOTOGRAPHS = 48
# Segments are closed when they are full. By default Milvus closes small ones, merges them later, and builds the index
# of every row twice, which takes a quarter of an hour.
FULL_SEGMENTS = {"dataCoord.segment.sealProportion": "1"}
MAX_LATENCY_RATIO, MIN_INGEST_RATIO = 2.0, 0.85
BOXES = [Region(x / 4, y / 4, x / 4 + 0.5, y / 4 + 0.5) for y in range(3) for x in range(3)][:REGIONS]


def searches(report: Report, rounds: int) -> None:
    """Measure the searches and the bytes of 100,000 images with regions."""
    with (
        TemporaryDirectory() as folder,
        MilvusProcess(Path(folder), settings=FULL_SEGMENTS) as server,
        service(server.uri) as (address, _),
    ):
        milvus = MilvusClient(uri=server.uri)
        began = time.perf_counter()
        fill(address)
        written = time.perf_counter()
        report.figure("region_rows_written_per_second", IMAGES * (1 + REGIONS) / (written - began))
        regions_name = next(name for name in milvus.list_collections() if name.startswith("_regions_"))
        wait_for_index(milvus, NAME, IMAGES)
        wait_for_index(milvus, regions_name, IMAGES * REGIONS)
        wait_for_quiet(server)
        report.figure("region_index_seconds", time.perf_counter() - written)
        image_bytes = disk_bytes(milvus, Path(folder), NAME) / IMAGES
        report.figure("bytes_an_image_without_regions", image_bytes)
        report.figure(
            "bytes_an_image_with_regions", image_bytes + disk_bytes(milvus, Path(folder), regions_name) / IMAGES
        )
        compare(report, address, rounds)


def compare(report: Report, address: str, rounds: int) -> None:
    """Compare searches of regions with searches of whole images, alternating."""
    vectors = clustered(QUERIES, seed=1)
    tenth = filter_pb2.Filter(
        equals=filter_pb2.Equals(attribute="part", value=filter_pb2.FilterValue(string_value="3"))
    )
    with open_blocking_channel(address, MAX_MESSAGE_BYTES) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)

        def asking(match: "search_pb2.Match.ValueType", **fields: Any) -> Callable[[int], search_pb2.SearchResponse]:
            requests = [
                search_pb2.SearchRequest(
                    collection=NAME,
                    query=search_pb2.Query(
                        embedding=embedding_pb2.Embedding(values=vector.tolist(), fingerprint=FINGERPRINT)
                    ),
                    limit=LIMIT,
                    match=match,
                    **fields,
                )
                for vector in vectors
            ]
            return lambda number: stub.Search(requests[number % QUERIES], timeout=60)

        kinds = {
            "images": asking(search_pb2.MATCH_IMAGES),
            "regions": asking(search_pb2.MATCH_REGIONS),
            "all": asking(search_pb2.MATCH_ALL),
            "images_filtered": asking(search_pb2.MATCH_IMAGES, filter=tenth),
            "regions_filtered": asking(search_pb2.MATCH_REGIONS, filter=tenth),
        }
        alternate(list(kinds.values()), CALLS // 2)
        times: dict[str, list[list[float]]] = {name: [] for name in kinds}
        for _ in range(rounds):
            for name, seconds in zip(kinds, alternate(list(kinds.values()), CALLS), strict=True):
                times[name].append(seconds)
        explained = asking(search_pb2.MATCH_REGIONS, explain=True)
        read = [explained(number).explanation.regions for number in range(QUERIES)]
    medians = {
        (name, percent): report.median(f"{name}_p{percent}_seconds", [percentile(seconds, percent) for seconds in each])
        for percent in (50, 95)
        for name, each in times.items()
    }
    report.figure("regions_read_mean", statistics.mean(one.regions for one in read))
    report.figure("region_searches_mean", statistics.mean(one.searches for one in read))
    report.ratio("latency_ratio", medians["regions", 95] / medians["images", 95], f"<= {MAX_LATENCY_RATIO}")


def fill(address: str) -> None:
    """Write the images with their regions through the service, over several streams."""
    with Client(address, timeout=600) as client:
        client.create_collection(NAME, dimension=DIMENSION, fingerprint=FINGERPRINT, max_regions=REGIONS)
        with ThreadPoolExecutor(WRITERS) as threads:
            for done in [threads.submit(_write, client, number) for number in range(WRITERS)]:
                done.result()


def _write(client: Client, writer: int) -> None:
    for result in client.write(NAME, _images(writer)):
        if result.error is not None:
            raise result.error


def _images(writer: int) -> Iterator[NewImage]:
    """Yield the images of one of the writers."""
    generator = np.random.default_rng(100 + writer)
    for number in range(writer, IMAGES, WRITERS):
        if number % (1000 * WRITERS) == writer:
            vectors = iter(clustered(1000, seed=number))
        whole = next(vectors)
        noise = generator.standard_normal((REGIONS, DIMENSION), dtype=np.float32)
        parts = whole + SPREAD / DIMENSION**0.5 * noise
        parts /= np.linalg.norm(parts, axis=1, keepdims=True)
        regions = [
            RegionEmbedding(box, Embedding(part, FINGERPRINT), 1.0) for box, part in zip(BOXES, parts, strict=True)
        ]
        attributes: dict[str, str | int] = {"number": number, "part": str(number % 10)}
        yield NewImage(f"i{number:06d}", Embedding(whole, FINGERPRINT), attributes=attributes, regions=regions)


def disk_bytes(milvus: MilvusClient, folder: Path, name: str) -> int:
    """Return the bytes of the rows and indexes of a Milvus collection, without segments that were merged into others.

    Milvus keeps the files of merged segments for some hours.
    """
    segments = {str(segment.segment_id) for segment in milvus.list_persistent_segments(name)}
    found = 0
    for kind in ("insert_log", "stats_log", "delta_log", "index_files"):
        for path in (folder / "data" / kind).rglob("*"):
            if path.is_file() and segments.intersection(path.parts):
                found += path.stat().st_size
    return found


def loads(report: Report, rounds: int, photographs: Sequence[Path]) -> None:
    """Load photographs with and without regions, alternating, with one embedder and Milvus 2.3.5."""
    rates: dict[int, list[float]] = {0: [], REGIONS: []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        source = folder / "photographs"
        source.mkdir()
        for number, path in enumerate(photographs):
            shutil.copy(path, source / f"{number:03d}{path.suffix}")
        milvus = stack.enter_context(MilvusProcess(folder / "milvus"))
        # Turn the embedder's cache off, so that every load embeds its images.
        embedder_address, _ = stack.enter_context(embedder(models=MODEL, cache_vectors="0"))
        address, _ = stack.enter_context(service(milvus.uri, embedder_address))
        # The first load is not measured: it warms the embedder up.
        for turn in range(rounds + 1):
            for max_regions, rate in rates.items():
                name = f"load_{turn}_{max_regions}"
                with Client(address, timeout=60) as client:
                    client.create_collection(name, model=MODEL, max_regions=max_regions)
                rate.append(_load(source, len(photographs), name, address, embedder_address, folder))
    plain, regions = rates[0][1:], rates[REGIONS][1:]
    report.median("plain_ingest_per_second", plain)
    report.median("region_ingest_per_second", regions)
    ratio = statistics.median(own / peer for own, peer in zip(regions, plain, strict=True))
    report.ratio("ingest_ratio", ratio, f">= {MIN_INGEST_RATIO}")


def _load(source: Path, count: int, name: str, address: str, embedder_address: str, folder: Path) -> float:
    """Return the images per second of one load."""
    options = ["-c", name, "--ledger", str(folder / f"{name}.ledger"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "imagesearch_cli", "ingest", str(source), *options],
        env=os.environ | {"IMAGESEARCH_TARGET": address, "IMAGESEARCH_EMBEDDER": embedder_address},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    account = json.loads(done.stdout)
    if account["stored"] != count:
        raise RuntimeError(f"not all were stored: {account}")
    return count / float(account["seconds"])
