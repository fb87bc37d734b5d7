"""The CodeStore in Milvus."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from pymilvus import CollectionSchema, MilvusClient

from grpc_kit.deadline import Deadline
from search_service.adapters.code_collections import (
    BINARY_INDEX,
    BINARY_METRIC,
    CODE,
    CODE_COLLECTION,
    NORMAL,
    codes_name,
    codes_schema,
    planes_name,
    planes_schema,
)
from search_service.adapters.milvus_calls import MilvusCalls, Options
from search_service.adapters.milvus_errors import fault
from search_service.adapters.milvus_filters import Expressions, ids_expression
from search_service.adapters.milvus_rows import (
    CODES_PROPERTY,
    attributes_row,
    code_set_notes,
    micros_of,
    moment_of,
    ttl_property,
)
from search_service.adapters.request_batching import RequestBatcher
from search_service.core.codes import Codes, CodeTransform
from search_service.core.filters import Filter, IdAfter
from search_service.core.types import CodeSet, Collection, Consistency, StoredImage, Vector

# Bytes of normals in one request.
PLANES_BYTES = 16 * 1024 * 1024
# Searches in one request, and requests in flight with equal keys.
MAX_BATCH, SLOTS_PER_KEY = 64, 2


@dataclass(frozen=True)
class _Key:
    """What searches must have in common to share a request."""

    collection: str
    codes_name: str
    limit: int
    expression: str
    """The filter as a Milvus expression: filters that are equal in Python may have different meanings."""
    consistency: Consistency


class MilvusCodes:
    """Keep the codes of all collections of a store."""

    def __init__(self, calls: MilvusCalls, slots: int) -> None:
        """`slots` is the number of searches in flight."""
        self._calls = calls
        self.supported = not calls.is_lite
        self._batcher: RequestBatcher[_Key, Codes, list[str]] = RequestBatcher(
            self._search_batch, slots, SLOTS_PER_KEY, lambda _: MAX_BATCH
        )
        self._expressions = Expressions(is_lite=calls.is_lite)

    async def announce(self, collection: Collection, sets: Sequence[CodeSet], deadline: Deadline) -> None:
        """Record the sets in a property of the collection."""
        name, properties = collection.name, {CODES_PROPERTY: code_set_notes(sets)}
        await self._calls.write(
            lambda client, options: client.alter_collection_properties(name, properties, **options), name, deadline
        )

    async def create(
        self, collection: Collection, codes: CodeSet, transform: CodeTransform, deadline: Deadline
    ) -> None:
        """Create both Milvus collections of an empty set, loaded, and store the transform."""
        planes = planes_name(collection, codes)
        # Concurrently: each takes seconds, in which Milvus mostly waits.
        await asyncio.gather(
            self._create_collection(
                codes_name(collection, codes),
                codes_schema(codes.bits),
                {"field_name": CODE, "index_type": BINARY_INDEX, "metric_type": BINARY_METRIC},
                ttl_property(collection),
                deadline,
            ),
            self._create_collection(
                planes,
                planes_schema(collection.dimension),
                {"field_name": NORMAL, "index_type": "FLAT", "metric_type": "L2"},
                {},
                deadline,
            ),
        )
        rows = [
            {"bit": bit, NORMAL: row[:-1], "offset": float(row[-1])} for bit, row in enumerate(transform.hyperplanes)
        ]
        size = _planes_per_request(collection)
        for begin in range(0, len(rows), size):
            await self._upsert(planes, collection, rows[begin : begin + size], deadline)

    async def _create_collection(
        self,
        name: str,
        schema: CollectionSchema,
        index: dict[str, str],
        properties: dict[str, Any],
        deadline: Deadline,
    ) -> None:
        """Create a Milvus collection; replace one that a crash left."""

        def create(client: MilvusClient, options: Options) -> None:
            client.drop_collection(name, **options)
            client.create_collection(name, schema=schema, properties=properties, **options)
            parameters = client.prepare_index_params()
            parameters.add_index(**index)
            client.create_index(name, parameters, sync=False, **options)
            client.load_collection(name, **options)

        await self._calls.write(create, name, deadline)

    async def read_transform(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> CodeTransform:
        """Return the transform of a set."""
        size = _planes_per_request(collection)
        rows: list[dict[str, Any]] = []
        for begin in range(0, codes.bits, size):
            rows += await self._query(
                planes_name(collection, codes),
                collection,
                f"bit >= {begin} and bit < {begin + size}",
                ["bit", NORMAL, "offset"],
                deadline,
            )
        rows.sort(key=lambda row: int(row["bit"]))
        hyperplanes: Vector = np.array([[*row[NORMAL], row["offset"]] for row in rows], dtype=np.float32)
        transform = CodeTransform(hyperplanes)
        if transform.version != codes.version:
            raise fault()
        return transform

    async def drop(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> None:
        """Drop both Milvus collections of a set."""

        def drop(client: MilvusClient, options: Options) -> None:
            for name in (codes_name(collection, codes), planes_name(collection, codes)):
                client.drop_collection(name, **options)

        await self._calls.write(drop, collection.name, deadline)

    async def delete_all_but(self, collection: Collection, kept: Sequence[CodeSet], deadline: Deadline) -> None:
        """Drop the Milvus collections of all other sets."""
        versions = {codes.version for codes in kept}

        def drop(client: MilvusClient, options: Options) -> None:
            for name in client.list_collections(**options):
                match = CODE_COLLECTION.fullmatch(name)
                if match is not None and match[2] == collection.name and match[1] not in versions:
                    client.drop_collection(name, **options)

        await self._calls.write(drop, collection.name, deadline)

    async def upsert(
        self, collection: Collection, codes: CodeSet, images: Sequence[StoredImage], values: Codes, deadline: Deadline
    ) -> None:
        """Store the codes of images."""
        rows = [
            {
                "id": image.id,
                CODE: value.tobytes(),
                "attributes": attributes_row(image),
                "update_time": micros_of(image.update_time),
            }
            for image, value in zip(images, values, strict=True)
        ]
        await self._upsert(codes_name(collection, codes), collection, rows, deadline)

    async def _upsert(self, name: str, collection: Collection, rows: list[dict[str, Any]], deadline: Deadline) -> None:
        await self._calls.write(lambda client, options: client.upsert(name, rows, **options), collection.name, deadline)

    async def delete(self, collection: Collection, codes: CodeSet, ids: Sequence[str], deadline: Deadline) -> None:
        """Delete the codes with these ids."""
        name, condition = codes_name(collection, codes), ids_expression(ids)
        await self._calls.write(
            lambda client, options: client.delete(name, filter=condition, **options), collection.name, deadline
        )

    async def times(
        self, collection: Collection, codes: CodeSet, after: str, limit: int, deadline: Deadline
    ) -> dict[str, datetime]:
        """Return the update times of encoded images by id, for the first ids greater than `after`."""
        rows = await self._query(
            codes_name(collection, codes),
            collection,
            self._expressions.write(IdAfter(after)),
            ["id", "update_time"],
            deadline,
            limit=limit,
        )
        return {row["id"]: moment_of(row["update_time"]) for row in rows}

    async def count(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> int:
        """Return the number of codes."""
        name = codes_name(collection, codes)
        (row,) = await self._query(name, collection, "", ["count(*)"], deadline)
        return int(row["count(*)"])

    async def _query(
        self,
        name: str,
        collection: Collection,
        expression: str,
        fields: Sequence[str],
        deadline: Deadline,
        **arguments: object,
    ) -> list[dict[str, Any]]:
        strong = Consistency.STRONG
        return await self._calls.query(name, collection.name, expression, fields, strong, deadline, **arguments)

    async def search(
        self,
        collection: Collection,
        codes: CodeSet,
        value: Codes,
        limit: int,
        condition: Filter | None,
        consistency: Consistency,
        deadline: Deadline,
    ) -> list[str]:
        """Return the ids of the nearest codes. Concurrent searches with equal keys share a request."""
        expression = await self._expressions.of(condition)
        key = _Key(collection.name, codes_name(collection, codes), limit, expression, consistency)
        return await self._batcher.submit(key, value, deadline)

    async def _search_batch(self, key: _Key, values: Sequence[Codes], deadline: Deadline) -> list[list[str]]:
        answers = await self._calls.read(
            lambda client, options: client.search(
                key.codes_name,
                data=[value.tobytes() for value in values],
                anns_field=CODE,
                filter=key.expression,
                limit=key.limit,
                output_fields=["id"],
                search_params={"metric_type": BINARY_METRIC, "params": {}},
                consistency_level=key.consistency.value,
                **options,
            ),
            key.collection,
            deadline,
        )
        return [[hit["id"] for hit in hits] for hits in answers]


def _planes_per_request(collection: Collection) -> int:
    return max(1, PLANES_BYTES // (4 * collection.dimension))
