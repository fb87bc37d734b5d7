"""Turn the messages of the contracts into the client's values."""

from datetime import UTC

from imagesearch.embedder.v1 import embedder_pb2
from imagesearch.search.v1 import codes_pb2, collection_pb2, image_pb2, search_pb2
from imagesearch.types.v1 import embedding_pb2, encoded_image_pb2, region_embedding_pb2

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
    Explanation,
    Hit,
    Hits,
    HnswParameters,
    Image,
    ImageRegions,
    Index,
    IndexParameters,
    IvfParameters,
    Metric,
    Model,
    Region,
    RegionEmbedding,
    RegionsExplanation,
    WriteResult,
)


def region_from(message: encoded_image_pb2.Region) -> Region:
    """Return a box."""
    return Region(message.x0, message.y0, message.x1, message.y1)


def region_embedding_from(message: region_embedding_pb2.RegionEmbedding, fingerprint: str) -> RegionEmbedding:
    """Return a region with its vector, whose fingerprint is that of its image."""
    return RegionEmbedding(region_from(message.box), Embedding(message.values, fingerprint), message.saliency)


def image_regions_from(message: embedder_pb2.ImageRegions) -> ImageRegions:
    """Return the vectors of an image and its regions."""
    fingerprint = message.image.fingerprint
    return ImageRegions(
        embedding_from(message.image),
        tuple(region_embedding_from(region, fingerprint) for region in message.proposals),
        tuple(region_embedding_from(region, fingerprint) for region in message.boxes),
        region_from(message.salient_box),
    )


def embedding_from(message: embedding_pb2.Embedding) -> Embedding:
    """Return a vector."""
    return Embedding(message.values, message.fingerprint)


def model_from(message: embedder_pb2.Model) -> Model:
    """Return a model of the embedder."""
    return Model(
        name=message.name,
        is_default=message.default,
        network=message.network,
        dimension=message.dimension,
        fingerprint=message.fingerprint,
        input=message.input,
        input_size=message.input_size,
        head=message.head,
        preprocessing=message.preprocessing,
        normalisation=message.normalisation,
        precision=message.precision,
        weights_sha256=message.weights_sha256,
        max_image_bytes=message.limits.max_image_bytes,
        max_image_pixels=message.limits.max_image_pixels,
        max_batch_size=message.execution.max_batch_size,
        seconds_per_image=message.execution.seconds_per_image,
        region_fingerprint=message.region_fingerprint,
    )


def attribute_from(message: image_pb2.AttributeValue) -> AttributeValue:
    """Return the value of an attribute."""
    kind = message.WhichOneof("kind") or "string_value"
    if kind == "string_list_value":
        return list(message.string_list_value.values)
    value: AttributeValue = getattr(message, kind)
    return value


def write_result(response: image_pb2.WriteImagesResponse) -> WriteResult:
    """Return the result of an image that was written."""
    if response.WhichOneof("result") == "error":
        return WriteResult(response.id, from_status(response.error))
    written = response.written
    return WriteResult(
        response.id, content_sha256=written.content_sha256, create_time=written.create_time.ToDatetime(UTC)
    )


def collection_from(message: collection_pb2.Collection) -> Collection:
    """Return a collection."""
    return Collection(
        name=message.name,
        model=message.model,
        dimension=message.dimension,
        fingerprint=message.fingerprint,
        metric=Metric[collection_pb2.Metric.Name(message.metric).removeprefix("METRIC_")],
        index=_index_from(message.index),
        description=message.description,
        labels=dict(message.labels),
        create_time=message.create_time.ToDatetime(UTC),
        index_parameters=_index_parameters_from(message.index),
        consistency=Consistency[collection_pb2.Consistency.Name(message.consistency).removeprefix("CONSISTENCY_")],
        ttl=message.ttl.ToTimedelta() if message.HasField("ttl") else None,
        max_regions=message.max_regions,
    )


def _index_from(index: collection_pb2.Index) -> Index:
    return Index[collection_pb2.IndexType.Name(index.type).removeprefix("INDEX_TYPE_")]


def _index_parameters_from(index: collection_pb2.Index) -> IndexParameters | None:
    match index.WhichOneof("parameters"):
        case "hnsw":
            return HnswParameters(index.hnsw.m, index.hnsw.ef_construction)
        case "ivf":
            return IvfParameters(index.ivf.nlist)
    return None


def image_from(message: image_pb2.Image) -> Image:
    """Return a stored image."""
    return Image(
        id=message.id,
        uri=message.uri,
        attributes={name: attribute_from(value) for name, value in message.attributes.items()},
        content_sha256=message.content_sha256,
        create_time=message.create_time.ToDatetime(UTC),
        update_time=message.update_time.ToDatetime(UTC),
        embedding=embedding_from(message.embedding) if message.HasField("embedding") else None,
        region=region_from(message.region) if message.HasField("region") else None,
        regions=tuple(region_embedding_from(region, message.embedding.fingerprint) for region in message.regions),
    )


def hit_from(message: search_pb2.Hit) -> Hit:
    """Return a hit."""
    region = region_from(message.region) if message.HasField("region") else None
    return Hit(image_from(message.image), message.score, message.distance, region)


def hits_from(message: search_pb2.SearchResponse) -> Hits:
    """Return the hits of a search."""
    hits = Hits(map(hit_from, message.hits))
    if message.HasField("query_region"):
        hits.query_region = region_from(message.query_region)
    return hits


def explanation_from(message: search_pb2.Explanation) -> Explanation:
    """Return how a search was answered."""
    return Explanation(
        index=_index_from(message.index),
        index_parameters=_index_parameters_from(message.index),
        embed_seconds=message.embed_time.ToTimedelta().total_seconds(),
        store_seconds=message.store_time.ToTimedelta().total_seconds(),
        total_seconds=message.total_time.ToTimedelta().total_seconds(),
        coarse=_coarse_from(message.coarse) if message.HasField("coarse") else None,
        regions=RegionsExplanation(message.regions.regions, message.regions.searches)
        if message.HasField("regions")
        else None,
    )


def _coarse_from(message: search_pb2.CoarseToFineExplanation) -> CoarseExplanation:
    return CoarseExplanation(
        version=message.version,
        bits=message.bits,
        candidates=message.candidates,
        coarse_seconds=message.coarse_time.ToTimedelta().total_seconds(),
        fine_seconds=message.fine_time.ToTimedelta().total_seconds(),
    )


def code_set_from(message: codes_pb2.CodeSet) -> CodeSet:
    """Return a set of codes."""
    return CodeSet(message.version, message.number, message.bits, message.create_time.ToDatetime(UTC), message.ready)


def code_set_status_from(message: codes_pb2.CodeSetStatus) -> CodeSetStatus:
    """Return a set of codes and its size."""
    return CodeSetStatus(code_set_from(message.codes), message.code_count, message.code_bytes)


def encoding_from(message: codes_pb2.EncodeImagesResponse) -> Encoding:
    """Return the progress of an encoding."""
    return Encoding(
        image_count=message.image_count,
        checked=message.checked_count,
        encoded=message.encoded_count,
        removed=message.removed_count,
        codes=code_set_from(message.codes) if message.HasField("codes") else None,
    )
