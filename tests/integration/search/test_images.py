"""Photographs through both services."""

import itertools
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import grpc
import pytest
from imagesearch.search.v1 import collection_pb2, image_pb2_grpc, search_pb2, search_pb2_grpc
from imagesearch.search.v1 import image_pb2 as search_image_pb2
from imagesearch.types.v1 import encoded_image_pb2
from PIL import Image as PillowImage

from grpc_kit.status import from_status
from imagesearch_client import (
    Client,
    Embedding,
    Examples,
    FailedPreconditionError,
    ImageFile,
    InvalidArgumentError,
    NewImage,
    NotFoundError,
    Region,
    ServiceError,
    StoredImage,
)

STRONG = collection_pb2.CONSISTENCY_STRONG


@pytest.fixture
def client(search_address: str) -> Iterator[Client]:
    with Client(search_address, timeout=60) as client:
        yield client


@pytest.fixture
def images(channel: grpc.Channel) -> image_pb2_grpc.ImageServiceStub:
    return image_pb2_grpc.ImageServiceStub(channel)


@pytest.fixture(scope="module")
def filled(search_address: str, photographs: dict[str, Path]) -> str:
    """Return a collection with every photograph, for tests that do not change it."""
    name = "photographs"
    with Client(search_address, timeout=60) as client:
        client.create_collection(name)
        images = [NewImage(key, path.read_bytes(), uri=str(path)) for key, path in photographs.items()]
        assert [result.error for result in client.write(name, images)] == [None] * len(images)
        # From now on, bounded reads see all images, also on a server.
        time.sleep(1)
    return name


def test_new_collection_uses_the_default_model(client: Client, filled: str) -> None:
    collection = client.get_collection(filled)
    assert (collection.model, collection.dimension) == ("mobilenet", 1024)
    assert collection.fingerprint.startswith("mobilenet-avg-")


def test_photograph_is_its_own_best_hit(client: Client, filled: str, photographs: dict[str, Path]) -> None:
    for key, path in list(photographs.items())[:5]:
        first = client.search_by_image(filled, path.read_bytes(), limit=1)[0]
        assert first.image.id == key
        assert first.score == pytest.approx(1, abs=1e-4)


def test_queries_by_image_id_and_vector_return_the_same_hits(
    client: Client, filled: str, photographs: dict[str, Path]
) -> None:
    stored = client.get(filled, "chelsea", with_vector=True)
    assert stored.embedding is not None
    by_vector = client.search_by_vector(filled, stored.embedding, limit=6)
    by_image = client.search_by_image(filled, photographs["chelsea"].read_bytes(), limit=6)
    by_id = client.search_by_id(filled, "chelsea", limit=5)
    assert [hit.image.id for hit in by_vector] == [hit.image.id for hit in by_image]
    assert [hit.image.id for hit in by_vector][1:] == [hit.image.id for hit in by_id]
    assert [hit.score for hit in by_vector] == pytest.approx([hit.score for hit in by_image], abs=1e-4)


def test_examples_may_be_photographs(client: Client, filled: str, photographs: dict[str, Path]) -> None:
    coffee, rocket = (ImageFile(photographs[key].read_bytes()) for key in ("coffee", "rocket"))
    both = client.search(filled, Examples([coffee, rocket]), limit=2, strong=True)
    assert {hit.image.id for hit in both} == {"coffee", "rocket"}
    away = client.search(filled, Examples([coffee], [rocket]), limit=20, strong=True)
    assert away[0].image.id == "coffee"
    unlike = next(hit.score for hit in away if hit.image.id == "rocket")
    assert unlike < next(hit.score for hit in both if hit.image.id == "rocket")


def test_trailing_metadata_has_embed_and_store_times(
    channel: grpc.Channel, filled: str, photographs: dict[str, Path]
) -> None:
    query = search_pb2.Query(image=encoded_image_pb2.EncodedImage(content=photographs["coffee"].read_bytes()))
    request = search_pb2.SearchRequest(collection=filled, query=query, explain=True)
    response, call = search_pb2_grpc.SearchServiceStub(channel).Search.with_call(request)
    timing = dict(call.trailing_metadata() or ())["server-timing"]
    times = {name: float(rest) for name, rest in (part.split(";dur=") for part in str(timing).split(", "))}
    assert times.keys() == {"embed", "store", "total"}
    assert times["total"] >= times["embed"] + times["store"] > 0
    assert response.explanation.embed_time.ToMilliseconds() == pytest.approx(times["embed"], abs=5)


def test_query_region_of_a_collage_finds_its_content(client: Client, filled: str, photographs: dict[str, Path]) -> None:
    collage = PillowImage.new("RGB", (800, 400))
    for position, key in enumerate(("coffee", "rocket")):
        with PillowImage.open(photographs[key]) as photograph:
            collage.paste(photograph.resize((400, 400)), (400 * position, 0))
    buffer = BytesIO()
    collage.save(buffer, "JPEG", quality=92)
    for key, region in (("coffee", Region(0, 0, 0.5, 1)), ("rocket", Region(0.5, 0, 1, 1))):
        hits = client.search_by_image(filled, buffer.getvalue(), region=region, limit=1)
        assert hits[0].image.id == key
        assert hits[0].score > 0.9


def test_only_invalid_images_of_a_grpc_stream_fail(client: Client, name: str, photographs: dict[str, Path]) -> None:
    client.create_collection(name)
    content = photographs["coins"].read_bytes()
    images = [
        NewImage("good1", content),
        NewImage("empty", b""),
        NewImage("text", b"this is no image"),
        NewImage("truncated", content[: len(content) // 2]),
        NewImage("good2", content, attributes={"kind": "coins"}),
        NewImage("region", content, region=Region(0.5, 0, 0.4, 1)),
        NewImage("x" * 513, content),
        NewImage("good3", content, region=Region(0, 0, 0.5, 0.5)),
    ]
    reasons = {result.id: result.error.reason if result.error else None for result in client.write(name, images)}
    assert reasons == {
        "good1": None,
        "empty": "IMAGE_MISSING",
        "text": "IMAGE_FORMAT_UNSUPPORTED",
        "truncated": "IMAGE_CORRUPT",
        "good2": None,
        "region": "REGION_INVALID",
        "x" * 513: "ID_INVALID",
        "good3": None,
    }
    assert client.count(name) == 3
    assert client.get(name, "good2").attributes == {"kind": "coins"}


def test_region_of_a_vector_is_stored_and_returned(
    client: Client, channel: grpc.Channel, name: str, photographs: dict[str, Path]
) -> None:
    client.create_collection(name)
    content, region = photographs["coins"].read_bytes(), Region(0, 0, 0.5, 0.75)
    fingerprint = client.get_collection(name).fingerprint
    ready = Embedding([1.0] * 1024, fingerprint)
    images = [
        NewImage("whole", content),
        NewImage("part", content, attributes={"region": "a name like any other"}, region=region),
        NewImage("ready", ready, region=region),
        NewImage("reversed", ready, region=Region(0.5, 0, 0.5, 1)),
        NewImage("outside", ready, region=Region(0, 0, 1.5, 1)),
        NewImage("no number", ready, region=Region(0, 0, float("nan"), 1)),
    ]
    reasons = {result.id: result.error.reason for result in client.write(name, images) if result.error}
    assert reasons == dict.fromkeys(("reversed", "outside", "no number"), "REGION_INVALID")
    regions = {
        image.id: image.region for image in client.get_many(name, ["whole", "part", "ready"], strong=True).values()
    }
    assert regions == {"whole": None, "part": region, "ready": region}
    client.update(name, "part", attributes={"colour": "red"})
    found = client.get(name, "part", strong=True)
    assert (found.region, found.attributes) == (region, {"region": "a name like any other", "colour": "red"})
    query = search_pb2.Query(image=encoded_image_pb2.EncodedImage(content=content))
    query.image.region.CopyFrom(encoded_image_pb2.Region(x0=0, y0=0, x1=0.5, y1=0.75))
    request = search_pb2.SearchRequest(collection=name, query=query, limit=1, consistency=STRONG)
    (hit,) = search_pb2_grpc.SearchServiceStub(channel).Search(request, timeout=60).hits
    assert (hit.image.id, hit.region, hit.image.region) == ("part", query.image.region, query.image.region)


def test_region_is_allowed_only_with_a_vector(
    images: image_pb2_grpc.ImageServiceStub, client: Client, name: str, photographs: dict[str, Path]
) -> None:
    client.create_collection(name)
    request = search_image_pb2.WriteImagesRequest(
        collection=name,
        id="a",
        image=encoded_image_pb2.EncodedImage(content=photographs["coins"].read_bytes()),
        region=encoded_image_pb2.Region(x1=1, y1=1),
    )
    (response,) = images.WriteImages(iter([request]))
    error = from_status(response.error)
    assert (error.reason, error.field) == ("REGION_INVALID", "region")
    assert "image.region" in error.message


def test_images_expire_after_the_time_to_live(client: Client, name: str) -> None:
    client.create_collection(name, dimension=2, fingerprint="f", ttl=timedelta(seconds=4))
    assert client.get_collection(name).ttl == timedelta(seconds=4)
    began = time.monotonic()
    written = [NewImage(image_id, Embedding([1.0, 1.0], "f")) for image_id in "ab"]
    assert [result.error for result in client.write(name, written)] == [None, None]
    assert len(client.search(name, StoredImage("a"), include_query=True, strong=True)) == 2
    time.sleep(3)
    client.update(name, "b", attributes={"kept": True})
    # The first image has certainly expired, and the second has not.
    time.sleep(max(0.0, began + 6 - time.monotonic()))
    assert [hit.image.id for hit in client.search(name, Embedding([1.0, 1.0], "f"), strong=True)] == ["b"]
    assert client.count(name) == 1
    assert list(client.get_many(name, ["a", "b"], strong=True)) == ["b"]
    with pytest.raises(NotFoundError):
        client.search(name, StoredImage("a"))


def test_second_write_keeps_attributes_if_requested(client: Client, name: str) -> None:
    client.create_collection(name, dimension=2, fingerprint="f")
    vector = Embedding([1.0, 1.0], "f")
    list(client.write(name, [NewImage("a", vector, attributes={"price": 3, "kind": "hat"})]))
    list(client.write(name, [NewImage("a", vector, attributes={"price": 4}, keep_attributes=True)]))
    assert client.get(name, "a", strong=True).attributes == {"price": 4, "kind": "hat"}
    list(client.write(name, [NewImage("a", vector, attributes={"price": 5})]))
    assert client.get(name, "a", strong=True).attributes == {"price": 5}


def test_second_write_replaces_the_image(client: Client, name: str, photographs: dict[str, Path]) -> None:
    client.create_collection(name)
    for photograph in ("coffee", "rocket"):
        image = NewImage("same", photographs[photograph].read_bytes(), uri=photograph)
        assert [result.error for result in client.write(name, [image, image])] == [None, None]
    assert client.count(name) == 1
    assert client.get(name, "same").uri == "rocket"
    assert client.search_by_image(name, photographs["rocket"].read_bytes())[0].score == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "IMAGE_MISSING"),
        (b"text", "IMAGE_FORMAT_UNSUPPORTED"),
        (b"\xff\xd8\xff\xe0broken", "IMAGE_CORRUPT"),
    ],
)
def test_invalid_query_image_is_rejected_with_its_field(
    client: Client, filled: str, content: bytes, reason: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.search_by_image(filled, content)
    assert (caught.value.reason, caught.value.field) == (reason, "query.image.content")


def test_vector_with_another_fingerprint_is_rejected(client: Client, filled: str) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        client.search_by_vector(filled, Embedding([1.0] * 1024, "mobilenet-avg-0000000000000000"))
    assert caught.value.reason == "EMBEDDING_MISMATCH"


def test_images_that_cannot_be_sent_fail_alone(client: Client, name: str) -> None:
    client.create_collection(name, dimension=2, fingerprint="counted")
    vector = Embedding([1.0, 2.0], "counted")
    images = [
        NewImage("first", vector),
        NewImage("huge", bytes(30_000_000)),
        NewImage("number", vector, attributes={"n": 2**63}),
        NewImage("lone \udcff", vector),
        NewImage("kind", vector, attributes={"n": object()}),  # type: ignore[dict-item]
        NewImage("last", vector),
    ]
    reasons = {result.id: result.error.reason if result.error else None for result in client.write(name, images)}
    assert reasons == {
        "first": None,
        "huge": "IMAGE_TOO_LARGE",
        "number": "VALUE_INVALID",
        "lone \udcff": "VALUE_INVALID",
        "kind": "VALUE_INVALID",
        "last": None,
    }
    assert client.count(name) == 2


def test_error_of_the_image_iterator_is_raised_after_the_results(client: Client, name: str) -> None:
    client.create_collection(name, dimension=2, fingerprint="counted")

    def images() -> Iterator[NewImage]:
        yield NewImage("first", Embedding([1.0, 2.0], "counted"))
        raise RuntimeError("the disk is on fire")

    results = client.write(name, images())
    assert next(results).error is None
    with pytest.raises(RuntimeError, match="on fire"):
        next(results)


def test_abandoned_stream_does_no_harm(client: Client, name: str) -> None:
    client.create_collection(name, dimension=2, fingerprint="counted")
    endless = (NewImage(f"i{n}", Embedding([1.0, n], "counted")) for n in itertools.count())
    results = client.write(name, endless)
    assert next(results).error is None
    results.close()  # type: ignore[attr-defined]
    assert client.count(name) >= 1


def test_oversized_attribute_name_is_shortened_in_the_error(client: Client, name: str) -> None:
    client.create_collection(name, dimension=2, fingerprint="counted")
    vector = Embedding([1.0, 2.0], "counted")
    images = [NewImage("bad", vector, attributes={"x" * 9_000_000: True}), NewImage("good", vector)]
    bad, good = client.write(name, images)
    assert bad.error is not None
    assert bad.error.reason == "ATTRIBUTE_INVALID"
    assert len(bad.error.message) <= 1024
    assert good.error is None


def test_one_stream_stores_ten_thousand_vectors(client: Client, name: str) -> None:
    client.create_collection(name, dimension=8, fingerprint="counted")
    images = (NewImage(f"i{n}", Embedding([1.0, n, 0, 0, 0, 0, 0, 1], "counted")) for n in range(10_000))
    failed = [result for result in client.write(name, images) if result.error is not None]
    assert failed == []
    assert client.count(name) == 10_000


def test_client_raises_the_matching_error(client: Client) -> None:
    with pytest.raises(ServiceError) as caught:
        client.count("nowhere")
    assert type(caught.value).__name__ == "NotFoundError"
    assert caught.value.reason == "COLLECTION_NOT_FOUND"


def test_update_undoes_no_concurrent_write_or_delete(client: Client, name: str) -> None:
    client.create_collection(name, dimension=2, fingerprint="counted")

    def write(number: float) -> None:
        (result,) = client.write(name, [NewImage("a", Embedding([1.0, number], "counted"))])
        assert result.error is None

    def change(number: int) -> None:
        # Before, after or between the two changes, and never half of one.
        with suppress(NotFoundError):
            client.update(name, "a", attributes={"n": number})

    with ThreadPoolExecutor(2) as threads:
        for number in range(1, 9):
            write(0)
            changing = threads.submit(change, number)
            time.sleep(random.uniform(0, 0.01))
            write(number)
            changing.result()
            image = client.get(name, "a", with_vector=True, strong=True)
            assert image.embedding is not None
            assert image.embedding.values[1] == number
            changing = threads.submit(change, number)
            time.sleep(random.uniform(0, 0.01))
            assert client.delete(name, ["a", "a"]) == 1
            changing.result()
            assert client.get_many(name, ["a"], strong=True) == {}
