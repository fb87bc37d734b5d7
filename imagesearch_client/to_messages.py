"""Turn the client's values into the messages of the contracts."""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.field_mask_pb2 import FieldMask
from imagesearch.search.v1 import codes_pb2, collection_pb2, filter_pb2, image_pb2, search_pb2
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2
from numpy.typing import ArrayLike

from grpc_kit.errors import InvalidArgumentError
from imagesearch_client.defaults import MAX_CANDIDATES, MAX_GROUP_SIZE, MAX_LIMIT, MAX_MESSAGE_BYTES, MAX_PAGE
from imagesearch_client.filters import Filter
from imagesearch_client.region_messages import ALLOWED_MAX_REGIONS, region_embeddings_to, region_to, set_field
from imagesearch_client.types import (
    AttributeValue,
    Consistency,
    Embedding,
    Example,
    Examples,
    HnswParameters,
    ImageContent,
    ImageFile,
    Index,
    IndexParameters,
    Match,
    Metric,
    NewImage,
    Query,
    SearchOptions,
    StoredImage,
)

# Whole numbers have 64 bits.
MAX_INTEGER = 2**63


def encoded_image_to(image: ImageContent | ImageFile) -> encoded_image_pb2.EncodedImage:
    """Return the message of an image file. Raises OSError if its path cannot be read, TypeError, ValueError."""
    content, region = (image.content, image.region) if isinstance(image, ImageFile) else (image, None)
    message = encoded_image_pb2.EncodedImage(content=_content_bytes(content))
    if region is not None:
        message.region.CopyFrom(region_to(region))
    return message


def _content_bytes(content: ImageContent) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(content, os.PathLike):
        # One byte more than the limit is enough to refuse a file that is too large.
        with Path(content).open("rb") as file:
            return file.read(MAX_MESSAGE_BYTES + 1)
    if isinstance(content, bytearray | memoryview):
        return bytes(content)
    if isinstance(content, np.ndarray) and content.dtype == np.uint8 and content.ndim == 1:
        return content.tobytes()
    if isinstance(content, np.ndarray):
        raise TypeError(
            f"an image is the bytes of its file; this array has shape {content.shape} and type {content.dtype}. "
            "Encode the pixels first, as PNG for example"
        )
    raise TypeError(
        "an image must be bytes, a pathlib.Path or a NumPy array of the bytes of its file, and no "
        f"{type(content).__name__}"
    )


def embedding_to(embedding: Embedding) -> embedding_pb2.Embedding:
    """Return the message of a vector."""
    return embedding_pb2.Embedding(values=embedding.values.tolist(), fingerprint=embedding.fingerprint)


def collection_to(
    metric: Metric,
    index: Index | None,
    index_parameters: IndexParameters | None,
    consistency: Consistency,
    ttl: timedelta | None,
    max_regions: int,
    **fields: Any,
) -> collection_pb2.Collection:
    """Return the message of a new collection. `fields` are fields of the message that need no conversion."""
    collection = collection_pb2.Collection(
        metric=collection_pb2.Metric.Value(f"METRIC_{metric.name}"),
        index=_index_to(index, index_parameters),
        consistency=collection_pb2.Consistency.Value(f"CONSISTENCY_{consistency.name}"),
        **fields,
    )
    set_field(collection, "max_regions", max_regions, "max_regions", ALLOWED_MAX_REGIONS)
    if ttl is not None:
        collection.ttl.FromTimedelta(ttl)
    return collection


def _index_to(index: Index | None, parameters: IndexParameters | None) -> collection_pb2.Index:
    message = collection_pb2.Index()
    if index is not None:
        message.type = collection_pb2.IndexType.Value(f"INDEX_TYPE_{index.name}")
    if isinstance(parameters, HnswParameters):
        message.hnsw.m, message.hnsw.ef_construction = parameters.m, parameters.ef_construction
    elif parameters is not None:
        message.ivf.nlist = parameters.nlist
    return message


def view_to(*, with_vector: bool, with_regions: bool) -> "image_pb2.ImageView.ValueType":
    """Return the view of an image; regions come with the vector."""
    if with_regions:
        return image_pb2.IMAGE_VIEW_FULL
    return image_pb2.IMAGE_VIEW_VECTOR if with_vector else image_pb2.IMAGE_VIEW_BASIC


def consistency_to(*, strong: bool) -> "collection_pb2.Consistency.ValueType":
    """Return the consistency of a read; if it is not strong, the collection decides."""
    return collection_pb2.CONSISTENCY_STRONG if strong else collection_pb2.CONSISTENCY_UNSPECIFIED


def list_request(
    collection: str,
    where: Filter | None,
    page_size: int,
    *,
    latest_first: bool,
    with_vector: bool,
    with_regions: bool,
    strong: bool,
) -> image_pb2.ListImagesRequest:
    """Return the request for the first page of images. Raises TypeError, InvalidArgumentError."""
    check_filter(where)
    check_at_least_one("page_size", page_size, "PAGE_SIZE_INVALID", MAX_PAGE)
    return image_pb2.ListImagesRequest(
        collection=collection,
        filter=where,
        order=image_pb2.IMAGE_ORDER_UPDATE_TIME_DESC if latest_first else image_pb2.IMAGE_ORDER_ID,
        page_size=page_size,
        view=view_to(with_vector=with_vector, with_regions=with_regions),
        consistency=consistency_to(strong=strong),
    )


def update_request(
    collection: str, image_id: str, uri: str | None, attributes: Mapping[str, AttributeValue], remove: Sequence[str]
) -> image_pb2.UpdateImageRequest:
    """Return the request that changes an image. Raises TypeError, ValueError."""
    if both := attributes.keys() & set(remove):
        raise ValueError(f"these attributes are both to set and to remove: {', '.join(sorted(both))}")
    paths = [f"attributes.{name}" for name in (*attributes, *remove)] + (["uri"] if uri is not None else [])
    image = image_pb2.Image(id=image_id, uri=uri or "", attributes=attributes_to(attributes))
    return image_pb2.UpdateImageRequest(collection=collection, image=image, update_mask=FieldMask(paths=paths))


def write_request(image: NewImage, collection: str) -> image_pb2.WriteImagesRequest:
    """Return the request that writes an image. Raises TypeError, ValueError, OSError."""
    request = image_pb2.WriteImagesRequest(
        collection=collection,
        id=image.id,
        uri=image.uri,
        attributes=attributes_to(image.attributes),
        keep_attributes=image.keep_attributes,
    )
    if isinstance(image.source, Embedding):
        request.embedding.CopyFrom(embedding_to(image.source))
        request.content_sha256 = image.content_sha256
        if image.region is not None:
            request.region.CopyFrom(region_to(image.region))
        request.regions.extend(region_embeddings_to(image.regions, image.source))
    elif image.regions:
        raise ValueError("an image file has regions; leave them out: the embedder proposes them")
    else:
        request.image.CopyFrom(encoded_image_to(ImageFile(image.source, image.region)))
    return request


def attribute_to(value: AttributeValue) -> image_pb2.AttributeValue:
    """Return the message of an attribute's value. Raises TypeError, and ValueError for a number that is too large."""
    match value:
        case bool():
            return image_pb2.AttributeValue(bool_value=value)
        case int() if -MAX_INTEGER <= value < MAX_INTEGER:
            return image_pb2.AttributeValue(integer_value=value)
        case int():
            raise ValueError(f"{value} has more than 64 bits; store it as a string")
        case float():
            return image_pb2.AttributeValue(number_value=value)
        case str():
            return image_pb2.AttributeValue(string_value=value)
        case list() | tuple() if all(isinstance(each, str) for each in value):
            return image_pb2.AttributeValue(string_list_value=image_pb2.StringList(values=value))
    raise TypeError(f"{value!r:.60} is not a string, a number, True, False or a list of strings")


def attributes_to(attributes: Mapping[str, AttributeValue]) -> dict[str, image_pb2.AttributeValue]:
    """Return the messages of attributes by name. Raises TypeError and ValueError, which name the attribute."""
    messages = {}
    for name, value in attributes.items():
        try:
            messages[name] = attribute_to(value)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"attribute {name!r:.60}: {error}") from None
    return messages


def search_request(collection: str, query: Query, options: SearchOptions) -> search_pb2.SearchRequest:
    """Return the request of a search. Raises TypeError, InvalidArgumentError, OSError."""
    check_options(options)
    group_by = None
    if attribute := options.get("group_by"):
        group_by = search_pb2.GroupBy(attribute=attribute, group_size=options.get("group_size", 0))
    candidates = options.get("coarse")
    return search_pb2.SearchRequest(
        collection=collection,
        query=_query_to(query, auto_crop=options.get("auto_crop", False)),
        match=_match_to(options),
        limit=options.get("limit", 0),
        min_score=options.get("min_score"),
        filter=options.get("where"),
        group_by=group_by,
        include_query=options.get("include_query", False),
        consistency=consistency_to(strong=options.get("strong", False)),
        parameters=search_pb2.SearchParameters(
            ef=options.get("ef"),
            nprobe=options.get("nprobe"),
            search_list=options.get("search_list"),
            exact=options.get("exact", False),
        ),
        coarse=None if candidates is None else search_pb2.CoarseToFine(candidates=candidates),
    )


def check_options(options: SearchOptions) -> None:
    """Check the options of a search.

    Raises TypeError for an unknown option, one without effect or an `auto_crop` that is no bool, ValueError for an
    unknown `match`, and InvalidArgumentError for a number that is 0.
    """
    if unknown := options.keys() - SearchOptions.__annotations__.keys():
        known = ", ".join(SearchOptions.__annotations__)
        raise TypeError(f"unknown search options: {', '.join(sorted(unknown))}; the options are {known}")
    check_filter(options.get("where"))
    if "group_size" in options and not options.get("group_by"):
        raise TypeError("group_size has no effect without group_by, which names the attribute")
    _match_to(options)
    if not isinstance(auto_crop := options.get("auto_crop", False), bool):
        raise TypeError(f"auto_crop is {auto_crop!r:.60}; it must be True or False")
    check_at_least_one("limit", options.get("limit", 1), "LIMIT_INVALID", MAX_LIMIT)
    check_at_least_one("group_size", options.get("group_size", 1), "GROUP_BY_INVALID", MAX_GROUP_SIZE)
    if options.get("coarse") is not None:
        check_at_least_one("coarse", options["coarse"] or 0, "SEARCH_PARAMETERS_INVALID", MAX_CANDIDATES)


def _match_to(options: SearchOptions) -> "search_pb2.Match.ValueType":
    """Return what a search compares. Raises ValueError."""
    match = options.get("match", Match.IMAGES)
    try:
        return search_pb2.Match.Value(f"MATCH_{Match(match).name}")
    except ValueError:
        raise ValueError(f"match is {match!r:.60}; it must be images, regions or all") from None


def check_filter(where: object) -> None:
    """Check that a value is a filter or None. Raises TypeError."""
    if where is not None and not isinstance(where, filter_pb2.Filter):
        raise TypeError(
            f"where must be a filter, such as number('price', lt=100) or filters.parse('price<100'), and no "
            f"{type(where).__name__}"
        )


def check_at_least_one(field: str, number: int, reason: str, maximum: int) -> None:
    """Raise InvalidArgumentError if a number is 0. In a message 0 means the default."""
    if number == 0:
        raise InvalidArgumentError(reason, f"{field} is 0; it must be between 1 and {maximum}", field=field)


def _query_to(query: Query, *, auto_crop: bool) -> search_pb2.Query:
    if not isinstance(query, Examples):
        return search_pb2.Query(
            auto_crop=auto_crop,
            **_example_fields(query, "a query must be an ImageFile, a StoredImage, an Embedding or Examples"),
        )
    for examples in (query.positive, query.negative):
        if not isinstance(examples, list | tuple):
            raise TypeError(f"the examples of a query must be a list, and no {type(examples).__name__}")
    kinds = "an example must be an ImageFile, a StoredImage or an Embedding"
    return search_pb2.Query(
        auto_crop=auto_crop,
        examples=search_pb2.Examples(
            positive=[search_pb2.Example(**_example_fields(example, kinds)) for example in query.positive],
            negative=[search_pb2.Example(**_example_fields(example, kinds)) for example in query.negative],
        ),
    )


def _example_fields(example: Example, kinds: str) -> dict[str, Any]:
    """Return the field of a query or an example. Raises TypeError with the `kinds` of values that are accepted."""
    match example:
        case ImageFile():
            return {"image": encoded_image_to(example)}
        case StoredImage(image_id):
            return {"image_id": image_id}
        case Embedding():
            return {"embedding": embedding_to(example)}
    raise TypeError(f"{kinds}, and no {type(example).__name__}")


def code_transform_to(hyperplanes: Iterable[ArrayLike]) -> codes_pb2.CodeTransform:
    """Return the message of a transform.

    Args:
        hyperplanes: shape [bits, dimension + 1]: for each bit the components of the normal and then the offset.
            The service rejects rows of different lengths.
    """
    rows = [np.asarray(row, np.float64).tolist() for row in hyperplanes]
    return codes_pb2.CodeTransform(hyperplanes=[codes_pb2.Hyperplane(normal=row[:-1], offset=row[-1]) for row in rows])
