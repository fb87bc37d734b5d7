"""Read, list, change and delete images over gRPC, on both backends."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from imagesearch.search.v1 import collection_pb2, filter_pb2, image_pb2, image_pb2_grpc

from imagesearch_client import (
    Client,
    Embedding,
    NewImage,
    all_of,
    any_of,
    equals,
    exists,
    is_in,
    negated,
    number,
    prefix,
)

CODE = grpc.StatusCode
STRONG = collection_pb2.CONSISTENCY_STRONG
Refused = Callable[[Callable[[], object]], Any]
COLOURS = ("red", "green", "blue")


@pytest.fixture
def client(search_address: str) -> Iterator[Client]:
    with Client(search_address) as client:
        yield client


@pytest.fixture
def images(channel: grpc.Channel) -> image_pb2_grpc.ImageServiceStub:
    return image_pb2_grpc.ImageServiceStub(channel)


def fill(client: Client, name: str, count: int) -> None:
    client.create_collection(name, dimension=2, fingerprint="f")
    new = [
        NewImage(
            f"i{number:04d}",
            Embedding([1.0, number], "f"),
            uri=f"u/{number}",
            attributes={
                "number": number,
                "colour": COLOURS[number % 3],
                "tags": [f"t{number % 5}", "all"],
                "even": number % 2 == 0,
                **({"rare": "yes"} if number % 50 == 0 else {}),
            },
        )
        for number in range(count)
    ]
    assert all(result.error is None for result in client.write(name, new))


@pytest.fixture(scope="module")
def listed(search_address: str) -> str:
    """Return a collection with 250 images, for tests that do not change it."""
    with Client(search_address) as client:
        fill(client, "listed", 250)
        assert client.count("listed") == 250
        # From now on, bounded reads see all images, also on a server.
        time.sleep(1)
    return "listed"


def flat(found: list[list[str]]) -> list[str]:
    return [image_id for page in found for image_id in page]


def pages(images: image_pb2_grpc.ImageServiceStub, **fields: Any) -> list[list[str]]:
    found, token = [], ""
    while True:
        request = image_pb2.ListImagesRequest(page_token=token, consistency=STRONG, **fields)
        response = images.ListImages(request)
        found.append([image.id for image in response.images])
        token = response.next_page_token
        if not token:
            return found


def test_all_images_are_listed_in_pages(images: image_pb2_grpc.ImageServiceStub, listed: str) -> None:
    found = pages(images, collection=listed, page_size=60)
    assert [len(page) for page in found] == [60, 60, 60, 60, 10]
    assert flat(found) == [f"i{number:04d}" for number in range(250)]
    assert [len(page) for page in pages(images, collection=listed, page_size=125)] == [125, 125]


def test_listing_by_time_over_grpc_returns_the_latest_first(
    client: Client, images: image_pb2_grpc.ImageServiceStub, name: str
) -> None:
    fill(client, name, 40)
    for image_id in ("i0030", "i0010", "i0020"):
        client.update(name, image_id, attributes={"touched": True})
    latest_first = image_pb2.IMAGE_ORDER_UPDATE_TIME_DESC
    found = flat(pages(images, collection=name, order=latest_first, page_size=7))
    assert found[:3] == ["i0020", "i0010", "i0030"]
    assert sorted(found) == [f"i{number:04d}" for number in range(40)]
    page = images.ListImages(image_pb2.ListImagesRequest(collection=name, order=latest_first, consistency=STRONG))
    moments = [image.update_time.ToNanoseconds() for image in page.images]
    assert moments == sorted(moments, reverse=True)


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        (equals("colour", "red"), 84),
        (equals("tags", "t0"), 50),
        (is_in("tags", "t0", "t1"), 100),
        (equals("even", True), 125),
        (number("number", gte=10, lt=20), 10),
        (prefix("colour", "gr"), 83),
        (exists("rare"), 5),
        (negated(exists("rare")), 245),
        (all_of(equals("colour", "red"), number("number", lt=30), negated(equals("even", True))), 5),
        (any_of(equals("number", 3), equals("number", 4.0), exists("nothing")), 2),
    ],
    ids=str,
)
def test_count_and_list_apply_the_same_filter(
    client: Client, images: image_pb2_grpc.ImageServiceStub, listed: str, condition: filter_pb2.Filter, count: int
) -> None:
    assert client.count(listed, where=condition) == count
    assert client.delete_where(listed, condition, dry_run=True) == count
    assert len(flat(pages(images, collection=listed, filter=condition, page_size=40))) == count


def test_search_applies_the_filter(client: Client, listed: str) -> None:
    hits = client.search_by_vector(listed, Embedding([1.0, 30.0], "f"), limit=250, where=equals("colour", "blue"))
    assert len(hits) == 83
    assert {hit.image.attributes["colour"] for hit in hits} == {"blue"}
    beside = client.search_by_id(listed, "i0030", limit=1, where=equals("colour", "red"))
    assert beside[0].image.attributes["colour"] == "red"
    assert beside[0].image.id != "i0030"


def test_several_images_are_read_in_one_call(images: image_pb2_grpc.ImageServiceStub, listed: str) -> None:
    request = image_pb2.GetImagesRequest(
        collection=listed, ids=["i0007", "nobody", "i0003", "i0007"], view=image_pb2.IMAGE_VIEW_FULL
    )
    response = images.GetImages(request)
    assert [image.id for image in response.images] == ["i0007", "i0003"]
    assert list(response.images[0].embedding.values) == [1.0, 7.0]
    assert response.images[0].attributes["tags"].string_list_value.values == ["t2", "all"]
    assert list(response.missing_ids) == ["nobody"]


def test_update_keeps_vector_and_create_time(client: Client, name: str) -> None:
    fill(client, name, 2)
    before = client.get(name, "i0001", with_vector=True)
    answer = client.update(name, "i0001", uri="new", attributes={"colour": "black", "price": 2.5}, remove=["tags"])
    after = client.get(name, "i0001", with_vector=True)
    assert after.attributes == answer.attributes == {"number": 1, "colour": "black", "even": False, "price": 2.5}
    assert (after.uri, after.embedding, after.create_time) == ("new", before.embedding, before.create_time)
    assert after.update_time == answer.update_time > before.update_time
    assert client.count(name) == 2
    assert client.count(name, where=equals("colour", "green")) == 0


def test_delete_by_filter_spares_other_images(client: Client, name: str) -> None:
    fill(client, name, 1500)
    assert client.delete_where(name, number("number", gte=100)) == 1400
    assert client.count(name) == 100
    assert client.delete_where(name, number("number", gte=100)) == 0


def test_list_token_is_valid_only_for_its_request(
    images: image_pb2_grpc.ImageServiceStub, listed: str, refusal: Refused
) -> None:
    token = images.ListImages(image_pb2.ListImagesRequest(collection=listed, page_size=10)).next_page_token
    assert token
    again = image_pb2.ListImagesRequest(collection=listed, page_size=20, page_token=token)
    assert [image.id for image in images.ListImages(again).images][:1] == ["i0010"]
    for fields in ({"view": image_pb2.IMAGE_VIEW_ID}, {"filter": exists("rare")}):
        changed = image_pb2.ListImagesRequest(collection=listed, page_size=10, page_token=token, **fields)
        refused = refusal(partial(images.ListImages, changed))
        assert refused.info.reason == "PAGE_TOKEN_INVALID"
