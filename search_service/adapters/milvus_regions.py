"""The RegionStore in Milvus."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pymilvus import MilvusClient

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError
from search_service.adapters.milvus_calls import MilvusCalls, Options
from search_service.adapters.milvus_rows import (
    VECTOR,
    attributes_row,
    collection_of,
    index_parameters,
    micros_of,
    ttl_property,
)
from search_service.adapters.milvus_search import WriteExpression
from search_service.adapters.region_collections import (
    BOX,
    KEY,
    between_expression,
    box_row,
    generation_of,
    key_of,
    keys_expression,
    owner_of,
    region_of,
    regions_name,
    regions_schema,
)
from search_service.adapters.region_search import RegionSearch
from search_service.core.regions import REGION_MARGIN, generations_per_read
from search_service.core.types import Collection, Consistency, StoredImage, StoredRegion

# Bytes of rows in one write, and keys in one deletion.
WRITE_BYTES = 8 * 1024 * 1024
DELETE_KEYS = 8192


class MilvusRegions:
    """Keep the regions of all collections of a store."""

    def __init__(self, calls: MilvusCalls, expression: WriteExpression, slots: int, max_exact_bytes: int) -> None:
        """Prepare to call Milvus.

        Args:
            calls: calls Milvus.
            expression: writes filters as expressions.
            slots: searches in flight.
            max_exact_bytes: maximum bytes of vectors that one exact search reads.
        """
        self._calls = calls
        self._searches = RegionSearch(calls, expression, slots, max_exact_bytes)
        self.search = self._searches.search
        self.count = self._searches.count
        self.best_of_all = self._searches.best_of_all

    async def create(self, collection: Collection, deadline: Deadline) -> None:
        """Create the Milvus collection of the regions with its index, and load it."""
        name = regions_name(collection)

        def create(client: MilvusClient, options: Options) -> None:
            client.create_collection(
                name,
                schema=regions_schema(collection.dimension),
                consistency_level=collection.consistency.value,
                # Reads hide an image before Milvus deletes its regions.
                properties=ttl_property(collection, REGION_MARGIN),
                **options,
            )
            index = index_parameters(client, collection, is_lite=self._calls.is_lite)
            client.create_index(name, index, sync=False, **self._calls.options(deadline))
            client.load_collection(name, **self._calls.options(deadline))

        await self._calls.write(create, collection.name, deadline)

    async def drop(self, collection: Collection, deadline: Deadline) -> None:
        """Drop the Milvus collection of the regions. Milvus reports no error if there is none."""
        name = regions_name(collection)
        await self._calls.write(
            lambda client, options: client.drop_collection(name, **options), collection.name, deadline
        )

    async def upsert(self, collection: Collection, images: Sequence[StoredImage], deadline: Deadline) -> None:
        """Store the regions of images, some megabytes at a time.

        The keys are new, but pymilvus may repeat a request that Milvus has stored. After an insert, a row would then
        exist twice. An insert would also need one more privilege of Milvus.
        """
        name = regions_name(collection)
        for rows in batches(collection, images):
            await self._calls.write(
                lambda client, options, rows=rows: client.upsert(name, rows, **options),  # type: ignore[misc]
                collection.name,
                deadline,
            )

    async def get(
        self, collection: Collection, generations: Sequence[int], consistency: Consistency, deadline: Deadline
    ) -> dict[int, tuple[StoredRegion, ...]]:
        """Return the regions of generations, by generation and in the order of their numbers."""
        name, size = regions_name(collection), generations_per_read(collection)
        found: dict[int, dict[str, StoredRegion]] = {}
        for begin in range(0, len(generations), size):
            some = keys_expression(generations[begin : begin + size], collection.max_regions)
            rows = await self._calls.query(
                name, collection.name, some, [KEY, VECTOR, BOX], consistency, deadline, **self._calls.all_rows
            )
            for row in rows:
                found.setdefault(generation_of(row[KEY]), {})[row[KEY]] = region_of(row)
        return {generation: tuple(rows[key] for key in sorted(rows)) for generation, rows in found.items()}

    async def delete(self, collection: Collection, generations: Sequence[int], deadline: Deadline) -> None:
        """Delete regions by their keys: Milvus deletes by primary key in all versions."""
        name, size = regions_name(collection), max(1, DELETE_KEYS // collection.max_regions)
        for begin in range(0, len(generations), size):
            some = keys_expression(generations[begin : begin + size], collection.max_regions)
            await self._calls.write(
                lambda client, options, some=some: client.delete(name, filter=some, **options),  # type: ignore[misc]
                collection.name,
                deadline,
            )

    async def generations(
        self, collection: Collection, after: int, before: int, limit: int, deadline: Deadline
    ) -> list[tuple[str, int]]:
        """Return image ids and generations from the first rows between two generations."""
        between = between_expression(after, before)
        rows = await self._calls.query(
            regions_name(collection),
            collection.name,
            between,
            [KEY, "id"],
            Consistency.STRONG,
            deadline,
            limit=limit,
            **self._calls.lowest_rows,
        )
        found = {generation_of(row[KEY]): row["id"] for row in rows}
        return [(found[generation], generation) for generation in sorted(found)]

    async def leftovers(self, deadline: Deadline) -> list[Collection]:
        """Return the collections whose regions exist without them.

        They are compared by the creation time alone, so that a collection that an operator renamed counts as existing.
        """
        names = await self._calls.ask(lambda client, options: client.list_collections(**options), "", deadline)
        owners = [owner for name in names if (owner := owner_of(name)) is not None]
        alive = set()
        for name in names if owners else ():
            # Skip collections of other applications, and those that were deleted meanwhile.
            with suppress(NotFoundError):
                described = await self._calls.ask(partial(_described, name), name, deadline)
                if (collection := collection_of(described)) is not None:
                    alive.add(collection.create_time)
        return [owner for owner in owners if owner.create_time not in alive]


def batches(collection: Collection, images: Sequence[StoredImage]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of the regions of images, in lists of about `WRITE_BYTES`."""
    rows: list[dict[str, Any]] = []
    size = 0
    for image in images:
        attributes, update_time = attributes_row(image), micros_of(image.update_time)
        row_size = 4 * collection.dimension + len(json.dumps(attributes))
        for number, region in enumerate(image.regions):
            if rows and size + row_size > WRITE_BYTES:
                yield rows
                rows, size = [], 0
            rows.append(
                {
                    KEY: key_of(image.generation, number),
                    "id": image.id,
                    VECTOR: region.vector,
                    BOX: box_row(region),
                    "attributes": attributes,
                    "update_time": update_time,
                }
            )
            size += row_size
    if rows:
        yield rows


def _described(name: str, client: MilvusClient, options: Options) -> dict[str, Any]:
    description: dict[str, Any] = client.describe_collection(name, **options)
    return description
