"""Every kind of query over gRPC, on Milvus Lite and on a Milvus server."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from imagesearch.search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from imagesearch.types.v1 import embedding_pb2

from imagesearch_client import (
    Client,
    Embedding,
    ImageFile,
    Index,
    InvalidArgumentError,
    Metric,
    NewImage,
    StoredImage,
    equals,
)
from tests.integration.search.conftest import StartSearch

CODE = grpc.StatusCode
STRONG = collection_pb2.CONSISTENCY_STRONG
Refused = Callable[[Callable[[], object]], Any]
Vectors = "np.ndarray[tuple[int, int], np.dtype[np.float32]]"
COUNT = 500


@pytest.fixture
def searches(channel: grpc.Channel) -> search_pb2_grpc.SearchServiceStub:
    return search_pb2_grpc.SearchServiceStub(channel)


@pytest.fixture
def collections(channel: grpc.Channel) -> collection_pb2_grpc.CollectionServiceStub:
    return collection_pb2_grpc.CollectionServiceStub(channel)


def vectors() -> Any:
    return np.random.default_rng(3).normal(size=(COUNT, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def filled(search_address: str) -> str:
    """Return a collection with 500 vectors and an HNSW index, for tests that do not change it."""
    wanted = collection_pb2.Collection(
        name="queried",
        dimension=8,
        fingerprint="f",
        index=collection_pb2.Index(
            type=collection_pb2.INDEX_TYPE_HNSW, hnsw=collection_pb2.HnswParameters(m=12, ef_construction=150)
        ),
        consistency=STRONG,
    )
    with grpc.insecure_channel(search_address) as channel:
        stub = collection_pb2_grpc.CollectionServiceStub(channel)
        stub.CreateCollection(collection_pb2.CreateCollectionRequest(collection=wanted))
    with Client(search_address) as client:
        new = [
            NewImage(f"i{n:03d}", Embedding(vector.tolist(), "f"), attributes={"shop": n % 9, "even": n % 2 == 0})
            for n, vector in enumerate(vectors())
        ]
        assert all(result.error is None for result in client.write("queried", new))
    return "queried"


def embedding(vector: Any) -> embedding_pb2.Embedding:
    return embedding_pb2.Embedding(values=vector.tolist(), fingerprint="f")


def by_vector(number: int, **fields: Any) -> search_pb2.SearchRequest:
    query = search_pb2.Query(embedding=embedding(vectors()[number]))
    return search_pb2.SearchRequest(collection="queried", query=query, with_next_page=True, **fields)


def pages(searches: search_pb2_grpc.SearchServiceStub, request: search_pb2.SearchRequest) -> Iterator[list[str]]:
    while True:
        response = searches.Search(request)
        yield [hit.image.id for hit in response.hits]
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token


@pytest.mark.parametrize("limit", [40, 100, 250])
def test_pages_of_hits_return_the_whole_collection_in_order(
    searches: search_pb2_grpc.SearchServiceStub, filled: str, limit: int
) -> None:
    assert filled
    found = list(pages(searches, by_vector(0, limit=limit)))
    ids = [image_id for page in found for image_id in page]
    cosines = vectors() @ vectors()[0] / np.linalg.norm(vectors(), axis=1)
    assert ids == [f"i{number:03d}" for number in np.argsort(-cosines, kind="stable")]
    assert all(len(page) == limit for page in found[:-1])


def create_and_fill(client: Client, name: str, count: int, dimension: int, **options: Any) -> None:
    client.create_collection(name, dimension=dimension, fingerprint="f", **options)
    rows = np.random.default_rng(8).normal(size=(count, dimension))
    new = [NewImage(f"i{number:03d}", Embedding(row.tolist(), "f")) for number, row in enumerate(rows)]
    assert all(result.error is None for result in client.write(name, new))


@pytest.mark.parametrize("kind", ["embedding", "image_id"])
def test_pages_stay_in_the_collection_of_the_first_page(
    searches: search_pb2_grpc.SearchServiceStub, search_address: str, name: str, refusal: Refused, kind: str
) -> None:
    with Client(search_address) as client:
        old, other, alias = f"{name}_a", f"{name}_b", f"{name}_c"
        create_and_fill(client, old, 30, 4)
        create_and_fill(client, other, 30, 6)
        client.set_alias(alias, old)
        query = search_pb2.Query(image_id="i001")
        if kind == "embedding":
            query = search_pb2.Query(embedding=embedding_pb2.Embedding(values=[1, 2, 3, 4], fingerprint="f"))
        request = search_pb2.SearchRequest(
            collection=alias, query=query, limit=10, consistency=STRONG, with_next_page=True
        )
        first = searches.Search(request)
        client.set_alias(alias, other)
        request.page_token = first.next_page_token
        ids = [hit.image.id for page in (first, searches.Search(request)) for hit in page.hits]
        whole = search_pb2.SearchRequest(collection=old, query=query, limit=20, consistency=STRONG)
        assert ids == [hit.image.id for hit in searches.Search(whole).hits]
        # A new collection of the same name does not accept the token.
        client.delete_collection(old)
        create_and_fill(client, old, 30, 4)
        refused = refusal(lambda: searches.Search(request))
        assert (refused.info.reason, refused.fields) == ("PAGE_TOKEN_INVALID", ["page_token"])
        assert "start again with the first page" in refused.message


def test_page_after_a_batched_search_repeats_no_hit(
    searches: search_pb2_grpc.SearchServiceStub, search_address: str, name: str
) -> None:
    """On Milvus Lite, a score differs in the last bit between a single query and a batch."""
    with Client(search_address) as client:
        create_and_fill(client, name, 300, 512)
    generator = np.random.default_rng(5)

    def page(values: list[float], token: str = "") -> search_pb2.SearchResponse:
        embedding = embedding_pb2.Embedding(values=values, fingerprint="f")
        query = search_pb2.Query(embedding=embedding)
        return searches.Search(
            search_pb2.SearchRequest(collection=name, query=query, limit=12, page_token=token, with_next_page=True)
        )

    with Client(search_address) as client:
        assert client.search(name, StoredImage("i299"), strong=True)
    with ThreadPoolExecutor(12) as threads:
        for _ in range(10):
            queries = generator.normal(size=(12, 512)).tolist()
            for query, first in zip(queries, threads.map(page, queries), strict=True):
                second = page(query, first.next_page_token)
                assert not {hit.image.id for hit in first.hits} & {hit.image.id for hit in second.hits}


@pytest.mark.parametrize("metric", list(Metric))
def test_min_score_includes_the_hit_with_that_score(search_address: str, name: str, metric: Metric) -> None:
    with Client(search_address) as client:
        create_and_fill(client, name, 60, 8, metric=metric)
        query = Embedding([0.3] * 8, "f")
        hits = client.search(name, query, limit=60, strong=True)
        for number, hit in enumerate(hits, start=1):
            assert len(client.search(name, query, limit=60, min_score=hit.score)) >= number


@pytest.mark.parametrize("options", [{"limit": 200}, {"limit": 120, "ef": 200}])
def test_client_reads_all_hits_in_order(search_address: str, filled: str, options: dict[str, Any]) -> None:
    cosines = vectors() @ vectors()[0] / np.linalg.norm(vectors(), axis=1)
    query = Embedding(vectors()[0].tolist(), "f")
    with Client(search_address) as client:
        found = [hit.image.id for hit in client.search_all(filled, query, **options)]
        assert found == [f"i{number:03d}" for number in np.argsort(-cosines, kind="stable")]
        # The first hit already raises the error, not a later page.
        with pytest.raises(InvalidArgumentError, match=r"ef is 64; it must be between 100"):
            next(client.search_all(filled, query, limit=100, ef=64))
        hits, explanation = client.search_explained(filled, query, limit=3)
    assert len(hits) == 3
    assert explanation.index in {Index.HNSW, Index.FLAT}
    assert 0 < explanation.store_seconds < explanation.total_seconds


def test_pages_respect_filter_min_score_and_a_new_limit(
    searches: search_pb2_grpc.SearchServiceStub, filled: str
) -> None:
    assert filled
    request = by_vector(0, limit=20, min_score=0.0, filter=equals("even", True))
    whole = [image_id for page in pages(searches, request) for image_id in page]
    request.page_token = searches.Search(
        by_vector(0, limit=20, min_score=0.0, filter=equals("even", True))
    ).next_page_token
    request.limit = 1000
    assert whole[20:] == [hit.image.id for hit in searches.Search(request).hits]
    assert 50 < len(whole) < 250


def test_page_token_is_valid_only_for_its_query(
    searches: search_pb2_grpc.SearchServiceStub, filled: str, refusal: Refused
) -> None:
    assert filled
    token = searches.Search(by_vector(0)).next_page_token
    assert token
    for request in (by_vector(1), by_vector(0, min_score=0.5), by_vector(0, view=1), by_vector(0, explain=True)):
        request.page_token = token
        refused = refusal(lambda request=request: searches.Search(request))  # type: ignore[misc]
        assert (refused.code, refused.info.reason) == (CODE.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
        assert refused.fields == ["page_token"]


def test_page_token_is_returned_on_request_and_is_short(
    searches: search_pb2_grpc.SearchServiceStub, search_address: str, name: str
) -> None:
    long_name = (name + "_" * 63)[:63]
    with Client(search_address) as client:
        client.create_collection(long_name, dimension=512, fingerprint="f")
        rows = np.random.default_rng(8).normal(size=(12, 512))
        new = [NewImage(f"{number:0>137}", Embedding(row.tolist(), "f")) for number, row in enumerate(rows)]
        assert all(result.error is None for result in client.write(long_name, new))
    query = search_pb2.Query(image_id=new[0].id)
    request = search_pb2.SearchRequest(collection=long_name, query=query, limit=5, consistency=STRONG)
    assert not searches.Search(request).next_page_token
    request.with_next_page = True
    first = searches.Search(request)
    assert 0 < len(first.next_page_token) <= 2900
    # The response to a page token has the next token.
    request.with_next_page, request.page_token = False, first.next_page_token
    second = searches.Search(request)
    request.page_token = second.next_page_token
    last = searches.Search(request)
    assert len({hit.image.id for page in (first, second, last) for hit in page.hits}) == 11
    assert not last.next_page_token


def test_exact_search_agrees_with_the_index(searches: search_pb2_grpc.SearchServiceStub, filled: str) -> None:
    assert filled
    for number in range(5):
        exact = searches.Search(by_vector(number, parameters=search_pb2.SearchParameters(exact=True)))
        by_index = searches.Search(by_vector(number, parameters=search_pb2.SearchParameters(ef=400)))
        assert [hit.image.id for hit in exact.hits] == [hit.image.id for hit in by_index.hits]


def test_response_has_an_explanation_on_request(searches: search_pb2_grpc.SearchServiceStub, filled: str) -> None:
    assert filled
    explained = searches.Search(by_vector(0, explain=True)).explanation
    assert explained.index.type in {collection_pb2.INDEX_TYPE_HNSW, collection_pb2.INDEX_TYPE_FLAT}
    assert 0 < explained.store_time.ToMicroseconds() <= explained.total_time.ToMicroseconds()
    exact = by_vector(0, explain=True, parameters=search_pb2.SearchParameters(exact=True))
    assert searches.Search(exact).explanation.index.type == collection_pb2.INDEX_TYPE_FLAT
    assert not searches.Search(by_vector(0)).HasField("explanation")


def test_groups_have_the_best_hits_of_each_value(searches: search_pb2_grpc.SearchServiceStub, filled: str) -> None:
    assert filled
    whole = searches.Search(by_vector(0, limit=500)).hits
    response = searches.Search(by_vector(0, limit=100, group_by=search_pb2.GroupBy(attribute="shop", group_size=3)))
    taken: dict[int, list[str]] = {}
    for hit in whole:
        group = taken.setdefault(hit.image.attributes["shop"].integer_value, [])
        if len(group) < 3:
            group.append(hit.image.id)
    expected = {image_id for group in taken.values() for image_id in group}
    assert [hit.image.id for hit in response.hits] == [hit.image.id for hit in whole if hit.image.id in expected]
    assert len(response.hits) == 27
    assert not response.next_page_token


def test_examples_move_hits_towards_positive_and_away_from_negative(
    searches: search_pb2_grpc.SearchServiceStub, filled: str
) -> None:
    examples = search_pb2.Examples(
        positive=[search_pb2.Example(image_id="i001"), search_pb2.Example(embedding=embedding(vectors()[2]))],
        negative=[search_pb2.Example(image_id="i003")],
    )
    query = search_pb2.Query(examples=examples)
    hits = searches.Search(search_pb2.SearchRequest(collection=filled, query=query, limit=COUNT)).hits
    unit = vectors() / np.linalg.norm(vectors(), axis=1, keepdims=True)
    towards = (unit[1] + unit[2]) / 2
    order = np.argsort(-(unit @ (towards + 0.25 * (towards - unit[3]))), kind="stable")
    assert [hit.image.id for hit in hits] == [f"i{number:03d}" for number in order if number not in (1, 3)]


def test_search_stream_survives_an_invalid_query(searches: search_pb2_grpc.SearchServiceStub, filled: str) -> None:
    assert filled

    def requests() -> Iterator[search_pb2.SearchStreamRequest]:
        for number in range(200):
            yield search_pb2.SearchStreamRequest(request_id=str(number), request=by_vector(number, limit=1))
            if number % 50 == 7:
                yield search_pb2.SearchStreamRequest(request_id=f"wrong {number}", request=by_vector(0, limit=-1))
        yield search_pb2.SearchStreamRequest(request_id="x" * 200, request=by_vector(0))

    answers = {answer.request_id: answer for answer in searches.SearchStream(requests())}
    assert len(answers) == 205
    for number in range(200):
        assert answers[str(number)].response.hits[0].image.id == f"i{number:03d}"
    for number in (7, 57, 107, 157):
        assert answers[f"wrong {number}"].error.code == CODE.INVALID_ARGUMENT.value[0]
    assert "request_id" in answers["x" * 128].error.message


def test_no_search_fails_while_an_alias_moves(search_address: str, name: str) -> None:
    alias, stop = f"a{name}", threading.Event()
    with Client(search_address) as client:
        for place, mark in enumerate("xy"):
            client.create_collection(f"{name}_{place}", dimension=2, fingerprint="f")
            new = NewImage(f"in {place}", Embedding([1.0, place], "f"), attributes={"mark": mark})
            assert [result.error for result in client.write(f"{name}_{place}", [new])] == [None]
        client.set_alias(alias, f"{name}_0")

        def search() -> Counter[str]:
            found: Counter[str] = Counter()
            while not stop.is_set():
                (hit,) = client.search_by_vector(alias, Embedding([1.0, 1.0], "f"), strong=True)
                found[hit.image.id] += 1
            return found

        with ThreadPoolExecutor(4) as threads:
            searching = [threads.submit(search) for _ in range(4)]
            for move in range(20):
                time.sleep(0.1)
                client.set_alias(alias, f"{name}_{move % 2}")
            stop.set()
            found = sum((future.result() for future in searching), Counter())
        assert found.keys() == {"in 0", "in 1"}
        client.delete_alias(alias)


def test_alias_can_be_searched_moved_and_deleted(
    collections: collection_pb2_grpc.CollectionServiceStub,
    searches: search_pb2_grpc.SearchServiceStub,
    filled: str,
    name: str,
    refusal: Refused,
) -> None:
    alias, other = f"a{name}", f"o{name}"
    wanted = collection_pb2.Collection(name=other, dimension=8, fingerprint="f")
    collections.CreateCollection(collection_pb2.CreateCollectionRequest(collection=wanted))

    def set_alias(collection: str) -> collection_pb2.SetAliasResponse:
        wanted = collection_pb2.Alias(name=alias, collection=collection)
        return collections.SetAlias(collection_pb2.SetAliasRequest(alias=wanted))

    def found() -> int:
        request = by_vector(0, limit=3)
        request.collection = alias
        return len(searches.Search(request).hits)

    assert set_alias(filled).previous_collection == ""
    assert found() == 3
    assert collections.GetCollection(collection_pb2.GetCollectionRequest(name=alias)).collection.name == filled
    assert set_alias(other).previous_collection == filled
    assert found() == 0
    listed = collections.ListAliases(collection_pb2.ListAliasesRequest(collection=other)).aliases
    assert [(found.name, found.collection) for found in listed] == [(alias, other)]
    assert alias in [found.name for found in collections.ListAliases(collection_pb2.ListAliasesRequest()).aliases]

    def delete(name: str) -> None:
        collections.DeleteCollection(collection_pb2.DeleteCollectionRequest(name=name))

    for call, code, reason in (
        (lambda: delete(other), CODE.FAILED_PRECONDITION, "COLLECTION_HAS_ALIASES"),
        (lambda: delete(alias), CODE.FAILED_PRECONDITION, "NAME_IS_ALIAS"),
        (lambda: set_alias("nowhere"), CODE.NOT_FOUND, "COLLECTION_NOT_FOUND"),
        (
            lambda: collections.SetAlias(
                collection_pb2.SetAliasRequest(alias=collection_pb2.Alias(name=other, collection=filled))
            ),
            CODE.ALREADY_EXISTS,
            "COLLECTION_EXISTS",
        ),
        (
            lambda: collections.CreateCollection(
                collection_pb2.CreateCollectionRequest(
                    collection=collection_pb2.Collection(name=alias, dimension=8, fingerprint="f")
                )
            ),
            CODE.ALREADY_EXISTS,
            "COLLECTION_EXISTS",
        ),
        (
            lambda: collections.DeleteAlias(collection_pb2.DeleteAliasRequest(name="nowhere")),
            CODE.NOT_FOUND,
            "ALIAS_NOT_FOUND",
        ),
        (
            lambda: collections.DeleteAlias(collection_pb2.DeleteAliasRequest(name=other)),
            CODE.NOT_FOUND,
            "ALIAS_NOT_FOUND",
        ),
    ):
        refused = refusal(call)
        assert (refused.code, refused.info.reason) == (code, reason)
    collections.DeleteAlias(collection_pb2.DeleteAliasRequest(name=alias))
    delete(other)


def test_response_that_is_too_large_is_an_error(start_search: StartSearch, tmp_path: Path, refusal: Refused) -> None:
    """Without this check, gRPC ends the whole stream with an error that names no cause."""
    uri = str(tmp_path / "milvus.db")
    with start_search(milvus_uri=uri, max_message_bytes="1048576") as address, Client(address) as client:
        client.create_collection("c", dimension=8, fingerprint="f")
        new = [
            NewImage(f"i{number:03d}", Embedding([1.0] * 8, "f"), attributes={"text": "x" * 30_000})
            for number in range(60)
        ]
        assert all(result.error is None for result in client.write("c", new))
        vector = search_pb2.Query(embedding=embedding_pb2.Embedding(values=[1] * 8, fingerprint="f"))
        too_many = search_pb2.SearchRequest(collection="c", query=vector, limit=50)
        few = search_pb2.SearchRequest(collection="c", query=vector, limit=20)
        only_ids = search_pb2.SearchRequest(collection="c", query=vector, limit=50, view=image_pb2.IMAGE_VIEW_ID)
        with grpc.insecure_channel(address) as channel:
            searches = search_pb2_grpc.SearchServiceStub(channel)
            images = image_pb2_grpc.ImageServiceStub(channel)
            ids = [f"i{number:03d}" for number in range(60)]
            for call in (
                lambda: searches.Search(too_many),
                lambda: images.ListImages(image_pb2.ListImagesRequest(collection="c")),
                lambda: images.GetImages(image_pb2.GetImagesRequest(collection="c", ids=ids)),
            ):
                refused = refusal(call)
                assert (refused.code, refused.info.reason) == (CODE.RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE")
                assert refused.info.metadata["max_bytes"] == "1048576"
                assert "limit" in refused.message
            requests = [
                search_pb2.SearchStreamRequest(request_id=str(number), request=request)
                for number, request in enumerate((too_many, few, only_ids))
            ]
            answers = {answer.request_id: answer for answer in searches.SearchStream(iter(requests))}
        assert answers["0"].error.code == CODE.RESOURCE_EXHAUSTED.value[0]
        assert len(answers["1"].response.hits) == 20
        assert len(answers["2"].response.hits) == 50
        # Smaller pages can be read.
        assert len(list(client.list("c", page_size=20))) == 60


def test_queries_that_cannot_be_sent_do_not_fail_other_queries(search_address: str, filled: str) -> None:
    good = Embedding(vectors()[0].tolist(), "f")

    def queries() -> Iterator[Any]:
        yield from (good, "nonsense", ImageFile(bytes(30_000_000)), good)
        raise OSError("the disk is gone")

    answers: dict[int, Any] = {}
    with Client(search_address) as client:
        found = client.search_many(filled, queries(), limit=2)
        with pytest.raises(OSError, match="the disk is gone"):
            answers.update(found)
        with pytest.raises(TypeError, match="unknown search options"):
            client.search_many(filled, [good], k=2)  # type: ignore[call-arg]
    assert [hit.image.id for hit in answers[0]][:1] == [hit.image.id for hit in answers[3]][:1] == ["i000"]
    assert (answers[1].reason, answers[2].reason) == ("VALUE_INVALID", "IMAGE_TOO_LARGE")
    assert "ImageFile, a StoredImage" in answers[1].message
