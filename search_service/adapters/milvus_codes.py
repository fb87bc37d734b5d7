"""Binary codes of images in Milvus: beside a collection, two more for each set of codes.

One holds a row for each image: its code, and what a filter may ask for, so that Milvus filters codes as it does
vectors. (Before 2.4 a Milvus collection has one vector in a row, and no field is added to one that exists.) The other
holds the transform, a row for each bit. Their names begin with an underscore, as no collection's of the service does.
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

import numpy as np
from pymilvus import AsyncMilvusClient, CollectionSchema, DataType, FieldSchema, MilvusClient

from grpc_kit.deadline import Deadline
from search_service.adapters.gathering import Gatherer
from search_service.adapters.milvus_errors import fault
from search_service.adapters.milvus_filters import Expressions, ids_expression
from search_service.adapters.milvus_rows import CODES_PROPERTY, attributes_row, code_set_notes, micros_of, moment_of
from search_service.core.checks import MAX_ID_BYTES
from search_service.core.codes import Codes, CodeTransform
from search_service.core.filters import Filter, IdAfter
from search_service.core.types import CodeSet, Collection, Consistency, StoredImage, Vector

Result = TypeVar("Result")
Options = dict[str, Any]
CODE, NORMAL = "code", "normal"
BINARY_INDEX, BINARY_METRIC = "BIN_FLAT", "HAMMING"
SIDE = re.compile(r"_(?:codes|planes)_([0-9a-f]{16})_(.+)")
# Bytes of normals that are written or read at a time.
PLANES_BYTES = 16 * 1024 * 1024
# Searches in one request to Milvus, and requests at a time of searches that could be one.
MAX_GATHERED, SLOTS_OF_EQUALS = 64, 2


class Read(Protocol):
    """What reads rows from Milvus, bounded in time."""

    def __call__(
        self, call: Callable[[AsyncMilvusClient, Options], Awaitable[Result]], collection: str, deadline: Deadline
    ) -> Awaitable[Result]:
        """Makes a call. Raises what its failure means."""
        ...


class Write(Protocol):
    """What does all else with Milvus, bounded in time."""

    def __call__(
        self, call: Callable[[MilvusClient, Options], Result], collection: str, deadline: Deadline
    ) -> Awaitable[Result]:
        """Makes a call. Raises what its failure means."""
        ...


@dataclass(frozen=True)
class _Asked:
    """What searches have to have in common to be one request."""

    collection: str
    milvus_name: str
    limit: int
    fits: str
    """The filter as Milvus reads it: filters that Python takes for equal may mean different things."""
    consistency: Consistency


class MilvusCodes:
    """The codes of a store's collections."""

    def __init__(self, read: Read, write: Write, slots: int, *, is_lite: bool) -> None:
        """`slots` are the requests to Milvus at a time."""
        self._read = read
        self._write = write
        self.supported = not is_lite
        self._gatherer: Gatherer[_Asked, Codes, list[str]] = Gatherer(
            self._together, slots, SLOTS_OF_EQUALS, lambda _: MAX_GATHERED
        )
        self._expressions = Expressions(is_lite=is_lite)

    async def announce(self, collection: Collection, sets: Sequence[CodeSet], deadline: Deadline) -> None:
        """Writes the sets into a property of the collection, which everybody who describes it sees from then on."""
        properties = {CODES_PROPERTY: code_set_notes(sets)}
        await self._write(
            lambda client, options: client.alter_collection_properties(collection.name, properties, **options),
            collection.name,
            deadline,
        )

    async def create(
        self, collection: Collection, codes: CodeSet, transform: CodeTransform, deadline: Deadline
    ) -> None:
        """Makes both collections, loaded; at a time, as each takes Milvus seconds in which it mostly waits."""
        properties = {}
        if collection.ttl is not None:
            # As the images: a server removes them when it compacts.
            properties["collection.ttl.seconds"] = math.ceil(collection.ttl.total_seconds())
        name, planes = codes_name(collection, codes), planes_name(collection, codes)
        await asyncio.gather(
            self._make(name, _codes_schema(codes.bits), CODE, BINARY_INDEX, BINARY_METRIC, properties, deadline),
            self._make(planes, _planes_schema(collection.dimension), NORMAL, "FLAT", "L2", {}, deadline),
        )
        rows = [
            {"bit": bit, NORMAL: row[:-1], "offset": float(row[-1])} for bit, row in enumerate(transform.hyperplanes)
        ]
        at_a_time = _planes_at_a_time(collection)
        for begin in range(0, len(rows), at_a_time):
            some = rows[begin : begin + at_a_time]
            await self._write(
                lambda client, options, some=some: client.upsert(planes, some, **options),  # type: ignore[misc]
                collection.name,
                deadline,
            )

    async def _make(
        self,
        name: str,
        schema: CollectionSchema,
        vector: str,
        index_type: str,
        metric: str,
        properties: dict[str, Any],
        deadline: Deadline,
    ) -> None:
        """Makes a Milvus collection, in the place of one that a crash left."""

        def make(client: MilvusClient, options: Options) -> None:
            client.drop_collection(name, **options)
            client.create_collection(name, schema=schema, properties=properties, **options)
            index = client.prepare_index_params()
            index.add_index(vector, index_type=index_type, metric_type=metric)
            client.create_index(name, index, sync=False, **options)
            client.load_collection(name, **options)

        await self._write(make, name, deadline)

    async def transform(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> CodeTransform:
        """Reads the rows of the transform."""
        at_a_time = _planes_at_a_time(collection)
        parts = [
            await self._planes(collection, codes, range(begin, begin + at_a_time), deadline)
            for begin in range(0, codes.bits, at_a_time)
        ]
        transform = CodeTransform(np.concatenate(parts))
        if transform.version != codes.version:
            raise fault()
        return transform

    async def _planes(self, collection: Collection, codes: CodeSet, bits: range, deadline: Deadline) -> Vector:
        rows = await self._read(
            lambda client, options: client.query(
                planes_name(collection, codes),
                filter=f"bit >= {bits.start} and bit < {bits.stop}",
                output_fields=["bit", NORMAL, "offset"],
                consistency_level=Consistency.STRONG.value,
                **options,
            ),
            collection.name,
            deadline,
        )
        ordered = sorted(rows, key=lambda row: int(row["bit"]))
        return np.array([[*row[NORMAL], row["offset"]] for row in ordered], dtype=np.float32)

    async def drop(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> None:
        """Removes both Milvus collections of a set."""

        def remove(client: MilvusClient, options: Options) -> None:
            for name in (codes_name(collection, codes), planes_name(collection, codes)):
                client.drop_collection(name, **options)

        await self._write(remove, collection.name, deadline)

    async def delete_all_but(self, collection: Collection, kept: Sequence[CodeSet], deadline: Deadline) -> None:
        """Removes the Milvus collections of all other sets."""
        versions = {codes.version for codes in kept}

        def remove(client: MilvusClient, options: Options) -> None:
            for name in client.list_collections(**options):
                side = SIDE.fullmatch(name)
                if side is not None and side[2] == collection.name and side[1] not in versions:
                    client.drop_collection(name, **options)

        await self._write(remove, collection.name, deadline)

    async def upsert(
        self, collection: Collection, codes: CodeSet, images: Sequence[StoredImage], values: Codes, deadline: Deadline
    ) -> None:
        """Stores codes."""
        rows = [
            {
                "id": image.id,
                CODE: value.tobytes(),
                "attributes": attributes_row(image),
                "update_time": micros_of(image.update_time),
            }
            for image, value in zip(images, values, strict=True)
        ]
        name = codes_name(collection, codes)
        await self._write(lambda client, options: client.upsert(name, rows, **options), collection.name, deadline)

    async def delete(self, collection: Collection, codes: CodeSet, ids: Sequence[str], deadline: Deadline) -> None:
        """Removes codes."""
        name, condition = codes_name(collection, codes), ids_expression(ids)
        await self._write(
            lambda client, options: client.delete(name, filter=condition, **options), collection.name, deadline
        )

    async def get(
        self, collection: Collection, codes: CodeSet, ids: Sequence[str], deadline: Deadline
    ) -> dict[str, datetime]:
        """When the images of these ids had last changed when they were encoded."""
        return await self._times(collection, codes, ids_expression(ids), {}, deadline)

    async def query(
        self, collection: Collection, codes: CodeSet, after: str, limit: int, deadline: Deadline
    ) -> dict[str, datetime]:
        """As `get`, by the order of the ids."""
        return await self._times(collection, codes, self._expressions.write(IdAfter(after)), {"limit": limit}, deadline)

    async def _times(
        self, collection: Collection, codes: CodeSet, condition: str, limit: dict[str, int], deadline: Deadline
    ) -> dict[str, datetime]:
        rows = await self._read(
            lambda client, options: client.query(
                codes_name(collection, codes),
                filter=condition,
                output_fields=["id", "update_time"],
                consistency_level=Consistency.STRONG.value,
                **limit,
                **options,
            ),
            collection.name,
            deadline,
        )
        return {row["id"]: moment_of(row["update_time"]) for row in rows}

    async def count(self, collection: Collection, codes: CodeSet, deadline: Deadline) -> int:
        """The number of codes."""
        rows = await self._read(
            lambda client, options: client.query(
                codes_name(collection, codes),
                output_fields=["count(*)"],
                consistency_level=Consistency.STRONG.value,
                **options,
            ),
            collection.name,
            deadline,
        )
        return int(rows[0]["count(*)"])

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
        """The ids of the nearest codes; searches that come together and ask for the same are one request."""
        asked = _Asked(
            collection.name, codes_name(collection, codes), limit, await self._expressions.of(condition), consistency
        )
        return await self._gatherer.submit(asked, value, deadline)

    async def _together(self, asked: _Asked, values: Sequence[Codes], deadline: Deadline) -> list[list[str]]:
        answers = await self._read(
            lambda client, options: client.search(
                asked.milvus_name,
                data=[value.tobytes() for value in values],
                anns_field=CODE,
                filter=asked.fits,
                limit=asked.limit,
                output_fields=["id"],
                search_params={"metric_type": BINARY_METRIC, "params": {}},
                consistency_level=asked.consistency.value,
                **options,
            ),
            asked.collection,
            deadline,
        )
        return [[hit["id"] for hit in hits] for hits in answers]


def codes_name(collection: Collection, codes: CodeSet) -> str:
    """The Milvus collection of a set's codes."""
    return f"_codes_{codes.version}_{collection.name}"


def planes_name(collection: Collection, codes: CodeSet) -> str:
    """The Milvus collection of a set's transform."""
    return f"_planes_{codes.version}_{collection.name}"


def is_side(name: str) -> bool:
    """Whether a Milvus collection is one of a set of codes."""
    return SIDE.fullmatch(name) is not None


def side_names(collection: Collection) -> list[str]:
    """The Milvus collections of all sets of codes of a collection."""
    return [name(collection, codes) for codes in collection.codes for name in (codes_name, planes_name)]


def _planes_at_a_time(collection: Collection) -> int:
    return max(1, PLANES_BYTES // (4 * collection.dimension))


def _codes_schema(bits: int) -> CollectionSchema:
    fields = [
        FieldSchema("id", DataType.VARCHAR, max_length=MAX_ID_BYTES, is_primary=True),
        FieldSchema(CODE, DataType.BINARY_VECTOR, dim=bits),
        FieldSchema("attributes", DataType.JSON),
        FieldSchema("update_time", DataType.INT64),
    ]
    return CollectionSchema(fields, enable_dynamic_field=False)


def _planes_schema(dimension: int) -> CollectionSchema:
    fields = [
        FieldSchema("bit", DataType.INT64, is_primary=True),
        FieldSchema(NORMAL, DataType.FLOAT_VECTOR, dim=dimension),
        FieldSchema("offset", DataType.FLOAT),
    ]
    return CollectionSchema(fields, enable_dynamic_field=False)
