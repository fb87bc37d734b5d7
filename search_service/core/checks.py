"""The rules for requests. Each error has its reason and the field at fault."""

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import timedelta

from grpc_kit.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
)
from search_service.core.types import AttributeValue, Collection, Index, Region, StoredRegion

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
MAX_LIMIT = 1000
MAX_EF = 32768
MAX_IDS = 1000
MAX_REQUEST_ID = 128
MAX_REGIONS = 64
SHOWN = 64


def shown(text: str) -> str:
    """Return a text of a caller for a message: quoted and shortened."""
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")


def check_collection_name(name: str, field: str) -> None:
    """Raise InvalidArgumentError unless a name of a collection or an alias has the right form."""
    if not COLLECTION_NAME.fullmatch(name):
        raise InvalidArgumentError(
            "COLLECTION_NAME_INVALID",
            f"{field} is {shown(name)}; it must be a lower-case letter, then at most 62 lower-case letters, digits or "
            "underscores",
            field=field,
        )


def check_fingerprint(fingerprint: str, field: str) -> None:
    """Raise InvalidArgumentError unless a fingerprint has the right form."""
    if not FINGERPRINT.fullmatch(fingerprint):
        raise InvalidArgumentError(
            "FINGERPRINT_INVALID",
            f"{field} is {shown(fingerprint)}; it must be 1 to 64 characters of A-Z a-z 0-9 . _ -",
            field=field,
        )


def check_dimension(dimension: int, field: str) -> None:
    """Raise InvalidArgumentError unless a dimension is in the range."""
    if not MIN_DIMENSION <= dimension <= MAX_DIMENSION:
        raise InvalidArgumentError(
            "DIMENSION_INVALID",
            f"{field} is {dimension}; it must be between {MIN_DIMENSION} and {MAX_DIMENSION}",
            field=field,
        )


def check_index(index: Index, field: str) -> None:
    """Raise InvalidArgumentError unless Milvus accepts the build parameters of an index."""
    bounds = []
    if index.hnsw is not None:
        bounds = [("hnsw.m", index.hnsw.m, 2, 2048), ("hnsw.ef_construction", index.hnsw.ef_construction, 1, 2**31 - 1)]
    if index.ivf is not None:
        bounds = [("ivf.nlist", index.ivf.nlist, 1, 65536)]
    for name, value, least, most in bounds:
        if not least <= value <= most:
            raise InvalidArgumentError(
                "INDEX_INVALID",
                f"{field}.{name} is {value}; it must be between {least} and {most}",
                field=f"{field}.{name}",
            )


def check_notes(description: str, labels: Mapping[str, str], field: str) -> None:
    """Raise InvalidArgumentError if a description or labels are too long or too many."""
    if len(description) > MAX_DESCRIPTION:
        raise InvalidArgumentError(
            "DESCRIPTION_TOO_LONG",
            f"{field}.description has {len(description)} characters; it must have at most {MAX_DESCRIPTION}",
            field=f"{field}.description",
        )
    if len(labels) > MAX_LABELS:
        raise InvalidArgumentError(
            "LABELS_INVALID",
            f"{field}.labels has {len(labels)} entries; it must have at most {MAX_LABELS}",
            field=f"{field}.labels",
        )
    for key, value in labels.items():
        if not 1 <= len(key) <= MAX_LABEL_KEY or len(value) > MAX_LABEL_VALUE:
            raise InvalidArgumentError(
                "LABELS_INVALID",
                f"{field}.labels[{shown(key)}] is invalid: a key must have 1 to {MAX_LABEL_KEY} characters, a value "
                f"at most {MAX_LABEL_VALUE}",
                field=f"{field}.labels",
            )


def check_ttl(ttl: timedelta | None, field: str) -> None:
    """Raise InvalidArgumentError unless a time to live is in the range; None is forever."""
    if ttl is not None and not MIN_TTL <= ttl <= MAX_TTL:
        raise InvalidArgumentError(
            "TTL_INVALID",
            f"{field} is {ttl.total_seconds():.15g} s; it must be between {MIN_TTL.seconds} s and {MAX_TTL.days} days",
            field=field,
        )


def invalid_hold(duration: timedelta, least: timedelta, most: timedelta) -> InvalidArgumentError:
    """Return the error for a duration of a hold that is out of range."""
    return InvalidArgumentError(
        "DURATION_INVALID",
        f"duration is {duration.total_seconds():g} s; it must be 0, or between {least.seconds} s and {most.seconds} s",
        field="duration",
    )


def check_max_regions(count: int, field: str) -> None:
    """Raise InvalidArgumentError unless a number of regions is in the range."""
    if not 0 <= count <= MAX_REGIONS:
        raise InvalidArgumentError(
            "MAX_REGIONS_INVALID", f"{field} is {count}; it must be between 0 and {MAX_REGIONS}", field=field
        )


def check_regions(regions: Sequence[StoredRegion], collection: Collection, field: str) -> None:
    """Raise InvalidArgumentError unless an image of the collection can have so many regions with such boxes."""
    if regions and not collection.max_regions:
        raise InvalidArgumentError(
            "REGIONS_UNSUPPORTED",
            f"{field} has {len(regions)} regions, and collection {collection.name} has none; use a collection that was "
            "created with max_regions",
            field=field,
            metadata={"collection": collection.name},
        )
    if len(regions) > collection.max_regions:
        raise too_many_regions(regions, collection, field)
    for number, region in enumerate(regions):
        check_region(region.box, f"{field}[{number}].box")
        if not math.isfinite(region.saliency):
            raise InvalidArgumentError(
                "REGION_INVALID",
                f"{field}[{number}].saliency is {region.saliency}; it must be finite",
                field=f"{field}[{number}].saliency",
            )


def too_many_regions(regions: Sequence[StoredRegion], collection: Collection, field: str) -> InvalidArgumentError:
    """Return the error for more regions than a collection allows."""
    return InvalidArgumentError(
        "TOO_MANY_REGIONS",
        f"{field} has {len(regions)} regions; collection {collection.name} allows {collection.max_regions}",
        field=field,
        metadata={"max_regions": str(collection.max_regions)},
    )


def check_region(region: Region | None, field: str) -> None:
    """Raise InvalidArgumentError unless a region is a box inside the image."""
    if region is None:
        return
    if not (0 <= region.x0 < region.x1 <= 1 and 0 <= region.y0 < region.y1 <= 1):
        raise InvalidArgumentError(
            "REGION_INVALID",
            f"{field} is ({region.x0:g}, {region.y0:g}) to ({region.x1:g}, {region.y1:g}); it must be a box in "
            "fractions of the image: 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1",
            field=field,
        )


def check_id(image_id: str, field: str) -> None:
    """Raise InvalidArgumentError unless an id has 1 to 512 bytes without control characters."""
    size = len(image_id.encode())
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidArgumentError(
            "ID_INVALID",
            f"{field} has {size} bytes; it must have between 1 and {MAX_ID_BYTES}",
            field=field,
            metadata={"max_id_bytes": str(MAX_ID_BYTES)},
        )
    if any(unicodedata.category(character) == "Cc" for character in image_id):
        raise InvalidArgumentError(
            "ID_INVALID", f"{field} is {shown(image_id)}; it must not have control characters", field=field
        )


def check_ids(ids: Sequence[str], field: str) -> None:
    """Raise InvalidArgumentError unless there are 1 to 1,000 valid ids."""
    if not 1 <= len(ids) <= MAX_IDS:
        raise InvalidArgumentError(
            "TOO_MANY_IDS" if ids else "ID_INVALID",
            f"{field} has {len(ids)} ids; it must have between 1 and {MAX_IDS}",
            field=field,
        )
    for position, image_id in enumerate(ids):
        check_id(image_id, f"{field}[{position}]")


def check_request_id(request_id: str) -> None:
    """Raise InvalidArgumentError if a request id has more than 128 characters."""
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidArgumentError(
            "REQUEST_ID_TOO_LONG",
            f"request_id has {len(request_id)} characters; it must have at most {MAX_REQUEST_ID}",
            field="request_id",
        )


def check_uri(uri: str) -> None:
    """Raise InvalidArgumentError if a uri has more than 2,048 bytes."""
    size = len(uri.encode())
    if size > MAX_URI_BYTES:
        raise InvalidArgumentError(
            "URI_INVALID", f"uri has {size} bytes; it must have at most {MAX_URI_BYTES}", field="uri"
        )


def check_sha256(sha256: str) -> None:
    """Raise InvalidArgumentError unless a SHA-256 is empty or 64 hexadecimal digits in lower case."""
    if not SHA256.fullmatch(sha256):
        raise InvalidArgumentError(
            "CONTENT_SHA256_INVALID",
            f"content_sha256 is {shown(sha256)}; it must be 64 hexadecimal digits in lower case",
            field="content_sha256",
        )


def check_attributes(attributes: Mapping[str, AttributeValue]) -> None:
    """Raise InvalidArgumentError unless attributes are at most 128, well named, finite and at most 32 KiB."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidArgumentError(
            "ATTRIBUTE_INVALID",
            f"attributes has {len(attributes)} entries; it must have at most {MAX_ATTRIBUTES}",
            field="attributes",
        )
    for name, value in attributes.items():
        if not ATTRIBUTE_NAME.fullmatch(name):
            raise InvalidArgumentError(
                "ATTRIBUTE_INVALID",
                f"attributes has the name {shown(name)}; a name must be {ATTRIBUTE_NAME_RULE}",
                field="attributes",
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidArgumentError(
                "ATTRIBUTE_INVALID", f"attributes.{name} is {value}; it must be finite", field=f"attributes.{name}"
            )
    # The store keeps attributes in this form.
    size = len(json.dumps(attributes, ensure_ascii=False).encode())
    if size > MAX_ATTRIBUTE_BYTES:
        raise InvalidArgumentError(
            "ATTRIBUTE_INVALID",
            f"attributes have {size} bytes; they must have at most {MAX_ATTRIBUTE_BYTES}",
            field="attributes",
        )


def check_limit(limit: int) -> None:
    """Raise InvalidArgumentError unless a limit is between 1 and 1,000."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidArgumentError(
            "LIMIT_INVALID",
            f"limit is {limit}; it must be between 1 and {MAX_LIMIT}",
            field="limit",
            metadata={"max_limit": str(MAX_LIMIT)},
        )


def check_min_score(min_score: float | None) -> None:
    """Raise InvalidArgumentError if a minimum score is NaN."""
    if min_score is not None and math.isnan(min_score):
        raise InvalidArgumentError("MIN_SCORE_INVALID", "min_score is NaN; it must be a number", field="min_score")


def collection_exists(name: str, model: str = "") -> AlreadyExistsError:
    """Return the error for a name that exists; `model` is the embedder's name of the new collection's model."""
    return AlreadyExistsError(
        "COLLECTION_EXISTS",
        f"collection {name} exists already; choose another name, or delete it first",
        field="collection.name",
        metadata={"collection": name} | ({"model": model} if model else {}),
    )


def collection_not_found(name: str) -> NotFoundError:
    """Return the error for a name that no collection has."""
    return NotFoundError(
        "COLLECTION_NOT_FOUND",
        f"there is no collection called {name}",
        field="collection",
        metadata={"collection": name},
    )
