"""The Milvus collections of regions: one for each collection with regions, beside the collection of the images.

It has a row for each region, with the fields of filters. (Before Milvus 2.4, a row has one vector.) Its name has the
creation time of the collection, so that a later collection of the same name never finds these regions.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from pymilvus import CollectionSchema, DataType, FieldSchema

from search_service.adapters.code_collections import is_code_collection
from search_service.adapters.milvus_rows import (
    GENERATION_DIGITS,
    VECTOR,
    Row,
    generation_text,
    micros_of,
    moment_of,
)
from search_service.core.checks import MAX_ID_BYTES
from search_service.core.types import Collection, Region, StoredRegion

KEY, BOX = "key", "box"
# The parts of a box in its JSON.
CORNERS, SALIENCY = "corners", "saliency"
# Characters between those of a generation and the end of every key of that generation.
BEFORE_NUMBER, AFTER_NUMBERS = "-", "."
NUMBER_DIGITS = 2
# The creation time in microseconds, and the name of the service's collection.
REGION_COLLECTION = re.compile(r"_regions_([0-9a-f]+)_(.+)")


def regions_name(collection: Collection) -> str:
    """Return the name of the Milvus collection with the regions of a collection."""
    return f"_regions_{micros_of(collection.create_time):x}_{collection.name}"


def names_of_regions(collection: Collection) -> list[str]:
    """Return the name of the Milvus collection with the regions, if the collection has regions."""
    return [regions_name(collection)] if collection.max_regions else []


def is_companion(name: str) -> bool:
    """Return whether a Milvus collection has the codes or the regions of another one."""
    return is_code_collection(name) or REGION_COLLECTION.fullmatch(name) is not None


def owner_of(name: str) -> Collection | None:
    """Return the name and the creation time of the collection whose regions these are; None for other names."""
    match = REGION_COLLECTION.fullmatch(name)
    if match is None:
        return None
    return Collection(match[2], dimension=0, fingerprint="", create_time=moment_of(int(match[1], 16)), max_regions=1)


def regions_schema(dimension: int) -> CollectionSchema:
    """Return the schema of regions."""
    key_length = GENERATION_DIGITS + len(BEFORE_NUMBER) + NUMBER_DIGITS
    fields = [
        FieldSchema(KEY, DataType.VARCHAR, max_length=key_length, is_primary=True),
        FieldSchema("id", DataType.VARCHAR, max_length=MAX_ID_BYTES),
        FieldSchema(VECTOR, DataType.FLOAT_VECTOR, dim=dimension),
        FieldSchema(BOX, DataType.JSON),
        FieldSchema("attributes", DataType.JSON),
        FieldSchema("update_time", DataType.INT64),
    ]
    return CollectionSchema(fields, enable_dynamic_field=False)


def key_of(generation: int, number: int) -> str:
    """Return the primary key of a region. Keys of one generation follow each other."""
    return f"{generation_text(generation)}{BEFORE_NUMBER}{number:0{NUMBER_DIGITS}}"


def generation_of(key: str) -> int:
    """Return the generation in a key."""
    return int(key.partition(BEFORE_NUMBER)[0], 16)


def keys_expression(generations: Sequence[int], max_regions: int) -> str:
    """Return the expression for all regions of generations, by primary key: the fastest on every backend."""
    keys = (f'"{key_of(generation, number)}"' for generation in generations for number in range(max_regions))
    return f"{KEY} in [{', '.join(keys)}]"


def between_expression(after: int, before: int) -> str:
    """Return the expression for the regions of all generations between two."""
    return f'{KEY} > "{generation_text(after)}{AFTER_NUMBERS}" and {KEY} < "{generation_text(before)}"'


def box_row(region: StoredRegion) -> dict[str, Any]:
    """Return the box and the saliency of a region as JSON."""
    box = region.box
    return {CORNERS: [box.x0, box.y0, box.x1, box.y1], SALIENCY: region.saliency}


def box_of(row: Row) -> Region:
    """Return the box of a row."""
    return Region(*row[BOX][CORNERS])


def region_of(row: Row) -> StoredRegion:
    """Return the region of a row."""
    return StoredRegion(box_of(row), np.asarray(row[VECTOR], dtype=np.float32), float(row[BOX][SALIENCY]))
