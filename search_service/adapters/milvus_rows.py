"""Milvus' rows and descriptions to plain values and back."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from pymilvus import CollectionSchema, DataType, FieldSchema

from search_service.core.checks import MAX_ID_BYTES, MAX_URI_BYTES
from search_service.core.types import (
    CodeSet,
    Collection,
    Consistency,
    Hit,
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

# A row or an entity of Milvus: field name to value.
Row = Mapping[str, Any]

VECTOR = "vector"
FIELDS = {
    View.ID: ["id"],
    View.TIMES: ["id", "create_time", "update_time"],
    View.BASIC: ["id", "uri", "attributes", "content_sha256", "create_time", "update_time"],
}
FIELDS[View.FULL] = [*FIELDS[View.BASIC], VECTOR]
# Marks a Milvus collection as one of the service's; `layout` in it says how it and the fields are to be read.
PROPERTY = "imagesearch"
LAYOUT = 2
# Which binary codes a collection has: a property of its own, which may change.
CODES_PROPERTY = "imagesearch.codes"
# Which copy of a collection is being built: another property that may change; empty if there is none.
REINDEX_PROPERTY = "imagesearch.reindex"
# The key of an image's region in the attributes' JSON; no attribute's, which have a type before their name.
REGION = "region"
# What the keys of the attributes' JSON begin with, by the type of the value: Milvus Lite takes True for 1, and what a
# comparison of two types gives differs between the backends. With keys of their own no two types ever meet.
LIST = list
KEY_PREFIXES: dict[type, str] = {str: "s_", bool: "b_", float: "n_", int: "n_", LIST: "l_"}
VALUE_PREFIXES = frozenset(KEY_PREFIXES.values())
# Beside a number that is kept as a whole number, and is a float.
FLOAT_PREFIX = "f_"
# From here on not every whole number is a double; up to there whole numbers are compared as such.
MIN_LARGE, END_OF_INTEGERS = 2**53, 2**63


def typed_key(name: str, kind: type) -> str:
    """The key of an attribute's value of one type in the attributes' JSON."""
    return KEY_PREFIXES[kind] + name


def as_whole(value: float) -> float:
    """Return a float as a whole number, if it is one that Milvus can compare exactly; else as it is."""
    if isinstance(value, float) and value.is_integer() and -END_OF_INTEGERS <= value < END_OF_INTEGERS:
        return int(value)
    return value


def schema_of(dimension: int) -> CollectionSchema:
    """The schema of a collection."""
    fields = [
        FieldSchema("id", DataType.VARCHAR, max_length=MAX_ID_BYTES, is_primary=True),
        FieldSchema(VECTOR, DataType.FLOAT_VECTOR, dim=dimension),
        FieldSchema("uri", DataType.VARCHAR, max_length=MAX_URI_BYTES),
        FieldSchema("attributes", DataType.JSON),
        FieldSchema("content_sha256", DataType.VARCHAR, max_length=64),
        FieldSchema("create_time", DataType.INT64),
        FieldSchema("update_time", DataType.INT64),
    ]
    return CollectionSchema(fields, enable_dynamic_field=False)


def notes_of(collection: Collection) -> str:
    """What Milvus has no place for, as JSON."""
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
        }
    )


def collection_of(described: Row) -> Collection | None:
    """The collection that Milvus describes; None where it is not one of the service's."""
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
    """Return the reindex of some notes."""
    if not notes:
        return None
    kept = json.loads(notes)
    times = {
        name: None if kept[name] is None else moment_of(kept[name])
        for name in ("target_create_time", "begin_time", "hold_until")
    }
    return Reindex(**kept | times)


def code_set_notes(sets: Sequence[CodeSet]) -> str:
    """Sets of codes as JSON."""
    return json.dumps([dataclasses.asdict(codes) | {"create_time": micros_of(codes.create_time)} for codes in sets])


def code_sets_of(notes: str) -> tuple[CodeSet, ...]:
    """The sets of codes of some notes."""
    return tuple(CodeSet(**kept | {"create_time": moment_of(kept["create_time"])}) for kept in json.loads(notes))


def index_notes(index: Index) -> dict[str, Any]:
    """An index as the notes hold it."""
    notes: dict[str, Any] = {"type": index.type.value}
    if index.hnsw is not None:
        notes["hnsw"] = dataclasses.asdict(index.hnsw)
    if index.ivf is not None:
        notes["ivf"] = dataclasses.asdict(index.ivf)
    return notes


def index_from(notes: Mapping[str, Any]) -> Index:
    """The index of some notes."""
    return Index(
        IndexType(notes["type"]),
        hnsw=HnswParameters(**notes["hnsw"]) if "hnsw" in notes else None,
        ivf=IvfParameters(**notes["ivf"]) if "ivf" in notes else None,
    )


def build_parameters(index: Index) -> dict[str, int]:
    """How Milvus is told to build an index."""
    if index.hnsw is not None:
        return {"M": index.hnsw.m, "efConstruction": index.hnsw.ef_construction}
    return {"nlist": index.ivf.nlist} if index.ivf is not None else {}


def row_of(image: StoredImage) -> dict[str, Any]:
    """The row of an image."""
    return {
        "id": image.id,
        VECTOR: image.vector,
        "uri": image.uri,
        "attributes": attributes_row(image) | ({REGION: dataclasses.astuple(image.region)} if image.region else {}),
        "content_sha256": image.content_sha256,
        "create_time": micros_of(image.create_time),
        "update_time": micros_of(image.update_time),
    }


def attributes_row(image: StoredImage) -> dict[str, Any]:
    """The attributes' JSON of an image.

    A large float is kept as the whole number that it is: a server would compare it with whole numbers as doubles.
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
    """The attributes of an image's JSON."""
    attributes = {key.partition("_")[2]: value for key, value in row.items() if key[:2] in VALUE_PREFIXES}
    for key in row:
        if key.startswith(FLOAT_PREFIX):
            name = key.removeprefix(FLOAT_PREFIX)
            attributes[name] = float(attributes[name])
    return attributes


def image_of(row: Row) -> StoredImage:
    """The image of a row; fields that were not read have their defaults."""
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
    )


def hit_of(found: Row, metric: Metric) -> Hit:
    """A hit with score and distance by the metric; Milvus gives similarities, and for L2 the distance squared.

    A vector that cannot be compared has the score minus infinity: NaN has no place in an order.
    """
    image = image_of(found["entity"])
    value = float(found["distance"])
    if not math.isfinite(value):
        return Hit(image, score=-math.inf, distance=math.inf)
    match metric:
        case Metric.COSINE:
            # Rounding makes the cosine of a vector with itself a little more than 1.
            cosine = min(1.0, max(-1.0, value))
            return Hit(image, score=cosine, distance=1.0 - cosine)
        case Metric.IP:
            return Hit(image, score=value, distance=-value)
        case Metric.L2:
            distance = math.sqrt(max(value, 0.0))
            return Hit(image, score=1.0 / (1.0 + distance), distance=distance)


def micros_of(moment: datetime | None) -> int:
    """Microseconds since 1970, exactly: a float of seconds would round them."""
    return 0 if moment is None else (moment - EPOCH) // TICK


def moment_of(micros: int) -> datetime:
    """A moment in UTC."""
    return EPOCH + micros * TICK
