"""Every call over gRPC, and its errors: code, reason, field and message."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from imagesearch.search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    filter_pb2,
    image_pb2,
    image_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from imagesearch.types.v1 import embedding_pb2
from imagesearch.types.v1 import encoded_image_pb2 as types_pb2

CODE = grpc.StatusCode
FINGERPRINT = "hand-made"
Refused = Callable[[Callable[[], object]], Any]


def embedding(*values: float, fingerprint: str = FINGERPRINT) -> embedding_pb2.Embedding:
    return embedding_pb2.Embedding(values=values, fingerprint=fingerprint)


@pytest.fixture
def collections(channel: grpc.Channel) -> collection_pb2_grpc.CollectionServiceStub:
    return collection_pb2_grpc.CollectionServiceStub(channel)


@pytest.fixture
def images(channel: grpc.Channel) -> image_pb2_grpc.ImageServiceStub:
    return image_pb2_grpc.ImageServiceStub(channel)


@pytest.fixture
def searches(channel: grpc.Channel) -> search_pb2_grpc.SearchServiceStub:
    return search_pb2_grpc.SearchServiceStub(channel)


@pytest.fixture(scope="module")
def filled(search_address: str) -> str:
    """Return a collection with four vectors, for tests that do not change it."""
    name = "filled"
    with grpc.insecure_channel(search_address) as channel:
        wanted = collection_pb2.Collection(name=name, dimension=4, fingerprint=FINGERPRINT)
        stub = collection_pb2_grpc.CollectionServiceStub(channel)
        stub.CreateCollection(collection_pb2.CreateCollectionRequest(collection=wanted))
        vectors = {"east": (1, 0, 0, 0), "north": (0, 1, 0, 0), "northeast": (1, 1, 0, 0), "west": (-1, 0, 0, 0)}
        requests = [
            image_pb2.WriteImagesRequest(collection=name, id=key, uri=f"u/{key}", embedding=embedding(*vector))
            for key, vector in vectors.items()
        ]
        answers = list(image_pb2_grpc.ImageServiceStub(channel).WriteImages(iter(requests)))
        assert [answer.WhichOneof("result") for answer in answers] == ["written"] * 4
    return name


def test_write_keeps_parts_and_reports_replacement(
    collections: collection_pb2_grpc.CollectionServiceStub, images: image_pb2_grpc.ImageServiceStub, name: str
) -> None:
    wanted = collection_pb2.Collection(name=name, dimension=2, fingerprint=FINGERPRINT)
    collections.CreateCollection(collection_pb2.CreateCollectionRequest(collection=wanted))
    attributes = {
        "stock": image_pb2.AttributeValue(integer_value=9007199254740993),
        "tags": image_pb2.AttributeValue(string_list_value=image_pb2.StringList(values=["a", "b"])),
    }
    first = image_pb2.WriteImagesRequest(
        collection=name, id="a", uri="u/1", attributes=attributes, embedding=embedding(1, 2), content_sha256="1" * 64
    )
    price = {"price": image_pb2.AttributeValue(integer_value=3)}
    second = image_pb2.WriteImagesRequest(
        collection=name,
        id="a",
        uri="u/2",
        attributes=price,
        embedding=embedding(2, 1),
        content_sha256="2" * 64,
        keep_attributes=True,
        report_replaced=True,
    )
    third = image_pb2.WriteImagesRequest(
        collection=name, id="a", uri="u/3", stored_vector=True, content_sha256="2" * 64, keep_attributes=True
    )
    answers = list(images.WriteImages(iter([first, second, third])))
    assert [answer.written.replaced for answer in answers] == [False, True, False]
    got = images.GetImage(image_pb2.GetImageRequest(collection=name, id="a", view=image_pb2.IMAGE_VIEW_FULL)).image
    assert (got.uri, list(got.embedding.values), dict(got.attributes)) == ("u/3", [2, 1], attributes | price)
    assert got.create_time == answers[1].written.create_time == answers[2].written.create_time


def test_collection_is_created_described_listed_and_deleted(
    collections: collection_pb2_grpc.CollectionServiceStub, name: str, refusal: Refused
) -> None:
    wanted = collection_pb2.Collection(
        name=name,
        dimension=16,
        fingerprint=FINGERPRINT,
        metric=collection_pb2.METRIC_L2,
        description="a description",
        labels={"team": "shop"},
    )
    made = collections.CreateCollection(collection_pb2.CreateCollectionRequest(collection=wanted)).collection
    assert (made.metric, made.dimension, made.labels["team"]) == (collection_pb2.METRIC_L2, 16, "shop")
    assert made.consistency == collection_pb2.CONSISTENCY_BOUNDED
    hnsw = collection_pb2.HnswParameters(m=16, ef_construction=200)
    assert made.index == collection_pb2.Index(type=collection_pb2.INDEX_TYPE_HNSW, hnsw=hnsw)
    assert made.create_time.seconds > 1_700_000_000
    got = collections.GetCollection(collection_pb2.GetCollectionRequest(name=name, with_stats=True))
    assert got.collection == made
    assert got.stats.image_count == 0
    # Tests share the service: collections of other tests may fill a page of the default size.
    listed = collections.ListCollections(collection_pb2.ListCollectionsRequest(page_size=1000))
    assert made in listed.collections
    collections.DeleteCollection(collection_pb2.DeleteCollectionRequest(name=name))
    gone = refusal(lambda: collections.GetCollection(collection_pb2.GetCollectionRequest(name=name)))
    assert (gone.code, gone.info.reason) == (CODE.NOT_FOUND, "COLLECTION_NOT_FOUND")


def test_collections_are_listed_in_pages(collections: collection_pb2_grpc.CollectionServiceStub, filled: str) -> None:
    names: list[str] = []
    token = ""
    while True:
        page = collections.ListCollections(collection_pb2.ListCollectionsRequest(page_size=1, page_token=token))
        assert len(page.collections) <= 1
        names += [found.name for found in page.collections]
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(set(names))
    assert filled in names


CREATE_REFUSALS: list[tuple[dict[str, Any], grpc.StatusCode, str, str, str]] = [
    ({"name": "Bad Name"}, CODE.INVALID_ARGUMENT, "COLLECTION_NAME_INVALID", "collection.name", "62"),
    ({"name": "filled", "dimension": 4, "fingerprint": "f"}, CODE.ALREADY_EXISTS, "COLLECTION_EXISTS", "collection.name", "filled"),
    ({"name": "new", "dimension": 1}, CODE.INVALID_ARGUMENT, "DIMENSION_INVALID", "collection.dimension", "32768"),
    ({"name": "new", "dimension": 7}, CODE.FAILED_PRECONDITION, "EMBEDDING_MISMATCH", "collection.dimension", "1024"),
    ({"name": "new", "model": "vgg99"}, CODE.NOT_FOUND, "MODEL_NOT_FOUND", "collection.model", "mobilenet"),
    ({"name": "new", "metric": 77}, CODE.INVALID_ARGUMENT, "ENUM_INVALID", "collection.metric", "METRIC_COSINE"),
    ({"name": "new", "consistency": 77}, CODE.INVALID_ARGUMENT, "ENUM_INVALID", "collection.consistency", "STRONG"),
    ({"name": "new", "ttl": Duration()}, CODE.INVALID_ARGUMENT, "TTL_INVALID", "collection.ttl", "1 s"),
    ({"name": "new", "ttl": Duration(nanos=999_999_999)}, CODE.INVALID_ARGUMENT, "TTL_INVALID", "collection.ttl", "0.999999"),
    ({"name": "new", "ttl": Duration(seconds=-5)}, CODE.INVALID_ARGUMENT, "TTL_INVALID", "collection.ttl", "-5 s"),
    ({"name": "new", "ttl": Duration(seconds=36_500 * 86_400 + 1)}, CODE.INVALID_ARGUMENT, "TTL_INVALID", "collection.ttl", "36500 days"),
    ({"name": "new", "ttl": Duration(seconds=2**62)}, CODE.INVALID_ARGUMENT, "TTL_INVALID", "collection.ttl", "36500 days"),
    ({"name": "new", "index": collection_pb2.Index(type=9)}, CODE.INVALID_ARGUMENT, "ENUM_INVALID", "collection.index.type", "HNSW"),  # type: ignore[arg-type]
    ({"name": "new", "index": collection_pb2.Index(type=collection_pb2.INDEX_TYPE_AUTOINDEX, hnsw=collection_pb2.HnswParameters(m=8))}, CODE.INVALID_ARGUMENT, "INDEX_INVALID", "collection.index.hnsw", "no parameter"),
    ({"name": "new", "index": collection_pb2.Index(ivf=collection_pb2.IvfParameters(nlist=8))}, CODE.INVALID_ARGUMENT, "INDEX_INVALID", "collection.index.ivf", "HNSW, which uses hnsw"),
    ({"name": "new", "index": collection_pb2.Index(type=collection_pb2.INDEX_TYPE_HNSW, ivf=collection_pb2.IvfParameters())}, CODE.INVALID_ARGUMENT, "INDEX_INVALID", "collection.index.ivf", "hnsw"),
    ({"name": "new", "index": collection_pb2.Index(type=collection_pb2.INDEX_TYPE_HNSW, hnsw=collection_pb2.HnswParameters(m=1))}, CODE.INVALID_ARGUMENT, "INDEX_INVALID", "collection.index.hnsw.m", "2048"),
    ({"name": "new", "index": collection_pb2.Index(type=collection_pb2.INDEX_TYPE_HNSW, hnsw=collection_pb2.HnswParameters(ef_construction=-1))}, CODE.INVALID_ARGUMENT, "INDEX_INVALID", "collection.index.hnsw.ef_construction", "1"),
    ({"name": "new", "index": collection_pb2.Index(type=collection_pb2.INDEX_TYPE_IVF_SQ8, ivf=collection_pb2.IvfParameters(nlist=65537))}, CODE.INVALID_ARGUMENT, "INDEX_INVALID", "collection.index.ivf.nlist", "65536"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "code", "reason", "field", "named"), CREATE_REFUSALS, ids=lambda value: str(value)[:30]
)
def test_create_rejects_invalid_collection(
    collections: collection_pb2_grpc.CollectionServiceStub,
    filled: str,
    refusal: Refused,
    fields: dict[str, Any],
    code: grpc.StatusCode,
    reason: str,
    field: str,
    named: str,
) -> None:
    assert filled
    request = collection_pb2.CreateCollectionRequest(collection=collection_pb2.Collection(**fields))
    refused = refusal(lambda: collections.CreateCollection(request))
    assert (refused.code, refused.info.reason, refused.info.domain) == (code, reason, "search.imagesearch")
    assert refused.fields == [field]
    assert named in refused.message


SEARCH_REFUSALS: list[tuple[dict[str, Any], grpc.StatusCode, str, str, str]] = [
    ({"query": None}, CODE.INVALID_ARGUMENT, "QUERY_MISSING", "query", "image_id"),
    ({"collection": "nowhere"}, CODE.NOT_FOUND, "COLLECTION_NOT_FOUND", "collection", "nowhere"),
    ({"collection": ""}, CODE.INVALID_ARGUMENT, "COLLECTION_NAME_INVALID", "collection", "62"),
    ({"limit": -1}, CODE.INVALID_ARGUMENT, "LIMIT_INVALID", "limit", "1000"),
    ({"limit": 1001}, CODE.INVALID_ARGUMENT, "LIMIT_INVALID", "limit", "1000"),
    ({"view": 9}, CODE.INVALID_ARGUMENT, "ENUM_INVALID", "view", "IMAGE_VIEW_FULL"),
    ({"consistency": 9}, CODE.INVALID_ARGUMENT, "ENUM_INVALID", "consistency", "STRONG"),
    ({"query": {"embedding": embedding(1, 2)}}, CODE.INVALID_ARGUMENT, "VECTOR_DIMENSION_MISMATCH", "query.embedding.values", "4"),
    ({"query": {"embedding": embedding(1, 0, 0, float("nan"))}}, CODE.INVALID_ARGUMENT, "VECTOR_NOT_FINITE", "query.embedding.values", "finite"),
    ({"query": {"embedding": embedding(1, 0, 0, float("inf"))}}, CODE.INVALID_ARGUMENT, "VECTOR_NOT_FINITE", "query.embedding.values", "finite"),
    ({"query": {"embedding": embedding(0, 0, 0, 0)}}, CODE.INVALID_ARGUMENT, "VECTOR_ZERO", "query.embedding.values", "zero"),
    ({"query": {"embedding": embedding(1, 0, 0, 0, fingerprint="other")}}, CODE.FAILED_PRECONDITION, "EMBEDDING_MISMATCH", "query.embedding", FINGERPRINT),
    ({"query": {"embedding": embedding(1, 0, 0, 0, fingerprint="")}}, CODE.INVALID_ARGUMENT, "FINGERPRINT_INVALID", "query.embedding.fingerprint", "64"),
    ({"query": {"image_id": "nobody"}}, CODE.NOT_FOUND, "IMAGE_NOT_FOUND", "query.image_id", "nobody"),
    ({"query": {"image_id": "x" * 513}}, CODE.INVALID_ARGUMENT, "ID_INVALID", "query.image_id", "512"),
    ({"query": {"image": types_pb2.EncodedImage(content=b"x")}}, CODE.FAILED_PRECONDITION, "COLLECTION_WITHOUT_MODEL", "query.image", FINGERPRINT),
    ({"query": {"examples": search_pb2.Examples()}}, CODE.INVALID_ARGUMENT, "EXAMPLES_INVALID", "query.examples.positive", "between 1 and 32"),
    ({"query": {"examples": search_pb2.Examples(positive=[search_pb2.Example()])}}, CODE.INVALID_ARGUMENT, "QUERY_MISSING", "query.examples.positive[0]", "image_id"),
    ({"filter": filter_pb2.Filter()}, CODE.INVALID_ARGUMENT, "FILTER_INVALID", "filter", "exists"),
    ({"filter": filter_pb2.Filter(exists=filter_pb2.Exists(attribute="1"))}, CODE.INVALID_ARGUMENT, "FILTER_INVALID", "filter.exists.attribute", "letter"),
    ({"group_by": search_pb2.GroupBy()}, CODE.INVALID_ARGUMENT, "GROUP_BY_INVALID", "group_by.attribute", "letter"),
    ({"group_by": search_pb2.GroupBy(attribute="a", group_size=101)}, CODE.INVALID_ARGUMENT, "GROUP_BY_INVALID", "group_by.group_size", "100"),
    ({"page_token": "x"}, CODE.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID", "page_token", "page_token"),
    ({"parameters": search_pb2.SearchParameters(search_list=99)}, CODE.INVALID_ARGUMENT, "SEARCH_PARAMETERS_INVALID", "parameters.search_list", "HNSW, which uses ef"),
    ({"parameters": search_pb2.SearchParameters(nprobe=9)}, CODE.INVALID_ARGUMENT, "SEARCH_PARAMETERS_INVALID", "parameters.nprobe", "HNSW, which uses ef"),
    ({"min_score": float("nan")}, CODE.INVALID_ARGUMENT, "MIN_SCORE_INVALID", "min_score", "number"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "code", "reason", "field", "named"), SEARCH_REFUSALS, ids=lambda value: str(value)[:30]
)
def test_search_rejects_invalid_request(
    searches: search_pb2_grpc.SearchServiceStub,
    filled: str,
    refusal: Refused,
    fields: dict[str, Any],
    code: grpc.StatusCode,
    reason: str,
    field: str,
    named: str,
) -> None:
    good = {"collection": filled, "query": {"embedding": embedding(1, 0, 0, 0)}}
    request = search_pb2.SearchRequest(**{**good, **fields})
    refused = refusal(lambda: searches.Search(request))
    assert (refused.code, refused.info.reason, refused.info.domain) == (code, reason, "search.imagesearch")
    assert refused.fields == [field]
    assert named in refused.message


def test_search_returns_hits_by_score_with_the_view(searches: search_pb2_grpc.SearchServiceStub, filled: str) -> None:
    def search(**fields: Any) -> list[search_pb2.Hit]:
        query = search_pb2.Query(embedding=embedding(1, 0.1, 0, 0))
        consistency = collection_pb2.CONSISTENCY_STRONG
        request = search_pb2.SearchRequest(collection=filled, query=query, consistency=consistency, **fields)
        return list(searches.Search(request).hits)

    hits = search()
    assert [hit.image.id for hit in hits] == ["east", "northeast", "north", "west"]
    assert hits[0].score == pytest.approx(1 / 1.01**0.5, rel=1e-4)
    assert hits[0].distance == pytest.approx(1 - hits[0].score, abs=1e-5)
    assert hits[0].image.uri == "u/east"
    assert not hits[0].image.HasField("embedding")
    (full,) = search(limit=1, view=image_pb2.IMAGE_VIEW_FULL)
    assert list(full.image.embedding.values) == [1, 0, 0, 0]
    assert full.image.embedding.fingerprint == FINGERPRINT
    (bare,) = search(limit=1, view=image_pb2.IMAGE_VIEW_ID)
    assert bare.image == image_pb2.Image(id="east")
    assert [hit.image.id for hit in search(min_score=0.5)] == ["east", "northeast"]


def test_query_image_is_a_hit_only_if_included(searches: search_pb2_grpc.SearchServiceStub, filled: str) -> None:
    request = search_pb2.SearchRequest(collection=filled, query=search_pb2.Query(image_id="east"), limit=2)
    assert [hit.image.id for hit in searches.Search(request).hits] == ["northeast", "north"]
    request.include_query = True
    assert [hit.image.id for hit in searches.Search(request).hits] == ["east", "northeast"]


def test_images_are_read_counted_and_deleted(
    images: image_pb2_grpc.ImageServiceStub,
    collections: collection_pb2_grpc.CollectionServiceStub,
    name: str,
    refusal: Refused,
) -> None:
    wanted = collection_pb2.Collection(name=name, dimension=2, fingerprint=FINGERPRINT)
    collections.CreateCollection(collection_pb2.CreateCollectionRequest(collection=wanted))
    attributes = {
        "title": image_pb2.AttributeValue(string_value="it's"),
        "price": image_pb2.AttributeValue(number_value=3.0),
        "stock": image_pb2.AttributeValue(integer_value=9007199254740993),
        "new": image_pb2.AttributeValue(bool_value=True),
        "tags": image_pb2.AttributeValue(string_list_value=image_pb2.StringList(values=["a", "b"])),
    }
    request = image_pb2.WriteImagesRequest(
        collection=name, request_id="1", id='a"b', uri="u", attributes=attributes, embedding=embedding(1, 2)
    )
    (answer,) = images.WriteImages(iter([request]))
    assert (answer.request_id, answer.id, answer.WhichOneof("result")) == ("1", 'a"b', "written")
    got = images.GetImage(image_pb2.GetImageRequest(collection=name, id='a"b', view=image_pb2.IMAGE_VIEW_FULL)).image
    assert dict(got.attributes) == attributes
    assert (got.uri, list(got.embedding.values), got.embedding.fingerprint) == ("u", [1, 2], FINGERPRINT)
    assert got.create_time == answer.written.create_time
    assert images.CountImages(image_pb2.CountImagesRequest(collection=name)).count == 1
    ids = image_pb2.ImageIds(ids=['a"b', "nobody"])
    dry = images.DeleteImages(image_pb2.DeleteImagesRequest(collection=name, ids=ids, validate_only=True))
    assert dry.deleted_count == 1
    assert images.CountImages(image_pb2.CountImagesRequest(collection=name)).count == 1
    assert images.DeleteImages(image_pb2.DeleteImagesRequest(collection=name, ids=ids)).deleted_count == 1
    missing = refusal(lambda: images.GetImage(image_pb2.GetImageRequest(collection=name, id='a"b')))
    assert (missing.code, missing.info.reason, missing.fields) == (CODE.NOT_FOUND, "IMAGE_NOT_FOUND", ["id"])
    no_target = refusal(lambda: images.DeleteImages(image_pb2.DeleteImagesRequest(collection=name)))
    assert (no_target.code, no_target.info.reason) == (CODE.INVALID_ARGUMENT, "TARGET_MISSING")
    too_many = refusal(
        lambda: images.DeleteImages(
            image_pb2.DeleteImagesRequest(collection=name, ids=image_pb2.ImageIds(ids=["a"] * 1001))
        )
    )
    assert (too_many.code, too_many.info.reason, too_many.fields) == (
        CODE.INVALID_ARGUMENT,
        "TOO_MANY_IDS",
        ["ids.ids"],
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"page_size": -1}, "PAGE_SIZE_INVALID"),
        ({"page_size": 1001}, "PAGE_SIZE_INVALID"),
        ({"page_token": "not a token!"}, "PAGE_TOKEN_INVALID"),
        ({"page_token": "ÿ"}, "PAGE_TOKEN_INVALID"),
        ({"page_token": "gICA"}, "PAGE_TOKEN_INVALID"),
    ],
)
def test_list_rejects_invalid_pages_and_tokens(
    collections: collection_pb2_grpc.CollectionServiceStub, refusal: Refused, fields: dict[str, Any], reason: str
) -> None:
    request = collection_pb2.ListCollectionsRequest(**fields)
    refused = refusal(lambda: collections.ListCollections(request))
    assert (refused.code, refused.info.reason, refused.fields) == (CODE.INVALID_ARGUMENT, reason, list(fields))
