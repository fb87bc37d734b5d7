"""Calls to Milvus: connect, limit how many run, bound their time, and translate their errors.

Searches and reads call Milvus on the event loop. Other calls run in a pool of threads, as pymilvus requires.
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

import structlog
from pymilvus import AsyncMilvusClient, MilvusClient

from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, InternalError, ServiceError, UnavailableError
from grpc_kit.server.hang_watch import HangWatch
from search_service.adapters.lite_files import remove_broken_indexes
from search_service.adapters.milvus_connection import MilvusConnection
from search_service.adapters.milvus_errors import access_denied, error_for, timed_out, unavailable
from search_service.adapters.milvus_loading import MilvusLoading
from search_service.core.image_locks import StillRunningError
from search_service.core.types import Consistency

log = structlog.stdlib.get_logger()

Result = TypeVar("Result")
# Keyword arguments of every call to pymilvus.
Options: TypeAlias = dict[str, Any]
# Milvus Lite searches rows that are not yet in a data file one by one: 0.3 s for 10,000 rows, and 12 ms from files. It
# reads this variable when it is first imported. The limit holds a hundred rows with 512 components.
LITE_MEMTABLE = "MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES"
LITE_MEMTABLE_BYTES = 256 * 1024
# Added to the time of a call, so that gRPC reports the timeout first.
GRACE_SECONDS = 0.1
# Milvus Lite continues a write after its caller has timed out, beside the next write. So a call never times out inside
# pymilvus; the caller of this module still gets its answer in time.
LITE_SECONDS = 3600.0
# pymilvus sends a keepalive ping after 10 s of silence. Milvus Lite's server allows one in 5 minutes, and closes the
# connection of a client that sends more ("too_many_pings"). Both are in this process and need no pings: every 24 days.
LITE_CHANNEL = {"grpc.keepalive_time_ms": 2**31 - 1}
# Maximum number of rows of a query with a limit on a server.
MAX_ROWS = 16_384
# Collections that a server loads at a time when the service starts.
LOADERS = 8


@dataclass(frozen=True)
class Clients:
    """Two connections to one Milvus."""

    blocking: MilvusClient
    """For the pool of threads; it has all calls."""
    reading: AsyncMilvusClient
    """For the event loop: a search needs a third of the CPU time that it needs in a thread."""


class MilvusCalls:
    """Call one Milvus. The first call connects."""

    def __init__(
        self, milvus: MilvusConnection, *, timeout: float, threads: int, watch: HangWatch, hang_seconds: float
    ) -> None:
        """Check the address.

        Args:
            milvus: address and credentials.
            timeout: maximum seconds of one call.
            threads: calls in flight: as many that read rows, and as many others.
            watch: detects threads that hang.
            hang_seconds: seconds after which a call counts as hung.

        Raises:
            OSError: the address is wrong, or a TLS file cannot be used.
        """
        milvus.check()
        self._milvus = milvus
        self.is_lite = milvus.is_lite
        self.timeout = timeout
        self.watch = watch
        self._hang_seconds = hang_seconds
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="milvus")
        # While Milvus Lite writes rows to a file, reads miss these rows. So no read runs beside a write. Milvus Lite
        # computes one request at a time anyway.
        self._slots = asyncio.Semaphore(1 if self.is_lite else threads)
        # The health check has its own thread: it must answer while all others are busy.
        self._probe = ThreadPoolExecutor(1, thread_name_prefix="milvus-health")
        # If two threads write at once, Milvus Lite loses acknowledged rows. So one thread makes all writes. A lock on
        # the event loop is not enough: a call continues after its caller was cancelled.
        self._writers = ThreadPoolExecutor(1, thread_name_prefix="milvus-write") if self.is_lite else self._pool
        # Milvus Lite may treat a load as a write.
        self._loaders = self._writers if self.is_lite else ThreadPoolExecutor(LOADERS, thread_name_prefix="milvus-load")
        # A load makes many calls: one for the collection, and two for each set of codes.
        watched = partial(watch.watched, "the load of a collection", 10 * hang_seconds)
        self._loading = MilvusLoading(self._loaders, watched, timeout, is_lite=self.is_lite)
        # If a row exists twice, as after some crashes, a query without a limit leaves out other rows on Milvus 2.3. So
        # queries that expect few rows still have a limit.
        self.all_rows: Options = {} if self.is_lite else {"limit": MAX_ROWS}
        # A server returns the rows with the lowest keys by default; Milvus Lite needs the options of its iterators.
        self.lowest_rows: Options = {"iterator": "True", "reduce_stop_for_best": "True"} if self.is_lite else {}
        self._channel: Options = {"grpc_options": LITE_CHANNEL} if self.is_lite else {}
        self._connection: asyncio.Task[Clients] | None = None

    async def close(self) -> None:
        """Close the connection, so that another process can open the file of Milvus Lite."""
        await asyncio.to_thread(self._loaders.shutdown, cancel_futures=True)
        # Calls of cancelled callers may still be running.
        await asyncio.to_thread(self._writers.shutdown)
        await asyncio.to_thread(self._pool.shutdown)
        self._probe.shutdown(wait=False)
        if self._connection is not None:
            with suppress(Exception):
                clients = await self._connection
                await clients.reading.close()
                await asyncio.to_thread(self._disconnect, clients.blocking)

    async def check(self, deadline: Deadline) -> None:
        """Return if Milvus answers. Raises UnavailableError, DeadlineExceededError."""
        client = (await self.connected(deadline)).blocking
        await self._run(self._probe, lambda: client.list_collections(timeout=self._seconds(deadline)), "", deadline)

    async def read(
        self, call: Callable[[AsyncMilvusClient, Options], Awaitable[Result]], collection: str, deadline: Deadline
    ) -> Result:
        """Read rows on the event loop, once the collection is loaded. Raises ServiceError."""
        client = (await self.connected(deadline)).reading
        await self._loading.ready(collection, deadline)
        seconds = self._seconds(deadline)
        try:
            # pymilvus repeats a call if the server is down, and gives each attempt the whole timeout.
            async with asyncio.timeout(seconds + GRACE_SECONDS), self._slots:
                return await call(client, self.options(deadline))
        except ServiceError:
            raise
        except TimeoutError:
            raise timed_out() from None
        except Exception as error:
            raise _translated(error, collection) from error

    async def load_later(self, collection: str, deadline: Deadline) -> None:
        """Start to load a collection. Calls that read or write it wait until it is loaded."""
        self._loading.start((await self.connected(deadline)).blocking, [collection])

    async def query(
        self,
        name: str,
        collection: str,
        expression: str,
        fields: Sequence[str],
        consistency: Consistency,
        deadline: Deadline,
        **arguments: object,
    ) -> list[dict[str, Any]]:
        """Return fields of the rows that match an expression, of the Milvus collection `name` of a collection."""
        return await self.read(
            lambda client, options: client.query(
                name,
                filter=expression,
                output_fields=list(fields),
                consistency_level=consistency.value,
                **arguments,
                **options,
            ),
            collection,
            deadline,
        )

    async def ask(self, call: Callable[[MilvusClient, Options], Result], collection: str, deadline: Deadline) -> Result:
        """Read descriptions in a thread. Raises ServiceError."""
        client = (await self.connected(deadline)).blocking
        return await self._run(self._pool, lambda: call(client, self.options(deadline)), collection, deadline)

    async def write(
        self, call: Callable[[MilvusClient, Options], Result], collection: str, deadline: Deadline
    ) -> Result:
        """Write in a thread. Raises ServiceError: StillRunningError if Milvus may still store the write."""
        client = (await self.connected(deadline)).blocking
        await self._loading.ready(collection, deadline)
        return await self._run(
            self._writers, lambda: call(client, self.options(deadline)), collection, deadline, writes=True
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
        submitted: Future[Result] | None = None
        try:
            # No thread can be stopped. The caller waits until the timeout, for a thread and for the result.
            async with asyncio.timeout(self._seconds(deadline) + GRACE_SECONDS):
                submitted = await self._submit(pool, call)
                return await asyncio.wrap_future(submitted)
        except ServiceError:
            raise
        except TimeoutError:
            raise _timeout_of(submitted, writes=writes) from None
        except Exception as error:
            raise _translated(error, collection, writes=writes) from error

    async def _submit(self, pool: Executor, call: Callable[[], Result]) -> "Future[Result]":
        """Submit a call to a pool. A write to Milvus Lite first acquires the only slot."""
        watched = partial(self.watch.watched, "a call to Milvus", self._hang_seconds, call)
        if not self.is_lite or pool is not self._writers:
            return pool.submit(watched)
        await self._slots.acquire()
        submitted = pool.submit(watched)
        # The thread keeps the slot until it ends, also if the caller is cancelled.
        loop = asyncio.get_running_loop()
        submitted.add_done_callback(lambda _: loop.call_soon_threadsafe(self._slots.release))
        return submitted

    def options(self, deadline: Deadline) -> Options:
        """Return the options of a call that starts now. Raises DeadlineExceededError."""
        seconds = self._seconds(deadline)
        # By default, pymilvus repeats calls that exceed a quota until the timeout.
        return {"timeout": LITE_SECONDS if self.is_lite else seconds, "retry_on_rate_limit": False}

    def _seconds(self, deadline: Deadline) -> float:
        seconds = deadline.timeout(self.timeout)
        if seconds <= 0:
            raise DeadlineExceededError("DEADLINE_EXCEEDED", "the deadline passed before the call to Milvus started")
        return seconds

    async def connected(self, deadline: Deadline) -> Clients:
        """Return the clients. The first caller connects; concurrent callers wait for the same attempt."""
        if self._connection is not None and self._connection.done():
            if self._connection.exception() is None:
                return self._connection.result()
            self._connection = None
        if self._connection is None:
            self._connection = asyncio.create_task(self._connect())
        try:
            async with asyncio.timeout(self._seconds(deadline)):
                # The attempt continues if this caller is cancelled.
                return await asyncio.shield(self._connection)
        except TimeoutError:
            raise unavailable() from None

    async def _connect(self) -> Clients:
        try:
            # An attempt to reach a server that is down may take long, and is no reason to restart this process.
            limit = self._hang_seconds if self.is_lite else math.inf
            blocking = await asyncio.to_thread(self.watch.watched, "opening Milvus", limit, self._open)
            try:
                names = await asyncio.to_thread(blocking.list_collections, timeout=self.timeout)
                # Both clients of Milvus Lite share the server in this process.
                reading = AsyncMilvusClient(timeout=self.timeout, **self._milvus.options(), **self._channel)
                await reading.__aenter__()
            except BaseException:
                await asyncio.to_thread(blocking.close)
                raise
        except Exception as error:
            if problem := self._milvus.problem(error):
                log.warning("cannot use Milvus", problem=problem)
            meaning = _translated(error, "")
            # gRPC reports a refused certificate as an unavailable server; but a retry does not help.
            lasting = bool(problem) and isinstance(meaning, UnavailableError)
            raise (access_denied() if lasting else meaning) from error
        self._loading.start(blocking, names)
        return Clients(blocking, reading)

    def _open(self) -> MilvusClient:
        if self.is_lite:
            os.environ.setdefault(LITE_MEMTABLE, str(LITE_MEMTABLE_BYTES))
            folder = Path(self._milvus.uri)
            folder.parent.mkdir(parents=True, exist_ok=True)
            remove_broken_indexes(folder)
        return MilvusClient(timeout=self.timeout, **self._milvus.options(), **self._channel)

    def _disconnect(self, client: MilvusClient) -> None:
        client.close()
        if self.is_lite:
            from milvus_lite.server_manager import server_manager_instance  # noqa: PLC0415 - only Milvus Lite needs it

            server_manager_instance.release_server(self._milvus.uri)


def _timeout_of(submitted: "Future[Result] | None", *, writes: bool) -> ServiceError:
    """Return the error of a call that timed out: StillRunningError if a thread still runs a write."""
    if submitted is None or submitted.cancelled() or not writes:
        return timed_out()
    error = StillRunningError("MILVUS_TIMEOUT", timed_out(writes=True).message)
    loop = asyncio.get_running_loop()
    error.ended = loop.create_future()
    submitted.add_done_callback(lambda _: loop.call_soon_threadsafe(error.ended.set_result, None))
    return error


def _translated(error: Exception, collection: str, *, writes: bool = False) -> ServiceError:
    """Return the ServiceError for a failure; log a failure that `milvus_errors` does not know."""
    meaning = error_for(error, collection, writes=writes)
    if isinstance(meaning, InternalError) or isinstance(error, MemoryError):
        log.error("Milvus failed", collection=collection, exc_info=error)
    return meaning
