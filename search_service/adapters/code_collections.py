"""The Milvus collections of binary codes: two for each set of codes, beside the collection of the images.

One has a row for each image: its code, and the fields of filters. (Before Milvus 2.4, a collection has one vector
field, and no field can be added later.) The other has the transform, with a row for each bit. Their names begin with an
underscore; names of the service's collections do not.
"""

import re

from pymilvus import CollectionSchema, DataType, FieldSchema

from search_service.core.checks import MAX_ID_BYTES
from search_service.core.types import CodeSet, Collection

CODE, NORMAL = "code", "normal"
BINARY_INDEX, BINARY_METRIC = "BIN_FLAT", "HAMMING"
# The version of the transform, and the name of the service's collection.
CODE_COLLECTION = re.compile(r"_(?:codes|planes)_([0-9a-f]{16})_(.+)")


def codes_name(collection: Collection, codes: CodeSet) -> str:
    """Return the name of the Milvus collection with the codes of a set."""
    return f"_codes_{codes.version}_{collection.name}"


def planes_name(collection: Collection, codes: CodeSet) -> str:
    """Return the name of the Milvus collection with the transform of a set."""
    return f"_planes_{codes.version}_{collection.name}"


def names_of_codes(collection: Collection) -> list[str]:
    """Return the names of the Milvus collections of all sets of a collection."""
    return [name(collection, codes) for codes in collection.codes for name in (codes_name, planes_name)]


def is_code_collection(name: str) -> bool:
    """Return whether a Milvus collection belongs to a set of codes."""
    return CODE_COLLECTION.fullmatch(name) is not None


def codes_schema(bits: int) -> CollectionSchema:
    """Return the schema of codes with this many bits."""
    fields = [
        FieldSchema("id", DataType.VARCHAR, max_length=MAX_ID_BYTES, is_primary=True),
        FieldSchema(CODE, DataType.BINARY_VECTOR, dim=bits),
        FieldSchema("attributes", DataType.JSON),
        FieldSchema("update_time", DataType.INT64),
    ]
    return CollectionSchema(fields, enable_dynamic_field=False)


def planes_schema(dimension: int) -> CollectionSchema:
    """Return the schema of the transform of vectors with this dimension."""
    fields = [
        FieldSchema("bit", DataType.INT64, is_primary=True),
        FieldSchema(NORMAL, DataType.FLOAT_VECTOR, dim=dimension),
        FieldSchema("offset", DataType.FLOAT),
    ]
    return CollectionSchema(fields, enable_dynamic_field=False)
