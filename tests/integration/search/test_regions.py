"""Searches of objects through both services, with a real model, on Milvus Lite and on a Milvus server."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from demo.photographs import PHOTOGRAPHS
from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError
from imagesearch_client import (
    Client,
    EmbedderClient,
    Embedding,
    Examples,
    Hits,
    ImageFile,
    Match,
    NewImage,
    Region,
    RegionEmbedding,
    StoredImage,
    equals,
)

MODEL, NAME, MAX_REGIONS = "mobilenet-max-native256", "objects", 8
OBJECTS = ("coffee.png", "rocket.jpg", "chelsea.png")
BOX = Region(0.5, 0.25, 0.9375, 0.75)


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures() -> dict[str, Image.Image]:
    import skimage  # noqa: PLC0415 - it takes a while to import

    folder = next(iter(skimage.__path__)) + "/data/"
    return {name: Image.open(folder + name).convert("RGB").resize((256, 192)) for name in PHOTOGRAPHS}


@pytest.fixture(scope="module")
def scenes(pictures: dict[str, Image.Image]) -> dict[str, bytes]:
    """Photographs with an object on each of the first, and photographs without one."""
    others = [picture for name, picture in pictures.items() if name not in OBJECTS]
    made = {}
    for name, scene in zip(OBJECTS, others, strict=False):
        pasted = scene.copy()
        pasted.paste(pictures[name].resize((112, 96)), (128, 48))
        made[name] = encoded(pasted)
    return made | {f"other-{number}": encoded(scene) for number, scene in enumerate(others[len(OBJECTS) :])}


@pytest.fixture(scope="module")
def client(search_address: str, scenes: dict[str, bytes]) -> Iterator[Client]:
    with Client(search_address, timeout=60) as client:
        client.create_collection(NAME, model=MODEL, max_regions=MAX_REGIONS)
        images = (
            NewImage(name, content, attributes={"kind": "object" if name in OBJECTS else "plain"})
            for name, content in scenes.items()
        )
        assert [result.error for result in client.write(NAME, images)] == [None] * len(scenes)
        yield client
        client.delete_collection(NAME)


@pytest.fixture(scope="module")
def coffee(pictures: dict[str, Image.Image]) -> ImageFile:
    return ImageFile(encoded(pictures["coffee.png"]))


def overlap(first: Region | None, second: Region) -> float:
    assert first is not None
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box.x1 - box.x0) * (box.y1 - box.y0) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def ids(hits: Hits) -> list[str]:
    return [hit.image.id for hit in hits]


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_found_on_its_photograph_with_its_box(
    client: Client, pictures: dict[str, Image.Image], name: str
) -> None:
    hits = client.search(NAME, ImageFile(encoded(pictures[name])), match="regions", strong=True)
    assert hits[0].image.id == name
    assert overlap(hits[0].region, BOX) > 0.35
    assert len(set(ids(hits))) == len(hits)
    assert hits.query_region == Region(0, 0, 1, 1)


def test_each_match_compares_its_own_vectors(client: Client, coffee: ImageFile, scenes: dict[str, bytes]) -> None:
    by_match = {match: client.search(NAME, coffee, match=match, limit=100, strong=True) for match in Match}
    assert {match: len(hits) for match, hits in by_match.items()} == dict.fromkeys(Match, len(scenes))
    scores = {match: {hit.image.id: hit.score for hit in hits} for match, hits in by_match.items()}
    for name in scenes:
        best = max(scores[Match.IMAGES][name], scores[Match.REGIONS][name])
        assert scores[Match.ALL][name] == pytest.approx(best, abs=1e-5)
    assert all(hit.region is None for hit in by_match[Match.IMAGES])


@pytest.mark.parametrize("match", ["regions", "all"])
def test_options_of_a_search_hold_for_regions(client: Client, coffee: ImageFile, match: str) -> None:
    every = client.search(NAME, coffee, match=match, limit=100, strong=True)
    exact = client.search(NAME, coffee, match=match, limit=100, strong=True, exact=True)
    assert ids(exact) == ids(every)
    assert [hit.region for hit in exact] == [hit.region for hit in every]
    paged = list(client.search_all(NAME, coffee, match=match, limit=2, strong=True))
    assert [hit.image.id for hit in paged] == ids(every)
    least = every[2].score
    assert ids(client.search(NAME, coffee, match=match, min_score=least, strong=True)) == ids(every)[:3]
    plain = client.search(NAME, coffee, match=match, where=equals("kind", "plain"), limit=100, strong=True)
    assert ids(plain) == [hit.image.id for hit in every if hit.image.attributes["kind"] == "plain"]
    groups = client.search(NAME, coffee, match=match, group_by="kind", strong=True)
    assert {hit.image.attributes["kind"] for hit in groups} == {"plain", "object"}
    assert groups[0].image.id == every[0].image.id
    hits, explanation = client.search_explained(NAME, coffee, match=match, limit=2, strong=True)
    assert ids(hits) == ids(every)[:2]
    assert explanation.regions is not None
    assert explanation.regions.regions > 2
    for _, answer in client.search_many(NAME, [coffee] * 3, match=match, limit=3, strong=True):
        assert isinstance(answer, Hits)
        assert ids(answer) == ids(every)[:3]


def test_stored_images_and_examples_are_queries(client: Client, coffee: ImageFile) -> None:
    hits = client.search(NAME, StoredImage("coffee.png"), match="regions", limit=100, strong=True)
    assert "coffee.png" not in ids(hits)
    kept = client.search(NAME, StoredImage("coffee.png"), match="all", include_query=True, strong=True)
    assert kept[0].image.id == "coffee.png"
    examples = Examples([coffee], [StoredImage("other-0")])
    assert "other-0" not in ids(client.search(NAME, examples, match="regions", limit=100, strong=True))


def test_a_query_can_be_a_box_or_the_salient_part(client: Client, scenes: dict[str, bytes]) -> None:
    scene = scenes["coffee.png"]
    boxed = client.search(NAME, ImageFile(scene, BOX), match="regions", strong=True)
    assert boxed[0].image.id == "coffee.png"
    assert boxed.query_region == BOX
    cropped = client.search(NAME, ImageFile(scene), match="regions", auto_crop=True, strong=True)
    assert cropped.query_region is not None
    again = client.search(NAME, ImageFile(scene, cropped.query_region), match="regions", strong=True)
    assert [(hit.image.id, hit.score) for hit in again] == [(hit.image.id, hit.score) for hit in cropped]


def test_changes_of_an_image_keep_its_regions_and_a_deletion_removes_them(client: Client, coffee: ImageFile) -> None:
    before = client.get(NAME, "coffee.png", with_regions=True, strong=True)
    assert 1 < len(before.regions) <= MAX_REGIONS
    without = client.get(NAME, "coffee.png", with_vector=True, strong=True)
    assert (without.embedding, without.regions) == (before.embedding, ())
    assert client.get(NAME, "coffee.png", strong=True).regions == ()
    client.update(NAME, "coffee.png", attributes={"kind": "changed"})
    after = client.get(NAME, "coffee.png", with_regions=True, strong=True)
    assert [(each.box, each.embedding, each.saliency) for each in after.regions] == [
        (each.box, each.embedding, each.saliency) for each in before.regions
    ]
    changed = client.search(NAME, coffee, match="regions", where=equals("kind", "changed"), strong=True)
    assert ids(changed) == ["coffee.png"]
    old = client.search(NAME, coffee, match="regions", where=equals("kind", "object"), limit=100, strong=True)
    assert "coffee.png" not in ids(old)
    # A copy by its vectors, as reindexes and imports write it.
    assert before.embedding is not None
    copy = NewImage("copy", before.embedding, regions=before.regions)
    assert [result.error for result in client.write(NAME, [copy])] == [None]
    assert client.get(NAME, "copy", with_regions=True, strong=True).regions == before.regions
    assert client.delete(NAME, ["copy"]) == 1
    assert "copy" not in ids(client.search(NAME, coffee, match="all", limit=100, strong=True))


def test_vectors_of_other_spaces_are_refused(client: Client, embedder_address: str, coffee: ImageFile) -> None:
    with EmbedderClient(embedder_address) as embedder:
        plain = embedder.embed(coffee, model=MODEL)
        regions = embedder.embed_regions(coffee, model=MODEL)
    with pytest.raises(FailedPreconditionError, match="fingerprint") as refused:
        client.search(NAME, plain, match="regions")
    assert refused.value.reason == "EMBEDDING_MISMATCH"
    assert client.search(NAME, regions.embedding, match="regions", strong=True)[0].image.id == "coffee.png"


def test_regions_of_another_fingerprint_or_of_a_file_are_not_sent(client: Client, scenes: dict[str, bytes]) -> None:
    vector = np.ones(1024, np.float32)
    fingerprint = client.get_collection(NAME).fingerprint
    wrong = RegionEmbedding(BOX, Embedding(vector, "other"))
    right = RegionEmbedding(BOX, Embedding(vector, fingerprint))
    images = [
        NewImage("a", Embedding(vector, fingerprint), regions=[wrong]),
        NewImage("b", scenes["coffee.png"], regions=[right]),
    ]
    for result in client.write(NAME, images):
        assert isinstance(result.error, InvalidArgumentError)
        assert result.error.reason == "VALUE_INVALID"


def test_an_unknown_match_is_refused(client: Client, coffee: ImageFile) -> None:
    with pytest.raises(ValueError, match="objects"):
        client.search(NAME, coffee, match="objects")


def test_a_collection_with_regions_is_found_again_with_the_same_settings(client: Client) -> None:
    same = client.create_collection(NAME, model=MODEL, max_regions=MAX_REGIONS, exist_ok=True)
    assert same.max_regions == MAX_REGIONS
    with pytest.raises(FailedPreconditionError, match="max_regions"):
        client.create_collection(NAME, model=MODEL, max_regions=MAX_REGIONS + 1, exist_ok=True)
