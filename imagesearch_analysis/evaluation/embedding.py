"""Embeds files with a model of an embedder, each content once for each model."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import grpc
import numpy as np
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError, ServiceError
from grpc_kit.status import from_rpc_error
from imagesearch_analysis.evaluation.parted_vectors import record_of
from imagesearch_analysis.evaluation.task import Task
from imagesearch_analysis.evaluation.vector_cache import VectorCache, is_usable
from imagesearch_analysis.vectors import Floats
from imagesearch_client.types import Embedding
from imagesearch_ingest.event_loop import run_coroutine
from imagesearch_ingest.load.bulk_clients import BulkEmbedder, Endpoint, image_batch_limits
from imagesearch_ingest.load.image_reader import read_image
from imagesearch_ingest.load.in_flight_limit import InFlightLimit
from imagesearch_ingest.sources.items import Item
from imagesearch_ingest.sources.local_files import file_state, read_file

MODEL_SECONDS = 10.0
# The largest number of bytes of images in flight.
IN_FLIGHT_BYTES = 256 * 2**20
STREAMS = 4
# How long the embedder may be unavailable.
RETRY_SECONDS = 60.0
READERS = max(4, min(16, os.cpu_count() or 1))


@dataclass
class Embedded:
    """The outcome of embedding files."""

    fresh: int = 0
    """The number of images that this run embedded."""
    seconds: float = 0.0
    """The time for these images."""
    known: int = 0
    """The number of images whose vectors were in the cache."""
    failed: dict[str, str] = field(default_factory=dict)
    """The names of the files that failed, with the reason."""

    @property
    def images_per_second(self) -> float | None:
        """The speed; None if some vectors were in the cache, because the warm-up would dominate the time of a few."""
        return self.fresh / self.seconds if self.fresh and not self.known else None


def served_models(endpoint: Endpoint, names: Sequence[str] = ()) -> list[embedder_pb2.Model]:
    """Return the models of an embedder with these names, in any spelling; or all, sorted by name, without names.

    Raises ServiceError, CredentialsError.
    """

    async def request() -> list[embedder_pb2.Model]:
        async with endpoint.open() as channel:
            stub: embedder_pb2_grpc.EmbedderServiceAsyncStub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            try:
                if not names:
                    response = await stub.ListModels(embedder_pb2.ListModelsRequest(), timeout=MODEL_SECONDS)
                    return list(response.models)
                requests = [embedder_pb2.GetModelRequest(name=name) for name in names]
                return [(await stub.GetModel(request, timeout=MODEL_SECONDS)).model for request in requests]
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None

    return run_coroutine(request)


def digest_all(
    items: Sequence[Item], max_bytes: int, on_progress: Callable[[int], None] = lambda _: None
) -> tuple[list[str], dict[str, str]]:
    """Return the SHA-256 of each file, empty if it cannot be read; and the reason for each of those, by id."""
    digests, failed = [], {}

    def digest(item: Item) -> str | ServiceError:
        try:
            return _read(item, max_bytes)[1]
        except ServiceError as error:
            return error

    with ThreadPoolExecutor(READERS) as readers:
        for number, found in enumerate(readers.map(digest, items)):
            digests.append("" if isinstance(found, ServiceError) else found)
            if isinstance(found, ServiceError):
                failed[items[number].key] = f"{found.reason}: {found.message}"
            on_progress(number + 1)
    return digests, failed


def embed_all(
    endpoint: Endpoint,
    model: embedder_pb2.Model,
    files: Mapping[str, Item],
    on_vector: Callable[[str, Floats], None],
    on_progress: Callable[[int], None] = lambda _: None,
    on_wait: Callable[[str], None] = lambda _: None,
    *,
    max_regions: int | None = None,
) -> Embedded:
    """Embed any number of files, with a bounded number of them in memory.

    Args:
        endpoint: the embedder.
        model: a model that it serves.
        files: the files by name. A file with a `content_sha256` fails if its content has changed.
        on_vector: receives the name and the vector, float32[dimension], of each file as soon as it is embedded.
        on_progress: receives the number of images so far.
        on_wait: receives what the embedding waits for.
        max_regions: embed this many regions too; None embeds whole images only. Then a vector is a `record_of` the
            image, whose own vector comes first.

    Raises LoadStoppedError if the embedder is unavailable for too long, ServiceError if its model changes meanwhile,
    and the errors of `on_vector`. The error of a single image is in the result.
    """
    return run_coroutine(lambda: _embed_all(endpoint, model, files, on_vector, on_progress, on_wait, max_regions))


async def _embed_all(
    endpoint: Endpoint,
    model: embedder_pb2.Model,
    files: Mapping[str, Item],
    on_vector: Callable[[str, Floats], None],
    on_progress: Callable[[int], None],
    on_wait: Callable[[str], None],
    max_regions: int | None,
) -> Embedded:
    result = Embedded()
    limits = image_batch_limits(STREAMS)
    max_items = 2 * limits.concurrency * limits.max_requests
    in_flight = InFlightLimit(max_items, IN_FLIGHT_BYTES)
    pending = iter(files.items())
    started = time.perf_counter()
    done = 0

    async def embed_pending() -> None:
        nonlocal done
        for name, item in pending:
            size = item.size or 0
            await in_flight.acquire(size)
            try:
                vector = await _embed(embedder, readers, model, item, max_regions)
            except ServiceError as error:
                if error.reason == "EMBEDDING_MISMATCH":
                    raise
                result.failed[name] = f"{error.reason}: {error.message}"
            else:
                on_vector(name, vector)
                result.fresh += 1
            finally:
                in_flight.release(size)
            done += 1
            on_progress(done)

    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers:
        async with BulkEmbedder(endpoint, model.name, STREAMS, RETRY_SECONDS, on_wait) as embedder:
            workers = [asyncio.create_task(embed_pending()) for _ in range(max_items)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
    result.seconds = time.perf_counter() - started
    return result


async def _embed(
    embedder: BulkEmbedder, readers: ThreadPoolExecutor, model: embedder_pb2.Model, item: Item, max_regions: int | None
) -> Floats:
    loop = asyncio.get_running_loop()
    content, digest = await loop.run_in_executor(readers, _read, item, model.limits.max_image_bytes)
    if item.content_sha256 not in ("", digest):
        raise FailedPreconditionError("FILE_CHANGED", "the file changed while the command ran; run the command again")
    found = None if max_regions is None else await embedder.embed_regions(content, max_regions)
    embedding = await embedder.embed(content) if found is None else found.image
    fingerprint = model.fingerprint if found is None else model.region_fingerprint
    if embedding.fingerprint != fingerprint or len(embedding.values) != model.dimension:
        raise FailedPreconditionError(
            "EMBEDDING_MISMATCH",
            f"the embedder at {embedder.target} now serves another model {model.name}: its fingerprint is "
            f"{embedding.fingerprint} instead of {fingerprint}; run the command again",
        )
    vector = np.array(embedding.values, np.float32)
    if not is_usable(vector):
        raise InvalidArgumentError(
            "VECTOR_INVALID",
            f"the embedder at {embedder.target} returned a vector that is zero or not finite; model {model.name} "
            "cannot be measured with this image",
        )
    if found is None:
        return vector
    regions = [np.array(region.values, np.float32) for region in found.proposals]
    return record_of(vector, regions, max_regions or 0)


def _read(item: Item, max_bytes: int) -> tuple[bytes, str]:
    """Return the file of an image and its SHA-256. Raises ServiceError."""
    assert not isinstance(item.content, Embedding)  # noqa: S101 - folders contain files
    return read_image(item.content, max_bytes, item.size)


def embed_queries(
    endpoint: Endpoint, fingerprint: str, task: Task, on_progress: Callable[[int], None] = lambda _: None
) -> tuple[Task, dict[str, str]]:
    """Return the task with the vectors of the queries that are files, and the reasons of the queries that failed.

    Failed queries are left out of the task. Raises the errors of `embed_all`, and ServiceError if the embedder serves
    no model with the fingerprint.
    """
    files = [str(query.file) for query in task.queries if query.file is not None]
    if not files:
        return task, {}
    models = served_models(endpoint)
    model = next((model for model in models if fingerprint in (model.fingerprint, model.region_fingerprint)), None)
    if model is None:
        raise FailedPreconditionError(
            "EMBEDDING_MISMATCH",
            f"{len(files)} queries are files outside of the collection, whose fingerprint is {fingerprint}; the "
            f"embedder at {endpoint.target} serves {', '.join(f'{one.name} ({one.fingerprint})' for one in models)}",
        )
    vectors: dict[str, Floats] = {}
    items = {name: Item(name, name, partial(read_file, name), size=file_state(name)[0]) for name in files}
    regions = None if model.fingerprint == fingerprint else 0
    failed = embed_all(endpoint, model, items, vectors.__setitem__, on_progress, max_regions=regions).failed
    queries = [
        query if query.file is None else replace(query, vector=vectors[query.name])
        for query in task.queries
        if query.name not in failed
    ]
    return replace(task, queries=queries), failed


def embed_missing(
    endpoint: Endpoint,
    model: embedder_pb2.Model,
    files: Mapping[str, Item],
    cache: VectorCache,
    on_progress: Callable[[int], None] = lambda _: None,
    on_wait: Callable[[str], None] = lambda _: None,
    *,
    max_regions: int | None = None,
) -> Embedded:
    """Embed the files, by SHA-256, whose vectors are not in the cache, and put the vectors into the cache.

    `max_regions` is that of `embed_all`. Raises the errors of `embed_all`, and CacheError.
    """
    missing = {digest: replace(files[digest], content_sha256=digest) for digest in cache.missing(files)}
    known = len(files) - len(missing)
    on_progress(known)
    if not missing:
        return Embedded(known=known)
    result = embed_all(
        endpoint, model, missing, cache.put, lambda done: on_progress(known + done), on_wait, max_regions=max_regions
    )
    return replace(result, known=known)
