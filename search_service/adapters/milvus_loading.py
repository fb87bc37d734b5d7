"""Load the existing collections when the service starts: several at a time, each usable as soon as it is loaded."""

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
from search_service.adapters.code_collections import names_of_codes
from search_service.adapters.milvus_errors import RETRY_AFTER
from search_service.adapters.milvus_filters import Expressions
from search_service.adapters.milvus_rows import collection_of, index_parameters
from search_service.adapters.region_collections import is_companion, names_of_regions
from search_service.core.expiry import unexpired
from search_service.core.filters import Not
from search_service.core.types import Collection

log = structlog.stdlib.get_logger()

# Pause between two checks of a collection that another process loads.
POLL_SECONDS = 0.2


class MilvusLoading:
    """Load collections in the background."""

    def __init__(
        self, pool: Executor, watched: Callable[[Callable[[], None]], None], timeout: float, *, is_lite: bool
    ) -> None:
        """Prepare to load.

        Args:
            pool: runs the loads, as many at a time as it has threads.
            watched: calls a load in a thread, and detects if it hangs.
            timeout: maximum seconds of one call to Milvus.
            is_lite: whether it is Milvus Lite.
        """
        self._pool = pool
        self._watched = watched
        self._timeout = timeout
        self._is_lite = is_lite
        self._loading: dict[str, asyncio.Future[None]] = {}

    def start(self, client: MilvusClient, names: list[str]) -> None:
        """Start to load those Milvus collections that belong to this service."""
        loop = asyncio.get_running_loop()
        for name in names:
            if not is_companion(name):
                loading = loop.run_in_executor(self._pool, self._watched, partial(self._load, client, name))
                loading.add_done_callback(lambda _, name=name: self._loading.pop(name, None))  # type: ignore[misc]
                self._loading[name] = loading

    async def ready(self, name: str, deadline: Deadline) -> None:
        """Wait until the load of a collection has ended, even if it failed. Raises UnavailableError at the deadline."""
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
        """Load a collection, its codes and its regions.

        If that fails, log it: another process may have deleted the collection.
        """
        try:
            collection = collection_of(client.describe_collection(name, timeout=self._timeout))
            if collection is None:
                return
            if not client.list_indexes(name, timeout=self._timeout):
                # A process crashed between the creation of the collection and that of its index.
                index = index_parameters(client, collection, is_lite=self._is_lite)
                client.create_index(name, index, sync=False, timeout=self._timeout)
            regions = names_of_regions(collection)
            for part in (name, *names_of_codes(collection), *regions):
                self._load_one(client, part)
            if self._is_lite:
                for part in (name, *regions):
                    self._delete_expired(client, part, collection)
        except (MilvusException, grpc.RpcError) as error:
            log.warning("a collection cannot be loaded", collection=name, error=str(error))

    def _load_one(self, client: MilvusClient, name: str) -> None:
        # A second load would reset the number of replicas that an operator has set.
        until = time.monotonic() + self._timeout
        while (state := client.get_load_state(name, timeout=self._timeout)["state"]) == LoadState.Loading:
            if time.monotonic() > until:
                return
            time.sleep(POLL_SECONDS)
        if state != LoadState.Loaded:
            client.load_collection(name, timeout=self._timeout)

    def _delete_expired(self, client: MilvusClient, name: str, collection: Collection) -> None:
        """Delete the rows of expired images, which Milvus Lite does not do by itself."""
        within = unexpired(collection, datetime.now(UTC))
        if within is not None:
            condition = Expressions(is_lite=True).write(Not(within))
            client.delete(name, filter=condition, timeout=self._timeout)
