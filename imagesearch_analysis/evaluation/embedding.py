"""Embeds files by the models of an embedder, each content once for each model."""

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
from imagesearch_analysis.evaluation.ranking import Vectors
from imagesearch_analysis.evaluation.task import Task
from imagesearch_analysis.evaluation.vector_cache import VectorCache, is_usable
from imagesearch_client.types import Embedding
from imagesearch_ingest.event_loop import run_coroutine
from imagesearch_ingest.load.bulk_clients import BulkEmbedder, Endpoint, image_batch_limits
from imagesearch_ingest.load.image_reader import read_image
from imagesearch_ingest.load.in_flight_limit import InFlightLimit
from imagesearch_ingest.sources.items import Item
from imagesearch_ingest.sources.local_files import file_state, read_file

STATE_SECONDS = 10.0
# Bytes of files under way.
WINDOW_BYTES = 256 * 2**20
# Calls at a time, and seconds for which an embedder may be away.
STREAMS = 4
PATIENCE = 60.0
READERS = max(4, min(16, os.cpu_count() or 1))


@dataclass
class Embedded:
    """What came of embedding files."""

    fresh: int = 0
    """Images that were embedded now, and not before."""
    seconds: float = 0.0
    """That it took for these."""
    known: int = 0
    """Images that had been embedded before."""
    failed: dict[str, str] = field(default_factory=dict)
    """What is wrong with an image, by what it is called among the files."""

    @property
    def images_per_second(self) -> float | None:
        """None where not all were embedded now: of a few most of the time is that of warming up."""
        return self.fresh / self.seconds if self.fresh and not self.known else None


def served_models(endpoint: Endpoint, names: Sequence[str] = ()) -> list[embedder_pb2.Model]:
    """Return an embedder's models with these names, in any spelling, or all of them by name if there are no names.

    Raises ServiceError, CredentialsError.
    """

    async def ask() -> list[embedder_pb2.Model]:
        async with endpoint.open() as channel:
            stub: embedder_pb2_grpc.EmbedderServiceAsyncStub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            try:
                if not names:
                    answer = await stub.ListModels(embedder_pb2.ListModelsRequest(), timeout=STATE_SECONDS)
                    return list(answer.models)
                requests = [embedder_pb2.GetModelRequest(name=name) for name in names]
                return [(await stub.GetModel(request, timeout=STATE_SECONDS)).model for request in requests]
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None

    return run_coroutine(ask)


def digest_all(
    items: Sequence[Item], max_bytes: int, tell: Callable[[int], None] = lambda _: None
) -> tuple[list[str], dict[str, str]]:
    """The SHA-256 of each file, empty where it cannot be read; and what is wrong with those, by id."""
    digests, faults = [], {}

    def digest(item: Item) -> str | ServiceError:
        try:
            return _read(item, max_bytes)[1]
        except ServiceError as error:
            return error

    with ThreadPoolExecutor(READERS) as readers:
        for number, found in enumerate(readers.map(digest, items)):
            digests.append("" if isinstance(found, ServiceError) else found)
            if isinstance(found, ServiceError):
                faults[items[number].key] = f"{found.reason}: {found.message}"
            tell(number + 1)
    return digests, faults


def embed_all(
    endpoint: Endpoint,
    model: embedder_pb2.Model,
    files: Mapping[str, Item],
    keep: Callable[[str, Vectors], None],
    tell: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Embedded:
    """Embeds files, any number of them with a bounded number in memory.

    Args:
        endpoint: the embedder.
        model: one that it serves.
        files: by what they are to be called. One that has a `content_sha256` fails where it has another content now.
        keep: gets each name and vector, float32 [D], as soon as it is there.
        tell: is told the images so far.
        say: is told what is waited for.

    Raises LoadStoppedError where the embedder is away, ServiceError where it changes its model meanwhile, and what
    `keep` raises. An error of one image is in the answer.
    """
    return run_coroutine(lambda: _embed_all(endpoint, model, files, keep, tell, say))


async def _embed_all(
    endpoint: Endpoint,
    model: embedder_pb2.Model,
    files: Mapping[str, Item],
    keep: Callable[[str, Vectors], None],
    tell: Callable[[int], None],
    say: Callable[[str], None],
) -> Embedded:
    found = Embedded()
    calls = image_batch_limits(STREAMS)
    most = 2 * calls.concurrency * calls.max_requests
    window = InFlightLimit(most, WINDOW_BYTES)
    waiting = iter(files.items())
    began = time.perf_counter()
    done = 0

    async def work() -> None:
        nonlocal done
        for digest, item in waiting:
            size = item.size or 0
            await window.acquire(size)
            try:
                vector = await _embed(embedders, readers, model, item)
            except ServiceError as error:
                if error.reason == "EMBEDDING_MISMATCH":
                    raise
                found.failed[digest] = f"{error.reason}: {error.message}"
            else:
                keep(digest, vector)
                found.fresh += 1
            finally:
                window.release(size)
            done += 1
            tell(done)

    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers:
        async with BulkEmbedder(endpoint, model.name, STREAMS, PATIENCE, say) as embedders:
            workers = [asyncio.create_task(work()) for _ in range(most)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
    found.seconds = time.perf_counter() - began
    return found


async def _embed(
    embedders: BulkEmbedder, readers: ThreadPoolExecutor, model: embedder_pb2.Model, item: Item
) -> Vectors:
    loop = asyncio.get_running_loop()
    content, digest = await loop.run_in_executor(readers, _read, item, model.limits.max_image_bytes)
    if item.content_sha256 not in ("", digest):
        raise FailedPreconditionError("FILE_CHANGED", "it was changed while the command ran; run the command again")
    embedding = await embedders.embed(content)
    if embedding.fingerprint != model.fingerprint or len(embedding.values) != model.dimension:
        raise FailedPreconditionError(
            "EMBEDDING_MISMATCH",
            f"the embedder at {embedders.target} now has another model {model.name}, of the fingerprint "
            f"{embedding.fingerprint} and not {model.fingerprint}; run the command again",
        )
    vector = np.array(embedding.values, np.float32)
    if not is_usable(vector):
        raise InvalidArgumentError(
            "VECTOR_INVALID",
            f"the embedder at {embedders.target} sent a vector that is zero or not finite; model {model.name} cannot "
            "be measured with this image",
        )
    return vector


def _read(item: Item, max_bytes: int) -> tuple[bytes, str]:
    """An image's file and its SHA-256. Raises ServiceError."""
    assert not isinstance(item.content, Embedding)  # noqa: S101 - folders have files
    return read_image(item.content, max_bytes, item.size)


def embed_queries(
    endpoint: Endpoint, fingerprint: str, task: Task, tell: Callable[[int], None] = lambda _: None
) -> tuple[Task, dict[str, str]]:
    """Gives the queries that are files their vectors; those that cannot be embedded are left out, and named with why.

    Raises as `embed_all`, and ServiceError where the embedder serves no model of the fingerprint.
    """
    files = [str(query.file) for query in task.queries if query.file is not None]
    if not files:
        return task, {}
    models = served_models(endpoint)
    model = next((model for model in models if model.fingerprint == fingerprint), None)
    if model is None:
        raise FailedPreconditionError(
            "EMBEDDING_MISMATCH",
            f"{len(files)} queries are files that are not in the collection, whose fingerprint is {fingerprint}; the "
            f"embedder at {endpoint.target} serves {', '.join(f'{one.name} ({one.fingerprint})' for one in models)}",
        )
    vectors: dict[str, Vectors] = {}
    items = {name: Item(name, name, partial(read_file, name), size=file_state(name)[0]) for name in files}
    failed = embed_all(endpoint, model, items, vectors.__setitem__, tell).failed
    asked = [
        query if query.file is None else replace(query, vector=vectors[query.name])
        for query in task.queries
        if query.name not in failed
    ]
    return replace(task, queries=asked), failed


def embed_missing(
    endpoint: Endpoint,
    model: embedder_pb2.Model,
    files: Mapping[str, Item],
    cache: VectorCache,
    tell: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Embedded:
    """Embeds those files, by their SHA-256, whose vectors the cache does not have, into it; see `embed_all`.

    Raises CacheError too.
    """
    missing = {digest: replace(files[digest], content_sha256=digest) for digest in cache.missing(files)}
    known = len(files) - len(missing)
    tell(known)
    if not missing:
        return Embedded(known=known)
    found = embed_all(endpoint, model, missing, cache.put, lambda done: tell(known + done), say)
    return replace(found, known=known)
