"""The client's values to messages and back."""

from collections.abc import Mapping, Sequence
from datetime import UTC

from imagesearch.search.v1 import codes_pb2, collection_pb2, filter_pb2, image_pb2, search_pb2
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2

from grpc_kit.errors import InvalidArgumentError
from grpc_kit.status import from_status
from imagesearch_client.types import (
    AttributeValue,
    CoarseExplanation,
    CodeSet,
    CodeSetStatus,
    Collection,
    Consistency,
    Embedding,
    Encoding,
    Example,
    Examples,
    Explanation,
    Hit,
    HnswParameters,
    Image,
    ImageFile,
    Index,
    IndexParameters,
    IvfParameters,
    Metric,
    NewImage,
    Query,
    Region,
    SearchOptions,
    StoredImage,
    WriteResult,
)

METRIC_NUMBERS = {
    Metric.COSINE: collection_pb2.METRIC_COSINE,
    Metric.L2: collection_pb2.METRIC_L2,
    Metric.IP: collection_pb2.METRIC_IP,
}
INDEX_NUMBERS = {
    Index.AUTOINDEX: collection_pb2.INDEX_TYPE_AUTOINDEX,
    Index.FLAT: collection_pb2.INDEX_TYPE_FLAT,
    Index.HNSW: collection_pb2.INDEX_TYPE_HNSW,
    Index.IVF_FLAT: collection_pb2.INDEX_TYPE_IVF_FLAT,
    Index.IVF_SQ8: collection_pb2.INDEX_TYPE_IVF_SQ8,
    Index.DISKANN: collection_pb2.INDEX_TYPE_DISKANN,
}
INDEXES = {number: index for index, number in INDEX_NUMBERS.items()}
CONSISTENCY_NUMBERS = {
    Consistency.STRONG: collection_pb2.CONSISTENCY_STRONG,
    Consistency.SESSION: collection_pb2.CONSISTENCY_SESSION,
    Consistency.BOUNDED: collection_pb2.CONSISTENCY_BOUNDED,
    Consistency.EVENTUALLY: collection_pb2.CONSISTENCY_EVENTUALLY,
}
MAX_LIMIT = 1000
MAX_GROUP_SIZE = 100
MAX_CANDIDATES = 10_000
# Whole numbers have 64 bits.
MAX_INTEGER = 2**63
CONSISTENCIES = {number: consistency for consistency, number in CONSISTENCY_NUMBERS.items()}
METRICS = {number: metric for metric, number in METRIC_NUMBERS.items()}


def encoded_image(content: bytes, region: Region | None) -> encoded_image_pb2.EncodedImage:
    """The message of an image file."""
    message = encoded_image_pb2.EncodedImage(content=content)
    if region is not None:
        message.region.CopyFrom(region_to(region))
    return message


def embedding_to(embedding: Embedding) -> embedding_pb2.Embedding:
    """The message of a vector."""
    return embedding_pb2.Embedding(values=embedding.values, fingerprint=embedding.fingerprint)


def search_request(collection: str, query: Query, options: SearchOptions) -> search_pb2.SearchRequest:
    """The message of a search.

    Raises TypeError for an option that there is not, and for one that would be without effect; InvalidArgumentError.
    """
    check_options(options)
    group_by = None
    if attribute := options.get("group_by"):
        group_by = search_pb2.GroupBy(attribute=attribute, group_size=options.get("group_size", 0))
    return search_pb2.SearchRequest(
        collection=collection,
        query=query_to(query),
        limit=options.get("limit", 0),
        min_score=options.get("min_score"),
        filter=options.get("where"),
        group_by=group_by,
        include_query=options.get("include_query", False),
        consistency=collection_pb2.CONSISTENCY_STRONG
        if options.get("strong")
        else collection_pb2.CONSISTENCY_UNSPECIFIED,
        parameters=search_pb2.SearchParameters(
            ef=options.get("ef"),
            nprobe=options.get("nprobe"),
            search_list=options.get("search_list"),
            exact=options.get("exact", False),
        ),
        coarse=None
        if (candidates := options.get("coarse")) is None
        else search_pb2.CoarseToFine(candidates=candidates),
    )


def check_options(options: SearchOptions) -> None:
    """Raises TypeError for an option that there is not or that would be without effect; InvalidArgumentError."""
    if unknown := options.keys() - SearchOptions.__annotations__.keys():
        known = ", ".join(SearchOptions.__annotations__)
        raise TypeError(f"{', '.join(sorted(unknown))} is no option of a search; {known} are")
    check_filter(options.get("where"))
    if "group_size" in options and not options.get("group_by"):
        raise TypeError("group_size is the size of the groups that group_by makes; name the attribute there")
    # In a message 0 stands for the default.
    check_at_least_one("limit", options.get("limit", 1), "LIMIT_INVALID", MAX_LIMIT)
    check_at_least_one("group_size", options.get("group_size", 1), "GROUP_BY_INVALID", MAX_GROUP_SIZE)
    if options.get("coarse") is not None:
        check_at_least_one("coarse", options["coarse"] or 0, "SEARCH_PARAMETERS_INVALID", MAX_CANDIDATES)


def check_filter(where: object) -> None:
    """Raises TypeError for what is no filter."""
    if where is not None and not isinstance(where, filter_pb2.Filter):
        raise TypeError(
            f"where is a filter, such as number('price', lt=100) or filters.parse('price<100'), and no "
            f"{type(where).__name__}"
        )


def check_at_least_one(field: str, number: int, reason: str, most: int) -> None:
    """Raises InvalidArgumentError where a number is 0, which a message does not tell from no number."""
    if number == 0:
        raise InvalidArgumentError(reason, f"{field} is 0; it should be 1 to {most}", field=field)


def query_to(query: Query) -> search_pb2.Query:
    """The message of a query."""
    match query:
        case ImageFile(content, region):
            return search_pb2.Query(image=encoded_image(content, region))
        case StoredImage(image_id):
            return search_pb2.Query(image_id=image_id)
        case Embedding():
            return search_pb2.Query(embedding=embedding_to(query))
        case Examples(positive, negative):
            for examples_given in (positive, negative):
                if not isinstance(examples_given, list | tuple):
                    raise TypeError(f"examples are a list of them, and no {type(examples_given).__name__}")
            examples = search_pb2.Examples(
                positive=[_example_to(example) for example in positive],
                negative=[_example_to(example) for example in negative],
            )
            return search_pb2.Query(examples=examples)
    raise TypeError(f"a query is an ImageFile, a StoredImage, an Embedding or Examples, and no {type(query).__name__}")


def _example_to(example: Example) -> search_pb2.Example:
    match example:
        case ImageFile(content, region):
            return search_pb2.Example(image=encoded_image(content, region))
        case StoredImage(image_id):
            return search_pb2.Example(image_id=image_id)
        case Embedding():
            return search_pb2.Example(embedding=embedding_to(example))
    raise TypeError(f"an example is an ImageFile, a StoredImage or an Embedding, and no {type(example).__name__}")


def attribute_to(value: AttributeValue) -> image_pb2.AttributeValue:
    """The message of an attribute's value. Raises TypeError for what is none, ValueError for a number too large."""
    match value:
        case bool():
            return image_pb2.AttributeValue(bool_value=value)
        case int() if -MAX_INTEGER <= value < MAX_INTEGER:
            return image_pb2.AttributeValue(integer_value=value)
        case int():
            raise ValueError(f"a whole number has 64 bits, and {value} more; as a float it would be rounded")
        case float():
            return image_pb2.AttributeValue(number_value=value)
        case str():
            return image_pb2.AttributeValue(string_value=value)
        case list() | tuple() if all(isinstance(each, str) for each in value):
            return image_pb2.AttributeValue(string_list_value=image_pb2.StringList(values=value))
    raise TypeError(f"an attribute is a text, a number, True, False or a list of texts, and not {value!r:.60}")


def attributes_to(attributes: Mapping[str, AttributeValue]) -> dict[str, image_pb2.AttributeValue]:
    """The messages of attributes, by name. Raises TypeError and ValueError, which name the attribute."""
    messages = {}
    for name, value in attributes.items():
        try:
            messages[name] = attribute_to(value)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"attribute {name!r:.60}: {error}") from None
    return messages


def attribute_from(message: image_pb2.AttributeValue) -> AttributeValue:
    """An attribute's value."""
    kind = message.WhichOneof("kind") or "string_value"
    if kind == "string_list_value":
        return list(message.string_list_value.values)
    value: AttributeValue = getattr(message, kind)
    return value


def write_request(image: NewImage, collection: str) -> image_pb2.WriteImagesRequest:
    """The message that writes an image."""
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
    else:
        request.image.CopyFrom(encoded_image(image.source, image.region))
    return request


def write_result(response: image_pb2.WriteImagesResponse) -> WriteResult:
    """What came of an image to write."""
    if response.WhichOneof("result") == "error":
        return WriteResult(response.id, from_status(response.error))
    written = response.written
    return WriteResult(
        response.id, content_sha256=written.content_sha256, create_time=written.create_time.ToDatetime(UTC)
    )


def collection_from(message: collection_pb2.Collection) -> Collection:
    """A collection."""
    return Collection(
        name=message.name,
        model=message.model,
        dimension=message.dimension,
        fingerprint=message.fingerprint,
        metric=METRICS[message.metric],
        index=INDEXES[message.index.type],
        description=message.description,
        labels=dict(message.labels),
        create_time=message.create_time.ToDatetime(UTC),
        index_parameters=_index_parameters_from(message.index),
        consistency=CONSISTENCIES[message.consistency],
        ttl=message.ttl.ToTimedelta() if message.HasField("ttl") else None,
    )


def _index_parameters_from(index: collection_pb2.Index) -> IndexParameters | None:
    match index.WhichOneof("parameters"):
        case "hnsw":
            return HnswParameters(index.hnsw.m, index.hnsw.ef_construction)
        case "ivf":
            return IvfParameters(index.ivf.nlist)
    return None


def index_to(index: Index | None, parameters: IndexParameters | None) -> collection_pb2.Index:
    """The message of an index; None is the service's default."""
    message = collection_pb2.Index()
    if index is not None:
        message.type = INDEX_NUMBERS[index]
    if isinstance(parameters, HnswParameters):
        message.hnsw.m, message.hnsw.ef_construction = parameters.m, parameters.ef_construction
    elif parameters is not None:
        message.ivf.nlist = parameters.nlist
    return message


def region_to(region: Region) -> encoded_image_pb2.Region:
    """The message of a region. Raises TypeError for what is none."""
    if not isinstance(region, Region):
        raise TypeError(f"a region is a Region(x0, y0, x1, y1), and no {type(region).__name__}")
    return encoded_image_pb2.Region(x0=region.x0, y0=region.y0, x1=region.x1, y1=region.y1)


def image_from(message: image_pb2.Image) -> Image:
    """A stored image."""
    embedding, region = None, message.region
    if message.HasField("embedding"):
        embedding = Embedding(list(message.embedding.values), message.embedding.fingerprint)
    return Image(
        id=message.id,
        uri=message.uri,
        attributes={name: attribute_from(value) for name, value in message.attributes.items()},
        content_sha256=message.content_sha256,
        create_time=message.create_time.ToDatetime(UTC),
        update_time=message.update_time.ToDatetime(UTC),
        embedding=embedding,
        region=Region(region.x0, region.y0, region.x1, region.y1) if message.HasField("region") else None,
    )


def hit_from(message: search_pb2.Hit) -> Hit:
    """An image found."""
    return Hit(image_from(message.image), message.score, message.distance)


def explanation_from(message: search_pb2.Explanation) -> Explanation:
    """How a search was answered."""
    return Explanation(
        index=INDEXES[message.index.type],
        index_parameters=_index_parameters_from(message.index),
        embed_seconds=message.embed_time.ToTimedelta().total_seconds(),
        store_seconds=message.store_time.ToTimedelta().total_seconds(),
        total_seconds=message.total_time.ToTimedelta().total_seconds(),
        coarse=_coarse_from(message.coarse) if message.HasField("coarse") else None,
    )


def _coarse_from(message: search_pb2.CoarseToFineExplanation) -> CoarseExplanation:
    return CoarseExplanation(
        version=message.version,
        bits=message.bits,
        candidates=message.candidates,
        coarse_seconds=message.coarse_time.ToTimedelta().total_seconds(),
        fine_seconds=message.fine_time.ToTimedelta().total_seconds(),
    )


def code_transform_to(hyperplanes: Sequence[Sequence[float]]) -> codes_pb2.CodeTransform:
    """The message of a transform: of each bit the normal's components and then the offset."""
    return codes_pb2.CodeTransform(
        hyperplanes=[codes_pb2.Hyperplane(normal=row[:-1], offset=row[-1]) for row in hyperplanes]
    )


def code_set_from(message: codes_pb2.CodeSet) -> CodeSet:
    """A set of codes."""
    return CodeSet(message.version, message.number, message.bits, message.create_time.ToDatetime(UTC), message.ready)


def code_set_status_from(message: codes_pb2.CodeSetStatus) -> CodeSetStatus:
    """A set of codes and its size."""
    return CodeSetStatus(code_set_from(message.codes), message.code_count, message.code_bytes)


def encoding_from(message: codes_pb2.EncodeImagesResponse) -> Encoding:
    """How far an encoding is."""
    return Encoding(
        image_count=message.image_count,
        checked=message.checked_count,
        encoded=message.encoded_count,
        removed=message.removed_count,
        codes=code_set_from(message.codes) if message.HasField("codes") else None,
    )
