"""Searches by binary codes against searches by vectors: what they find, what they keep in memory, how long they take.

The vectors are VGG16's, of cuts and mirror images of photographs: those of scikit-image and of a folder of your own.
They are embedded once and kept in files, a part at a time, so that a run that is stopped goes on where it was. Queries
are further cuts, which are not stored. The truth is computed of all vectors.
"""

import argparse
import asyncio
import hashlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np
import skimage
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.search.v1 import collection_pb2
from imagesearch.types.v1 import encoded_image_pb2
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pymilvus import MilvusClient

from benchmarks.report import Report
from benchmarks.search_latency import DIMENSION, FINGERPRINT, fill, recall, service, wait_for_index
from benchmarks.serving import MAX_MESSAGE_BYTES, embedder
from demo.photographs import PHOTOGRAPHS
from grpc_kit.channel import open_channel
from imagesearch_analysis.codes import mean_vector, random_hyperplanes
from imagesearch_client import Client, Embedding, SearchOptions
from tests.milvus_server import MilvusProcess

PARTS = ("offline", "server")
SIZE = 50_000
QUERIES = 200
LIMIT = 10
BITS = (64, 128, 256, 512)
CANDIDATES = (50, 100, 200, 400)
# What is claimed.
CLAIMED_BITS, CLAIMED_CANDIDATES = 256, 100
NAME = "bench"
# Vectors in one file.
PART = 500
# A cut's part of each side, and the side of what is sent.
LEAST, MOST, SIDE = 0.4, 0.95, 256
FILES = ("*.jpg", "*.jpeg", "*.png")

Matrix: TypeAlias = NDArray[np.float32]


def sources(folder: Path | None) -> list[Path]:
    """The photographs that cuts are made of: scikit-image's, and those below a folder."""
    own = sorted(path for pattern in FILES for path in folder.rglob(pattern)) if folder is not None else []
    return [*(Path(skimage.__file__).parent / "data" / name for name in PHOTOGRAPHS), *own]


def cut(paths: Sequence[Path], number: int) -> bytes:
    """A JPEG file of one of any number of cuts, a half of them mirrored; the first of each photograph is the whole."""
    dice = random.Random(number)
    with Image.open(paths[number % len(paths)]) as image:
        picture = image.convert("RGB")
    if number >= len(paths):
        width, height = (max(32, round(dice.uniform(LEAST, MOST) * side)) for side in picture.size)
        left, top = dice.randint(0, max(0, picture.width - width)), dice.randint(0, max(0, picture.height - height))
        picture = picture.crop((left, top, left + width, top + height))
        if dice.random() < 0.5:  # noqa: PLR2004 - a half
            picture = ImageOps.mirror(picture)
    picture.thumbnail((2 * SIDE, 2 * SIDE))
    file = BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


async def embed(address: str, images: Sequence[bytes]) -> Matrix:
    """The vectors of some files, float32[N, 512]."""

    async def requests() -> AsyncIterator[embedder_pb2.EmbedStreamRequest]:
        for number, content in enumerate(images):
            yield embedder_pb2.EmbedStreamRequest(
                request_id=str(number), image=encoded_image_pb2.EncodedImage(content=content)
            )

    vectors = np.empty((len(images), DIMENSION), np.float32)
    async with open_channel(address, MAX_MESSAGE_BYTES) as channel:
        stub: embedder_pb2_grpc.EmbedderServiceAsyncStub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        async for response in stub.EmbedStream(requests()):
            if response.WhichOneof("result") != "embedding":
                raise RuntimeError(response.error.message)
            vectors[int(response.request_id)] = response.embedding.values
    return vectors


def embedded(folder: Path, paths: Sequence[Path], count: int) -> Matrix:
    """The vectors of the first cuts, float32[count, 512]; those that are in the folder are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = "".join(f"{path.parent.name}/{path.name} {path.stat().st_size}\n" for path in paths)
    of_these = hashlib.sha256(facts.encode()).hexdigest()[:12]
    parts = {begin: folder / f"cuts-{of_these}-{begin:07d}.npy" for begin in range(0, count, PART)}
    missing = {begin: path for begin, path in parts.items() if not path.exists()}
    if missing:
        with embedder() as (address, _):
            for begin, path in missing.items():
                images = [cut(paths, number) for number in range(begin, begin + PART)]
                partial = path.with_suffix(".part")
                with partial.open("wb") as file:
                    np.save(file, asyncio.run(embed(address, images)))
                partial.replace(path)
                print(f"embedded {begin + PART} of {count}")
    return np.concatenate([np.load(path) for path in parts.values()])[:count]


def coded(hyperplanes: Matrix, vectors: Matrix) -> NDArray[np.bool_]:
    """Return bool[N, bits]: the bits of vectors."""
    sides: NDArray[np.bool_] = vectors @ hyperplanes[:, :-1].T + hyperplanes[:, -1] > 0
    return sides


def found_offline(hyperplanes: Matrix, vectors: Matrix, queries: Matrix) -> dict[int, list[list[str]]]:
    """Return the hits of each query by the number of candidates that the codes select."""
    codes = coded(hyperplanes, vectors).astype(np.float32) * 2 - 1
    query_codes = coded(hyperplanes, queries).astype(np.float32) * 2 - 1
    found: dict[int, list[list[str]]] = {candidates: [] for candidates in CANDIDATES}
    for code, query in zip(query_codes, queries, strict=True):
        # The product grows with the number of equal bits.
        nearest = np.argsort(-(codes @ code), kind="stable")
        for candidates, hits in found.items():
            some = nearest[:candidates]
            best = some[np.argsort(-(vectors[some] @ query), kind="stable")[:LIMIT]]
            hits.append([f"i{number:06d}" for number in best])
    return found


def offline(report: Report, vectors: Matrix, queries: Matrix) -> None:
    """Report the recall by the number of bits and of candidates."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    for bits in BITS:
        for candidates, hits in found_offline(random_hyperplanes(mean, bits), vectors, queries).items():
            report.figure(f"offline_{bits}_bits_of_{candidates}", recall(hits, vectors, queries))


def on_a_server(report: Report, vectors: Matrix, queries: Matrix) -> None:
    """The same through the service on a Milvus server, beside HNSW."""
    with (
        TemporaryDirectory() as folder,
        MilvusProcess(Path(folder)) as server,
        service(server.uri) as (address, _),
        Client(address, timeout=120) as client,
    ):
        fill(address, NAME, vectors, collection_pb2.INDEX_TYPE_HNSW)
        wait_for_index(MilvusClient(uri=server.uri), NAME, len(vectors))
        began = time.perf_counter()
        mean = mean_vector(client, NAME)
        report.figure("mean_seconds", time.perf_counter() - began)
        client.create_codes(NAME, random_hyperplanes(mean, CLAIMED_BITS).tolist())
        began = time.perf_counter()
        *_, last = client.encode_images(NAME)
        report.figure("encoded_per_second", last.encoded / (time.perf_counter() - began))
        measure(report, client, vectors, queries, "hnsw", SearchOptions())
        recalls = {
            candidates: measure(
                report, client, vectors, queries, f"coarse_{candidates}", SearchOptions(coarse=candidates)
            )
            for candidates in CANDIDATES
        }
        (status,) = client.get_codes(NAME).sets
        report.figure("code_bytes", status.code_bytes)
        report.figure("vector_bytes", vectors.nbytes)
        report.ratio("recall_at_10", recalls[CLAIMED_CANDIDATES], ">= 0.95")
        report.ratio("memory_of_vectors_over_codes", vectors.nbytes / status.code_bytes, "64")


def measure(
    report: Report, client: Client, vectors: Matrix, queries: Matrix, label: str, options: SearchOptions
) -> float:
    """Recall, which it gives, and times of one kind of search, the queries one after the other."""
    found, times = [], []
    for query in queries:
        began = time.perf_counter()
        hits = client.search(NAME, Embedding(query.tolist(), FINGERPRINT), **options)
        times.append(time.perf_counter() - began)
        found.append([hit.image.id for hit in hits])
    report.figure(f"{label}_p50_seconds", statistics.median(times))
    part = recall(found, vectors, queries)
    report.figure(f"{label}_recall_at_10", part)
    return part


def main() -> None:
    """Measures, prints a table and writes the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.binary_codes", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE")
    parser.add_argument("--vectors", type=Path, metavar="FOLDER", required=True, help="where the vectors are kept")
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="photographs beside scikit-image's")
    parser.add_argument("--size", type=int, default=SIZE, help=f"stored vectors; default {SIZE}")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part; may be given again")
    options = parser.parse_args()
    paths = sources(options.photographs)
    vectors = embedded(options.vectors, paths, options.size + QUERIES)
    # Queries are cuts of any photographs, not the last ones of a round through them.
    order = np.random.default_rng(1).permutation(len(vectors))
    stored, queries = vectors[order[QUERIES:]], vectors[order[:QUERIES]]
    report = Report("binary_codes")
    report.figure("vectors", len(stored))
    report.figure("photographs", len(paths))
    parts = options.only or PARTS
    if "offline" in parts:
        offline(report, stored, queries)
        report.save(options.json)
    if "server" in parts:
        on_a_server(report, stored, queries)
    report.finish(options.json)


if __name__ == "__main__":
    main()
