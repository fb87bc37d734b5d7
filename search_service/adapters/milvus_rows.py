"""Convert rows and descriptions of Milvus to plain values and back."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from pymilvus import CollectionSchema, DataType, FieldSchema, MilvusClient
from pymilvus.milvus_client.index import IndexParams

from search_service.core.checks import MAX_ID_BYTES, MAX_URI_BYTES
from search_service.core.types import (
    CodeSet,
    Collection,
    Consistency,
    HnswParameters,
    Index,
    IndexType,
    IvfParameters,
    Metric,
    Region,
    Reindex,
    StoredImage,
    View,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)

# A row or a description of Milvus: values by field name.
Row = Mapping[str, Any]

VECTOR = "vector"
FIELDS = {
    View.ID: ["id"],
    View.TIMES: ["id", "create_time", "update_time"],
    View.BASIC: ["id", "uri", "attributes", "content_sha256", "create_time", "update_time"],
}
FIELDS[View.VECTOR] = FIELDS[View.FULL] = [*FIELDS[View.BASIC], VECTOR]
# More fields of the images in a collection with regions. A generation has more bits than an integer of Milvus.
GENERATION, REGION_COUNT = "generation", "region_count"
GENERATION_DIGITS = 24
# The property that every collection of the service has. `layout` in it is the version of this format.
PROPERTY = "imagesearch"
LAYOUT = 2
# The property with the sets of binary codes. It may change.
CODES_PROPERTY = "imagesearch.codes"
# The property with the reindex that runs, empty if none does. It may change.
REINDEX_PROPERTY = "imagesearch.reindex"
# The key of the region in the JSON of the attributes. Keys of attributes begin with a type prefix.
REGION = "region"
# Prefixes of keys in the JSON of the attributes, by the type of the value. Milvus Lite treats True as 1, and backends
# compare values of two types differently. With separate keys, they never compare values of two types.
LIST = list
KEY_PREFIXES: dict[type, str] = {str: "s_", bool: "b_", float: "n_", int: "n_", LIST: "l_"}
VALUE_PREFIXES = frozenset(KEY_PREFIXES.values())
# A key with this prefix marks a number that is stored as an integer and is a float.
FLOAT_PREFIX = "f_"
# A double holds every integer up to the first number. Milvus compares integers exactly below the second.
MIN_LARGE, END_OF_INTEGERS = 2**53, 2**63


def typed_key(name: str, kind: type) -> str:
    """Return the key of a value of this type in the JSON of the attributes."""
    return KEY_PREFIXES[kind] + name


def as_whole(value: float) -> float:
    """Return a float as an integer if Milvus can compare that exactly; otherwise, return it unchanged."""
    if isinstance(value, float) and value.is_integer() and -END_OF_INTEGERS <= value < END_OF_INTEGERS:
        return int(value)
    return value


def fields_of(view: View, max_regions: int) -> list[str]:
    """Return the fields that a view reads."""
    return [*FIELDS[view], GENERATION, REGION_COUNT] if max_regions else FIELDS[view]


def generation_text(generation: int) -> str:
    """Return a generation as text, whose order is that of the generations."""
    return f"{generation:0{GENERATION_DIGITS}x}"


def schema_of(collection: Collection) -> CollectionSchema:
    """Return the schema of a collection."""
    fields = [
        FieldSchema("id", DataType.VARCHAR, max_length=MAX_ID_BYTES, is_primary=True),
        FieldSchema(VECTOR, DataType.FLOAT_VECTOR, dim=collection.dimension),
        FieldSchema("uri", DataType.VARCHAR, max_length=MAX_URI_BYTES),
        FieldSchema("attributes", DataType.JSON),
        FieldSchema("content_sha256", DataType.VARCHAR, max_length=64),
        FieldSchema("create_time", DataType.INT64),
        FieldSchema("update_time", DataType.INT64),
    ]
    if collection.max_regions:
        fields.append(FieldSchema(GENERATION, DataType.VARCHAR, max_length=GENERATION_DIGITS))
        fields.append(FieldSchema(REGION_COUNT, DataType.INT64))
    return CollectionSchema(fields, enable_dynamic_field=False)


def notes_of(collection: Collection) -> str:
    """Return the fields of a collection that Milvus does not have, as JSON."""
    return json.dumps(
        {
            "layout": LAYOUT,
            "fingerprint": collection.fingerprint,
            "model": collection.model,
            "metric": collection.metric.value,
            "index": index_notes(collection.index),
            "consistency": collection.consistency.value,
            "description": collection.description,
            "labels": dict(collection.labels),
            "create_time": micros_of(collection.create_time),
            "ttl_seconds": collection.ttl.total_seconds() if collection.ttl else None,
            "max_regions": collection.max_regions,
        }
    )


def collection_of(described: Row) -> Collection | None:
    """Return the collection that Milvus describes; None if it belongs to another application."""
    try:
        notes = json.loads(described["properties"].get(PROPERTY, ""))
    except ValueError:
        return None
    if notes["layout"] != LAYOUT:
        return None
    vector = next(field for field in described["fields"] if field["name"] == VECTOR)
    return Collection(
        name=described["collection_name"],
        dimension=int(vector["params"]["dim"]),
        fingerprint=notes["fingerprint"],
        create_time=moment_of(notes["create_time"]),
        model=notes["model"],
        metric=Metric(notes["metric"]),
        index=index_from(notes["index"]),
        consistency=Consistency(notes["consistency"]),
        description=notes["description"],
        labels=notes["labels"],
        ttl=timedelta(seconds=notes["ttl_seconds"]) if notes.get("ttl_seconds") else None,
        codes=code_sets_of(described["properties"].get(CODES_PROPERTY, "[]")),
        reindex=reindex_of(described["properties"].get(REINDEX_PROPERTY, "")),
        max_regions=notes.get("max_regions", 0),
    )


def reindex_notes(reindex: Reindex | None) -> str:
    """Return a reindex as JSON; empty for none."""
    if reindex is None:
        return ""
    times = {"target_create_time": reindex.target_create_time, "begin_time": reindex.begin_time}
    notes = {name: micros_of(moment) for name, moment in times.items()}
    hold = None if reindex.hold_until is None else micros_of(reindex.hold_until)
    return json.dumps({"target": reindex.target, "moving": reindex.moving, "hold_until": hold} | notes)


def reindex_of(notes: str) -> Reindex | None:
    """Return the reindex for JSON that `reindex_notes` made."""
    if not notes:
        return None
    kept = json.loads(notes)
    times = {
        name: None if kept[name] is None else moment_of(kept[name])
        for name in ("target_create_time", "begin_time", "hold_until")
    }
    return Reindex(**kept | times)


def code_set_notes(sets: Sequence[CodeSet]) -> str:
    """Return code sets as JSON."""
    return json.dumps([dataclasses.asdict(codes) | {"create_time": micros_of(codes.create_time)} for codes in sets])


def code_sets_of(notes: str) -> tuple[CodeSet, ...]:
    """Return the code sets for JSON that `code_set_notes` made."""
    return tuple(CodeSet(**kept | {"create_time": moment_of(kept["create_time"])}) for kept in json.loads(notes))


def index_notes(index: Index) -> dict[str, Any]:
    """Return an index as a value for JSON."""
    notes: dict[str, Any] = {"type": index.type.value}
    if index.hnsw is not None:
        notes["hnsw"] = dataclasses.asdict(index.hnsw)
    if index.ivf is not None:
        notes["ivf"] = dataclasses.asdict(index.ivf)
    return notes


def index_from(notes: Mapping[str, Any]) -> Index:
    """Return the index for a value that `index_notes` made."""
    return Index(
        IndexType(notes["type"]),
        hnsw=HnswParameters(**notes["hnsw"]) if "hnsw" in notes else None,
        ivf=IvfParameters(**notes["ivf"]) if "ivf" in notes else None,
    )


def index_parameters(client: MilvusClient, collection: Collection, *, is_lite: bool) -> IndexParams:
    """Return how Milvus builds the index of a collection."""
    index = collection.index
    kind, parameters = index.type, {}
    if is_lite:
        # Other indexes of Milvus Lite miss many neighbors. For its sizes, comparing every vector is as fast.
        kind = IndexType.FLAT
    elif index.hnsw is not None:
        parameters = {"M": index.hnsw.m, "efConstruction": index.hnsw.ef_construction}
    elif index.ivf is not None:
        parameters = {"nlist": index.ivf.nlist}
    params = client.prepare_index_params()
    params.add_index(VECTOR, index_type=kind.value, metric_type=collection.metric.value, params=parameters)
    return params


def ttl_property(collection: Collection, margin: timedelta = timedelta()) -> dict[str, Any]:
    """Return the property with which a server deletes expired rows when it compacts; empty without a time to live.

    The rows live longer than the images by `margin`.
    """
    if collection.ttl is None:
        return {}
    return {"collection.ttl.seconds": math.ceil((collection.ttl + margin).total_seconds())}


def row_of(image: StoredImage, max_regions: int) -> dict[str, Any]:
    """Return the row of an image in a collection with this many regions."""
    row = {
        "id": image.id,
        VECTOR: image.vector,
        "uri": image.uri,
        "attributes": attributes_row(image) | ({REGION: dataclasses.astuple(image.region)} if image.region else {}),
        "content_sha256": image.content_sha256,
        "create_time": micros_of(image.create_time),
        "update_time": micros_of(image.update_time),
    }
    if max_regions:
        row |= {GENERATION: generation_text(image.generation), REGION_COUNT: image.region_count}
    return row


def attributes_row(image: StoredImage) -> dict[str, Any]:
    """Return the attributes of an image as JSON.

    A large float without a fraction becomes an integer: a server would compare it with integers as doubles.
    """
    row: dict[str, Any] = {}
    for name, value in image.attributes.items():
        kept = value
        if isinstance(value, float) and abs(value) >= MIN_LARGE:
            kept = as_whole(value)
            if isinstance(kept, int):
                row[FLOAT_PREFIX + name] = True
        row[typed_key(name, type(value))] = kept
    return row


def attributes_of(row: Row) -> dict[str, Any]:
    """Return the attributes for JSON that `attributes_row` made."""
    attributes = {key.partition("_")[2]: value for key, value in row.items() if key[:2] in VALUE_PREFIXES}
    for key in row:
        if key.startswith(FLOAT_PREFIX):
            name = key.removeprefix(FLOAT_PREFIX)
            attributes[name] = float(attributes[name])
    return attributes


def image_of(row: Row) -> StoredImage:
    """Return the image of a row; fields that were not read have their defaults."""
    vector = row.get(VECTOR)
    attributes = row.get("attributes") or {}
    region = attributes.get(REGION)
    return StoredImage(
        id=row["id"],
        uri=row.get("uri", ""),
        attributes=attributes_of(attributes),
        content_sha256=row.get("content_sha256", ""),
        create_time=moment_of(row["create_time"]) if "create_time" in row else None,
        update_time=moment_of(row["update_time"]) if "update_time" in row else None,
        vector=None if vector is None else np.asarray(vector, dtype=np.float32),
        region=Region(*region) if region else None,
        generation=int(row.get(GENERATION, "0"), 16),
        region_count=int(row.get(REGION_COUNT, 0)),
    )


def micros_of(moment: datetime | None) -> int:
    """Return the microseconds since 1970, exactly; a float of seconds would round them."""
    return 0 if moment is None else (moment - EPOCH) // TICK


def moment_of(micros: int) -> datetime:
    """Return the time in UTC for microseconds since 1970."""
    return EPOCH + micros * TICK
