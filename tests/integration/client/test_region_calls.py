"""The calls of both forms of the clients that embed, write, read and search regions, on real services."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagesearch_client import (
    Embedding,
    Examples,
    FailedPreconditionError,
    Hits,
    ImageFile,
    ImageRegions,
    InvalidArgumentError,
    Match,
    NewImage,
    NotFoundError,
    Region,
    RegionEmbedding,
    StoredImage,
    equals,
)
from tests.integration.client.conftest import Calls, broken, vector

MODEL = "mobilenet-max-native256"
WHOLE, LEFT, CORNER = Region(0, 0, 1, 1), Region(0, 0, 0.5, 1), Region(0.5, 0.5, 1, 1)
VECTORS: dict[str, Any] = {"dimension": 2, "fingerprint": "test", "max_regions": 2}
EAST, NORTH, BETWEEN = vector(1, 0), vector(0, 1), vector(1, 1)


def part(embedding: Embedding, box: Region = LEFT, saliency: float = 0.0) -> RegionEmbedding:
    return RegionEmbedding(box, embedding, saliency)


def contains(outer: Region, inner: Region) -> bool:
    return outer.x0 <= inner.x0 < inner.x1 <= outer.x1 and outer.y0 <= inner.y0 < inner.y1 <= outer.y1


def boxes_of(regions: Sequence[RegionEmbedding]) -> list[Region]:
    return [region.box for region in regions]


def assert_close(one: ImageRegions, other: ImageRegions) -> None:
    assert one.salient_box == other.salient_box
    for some, others in ((one.proposals, other.proposals), (one.boxes, other.boxes)):
        assert boxes_of(some) == boxes_of(others)
        for region, same in zip(some, others, strict=True):
            np.testing.assert_allclose(region.embedding.values, same.embedding.values, atol=1e-5)
    np.testing.assert_allclose(one.embedding.values, other.embedding.values, atol=1e-5)


async def test_the_embedder_proposes_regions_and_embeds_boxes(embedder: Calls, photographs: dict[str, Path]) -> None:
    path = photographs["coffee"]
    options: dict[str, Any] = {"max_regions": 3, "boxes": [CORNER, LEFT], "model": MODEL}
    found = await embedder.embed_regions(path, **options)
    fingerprint = (await embedder.get_model(MODEL)).region_fingerprint
    assert boxes_of(found.boxes) == [CORNER, LEFT]
    assert len(found.proposals) == 3
    saliencies = [region.saliency for region in found.proposals]
    assert saliencies == sorted(saliencies, reverse=True)
    for region in (*found.proposals, *found.boxes):
        assert (region.embedding.values.dtype, region.embedding.values.shape) == (np.float32, (1024,))
        assert region.embedding.fingerprint == found.embedding.fingerprint == fingerprint
        assert np.abs(region.embedding.values - found.embedding.values).max() > 0.01
        assert contains(WHOLE, region.box)
    assert contains(WHOLE, found.salient_box)
    assert_close(await embedder.embed_regions(path.read_bytes(), **options, bulk=True), found)


async def test_regions_of_a_part_lie_within_it(embedder: Calls, photographs: dict[str, Path]) -> None:
    image = ImageFile(photographs["coffee"], LEFT)
    inside = Region(0.125, 0.25, 0.375, 0.75)
    found = await embedder.embed_regions(image, max_regions=3, boxes=[inside], model=MODEL)
    assert boxes_of(found.boxes) == [inside]
    assert len(found.proposals) == 3
    assert all(contains(LEFT, box) for box in (*boxes_of(found.proposals), found.salient_box))
    # Without regions there are the vector of the image and its salient box.
    plain = await embedder.embed_regions(image, model=MODEL)
    assert (plain.proposals, plain.boxes, plain.salient_box) == ((), (), found.salient_box)


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize(
    ("options", "reason", "message"),
    [
        ({"max_regions": 1, "model": "mobilenet"}, "REGIONS_UNSUPPORTED", "native"),
        ({"max_regions": 65}, "MAX_REGIONS_INVALID", "max_regions is 65; it must be between 0 and 64"),
        ({"max_regions": -1}, "MAX_REGIONS_INVALID", "max_regions is -1; it must be between 0 and 64"),
        ({"boxes": [LEFT] * 65}, "TOO_MANY_BOXES", "64"),
        ({"boxes": [LEFT, Region(0.5, 0, 0.5, 1)]}, "REGION_INVALID", r"boxes\[1\]"),
        ({"boxes": [Region(0, 0, 1, float("nan"))]}, "REGION_INVALID", r"boxes\[0\]"),
    ],
)
async def test_regions_that_cannot_be_embedded(
    embedder: Calls, photographs: dict[str, Path], options: dict[str, Any], reason: str, message: str, *, bulk: bool
) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        await embedder.embed_regions(photographs["coffee"], **{"model": MODEL} | options, bulk=bulk)
    assert caught.value.reason == reason


async def test_the_embedder_embeds_streams_with_regions(embedder: Calls, photographs: dict[str, Path]) -> None:
    coffee, rocket = photographs["coffee"], photographs["rocket"]
    images = [coffee, b"no image", Path("/nobody"), ImageFile(rocket, LEFT)]
    found = dict(await embedder.embed_many_regions(images, max_regions=2, model=MODEL))
    assert sorted(found) == [0, 1, 2, 3]
    assert [found[number].reason for number in (1, 2)] == ["IMAGE_FORMAT_UNSUPPORTED", "FILE_UNREADABLE"]
    assert_close(found[0], await embedder.embed_regions(coffee, max_regions=2, model=MODEL))
    assert [len(found[number].proposals) for number in (0, 3)] == [2, 2]
    assert all(contains(LEFT, box) for box in boxes_of(found[3].proposals))
    with pytest.raises(RuntimeError, match="the caller's own error"):
        await embedder.embed_many_regions(broken([]), max_regions=2, model=MODEL)


async def test_each_way_to_read_returns_regions_only_if_asked(client: Calls, name: str) -> None:
    made = await client.create_collection(name, **VECTORS)
    assert made.max_regions == 2
    with pytest.raises(FailedPreconditionError, match="exists with max_regions 2, not 3"):
        await client.create_collection(name, **VECTORS | {"max_regions": 3}, exist_ok=True)
    regions = (part(NORTH, LEFT, 0.75), part(BETWEEN, CORNER, 0.25))
    images = [NewImage("a", EAST, regions=regions), NewImage("b", NORTH), NewImage("c", EAST, regions=regions[:1])]
    assert [result.error for result in await client.write(name, images)] == [None] * 3
    wanted = {image.id: (image.source, tuple(image.regions)) for image in images}
    views: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"with_regions": True}, wanted),
        ({"with_vector": True}, {image_id: (vector, ()) for image_id, (vector, _) in wanted.items()}),
        ({}, dict.fromkeys(wanted, (None, ()))),
    ]
    readers: dict[str, Callable[..., Awaitable[Any]]] = {
        "get": lambda **options: client.get(name, "a", **options),
        "get_many": lambda **options: client.get_many(name, wanted, **options),
        "get_each": lambda **options: client.get_each(name, wanted, **options),
        "list": lambda **options: client.list(name, page_size=2, **options),
        "list_page": lambda **options: client.list_page(name, **options),
    }
    for method, read in readers.items():
        for options, expected in views:
            found = await read(**options, strong=True)
            match method:
                case "get":
                    each = [found]
                case "get_many":
                    each = list(found.values())
                case "get_each":
                    each = [image for _, image in found]
                case "list":
                    each = found
                case _:
                    each = found.images
            assert {image.id: (image.embedding, image.regions) for image in each} == {
                image_id: expected[image_id] for image_id in (["a"] if method == "get" else wanted)
            }, method


async def test_an_image_that_fails_leaves_no_regions(client: Calls, name: str) -> None:
    await client.create_collection(name, **VECTORS)
    kept = part(EAST, CORNER)
    assert [each.error for each in await client.write(name, [NewImage("kept", EAST, regions=[kept])])] == [None]
    inverted = Region(1, 0, 0.5, 1)
    images = [
        NewImage("kept", NORTH, regions=[part(NORTH), part(NORTH), part(NORTH)]),
        NewImage("box", NORTH, regions=[part(NORTH), part(NORTH, inverted)]),
        NewImage("saliency", NORTH, regions=[part(NORTH, saliency=float("inf"))]),
        NewImage("zero", NORTH, regions=[part(NORTH), part(vector(0, 0))]),
        NewImage("dimension", NORTH, regions=[part(NORTH), part(vector(0, 1, 0))]),
        NewImage("fingerprint", NORTH, regions=[part(NORTH), part(Embedding([0, 1], "other"))]),
        NewImage("tuple", NORTH, regions=[(LEFT, NORTH)]),  # type: ignore[list-item]
        NewImage("file", b"image", regions=[part(NORTH)]),
        NewImage("last", BETWEEN, regions=[part(BETWEEN)]),
    ]
    results = {result.id: result.error and result.error.reason for result in await client.write(name, images)}
    assert results == {
        "kept": "TOO_MANY_REGIONS",
        "box": "REGION_INVALID",
        "saliency": "REGION_INVALID",
        "zero": "VECTOR_ZERO",
        "dimension": "VECTOR_DIMENSION_MISMATCH",
        "fingerprint": "VALUE_INVALID",
        "tuple": "VALUE_INVALID",
        "file": "VALUE_INVALID",
        "last": None,
    }
    for match in Match:
        hits = await client.search(name, NORTH, match=match, limit=100, strong=True)
        assert sorted(hit.image.id for hit in hits) == ["kept", "last"], match
    (image,) = [found for found in await client.list(name, with_regions=True, strong=True) if found.id == "kept"]
    assert (image.embedding, image.regions) == (EAST, (kept,))
    plain = f"{name}_plain"
    await client.create_collection(plain, dimension=2, fingerprint="test")
    (refused,) = await client.write(plain, [NewImage("a", EAST, regions=[part(NORTH)])])
    assert refused.error.reason == "REGIONS_UNSUPPORTED"
    with pytest.raises(NotFoundError):
        await client.get(plain, "a", strong=True)


async def test_a_write_replaces_regions_a_change_keeps_them_and_a_deletion_removes_them(
    client: Calls, name: str
) -> None:
    await client.create_collection(name, **VECTORS)
    await client.write(name, [NewImage("a", EAST, regions=[part(EAST), part(NORTH)]), NewImage("b", EAST)])

    async def best(query: Embedding) -> list[tuple[str, Region | None, float]]:
        hits = await client.search(name, query, match="regions", strong=True)
        return [(hit.image.id, hit.region, round(hit.score, 3)) for hit in hits]

    assert await best(NORTH) == [("a", LEFT, 1.0)]
    await client.update(name, "a", attributes={"price": 5})
    assert await best(NORTH) == [("a", LEFT, 1.0)]
    found = await client.search(name, NORTH, match="regions", where=equals("price", 5), strong=True)
    assert [hit.image.attributes for hit in found] == [{"price": 5}]
    await client.write(name, [NewImage("a", EAST, regions=[part(EAST, CORNER)])])
    assert await best(NORTH) == [("a", CORNER, 0.0)]
    assert await client.delete(name, ["a"]) == 1
    assert await best(NORTH) == []


async def test_searches_by_vectors_and_stored_images(client: Calls, name: str) -> None:
    await client.create_collection(name, **VECTORS)
    images = [
        NewImage("a", EAST, regions=[part(NORTH, LEFT), part(BETWEEN, CORNER)]),
        NewImage("b", NORTH, regions=[part(EAST, CORNER)]),
        NewImage("c", BETWEEN),
    ]
    assert [result.error for result in await client.write(name, images)] == [None] * 3
    wanted: dict[Match, list[tuple[str, Region | None]]] = {
        Match.IMAGES: [("b", None), ("c", None), ("a", None)],
        Match.REGIONS: [("a", LEFT), ("b", CORNER)],
        Match.ALL: [("a", LEFT), ("b", WHOLE), ("c", WHOLE)],
    }

    def found(hits: Sequence[Any]) -> list[tuple[str, Region | None]]:
        return [(hit.image.id, hit.region) for hit in hits]

    for kind, expected in wanted.items():
        for match in (kind, kind.value):
            options: dict[str, Any] = {"match": match, "strong": True}
            hits, explanation = await client.search_explained(name, NORTH, **options)
            assert hits.query_region is None
            assert sorted(found(hits)) == sorted(expected)
            assert (explanation.regions is None) == (kind is Match.IMAGES)
            for same in (
                await client.search(name, NORTH, **options),
                await client.search_by_vector(name, NORTH, **options),
                await client.search_all(name, NORTH, **options, limit=1),
                dict(await client.search_many(name, [NORTH], **options))[0],
            ):
                assert sorted(found(same)) == sorted(expected)
    by_id = await client.search_by_id(name, "c", match="regions", strong=True)
    assert found(by_id)[0] == ("a", CORNER)
    examples = await client.search(name, Examples([EAST], [StoredImage("c")]), match="regions", strong=True)
    assert found(examples)[0] == ("b", CORNER)
    with pytest.raises(InvalidArgumentError) as caught:
        await client.search(name, NORTH, auto_crop=True)
    assert (caught.value.reason, caught.value.field) == ("AUTO_CROP_INVALID", "query.auto_crop")


async def test_collections_without_regions_refuse_searches_of_regions(client: Calls, name: str) -> None:
    await client.create_collection(name, dimension=2, fingerprint="test")
    for match in ("regions", "all"):
        with pytest.raises(FailedPreconditionError) as caught:
            await client.search(name, EAST, match=match)
        assert (caught.value.reason, caught.value.field) == ("REGIONS_MISSING", "match")
        ((_, error),) = await client.search_many(name, [EAST], match=match)
        assert error.reason == "REGIONS_MISSING"


async def test_queries_by_image_files_return_the_part_that_was_used(
    client: Calls, name: str, photographs: dict[str, Path]
) -> None:
    await client.create_collection(name, model=MODEL, max_regions=2)
    coffee = photographs["coffee"]
    images = [NewImage("coffee", coffee), NewImage("rocket", photographs["rocket"], region=LEFT)]
    assert [result.error for result in await client.write(name, images)] == [None, None]
    for image in (await client.get_many(name, ["coffee", "rocket"], with_regions=True, strong=True)).values():
        assert len(image.regions) == 2
        assert all(contains(image.region or WHOLE, region.box) for region in image.regions)
    options: dict[str, Any] = {"match": "regions", "strong": True}
    whole = await client.search_by_image(name, coffee, **options)
    assert (whole.query_region, whole[0].image.id) == (WHOLE, "coffee")
    assert len(whole) == 2
    boxed = await client.search_by_image(name, coffee, region=CORNER, **options)
    assert boxed.query_region == CORNER
    assert boxed[0].score != whole[0].score
    cropped = await client.search_by_image(name, coffee, auto_crop=True, **options)
    assert cropped.query_region not in (None, WHOLE)
    ((_, streamed),) = await client.search_many(name, [ImageFile(coffee)], auto_crop=True, **options)
    assert isinstance(streamed, Hits)
    assert (streamed, streamed.query_region) == (cropped, cropped.query_region)
    every = await client.search_all(name, ImageFile(coffee), auto_crop=True, **options, limit=1)
    assert [(hit.image.id, hit.region) for hit in every] == [(hit.image.id, hit.region) for hit in cropped]
    with pytest.raises(InvalidArgumentError, match="region") as caught:
        await client.search_by_image(name, coffee, region=CORNER, auto_crop=True, **options)
    assert caught.value.reason == "AUTO_CROP_INVALID"
