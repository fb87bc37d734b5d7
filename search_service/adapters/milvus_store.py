"""Collections of images in Milvus: Milvus Lite in a local file, or a Milvus server or cluster.

One Milvus collection for each collection of the service. What Milvus has no place for (fingerprint, model, labels) is
kept as JSON in a property of it; a Milvus collection without that property is not one of the service's. (A schema's
description would be the natural place, but Milvus Lite forgets it.)
"""

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import grpc
import structlog
from pymilvus import AsyncMilvusClient, MilvusClient
from pymilvus.exceptions import MilvusException
from pymilvus.milvus_client.index import IndexParams

from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, InternalError, NotFoundError, ServiceError, UnavailableError
from grpc_kit.server.hang_watch import HangWatch
from search_service.adapters.lite_files import remove_broken_indexes
from search_service.adapters.milvus_codes import MilvusCodes, is_side
from search_service.adapters.milvus_connection import MilvusConnection
from search_service.adapters.milvus_errors import access_denied, filter_too_large, meaning_of, timed_out, unavailable
from search_service.adapters.milvus_filters import Expressions, ids_expression, seconds_on_lite
from search_service.adapters.milvus_loading import MilvusLoading
from search_service.adapters.milvus_rows import (
    FIELDS,
    PROPERTY,
    REINDEX_PROPERTY,
    VECTOR,
    build_parameters,
    collection_of,
    image_of,
    notes_of,
    reindex_notes,
    row_of,
    schema_of,
)
from search_service.adapters.milvus_search import MilvusSearch
from search_service.core.checks import (
    collection_exists,
    collection_not_found,
)
from search_service.core.filters import Filter, IdAfter, Not, UpdatedWithin, both, size_of
from search_service.core.image_locks import StillRunningError
from search_service.core.ports import Nearest
from search_service.core.types import (
    Alias,
    Collection,
    Consistency,
    Hit,
    Index,
    IndexType,
    Reindex,
    SearchParameters,
    StoredImage,
    Vector,
    View,
)

log = structlog.stdlib.get_logger()

Result = TypeVar("Result")
# What pymilvus' methods take beside what they are called with.
Options: TypeAlias = dict[str, Any]
# Milvus Lite walks through the rows that it has not written to a data file one by one at each search: 10,000 of them
# take 0.3 s, and as files 12 ms. It reads this when it is first imported. This holds a hundred rows of 512 components.
LITE_MEMTABLE = "MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES"
LITE_MEMTABLE_BYTES = 256 * 1024
# Beyond a call's time, for gRPC to say itself that it is over.
GRACE_SECONDS = 0.1
# Milvus Lite works on at a write when its caller has given up, beside the next one. So nobody gives up there: who waits
# for the call is told in time all the same.
LITE_SECONDS = 3600.0
# pymilvus sends a keepalive ping after 10 s of silence. Milvus Lite's server allows one in 5 minutes, and closes the
# connection of a client that sends more ("too_many_pings"). Both are in this process, so no pings: 24 days is never.
LITE_CHANNEL = {"grpc.keepalive_time_ms": 2**31 - 1}
# Milvus Lite's code and the server's, of an alias that is not there.
ALIAS_NOT_FOUND = (100, 1600)
# For removing what was half made, when the call's own time may be over.
CLEANING_SECONDS = 2.0
# Conditions and values of a filter that Milvus Lite answers in time for as many images as it is made for.
SMALL_FILTER = 64
# Bytes of vectors that a search reads to compare every one: a million of 512 components.
MAX_EXACT_BYTES = 2 * 1024**3
# Collections that a server loads at a time when the service starts.
LOADERS = 8


@dataclass(frozen=True)
class _Clients:
    """Two connections to one Milvus."""

    blocking: MilvusClient
    """For a pool of threads: it can do everything."""
    reading: AsyncMilvusClient
    """For the event loop: a search takes a third of the time off the processor that one in a thread takes."""


class MilvusStore:
    """A vector store in Milvus. Rows are read on the event loop; all else pymilvus does in a pool of threads."""

    def __init__(
        self,
        milvus: MilvusConnection | str,
        *,
        timeout: float = 10.0,
        threads: int = 8,
        max_exact_bytes: int = MAX_EXACT_BYTES,
        watch: HangWatch | None = None,
        hang_seconds: float = math.inf,
    ) -> None:
        """Connects when first used.

        Args:
            milvus: how Milvus is reached; a string is an address that needs nothing else.
            timeout: most seconds for a single call.
            threads: calls at a time, as many that read rows and as many of all others.
            max_exact_bytes: most bytes of vectors that one search reads to compare every one.
            watch: notices threads that hang; None notices none.
            hang_seconds: the limit after which a call to Milvus counts as hung.

        Raises:
            OSError: the address is wrong, or a file of TLS cannot be used.
        """
        self._milvus = MilvusConnection(milvus) if isinstance(milvus, str) else milvus
        self._milvus.check()
        self._uri = self._milvus.uri
        self._timeout = timeout
        self._watch = watch or HangWatch()
        self._hang_seconds = hang_seconds
        self.is_lite = self._milvus.is_lite
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="milvus")
        # Milvus Lite shows nobody the rows that it is just writing to a file, so that nobody reads while somebody
        # writes. It is in this process, and computes one request at a time anyway.
        self._turns = asyncio.Semaphore(1 if self.is_lite else threads)
        # The health is told by a thread of its own: the others may all be busy, and that is no illness.
        self._probe = ThreadPoolExecutor(1, thread_name_prefix="milvus-health")
        # Milvus Lite loses rows that were acknowledged when two threads write at once, so that one thread makes all
        # writes. A lock on the event loop would not do: a call whose caller went away runs on. A server needs neither.
        self._writers = ThreadPoolExecutor(1, thread_name_prefix="milvus-write") if self.is_lite else self._pool
        # A server gives the rows of the lowest ids unasked; Milvus Lite does so for its iterators only.
        self._in_order = {"iterator": "True", "reduce_stop_for_best": "True"} if self.is_lite else {}
        self._expressions = Expressions(is_lite=self.is_lite)
        self._searches = MilvusSearch(
            self._read, self._fits, threads, is_lite=self.is_lite, max_exact_bytes=max_exact_bytes
        )
        self.codes = MilvusCodes(self._read, self._write, threads, is_lite=self.is_lite)
        # Milvus Lite may take a load as a write.
        self._loaders = self._writers if self.is_lite else ThreadPoolExecutor(LOADERS, thread_name_prefix="milvus-load")
        self._loading = MilvusLoading(
            self._loaders,
            # The load makes many calls: one load of each collection, and one for each set of codes.
            partial(self._watch.watched, "the load of a collection", 10 * hang_seconds),
            timeout,
            self._make_index,
            self._remove_expired if self.is_lite else None,
        )
        self._channel: Options = {"grpc_options": LITE_CHANNEL} if self.is_lite else {}
        self._connection: asyncio.Task[_Clients] | None = None

    async def close(self) -> None:
        """Closes the connection, and gives up Milvus Lite's file so that another process may open it."""
        await asyncio.to_thread(self._loaders.shutdown, cancel_futures=True)
        # Calls whose callers went away may still be running.
        await asyncio.to_thread(self._writers.shutdown)
        await asyncio.to_thread(self._pool.shutdown)
        self._probe.shutdown(wait=False)
        if self._connection is not None:
            with suppress(Exception):
                clients = await self._connection
                await clients.reading.close()
                await asyncio.to_thread(self._disconnect, clients.blocking)

    async def check(self, deadline: Deadline) -> None:
        """Returns where Milvus answers. Raises UnavailableError, DeadlineExceededError."""
        client = (await self._connected(deadline)).blocking
        await self._run(self._probe, lambda: client.list_collections(timeout=self._seconds(deadline)), "", deadline)

    async def create_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Makes a Milvus collection with its index, loaded; or nothing, where a step of that fails."""
        notes = notes_of(collection)
        properties: dict[str, Any] = {PROPERTY: notes}
        if collection.ttl is not None:
            # A server removes them when it compacts.
            properties["collection.ttl.seconds"] = math.ceil(collection.ttl.total_seconds())

        def create(client: MilvusClient, options: Options) -> None:
            name = collection.name
            if client.has_collection(name, **options):
                raise collection_exists(name)
            try:
                # Step by step: pymilvus would give each step the whole time, and wait for the index without end.
                client.create_collection(
                    name,
                    schema=schema_of(collection.dimension),
                    consistency_level=collection.consistency.value,
                    properties=properties,
                    **self._options(deadline),
                )
                client.create_index(name, self._index_of(client, collection), sync=False, **self._options(deadline))
                client.load_collection(name, **self._options(deadline))
            except (MilvusException, grpc.RpcError, ServiceError):
                with suppress(MilvusException, grpc.RpcError):
                    made = client.describe_collection(name, timeout=CLEANING_SECONDS)
                    # With the moment in it, the notes tell this attempt from somebody else's at the same time.
                    if made["properties"].get(PROPERTY) == notes:
                        client.drop_collection(name, timeout=CLEANING_SECONDS)
                raise

        await self._write(create, collection.name, deadline)

    def _index_of(self, client: MilvusClient, collection: Collection) -> IndexParams:
        # Milvus Lite's other indexes miss many neighbours; at its sizes comparing every vector is no slower.
        kind = IndexType.FLAT if self.is_lite else collection.index.type
        parameters = {} if self.is_lite else build_parameters(collection.index)
        index = client.prepare_index_params()
        index.add_index(VECTOR, index_type=kind.value, metric_type=collection.metric.value, params=parameters)
        return index

    async def get_collection(self, name: str, deadline: Deadline) -> Collection:
        """Describes a collection."""
        described = await self._call(
            lambda client, options: client.describe_collection(name, **options), name, deadline
        )
        collection = collection_of(described)
        if collection is None:
            raise collection_not_found(name)
        return collection

    async def list_collections(self, after: str, limit: int, deadline: Deadline) -> list[Collection]:
        """Some collections of the service, by name."""
        names = await self._call(lambda client, options: client.list_collections(**options), "", deadline)
        found: list[Collection] = []
        for name in sorted(name for name in names if name > after and not is_side(name)):
            if len(found) == limit:
                break
            try:
                found.append(await self.get_collection(name, deadline))
            except NotFoundError:
                # Somebody else's, or removed since.
                continue
        return found

    async def delete_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Removes a collection."""
        name = collection.name
        # Milvus drops a collection of another application too, and reports no error if there is none.
        await self.get_collection(name, deadline)
        await self._write(lambda client, options: client.drop_collection(name, **options), name, deadline)

    async def set_reindex(self, collection: Collection, reindex: Reindex | None, deadline: Deadline) -> None:
        """Write what is copied into a property of the collection."""
        properties = {REINDEX_PROPERTY: reindex_notes(reindex)}
        await self._write(
            lambda client, options: client.alter_collection_properties(collection.name, properties, **options),
            collection.name,
            deadline,
        )

    async def set_alias(self, alias: Alias, deadline: Deadline) -> None:
        """Makes an alias, or moves it in one step."""

        def set_it(client: MilvusClient, options: Options) -> None:
            if alias.name in self._aliases(client, options):
                client.alter_alias(alias.collection, alias.name, **options)
            else:
                client.create_alias(alias.collection, alias.name, **options)

        await self._write(set_it, alias.collection, deadline)

    async def list_aliases(self, deadline: Deadline) -> list[Alias]:
        """Every alias of a collection, by name."""

        def list_them(client: MilvusClient, options: Options) -> list[Alias]:
            found: list[Alias] = []
            for name in self._aliases(client, options):
                self._watch.note_progress()
                try:
                    # Milvus 2.3 describes aliases of the default database only, and collections of all.
                    found.append(Alias(name, client.describe_collection(name, **options)["collection_name"]))
                except MilvusException as error:
                    # Another process may have removed it since.
                    if error.code not in ALIAS_NOT_FOUND:
                        raise
            return found

        return sorted(await self._call(list_them, "", deadline), key=lambda alias: alias.name)

    def _aliases(self, client: MilvusClient, options: Options) -> list[str]:
        # Milvus 2.3 knows the client's database in every call but this one.
        names: list[str] = client.list_aliases(db_name=self._milvus.database, **options)["aliases"]
        return names

    async def delete_alias(self, name: str, deadline: Deadline) -> None:
        """Removes an alias."""
        await self._write(lambda client, options: client.drop_alias(name, **options), name, deadline)

    async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
        """Stores images. Upsert and never insert, which makes a second row of an id on a server."""
        rows = [row_of(image) for image in images]
        await self._write(
            lambda client, options: client.upsert(collection.name, rows, **options), collection.name, deadline
        )

    async def get(
        self, collection: Collection, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
    ) -> list[StoredImage]:
        """The images that exist of these ids."""
        rows = await self._read(
            lambda client, options: client.query(
                collection.name,
                filter=ids_expression(ids),
                output_fields=FIELDS[view],
                consistency_level=consistency.value,
                **options,
            ),
            collection.name,
            deadline,
        )
        return [image_of(row) for row in rows]

    async def delete(self, collection: Collection, ids: Sequence[str], deadline: Deadline) -> None:
        """Removes images, by a filter: the literals of pymilvus' own `ids` argument are not escaped."""
        await self._write(
            lambda client, options: client.delete(collection.name, filter=ids_expression(ids), **options),
            collection.name,
            deadline,
        )

    async def query(
        self,
        collection: Collection,
        condition: Filter | None,
        limit: int,
        view: View,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[StoredImage]:
        """The images that fit, in the order of their ids."""
        found: dict[str, StoredImage] = {}
        while len(found) < limit:
            rest = both(condition, IdAfter(max(found, default="")))
            rows = await self._rows(collection, rest, limit - len(found), view, consistency, deadline)
            found |= {image.id: image for image in map(image_of, rows)}
            # After a crash a server may hold a row twice. It gives it once, and counts it twice for the limit, so that
            # fewer rows are not the end.
            if not rows or self.is_lite:
                break
        return sorted(found.values(), key=lambda image: image.id)

    async def _rows(
        self,
        collection: Collection,
        condition: Filter | None,
        limit: int,
        view: View,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[dict[str, Any]]:
        """The rows of the lowest ids."""
        fits = await self._fits(collection, condition, deadline)
        return await self._read(
            lambda client, options: client.query(
                collection.name,
                # A server wants an expression beside a limit.
                filter=fits,
                limit=limit,
                output_fields=FIELDS[view],
                consistency_level=consistency.value,
                **options,
                **self._in_order,
            ),
            collection.name,
            deadline,
        )

    async def count(
        self, collection: Collection, condition: Filter | None, consistency: Consistency, deadline: Deadline
    ) -> int:
        """The number of images that fit."""
        fits = await self._fits(collection, condition, deadline)
        rows = await self._read(
            lambda client, options: client.query(
                collection.name,
                filter=fits,
                output_fields=["count(*)"],
                consistency_level=consistency.value,
                **options,
            ),
            collection.name,
            deadline,
        )
        return int(rows[0]["count(*)"])

    async def _fits(self, collection: Collection, condition: Filter | None, deadline: Deadline) -> str:
        """Return a filter as Milvus reads it. Raises ResourceExhaustedError if it cannot be answered in time."""
        if self.is_lite and condition is not None and size_of(condition) > SMALL_FILTER:
            rows = await self.count(collection, None, Consistency.BOUNDED, deadline)
            seconds, most = seconds_on_lite(condition, rows), self._timeout / 2
            if seconds > most:
                raise filter_too_large(rows, seconds, most)
        return await self._expressions.of(condition)

    async def search(
        self, collection: Collection, vectors: Sequence[Vector], nearest: Nearest, deadline: Deadline
    ) -> list[list[Hit]]:
        """The neighbours of each vector."""
        return await self._searches.search(collection, vectors, nearest, deadline)

    def index_of(self, collection: Collection, parameters: SearchParameters) -> Index:
        """What answers a search of a collection."""
        return self._searches.index_of(collection, parameters)

    async def _read(
        self, call: Callable[[AsyncMilvusClient, Options], Awaitable[Result]], collection: str, deadline: Deadline
    ) -> Result:
        """Reads rows, bounded in time. Raises what its failure means."""
        client = (await self._connected(deadline)).reading
        await self._loading.ready(collection, deadline)
        seconds = self._seconds(deadline)
        try:
            # pymilvus repeats a call that found nobody, and gives each attempt the whole time.
            async with asyncio.timeout(seconds + GRACE_SECONDS), self._turns:
                return await call(client, self._options(deadline))
        except ServiceError:
            raise
        except TimeoutError:
            raise timed_out() from None
        except Exception as error:
            raise _meaning(error, collection) from error

    async def _call(
        self, call: Callable[[MilvusClient, Options], Result], collection: str, deadline: Deadline
    ) -> Result:
        """Asks, bounded in time. Raises what its failure means."""
        client = (await self._connected(deadline)).blocking
        return await self._run(self._pool, lambda: call(client, self._options(deadline)), collection, deadline)

    async def _write(
        self, call: Callable[[MilvusClient, Options], Result], collection: str, deadline: Deadline
    ) -> Result:
        """Writes, bounded in time. Raises what its failure means: StillRunningError if it may still be stored later."""
        client = (await self._connected(deadline)).blocking
        await self._loading.ready(collection, deadline)
        return await self._run(
            self._writers, lambda: call(client, self._options(deadline)), collection, deadline, writes=True
        )

    async def _run(
        self,
        pool: Executor,
        call: Callable[[], Result],
        collection: str,
        deadline: Deadline,
        *,
        writes: bool = False,
    ) -> Result:
        """Runs a call in a pool. Raises what its failure means."""
        submitted: Future[Result] | None = None
        try:
            # A thread cannot be stopped; but nobody waits longer for it, nor for a free one.
            async with asyncio.timeout(self._seconds(deadline) + GRACE_SECONDS):
                submitted = await self._submit(pool, call)
                return await asyncio.wrap_future(submitted)
        except ServiceError:
            raise
        except TimeoutError:
            raise _given_up(submitted, writes=writes) from None
        except Exception as error:
            raise _meaning(error, collection, writes=writes) from error

    async def _submit(self, pool: Executor, call: Callable[[], Result]) -> "Future[Result]":
        """Gives a call to a pool; a write to Milvus Lite in a turn of its own."""
        watched = partial(self._watch.watched, "a call to Milvus", self._hang_seconds, call)
        if not self.is_lite or pool is not self._writers:
            return pool.submit(watched)
        await self._turns.acquire()
        submitted = pool.submit(watched)
        # The turn ends with the thread's work, which runs on when its caller goes away.
        loop = asyncio.get_running_loop()
        submitted.add_done_callback(lambda _: loop.call_soon_threadsafe(self._turns.release))
        return submitted

    def _options(self, deadline: Deadline) -> Options:
        """What every call to pymilvus is told. It would repeat what a quota forbids until the time is up."""
        seconds = self._seconds(deadline)
        return {"timeout": LITE_SECONDS if self.is_lite else seconds, "retry_on_rate_limit": False}

    def _seconds(self, deadline: Deadline) -> float:
        """What a call that is about to begin may take."""
        seconds = deadline.timeout(self._timeout)
        if seconds <= 0:
            raise DeadlineExceededError("DEADLINE_EXCEEDED", "the deadline passed before Milvus was asked")
        return seconds

    async def _connected(self, deadline: Deadline) -> _Clients:
        """The clients, connected by whoever comes first; all others wait for the same attempt."""
        if self._connection is not None and self._connection.done():
            if self._connection.exception() is None:
                return self._connection.result()
            self._connection = None
        if self._connection is None:
            self._connection = asyncio.create_task(self._connect())
        try:
            async with asyncio.timeout(self._seconds(deadline)):
                # The attempt goes on when this caller gives up.
                return await asyncio.shield(self._connection)
        except TimeoutError:
            raise unavailable() from None

    async def _connect(self) -> _Clients:
        try:
            # Connecting to an unavailable server may take long, and needs no restart of this process.
            limit = self._hang_seconds if self.is_lite else math.inf
            blocking = await asyncio.to_thread(self._watch.watched, "opening Milvus", limit, self._open)
            try:
                names = await asyncio.to_thread(blocking.list_collections, timeout=self._timeout)
            except BaseException:
                await asyncio.to_thread(blocking.close)
                raise
            # Milvus Lite's two clients share the one server of this process.
            reading = AsyncMilvusClient(timeout=self._timeout, **self._milvus.options(), **self._channel)
            try:
                await reading.__aenter__()
            except BaseException:
                await asyncio.to_thread(blocking.close)
                raise
        except Exception as error:
            if problem := self._milvus.problem(error):
                log.warning("cannot use Milvus", problem=problem)
            meaning = _meaning(error, "")
            # To gRPC a certificate that is refused is a server that is away; but waiting does not help.
            lasting = bool(problem) and isinstance(meaning, UnavailableError)
            raise (access_denied() if lasting else meaning) from error
        self._loading.start(blocking, names)
        return _Clients(blocking, reading)

    def _open(self) -> MilvusClient:
        if self.is_lite:
            os.environ.setdefault(LITE_MEMTABLE, str(LITE_MEMTABLE_BYTES))
            Path(self._uri).parent.mkdir(parents=True, exist_ok=True)
            remove_broken_indexes(Path(self._uri))
        return MilvusClient(timeout=self._timeout, **self._milvus.options(), **self._channel)

    def _make_index(self, client: MilvusClient, collection: Collection) -> None:
        index = self._index_of(client, collection)
        client.create_index(collection.name, index, sync=False, timeout=self._timeout)

    def _remove_expired(self, client: MilvusClient, collection: Collection, unexpired: UpdatedWithin) -> None:
        condition = self._expressions.write(Not(unexpired))
        client.delete(collection.name, filter=condition, timeout=self._timeout)

    def _disconnect(self, client: MilvusClient) -> None:
        client.close()
        if self.is_lite:
            from milvus_lite.server_manager import server_manager_instance  # noqa: PLC0415 - of no use with a server

            server_manager_instance.release_server(self._uri)


def _given_up(submitted: "Future[Result] | None", *, writes: bool) -> ServiceError:
    """Return the error of a call that took too long, and was cancelled if no thread had begun it."""
    if submitted is None or submitted.cancelled() or not writes:
        return timed_out()
    error = StillRunningError("MILVUS_TIMEOUT", timed_out(writes=True).message)
    error.ended = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    submitted.add_done_callback(lambda _: loop.call_soon_threadsafe(error.ended.set_result, None))
    return error


def _meaning(error: Exception, collection: str, *, writes: bool = False) -> ServiceError:
    """What a failure means; one that nobody foresaw is logged."""
    meaning = meaning_of(error, collection, writes=writes)
    if isinstance(meaning, InternalError) or isinstance(error, MemoryError):
        log.error("Milvus failed", collection=collection, exc_info=error)
    return meaning
