"""Convert messages of searches to plain values and back."""

import struct
import zlib
from collections.abc import Iterable
from datetime import timedelta

import numpy as np
from google.protobuf.duration_pb2 import Duration
from imagesearch.search.v1 import search_pb2

from grpc_kit.errors import InvalidArgumentError
from search_service.api.collection_converters import index_to
from search_service.api.converters import consistency_from, embedding_from, encoded_image_from, region_to, unknown_enum
from search_service.api.filter_converters import filter_from
from search_service.api.image_converters import fill_image, view_from
from search_service.core.coarse_search import default_candidates
from search_service.core.ports import After
from search_service.core.read_images import EPOCH, TICK
from search_service.core.searches import (
    Example,
    Examples,
    Explanation,
    GroupBy,
    PageEnd,
    Search,
    SearchResult,
    StoredImageQuery,
)
from search_service.core.types import Hit, Match, SearchParameters

DEFAULT_LIMIT = 10
MATCHES = {
    search_pb2.MATCH_UNSPECIFIED: Match.IMAGES,
    search_pb2.MATCH_IMAGES: Match.IMAGES,
    search_pb2.MATCH_REGIONS: Match.REGIONS,
    search_pb2.MATCH_ALL: Match.ALL,
}
# The head of a page token: score, distance, hits so far, creation time of the collection, and sizes of two names.
PAGE_HEAD = struct.Struct("<ddIqBH")


def search_from(request: search_pb2.SearchRequest, page: PageEnd | None) -> Search:
    """Return the search of a request. Raises InvalidArgumentError."""
    return Search(
        collection=request.collection,
        query=query_from(request.query),
        limit=request.limit or DEFAULT_LIMIT,
        min_score=request.min_score if request.HasField("min_score") else None,
        condition=filter_from(request.filter) if request.HasField("filter") else None,
        group_by=GroupBy(request.group_by.attribute, request.group_by.group_size or 1)
        if request.HasField("group_by")
        else None,
        include_query=request.include_query,
        view=view_from(request.view, "view"),
        parameters=SearchParameters(
            ef=request.parameters.ef if request.parameters.HasField("ef") else None,
            nprobe=request.parameters.nprobe if request.parameters.HasField("nprobe") else None,
            search_list=request.parameters.search_list if request.parameters.HasField("search_list") else None,
            exact=request.parameters.exact,
        ),
        coarse=request.coarse.candidates or default_candidates(request.limit or DEFAULT_LIMIT)
        if request.HasField("coarse")
        else None,
        consistency=consistency_from(request.consistency, "consistency"),
        page=page,
        paged=request.with_next_page or page is not None,
        match=match_from(request.match, "match"),
        auto_crop=request.query.auto_crop,
    )


def match_from(number: int, field: str) -> Match:
    """Return what a search compares. Raises InvalidArgumentError for an unknown number."""
    if number not in MATCHES:
        raise unknown_enum(number, field, search_pb2.Match.keys())
    return MATCHES[search_pb2.Match.ValueType(number)]


def query_from(query: search_pb2.Query) -> Example | Examples:
    """Return a query. Raises InvalidArgumentError."""
    match query.WhichOneof("kind"):
        case "image":
            return encoded_image_from(query.image)
        case "image_id":
            return StoredImageQuery(query.image_id)
        case "embedding":
            return embedding_from(query.embedding)
        case "examples":
            return Examples(
                _examples_from(query.examples.positive, "query.examples.positive"),
                _examples_from(query.examples.negative, "query.examples.negative"),
            )
        case _:
            raise InvalidArgumentError(
                "QUERY_MISSING",
                "query is missing; it must be an image, an image_id, an embedding or examples",
                field="query",
            )


def _examples_from(examples: Iterable[search_pb2.Example], field: str) -> list[Example]:
    return [_example_from(example, f"{field}[{position}]") for position, example in enumerate(examples)]


def _example_from(example: search_pb2.Example, field: str) -> Example:
    match example.WhichOneof("source"):
        case "image":
            return encoded_image_from(example.image)
        case "image_id":
            return StoredImageQuery(example.image_id)
        case "embedding":
            return embedding_from(example.embedding)
        case _:
            raise InvalidArgumentError(
                "QUERY_MISSING", f"{field} is empty; it must be an image, an image_id or an embedding", field=field
            )


def response_to(result: SearchResult, token: str, *, explain: bool) -> search_pb2.SearchResponse:
    """Return the message of a search result."""
    message = search_pb2.SearchResponse(next_page_token=token)
    for hit in result.hits:
        _fill_hit(message.hits.add(), hit, result.fingerprint)
    if result.query_region is not None:
        message.query_region.CopyFrom(region_to(result.query_region))
    if explain:
        message.explanation.CopyFrom(explanation_to(result.explanation))
    return message


def _fill_hit(message: search_pb2.Hit, hit: Hit, fingerprint: str) -> None:
    fill_image(message.image, hit.image, fingerprint)
    message.score, message.distance = hit.score, hit.distance
    region = hit.region or hit.image.region
    if region is not None:
        message.region.CopyFrom(region_to(region))


def explanation_to(explanation: Explanation) -> search_pb2.Explanation:
    """Return the message of an explanation."""
    message = search_pb2.Explanation(
        index=index_to(explanation.index),
        embed_time=_duration_to(explanation.embed_seconds),
        store_time=_duration_to(explanation.store_seconds),
        total_time=_duration_to(explanation.total_seconds),
    )
    coarse = explanation.coarse
    if coarse is not None:
        message.coarse.version, message.coarse.bits = coarse.codes.version, coarse.codes.bits
        message.coarse.candidates = coarse.candidates
        message.coarse.coarse_time.CopyFrom(_duration_to(coarse.coarse_seconds))
        message.coarse.fine_time.CopyFrom(_duration_to(coarse.fine_seconds))
    if explanation.regions is not None:
        message.regions.regions, message.regions.searches = explanation.regions.regions, explanation.regions.searches
    return message


def _duration_to(seconds: float) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message


def page_end_to(end: PageEnd, *, with_vector: bool) -> bytes:
    """Return the end of a page for a page token, with the vector unless the request has it."""
    after = end.after
    vector = np.ascontiguousarray(end.vector, "<f4").tobytes() if with_vector else b""
    names = [end.collection.encode(), after.id.encode()]
    made = (end.create_time - EPOCH) // TICK
    head = PAGE_HEAD.pack(after.score, after.distance, after.seen, made, len(names[0]), len(names[1]))
    # Group bytes of equal significance: exponents are similar, so they compress well.
    shuffled = np.frombuffer(vector, np.uint8).reshape(-1, 4).T.tobytes()
    return head + b"".join(names) + zlib.compress(shuffled, 9)


def page_end_from(position: bytes | None, query: search_pb2.Query) -> PageEnd | None:
    """Return the end of the previous page; None for the first page."""
    if position is None:
        return None
    score, distance, seen, made, *sizes = PAGE_HEAD.unpack_from(position)
    names = position[PAGE_HEAD.size :]
    collection, image_id = names[: sizes[0]].decode(), names[sizes[0] : sum(sizes)].decode()
    shuffled = zlib.decompress(names[sum(sizes) :])
    vector = np.frombuffer(shuffled, np.uint8).reshape(4, -1).T.tobytes()
    return PageEnd(
        After(score, distance, image_id, seen),
        embedding_from(query.embedding).values
        if query.HasField("embedding")
        else np.frombuffer(vector, "<f4").astype(np.float32),
        collection,
        EPOCH + made * TICK,
    )
