"""The rules for what callers send, each with its reason and the field it is about."""

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np
import structlog

from grpc_kit.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
)
from search_service.core.types import AttributeValue, Collection, Embedding, Index, Region, Vector

log = structlog.stdlib.get_logger()

COLLECTION_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
FINGERPRINT = re.compile(r"[A-Za-z0-9._-]{1,64}")
ATTRIBUTE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
ATTRIBUTE_NAME_RULE = "a letter, then at most 127 letters, digits or underscores"
SHA256 = re.compile(r"([0-9a-f]{64})?")

MAX_ID_BYTES = 512
MAX_URI_BYTES = 2048
MAX_ATTRIBUTES = 128
MAX_ATTRIBUTE_BYTES = 32 * 1024
MAX_LABELS = 64
MAX_LABEL_KEY = 63
MAX_LABEL_VALUE = 255
MAX_DESCRIPTION = 1024
MIN_TTL, MAX_TTL = timedelta(seconds=1), timedelta(days=36_500)
MIN_DIMENSION, MAX_DIMENSION = 2, 32768
# Stores compute with squares in float32, which holds 1.2e-38 to 3.4e38. A shorter vector loses its direction: of each
# square up to 1.2e-38 may be lost, and that has to be below a millionth of their sum. With a longer one the square of a
# distance overflows: that of two of this length, of which one is a combination of examples (1.5 times as long).
SHORTEST_SQUARE, LONGEST = 1.2e-32, 7e18
MAX_LIMIT = 1000
MAX_EF = 32768
MAX_IDS = 1000
MAX_REQUEST_ID = 128
SHOWN = 64


def shown(text: str) -> str:
    """A caller's text as a message may show it: quoted, and cut short."""
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")


def check_collection_name(name: str, field: str) -> None:
    """A lower-case letter, then lower-case letters, digits and underscores, 63 characters at most."""
    if not COLLECTION_NAME.fullmatch(name):
        raise InvalidArgumentError(
            "COLLECTION_NAME_INVALID",
            f"{field} is {shown(name)}; it should be a lower-case letter, then at most 62 lower-case letters, "
            "digits or underscores",
            field=field,
        )


def check_fingerprint(fingerprint: str, field: str) -> None:
    """Checks a name of 1 to 64 characters out of A-Z, a-z, 0-9, dot, underscore and hyphen."""
    if not FINGERPRINT.fullmatch(fingerprint):
        raise InvalidArgumentError(
            "FINGERPRINT_INVALID",
            f"{field} is {shown(fingerprint)}; it should be 1 to 64 characters of A-Z a-z 0-9 . _ -",
            field=field,
        )


def check_dimension(dimension: int, field: str) -> None:
    """2 to 32768."""
    if not MIN_DIMENSION <= dimension <= MAX_DIMENSION:
        raise InvalidArgumentError(
            "DIMENSION_INVALID",
            f"{field} is {dimension}; it should be {MIN_DIMENSION} to {MAX_DIMENSION}",
            field=field,
        )


def check_index(index: Index, field: str) -> None:
    """The parameters of an index lie within what Milvus takes."""
    bounds = []
    if index.hnsw is not None:
        bounds = [("hnsw.m", index.hnsw.m, 2, 2048), ("hnsw.ef_construction", index.hnsw.ef_construction, 1, 2**31 - 1)]
    if index.ivf is not None:
        bounds = [("ivf.nlist", index.ivf.nlist, 1, 65536)]
    for name, value, least, most in bounds:
        if not least <= value <= most:
            raise InvalidArgumentError(
                "INDEX_INVALID", f"{field}.{name} is {value}; it should be {least} to {most}", field=f"{field}.{name}"
            )


def check_notes(description: str, labels: Mapping[str, str], field: str) -> None:
    """An owner's description and labels."""
    if len(description) > MAX_DESCRIPTION:
        raise InvalidArgumentError(
            "DESCRIPTION_TOO_LONG",
            f"{field}.description has {len(description)} characters; at most {MAX_DESCRIPTION} are taken",
            field=f"{field}.description",
        )
    if len(labels) > MAX_LABELS:
        raise InvalidArgumentError(
            "LABELS_INVALID",
            f"{field}.labels has {len(labels)}; at most {MAX_LABELS} are taken",
            field=f"{field}.labels",
        )
    for key, value in labels.items():
        if not 1 <= len(key) <= MAX_LABEL_KEY or len(value) > MAX_LABEL_VALUE:
            raise InvalidArgumentError(
                "LABELS_INVALID",
                f"{field}.labels[{shown(key)}]: a key should have 1 to {MAX_LABEL_KEY} characters, a value at most "
                f"{MAX_LABEL_VALUE}",
                field=f"{field}.labels",
            )


def check_ttl(ttl: timedelta | None, field: str) -> None:
    """A time to live: 1 second to 100 years; None is for ever."""
    if ttl is not None and not MIN_TTL <= ttl <= MAX_TTL:
        raise InvalidArgumentError(
            "TTL_INVALID",
            f"{field} is {ttl.total_seconds():.15g} s; it should be {MIN_TTL.seconds} s to {MAX_TTL.days} days",
            field=field,
        )


def invalid_hold(duration: timedelta, least: timedelta, most: timedelta) -> InvalidArgumentError:
    """Return the refusal of a duration for which writes cannot be held."""
    return InvalidArgumentError(
        "DURATION_INVALID",
        f"duration is {duration.total_seconds():g} s; it must be 0, or from {least.seconds} to {most.seconds} s",
        field="duration",
    )


def check_region(region: Region | None, field: str) -> None:
    """A box within the image, the right way round."""
    if region is None:
        return
    if not (0 <= region.x0 < region.x1 <= 1 and 0 <= region.y0 < region.y1 <= 1):
        raise InvalidArgumentError(
            "REGION_INVALID",
            f"{field} is ({region.x0:g}, {region.y0:g}) to ({region.x1:g}, {region.y1:g}); it should be a box in "
            "fractions of the image: 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1",
            field=field,
        )


def check_id(image_id: str, field: str) -> None:
    """1 to 512 bytes of UTF-8 without control characters."""
    size = len(image_id.encode())
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidArgumentError(
            "ID_INVALID",
            f"{field} has {size} bytes; it should have 1 to {MAX_ID_BYTES}",
            field=field,
            metadata={"max_id_bytes": str(MAX_ID_BYTES)},
        )
    if any(unicodedata.category(character) == "Cc" for character in image_id):
        raise InvalidArgumentError(
            "ID_INVALID", f"{field} is {shown(image_id)}; it should hold no control characters", field=field
        )


def check_ids(ids: Sequence[str], field: str) -> None:
    """1 to 1,000 ids."""
    if not 1 <= len(ids) <= MAX_IDS:
        raise InvalidArgumentError(
            "TOO_MANY_IDS" if ids else "ID_INVALID",
            f"{field} has {len(ids)}; it should have 1 to {MAX_IDS}",
            field=field,
        )
    for position, image_id in enumerate(ids):
        check_id(image_id, f"{field}[{position}]")


def check_request_id(request_id: str) -> None:
    """At most 128 characters."""
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidArgumentError(
            "REQUEST_ID_TOO_LONG",
            f"request_id has {len(request_id)} characters; at most {MAX_REQUEST_ID} are taken",
            field="request_id",
        )


def check_uri(uri: str) -> None:
    """At most 2,048 bytes."""
    size = len(uri.encode())
    if size > MAX_URI_BYTES:
        raise InvalidArgumentError(
            "URI_INVALID", f"uri has {size} bytes; at most {MAX_URI_BYTES} are taken", field="uri"
        )


def check_sha256(sha256: str) -> None:
    """Empty, or 64 hexadecimal digits in lower case."""
    if not SHA256.fullmatch(sha256):
        raise InvalidArgumentError(
            "CONTENT_SHA256_INVALID",
            f"content_sha256 is {shown(sha256)}; it should be 64 hexadecimal digits in lower case",
            field="content_sha256",
        )


def check_attributes(attributes: Mapping[str, AttributeValue]) -> None:
    """At most 128, well named, finite, and not too large altogether."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidArgumentError(
            "ATTRIBUTE_INVALID",
            f"attributes has {len(attributes)} entries; at most {MAX_ATTRIBUTES} are taken",
            field="attributes",
        )
    for name, value in attributes.items():
        if not ATTRIBUTE_NAME.fullmatch(name):
            raise InvalidArgumentError(
                "ATTRIBUTE_INVALID",
                f"attributes has the name {shown(name)}; it should be a letter, then at most 127 letters, digits or "
                "underscores",
                field="attributes",
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidArgumentError(
                "ATTRIBUTE_INVALID", f"attributes.{name} is {value}; it should be finite", field=f"attributes.{name}"
            )
    # As the store keeps them.
    size = len(json.dumps(attributes, ensure_ascii=False).encode())
    if size > MAX_ATTRIBUTE_BYTES:
        raise InvalidArgumentError(
            "ATTRIBUTE_INVALID",
            f"attributes take {size} bytes; at most {MAX_ATTRIBUTE_BYTES} are taken",
            field="attributes",
        )


def check_limit(limit: int) -> None:
    """1 to 1,000."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidArgumentError(
            "LIMIT_INVALID",
            f"limit is {limit}; it should be 1 to {MAX_LIMIT}",
            field="limit",
            metadata={"max_limit": str(MAX_LIMIT)},
        )


def check_min_score(min_score: float | None) -> None:
    """Any number that is one."""
    if min_score is not None and math.isnan(min_score):
        raise InvalidArgumentError("MIN_SCORE_INVALID", "min_score is NaN; it should be a number", field="min_score")


def check_embedding(embedding: Embedding, collection: Collection, field: str) -> None:
    """Raise if the collection cannot hold a caller's vector."""
    check_fingerprint(embedding.fingerprint, f"{field}.fingerprint")
    if embedding.fingerprint != collection.fingerprint:
        raise embedding_mismatch(collection, embedding.fingerprint, field)
    check_values(embedding.values, collection, field)


def check_embedded(embedding: Embedding, collection: Collection, field: str) -> None:
    """Raise if the collection cannot hold the embedder's vector of the image in `field`.

    Another implementation of the embedder's contract may send any vector. Its faults are not the caller's faults.
    """
    if embedding.fingerprint != collection.fingerprint:
        raise embedding_mismatch(collection, embedding.fingerprint, field)
    try:
        check_values(embedding.values, collection, field)
    except InvalidArgumentError as error:
        if error.reason == "VECTOR_ZERO":
            raise InvalidArgumentError(
                "IMAGE_WITHOUT_VECTOR",
                f"the vector of {field} is all zero with model {collection.model}, and cannot be compared; use another "
                "image or another model",
                field=field,
                metadata={"model": collection.model},
            ) from None
        log.warning("a vector of the embedder is not used", collection=collection.name, problem=error.message)
        raise InternalError(
            "VECTOR_INVALID",
            f"the embedder's model {collection.model} made a vector that cannot be used: {error.message}",
            metadata={"model": collection.model},
        ) from None


def check_values(values: Vector, collection: Collection, field: str) -> None:
    """Raise if the collection cannot hold these values: the store accepts NaN, and gives wrong answers from then on."""
    if len(values) != collection.dimension:
        raise InvalidArgumentError(
            "VECTOR_DIMENSION_MISMATCH",
            f"{field}.values has {len(values)} components; collection {collection.name} has {collection.dimension}",
            field=f"{field}.values",
            metadata={"dimension": str(collection.dimension)},
        )
    finite = np.isfinite(values)
    if not finite.all():
        position = int(np.argmin(finite))
        raise InvalidArgumentError(
            "VECTOR_NOT_FINITE",
            f"{field}.values[{position}] is {values[position]}; every component should be finite",
            field=f"{field}.values",
        )
    if not values.any():
        raise InvalidArgumentError(
            "VECTOR_ZERO",
            f"{field}.values is all zero; a vector without a direction is like nothing",
            field=f"{field}.values",
        )
    length, shortest = length_of(values), shortest_length(len(values))
    if not shortest <= length <= LONGEST:
        raise InvalidArgumentError(
            "VECTOR_LENGTH_INVALID",
            f"{field}.values has length {length:.2g}; it must be from {shortest:.2g} to {LONGEST:.2g}, because its "
            "square is computed in float32. Scale all vectors of the collection alike",
            field=f"{field}.values",
            metadata={"min_length": f"{shortest:.2g}", "max_length": f"{LONGEST:.2g}"},
        )


def length_of(vector: Vector) -> float:
    """Return the Euclidean length of a vector, float32[D], computed so that no square is lost."""
    return float(np.linalg.norm(vector.astype(np.float64)))


def shortest_length(dimension: int) -> float:
    """Return the least length of a vector of a dimension that stores compute with."""
    return math.sqrt(dimension * SHORTEST_SQUARE)


def embedding_mismatch(collection: Collection, fingerprint: str, field: str) -> FailedPreconditionError:
    """Vectors of two spaces must not be compared."""
    return FailedPreconditionError(
        "EMBEDDING_MISMATCH",
        f"{field} is of the space {shown(fingerprint)}; collection {collection.name} holds vectors of "
        f"{collection.fingerprint!r}. Make a new collection for the new model, as `imagesearch reindex` does",
        field=field,
        metadata={"collection_fingerprint": collection.fingerprint, "fingerprint": fingerprint},
    )


def collection_exists(name: str, model: str = "") -> AlreadyExistsError:
    """Return the error for a taken name; `model` is the embedder's own name of the new collection's model."""
    return AlreadyExistsError(
        "COLLECTION_EXISTS",
        f"a collection called {name} exists; choose another name or delete it first",
        field="collection.name",
        metadata={"collection": name} | ({"model": model} if model else {}),
    )


def collection_not_found(name: str) -> NotFoundError:
    """No collection has this name."""
    return NotFoundError(
        "COLLECTION_NOT_FOUND",
        f"there is no collection called {name}",
        field="collection",
        metadata={"collection": name},
    )
