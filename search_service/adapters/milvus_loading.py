"""Loads the collections that are there when the service starts: several at a time, each served when it is ready."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import UTC, datetime
from functools import partial

import grpc
import structlog
from pymilvus import MilvusClient
from pymilvus.client.types import LoadState
from pymilvus.exceptions import MilvusException

from grpc_kit.deadline import Deadline
from grpc_kit.errors import UnavailableError
from search_service.adapters.milvus_codes import is_side, side_names
from search_service.adapters.milvus_errors import RETRY_AFTER
from search_service.adapters.milvus_rows import collection_of
from search_service.core.expiry import unexpired
from search_service.core.filters import UpdatedWithin
from search_service.core.types import Collection

log = structlog.stdlib.get_logger()

# Seconds between two looks at a collection that another process loads.
POLL_SECONDS = 0.2


class MilvusLoading:
    """Loads collections in the background."""

    def __init__(
        self,
        pool: Executor,
        watched: Callable[[Callable[[], None]], None],
        timeout: float,
        make_index: Callable[[MilvusClient, Collection], None],
        remove_expired: Callable[[MilvusClient, Collection, UpdatedWithin], None] | None,
    ) -> None:
        """Loads nothing yet.

        Args:
            pool: runs the loads, as many at a time as it has threads.
            watched: calls a load in a thread, and notices if it hangs.
            timeout: most seconds for one call to Milvus.
            make_index: makes the index of a collection that has none.
            remove_expired: removes images that have expired; None if Milvus does so itself.
        """
        self._pool = pool
        self._watched = watched
        self._timeout = timeout
        self._make_index = make_index
        self._remove_expired = remove_expired
        self._loading: dict[str, asyncio.Future[None]] = {}

    def start(self, client: MilvusClient, names: list[str]) -> None:
        """Begin to load the collections of these names in Milvus, those that are the service's."""
        loop = asyncio.get_running_loop()
        for name in names:
            if not is_side(name):
                loading = loop.run_in_executor(self._pool, self._watched, partial(self._load, client, name))
                loading.add_done_callback(lambda _, name=name: self._loading.pop(name, None))  # type: ignore[misc]
                self._loading[name] = loading

    async def ready(self, name: str, deadline: Deadline) -> None:
        """Wait until a collection was loaded, or could not be. Raises UnavailableError at the deadline."""
        loading = self._loading.get(name)
        if loading is None:
            return
        await asyncio.wait([loading], timeout=deadline.timeout(self._timeout))
        if not loading.done():
            raise UnavailableError(
                "COLLECTION_LOADING",
                f"Milvus is still loading collection {name}; try again later",
                metadata={"collection": name},
                retry_after=RETRY_AFTER,
            )

    def _load(self, client: MilvusClient, name: str) -> None:
        """Make a collection searchable. One that cannot be is logged and left; another process may have removed it."""
        try:
            collection = collection_of(client.describe_collection(name, timeout=self._timeout))
            if collection is None:
                return
            if not client.list_indexes(name, timeout=self._timeout):
                # The process that made the collection was stopped before it made the index.
                self._make_index(client, collection)
            for part in (name, *side_names(collection)):
                self._load_one(client, part)
            expired = unexpired(collection, datetime.now(UTC))
            if expired and self._remove_expired:
                self._remove_expired(client, collection, expired)
        except (MilvusException, grpc.RpcError) as error:
            log.warning("a collection cannot be loaded", collection=name, error=str(error))

    def _load_one(self, client: MilvusClient, name: str) -> None:
        # Loading one that is loaded would take back the number of replicas that an operator chose.
        until = time.monotonic() + self._timeout
        while (state := client.get_load_state(name, timeout=self._timeout)["state"]) == LoadState.Loading:
            if time.monotonic() > until:
                return
            time.sleep(POLL_SECONDS)
        if state != LoadState.Loaded:
            client.load_collection(name, timeout=self._timeout)
