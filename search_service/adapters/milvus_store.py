"""The VectorStore in Milvus: Milvus Lite in a local file, or a Milvus server or cluster.

Each collection is one Milvus collection. Fields that Milvus does not have (fingerprint, model, labels) are JSON in a
property of it. A Milvus collection without that property belongs to another application. (Milvus Lite does not keep the
description of a schema.)
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc
import structlog
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, NotFoundError, ServiceError, UnavailableError
from grpc_kit.server.hang_watch import HangWatch
from search_service.adapters.milvus_calls import MilvusCalls, Options
from search_service.adapters.milvus_codes import MilvusCodes
from search_service.adapters.milvus_connection import MilvusConnection
from search_service.adapters.milvus_errors import error_for, filter_too_large
from search_service.adapters.milvus_filters import Expressions, ids_expression, seconds_on_lite
from search_service.adapters.milvus_regions import MilvusRegions
from search_service.adapters.milvus_rows import (
    PROPERTY,
    REINDEX_PROPERTY,
    collection_of,
    fields_of,
    image_of,
    index_parameters,
    notes_of,
    reindex_notes,
    row_of,
    schema_of,
    ttl_property,
)
from search_service.adapters.milvus_search import MilvusSearch
from search_service.adapters.region_collections import is_companion
from search_service.core.checks import collection_exists, collection_not_found
from search_service.core.filters import Filter, IdAfter, both, size_of
from search_service.core.types import (
    Alias,
    Collection,
    Consistency,
    Reindex,
    StoredImage,
    View,
)

log = structlog.stdlib.get_logger()

# Error codes of Milvus Lite and of a server for an alias that does not exist.
ALIAS_NOT_FOUND = (100, 1600)
# Time to delete a collection that was created in part, when the time of the call may be over.
CLEANUP_SECONDS = 2.0
# Milvus Lite answers a filter of this size in time, for as many images as it is made for.
SMALL_FILTER = 64
# Bytes of vectors that an exact search may read: a million vectors with 512 components.
MAX_EXACT_BYTES = 2 * 1024**3


class MilvusStore:
    """Keep collections in Milvus."""

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
        """Prepare to connect; the first call connects.

        Args:
            milvus: address and credentials, or only the address.
            timeout: maximum seconds of one call.
            threads: calls in flight: as many that read rows, and as many others.
            max_exact_bytes: maximum bytes of vectors that one exact search reads.
            watch: detects threads that hang; None detects none.
            hang_seconds: seconds after which a call to Milvus counts as hung.

        Raises:
            OSError: the address is wrong, or a TLS file cannot be used.
        """
        self._milvus = MilvusConnection(milvus) if isinstance(milvus, str) else milvus
        self.calls = MilvusCalls(
            self._milvus, timeout=timeout, threads=threads, watch=watch or HangWatch(), hang_seconds=hang_seconds
        )
        self.is_lite = self.calls.is_lite
        self._expressions = Expressions(is_lite=self.is_lite)
        self._searches = MilvusSearch(self.calls, self._expression, threads, max_exact_bytes)
        self.codes = MilvusCodes(self.calls, threads)
        self.regions = MilvusRegions(self.calls, self._regions_expression, threads, max_exact_bytes)
        self.check = self.calls.check
        self.close = self.calls.close
        self.search = self._searches.search
        self.index_of = self._searches.index_of

    async def create_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Create a Milvus collection with its index, and load it. Without an index, delete the collection.

        A collection that could not be loaded stays, because another caller may have written images to it. It is loaded
        later.
        """
        name, notes = collection.name, notes_of(collection)

        def create(client: MilvusClient, options: Options) -> bool:
            if client.has_collection(name, **options):
                raise collection_exists(name)
            try:
                # With an index in the first call, pymilvus would wait for the index without a timeout.
                client.create_collection(
                    name,
                    schema=schema_of(collection),
                    consistency_level=collection.consistency.value,
                    properties={PROPERTY: notes} | ttl_property(collection),
                    **self.calls.options(deadline),
                )
                index = index_parameters(client, collection, is_lite=self.is_lite)
                client.create_index(name, index, sync=False, **self.calls.options(deadline))
            except (MilvusException, grpc.RpcError, ServiceError):
                with suppress(MilvusException, grpc.RpcError):
                    made = client.describe_collection(name, timeout=CLEANUP_SECONDS)
                    # The notes have the creation time: a concurrent attempt has others.
                    if made["properties"].get(PROPERTY) == notes:
                        client.drop_collection(name, timeout=CLEANUP_SECONDS)
                raise
            return self._loaded(client, name, deadline)

        if not await self.calls.write(create, name, deadline):
            await self.calls.load_later(name, deadline)

    def _loaded(self, client: MilvusClient, name: str, deadline: Deadline) -> bool:
        """Load a new collection; return False if that fails for a reason that passes."""
        try:
            client.load_collection(name, **self.calls.options(deadline))
        except (MilvusException, grpc.RpcError, ServiceError) as error:
            meaning = error if isinstance(error, ServiceError) else error_for(error, name)
            if not isinstance(meaning, UnavailableError | DeadlineExceededError):
                raise
            log.warning("a new collection is loaded later", collection=name, error=str(error))
            return False
        return True

    async def get_collection(self, name: str, deadline: Deadline) -> Collection:
        """Return the collection with a name or an alias."""
        described = await self.calls.ask(
            lambda client, options: client.describe_collection(name, **options), name, deadline
        )
        collection = collection_of(described)
        if collection is None:
            raise collection_not_found(name)
        return collection

    async def list_collections(self, after: str, limit: int, deadline: Deadline) -> list[Collection]:
        """Return the first `limit` collections of this service with names greater than `after`."""
        names = await self.calls.ask(lambda client, options: client.list_collections(**options), "", deadline)
        found: list[Collection] = []
        for name in sorted(name for name in names if name > after and not is_companion(name)):
            if len(found) == limit:
                break
            # Skip collections of other applications, and those that were deleted meanwhile.
            with suppress(NotFoundError):
                found.append(await self.get_collection(name, deadline))
        return found

    async def delete_collection(self, collection: Collection, deadline: Deadline) -> None:
        """Delete a collection."""
        name = collection.name
        # Milvus also drops collections of other applications, and reports no error if there is none.
        await self.get_collection(name, deadline)
        await self.calls.write(lambda client, options: client.drop_collection(name, **options), name, deadline)

    async def set_reindex(self, collection: Collection, reindex: Reindex | None, deadline: Deadline) -> None:
        """Record a reindex in a property of the collection."""
        name, properties = collection.name, {REINDEX_PROPERTY: reindex_notes(reindex)}
        await self.calls.write(
            lambda client, options: client.alter_collection_properties(name, properties, **options), name, deadline
        )

    async def set_alias(self, alias: Alias, deadline: Deadline) -> None:
        """Create an alias, or move it in one step."""

        def set_alias(client: MilvusClient, options: Options) -> None:
            if alias.name in self._alias_names(client, options):
                client.alter_alias(alias.collection, alias.name, **options)
            else:
                client.create_alias(alias.collection, alias.name, **options)

        await self.calls.write(set_alias, alias.collection, deadline)

    async def list_aliases(self, deadline: Deadline) -> list[Alias]:
        """Return all aliases, sorted by name."""

        def list_aliases(client: MilvusClient, options: Options) -> list[Alias]:
            found: list[Alias] = []
            for name in self._alias_names(client, options):
                self.calls.watch.note_progress()
                try:
                    # Milvus 2.3 can describe an alias only in the default database, and a collection in every one.
                    found.append(Alias(name, client.describe_collection(name, **options)["collection_name"]))
                except MilvusException as error:
                    # Another process may have deleted the alias meanwhile.
                    if error.code not in ALIAS_NOT_FOUND:
                        raise
            return found

        return sorted(await self.calls.ask(list_aliases, "", deadline), key=lambda alias: alias.name)

    def _alias_names(self, client: MilvusClient, options: Options) -> list[str]:
        # In Milvus 2.3, this call alone does not use the database of the client.
        names: list[str] = client.list_aliases(db_name=self._milvus.database, **options)["aliases"]
        return names

    async def delete_alias(self, name: str, deadline: Deadline) -> None:
        """Delete an alias."""
        await self.calls.write(lambda client, options: client.drop_alias(name, **options), name, deadline)

    async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
        """Store images. An insert would create a second row of an existing id on a server, so this is an upsert."""
        name, rows = collection.name, [row_of(image, collection.max_regions) for image in images]
        await self.calls.write(lambda client, options: client.upsert(name, rows, **options), name, deadline)

    async def delete(self, collection: Collection, ids: Sequence[str], deadline: Deadline) -> None:
        """Delete images by a filter, because pymilvus does not escape the literals of its argument `ids`."""
        name, condition = collection.name, ids_expression(ids)
        await self.calls.write(lambda client, options: client.delete(name, filter=condition, **options), name, deadline)

    async def get(
        self, collection: Collection, ids: Sequence[str], view: View, consistency: Consistency, deadline: Deadline
    ) -> list[StoredImage]:
        """Return the images with these ids that exist."""
        fields = fields_of(view, collection.max_regions)
        rows = await self._query(collection, ids_expression(ids), fields, consistency, deadline, **self.calls.all_rows)
        return [image_of(row) for row in rows]

    async def query(
        self,
        collection: Collection,
        condition: Filter | None,
        limit: int,
        view: View,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[StoredImage]:
        """Return the first `limit` images that meet a condition, sorted by id."""
        found: dict[str, StoredImage] = {}
        while len(found) < limit:
            rest = await self._expression(collection, both(condition, IdAfter(max(found, default=""))), deadline)
            rows = await self._query(
                collection,
                rest,
                fields_of(view, collection.max_regions),
                consistency,
                deadline,
                limit=limit - len(found),
                **self.calls.lowest_rows,
            )
            found |= {image.id: image for image in map(image_of, rows)}
            # After a crash, a server may have two rows of one id. It returns one of them but counts both, so fewer rows
            # than the limit do not mean that no more follow.
            if not rows or self.is_lite:
                break
        return sorted(found.values(), key=lambda image: image.id)

    async def count(
        self, collection: Collection, condition: Filter | None, consistency: Consistency, deadline: Deadline
    ) -> int:
        """Return the number of images that meet a condition."""
        expression = await self._expression(collection, condition, deadline)
        (row,) = await self._query(collection, expression, ["count(*)"], consistency, deadline)
        return int(row["count(*)"])

    async def _query(
        self,
        collection: Collection,
        expression: str,
        fields: Sequence[str],
        consistency: Consistency,
        deadline: Deadline,
        **arguments: object,
    ) -> list[dict[str, Any]]:
        name = collection.name
        return await self.calls.query(name, name, expression, fields, consistency, deadline, **arguments)

    async def _regions_expression(self, collection: Collection, condition: Filter | None, deadline: Deadline) -> str:
        return await self._expression(collection, condition, deadline, rows_per_image=collection.max_regions)

    async def _expression(
        self, collection: Collection, condition: Filter | None, deadline: Deadline, rows_per_image: int = 1
    ) -> str:
        """Return a filter as a Milvus expression. Raises ResourceExhaustedError if Milvus Lite would be too slow."""
        if self.is_lite and condition is not None and size_of(condition) > SMALL_FILTER:
            rows = rows_per_image * await self.count(collection, None, Consistency.BOUNDED, deadline)
            seconds, most = seconds_on_lite(condition, rows), self.calls.timeout / 2
            if seconds > most:
                raise filter_too_large(rows, seconds, most)
        return await self._expressions.of(condition)
