"""New collections, writes and queries with regions, on a store in memory."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from imagesearch.search.v1 import search_pb2

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError, ServiceError
from grpc_kit.server.budget import Budget, Limit
from search_service.api.converters import paged_request
from search_service.core.change_images import ChangeImages, ImageUpdate
from search_service.core.collection_cache import CollectionCache
from search_service.core.collections import Collections, NewCollection
from search_service.core.image_locks import ImageLocks
from search_service.core.image_writes import ImageToWrite
from search_service.core.search_images import SearchImages
from search_service.core.searches import Example, Examples, Search, StoredImageQuery
from search_service.core.types import (
    WHOLE_IMAGE,
    Collection,
    Consistency,
    EmbeddedRegions,
    EmbedderModel,
    Embedding,
    EncodedImage,
    KeptVector,
    Match,
    Region,
    StoredImage,
    StoredRegion,
    View,
)
from search_service.core.write_images import WriteImages
from tests.memory_store import MemoryStore
from tests.unit.search.conftest import FINGERPRINT, REGION_FINGERPRINT, CountingEmbedder
from tests.unit.search.regioned_images import BEGIN, Clock, Process

BOX = Region(0.25, 0.25, 0.75, 1.0)
NAN = float("nan")
# The embedder of these tests reads vectors from the bytes: one of the image, then one of each region.
PICTURE = bytes([1, 2, 3, 4, 9, 0, 0, 1, 0, 9, 0, 1, 0, 0, 9, 1])


def part(*values: float, box: Region = BOX, saliency: float = 1.0) -> StoredRegion:
    return StoredRegion(box, np.array(values or (1, 0, 0, 0), np.float32), saliency)


def vector(*values: float, fingerprint: str = REGION_FINGERPRINT) -> Embedding:
    return Embedding(np.array(values, np.float32), fingerprint)


class RecordingEmbedder(CountingEmbedder):
    """Records the requests for regions; its vectors may be invalid."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Region | None, int]] = []
        self.region_fingerprint = REGION_FINGERPRINT

    async def embed_regions(
        self, image: EncodedImage, model: str, max_regions: int, deadline: Deadline | None = None
    ) -> EmbeddedRegions:
        self.asked.append((image.region, max_regions))
        made = await super().embed_regions(image, model, max_regions)
        if image.content.startswith(b"nan!"):
            return replace(made, regions=(part(NAN, 0, 0, 0),))
        return made

    async def model(self, name: str, deadline: Deadline) -> EmbedderModel:
        return replace(await super().model(name, deadline), region_fingerprint=self.region_fingerprint)


@dataclass
class Service:
    """The core of the service, with a collection "parts" that has at most two regions an image."""

    memory: MemoryStore
    embedder: RecordingEmbedder

    def __post_init__(self) -> None:
        clock = Clock()
        self.store = Process(self.memory, clock).store
        cache = CollectionCache(self.store)
        self.collections = Collections(self.store, self.embedder, cache, clock)
        self.searches = SearchImages(self.store, self.embedder, cache)
        self.changes = ChangeImages(self.store, clock, ImageLocks())
        reserve = Budget(Limit(10**6, 10**9)).wait
        self.writes = WriteImages(self.store, self.embedder, clock, ImageLocks(), 100, 10**6, reserve)

    async def write(self, image_id: str, source: Any, collection: str = "parts", **rest: Any) -> ServiceError | None:
        async def messages() -> AsyncIterator[ImageToWrite]:
            yield ImageToWrite("r", collection, image_id, source, **rest)

        (result,) = [result async for result in self.writes.write(messages(), Deadline.after(30))]
        return result.outcome if isinstance(result.outcome, ServiceError) else None

    async def read(self, image_id: str) -> StoredImage:
        collection = await self.store.get_collection("parts", Deadline.after(30))
        (image,) = await self.store.get(collection, [image_id], View.FULL, Consistency.STRONG, Deadline.after(30))
        return image


@pytest.fixture
async def service(store: MemoryStore, deadline: Deadline) -> Service:
    service = Service(store, RecordingEmbedder())
    await service.collections.create(NewCollection("parts", max_regions=2), deadline, validate_only=False)
    return service


def shape(regions: Sequence[StoredRegion]) -> list[tuple[Region, list[float], float]]:
    return [(region.box, region.vector.tolist(), region.saliency) for region in regions]


async def test_new_collection_has_the_fingerprint_of_regions(service: Service, deadline: Deadline) -> None:
    for name, fingerprint in (("a", ""), ("b", REGION_FINGERPRINT)):
        wanted = NewCollection(name, max_regions=64, fingerprint=fingerprint)
        made = await service.collections.create(wanted, deadline, validate_only=False)
        assert (made.model, made.fingerprint, made.max_regions) == ("vgg16", REGION_FINGERPRINT, 64)
        assert await service.collections.get(name, deadline) == made
        assert service.memory.regions.rows(made) == {}
    elsewhere = NewCollection("c", max_regions=1, dimension=8, fingerprint="clip")
    made = await service.collections.create(elsewhere, deadline, validate_only=False)
    assert (made.model, made.fingerprint, made.max_regions) == ("", "clip", 1)
    checked = await service.collections.create(NewCollection("d", max_regions=1), deadline, validate_only=True)
    with pytest.raises(NotFoundError):
        service.memory.regions.rows(checked)


@pytest.mark.parametrize(
    ("wanted", "reason", "field"),
    [
        (NewCollection("new", max_regions=-1), "MAX_REGIONS_INVALID", "collection.max_regions"),
        (NewCollection("new", max_regions=65), "MAX_REGIONS_INVALID", "collection.max_regions"),
        (NewCollection("new", max_regions=8, fingerprint=FINGERPRINT), "EMBEDDING_MISMATCH", "collection.fingerprint"),
        (NewCollection("new", fingerprint=REGION_FINGERPRINT), "EMBEDDING_MISMATCH", "collection.fingerprint"),
    ],
)
async def test_invalid_collections_are_refused(
    service: Service, deadline: Deadline, wanted: NewCollection, reason: str, field: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        await service.collections.create(wanted, deadline, validate_only=False)
    assert (caught.value.reason, caught.value.field) == (reason, field)


async def test_model_without_regions_is_refused_with_its_head_and_input(service: Service, deadline: Deadline) -> None:
    service.embedder.region_fingerprint = ""
    with pytest.raises(ServiceError, match=r"head max and input native.*vgg16-max-native") as caught:
        await service.collections.create(NewCollection("new", max_regions=8), deadline, validate_only=False)
    assert (caught.value.reason, caught.value.field) == ("REGIONS_UNSUPPORTED", "collection.model")
    # Without regions, the model is right.
    await service.collections.create(NewCollection("new"), deadline, validate_only=False)


async def test_images_have_the_regions_that_the_embedder_proposes(service: Service) -> None:
    assert await service.write("a", EncodedImage(PICTURE, BOX)) is None
    assert service.embedder.asked == [(BOX, 2)]
    image = await service.read("a")
    assert image.vector is not None
    assert image.vector.tolist() == [1, 2, 3, 4]
    assert image.region == BOX
    assert [region.vector.tolist() for region in image.regions] == [[9, 0, 0, 1], [0, 9, 0, 1]]
    assert await service.write("b", EncodedImage(PICTURE[:4])) is None
    assert (await service.read("b")).regions == ()


async def test_vectors_are_stored_with_their_regions(service: Service) -> None:
    given = (part(1, 2, 0, 0, saliency=-3.0), part(0, 0, 1, 0, box=WHOLE_IMAGE))
    assert await service.write("a", vector(1, 0, 0, 0), regions=given) is None
    assert shape((await service.read("a")).regions) == shape(given)
    # A later write without regions has none.
    assert await service.write("a", vector(1, 0, 0, 0)) is None
    assert (await service.read("a")).regions == ()


async def test_changes_keep_the_regions(service: Service, deadline: Deadline) -> None:
    given = (part(1, 2, 0, 0), part(0, 0, 1, 0))
    assert await service.write("a", vector(1, 0, 0, 0), regions=given) is None
    first = await service.read("a")
    assert await service.write("a", KeptVector(), attributes={"kind": "hat"}) is None
    update = ImageUpdate("parts", "a", ["attributes.size"], "", {"size": 3})
    changed = await service.changes.update(update, deadline)
    assert (changed.vector, changed.regions) == (None, ())
    last = await service.read("a")
    assert last.attributes == {"kind": "hat", "size": 3}
    assert shape(last.regions) == shape(given)
    assert last.generation > first.generation
    assert last.region_count == 2


@pytest.mark.parametrize(
    ("source", "rest", "reason", "field"),
    [
        (vector(1, 0, 0, 0), {"regions": (part(),) * 3}, "TOO_MANY_REGIONS", "regions"),
        (vector(1, 0, 0, 0), {"regions": (part(), part(1, 0, 0))}, "VECTOR_DIMENSION_MISMATCH", "regions[1].values"),
        (vector(1, 0, 0, 0), {"regions": (part(0, 0, 0, 0),)}, "VECTOR_ZERO", "regions[0].values"),
        (vector(1, 0, 0, 0), {"regions": (part(NAN, 0, 0, 0),)}, "VECTOR_NOT_FINITE", "regions[0].values"),
        (vector(1, 0, 0, 0), {"regions": (part(saliency=NAN),)}, "REGION_INVALID", "regions[0].saliency"),
        (vector(1, 0, 0, 0), {"regions": (part(box=Region(0.5, 0, 0.5, 1)),)}, "REGION_INVALID", "regions[0].box"),
        (vector(1, 0, 0, 0), {"regions": (part(box=Region(0, 0, 1.1, 1)),)}, "REGION_INVALID", "regions[0].box"),
        (vector(1, 0, 0, 0), {"regions": (part(),), "collection": "photos"}, "EMBEDDING_MISMATCH", "embedding"),
        (
            vector(1, 0, 0, 0, fingerprint=FINGERPRINT),
            {"regions": (part(),), "collection": "photos"},
            "REGIONS_UNSUPPORTED",
            "regions",
        ),
        (vector(1, 0, 0, 0, fingerprint=FINGERPRINT), {}, "EMBEDDING_MISMATCH", "embedding"),
        (EncodedImage(PICTURE), {"regions": (part(),)}, "REGION_INVALID", "regions"),
        (KeptVector(), {"regions": (part(),)}, "REGION_INVALID", "regions"),
        (EncodedImage(b"bad!"), {}, "IMAGE_CORRUPT", "image.content"),
        (EncodedImage(b"nan!" + PICTURE), {}, "VECTOR_INVALID", None),
    ],
)
async def test_invalid_writes_are_refused(
    service: Service, source: Any, rest: dict[str, Any], reason: str, field: str | None
) -> None:
    error = await service.write("a", source, **rest)
    assert error is not None
    assert error.reason == reason
    assert field in (None, error.field)
    assert (
        await service.store.count(service.memory.collection("parts"), None, Consistency.STRONG, Deadline.after(9)) == 0
    )


async def search(service: Service, query: Example | Examples, **rest: Any) -> Any:
    return await service.searches.search(Search("parts", query, **rest), Deadline.after(30))


async def test_query_image_is_embedded_for_regions(service: Service) -> None:
    await service.write("a", vector(1, 0, 0, 0), regions=(part(9, 0, 0, 1),))
    query = EncodedImage(bytes([9, 0, 0, 1]))
    for match, score in ((Match.REGIONS, 1.0), (Match.ALL, 1.0), (Match.IMAGES, 9 / np.sqrt(82))):
        result = await search(service, query, match=match)
        assert [hit.score for hit in result.hits] == [pytest.approx(score)]
        assert result.hits[0].region == (None if match is Match.IMAGES else BOX)
        assert result.query_region == WHOLE_IMAGE
    assert service.embedder.asked == [(None, 0)] * 3
    result = await search(service, EncodedImage(PICTURE, BOX), match=Match.REGIONS)
    assert result.query_region == BOX
    assert service.embedder.asked[-1] == (BOX, 0)


async def test_salient_part_of_a_query_is_embedded_on_its_own(service: Service) -> None:
    for name in ("a", "b"):
        await service.write(name, vector(1, 0, 0, 0), regions=(part(9, 0, 0, 1),))
    result = await search(
        service, EncodedImage(PICTURE), auto_crop=True, match=Match.REGIONS, limit=1, paged=True, include_query=True
    )
    salient = Region(0.2, 0.2, 0.8, 0.8)
    assert result.query_region == salient
    assert service.embedder.asked == [(None, 0), (salient, 0)]
    # Later pages embed nothing.
    later = await search(service, EncodedImage(PICTURE), auto_crop=True, match=Match.REGIONS, page=result.end)
    assert [hit.image.id for hit in later.hits] == ["b"]
    assert later.query_region is None
    assert len(service.embedder.asked) == 2


async def test_other_queries_have_no_query_region(service: Service) -> None:
    await service.write("a", vector(1, 0, 0, 0), regions=(part(),))
    for query in (vector(1, 0, 0, 0), StoredImageQuery("a"), Examples([EncodedImage(PICTURE)])):
        assert (await search(service, query, match=Match.REGIONS)).query_region is None


@pytest.mark.parametrize(
    ("query", "rest", "reason", "field"),
    [
        (EncodedImage(PICTURE, BOX), {"auto_crop": True}, "AUTO_CROP_INVALID", "query.auto_crop"),
        (vector(1, 0, 0, 0), {"auto_crop": True}, "AUTO_CROP_INVALID", "query.auto_crop"),
        (StoredImageQuery("a"), {"auto_crop": True}, "AUTO_CROP_INVALID", "query.auto_crop"),
        (Examples([EncodedImage(PICTURE)]), {"auto_crop": True}, "AUTO_CROP_INVALID", "query.auto_crop"),
        (vector(1, 0, 0, 0), {"match": Match.ALL, "coarse": 100}, "SEARCH_PARAMETERS_INVALID", "match"),
        (vector(1, 0, 0, 0, fingerprint=FINGERPRINT), {}, "EMBEDDING_MISMATCH", "query.embedding"),
    ],
)
async def test_invalid_queries_are_refused(
    service: Service, query: Any, rest: dict[str, Any], reason: str, field: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        await search(service, query, **rest)
    assert (caught.value.reason, caught.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("rest", "field"),
    [({"match": Match.REGIONS}, "match"), ({"match": Match.ALL}, "match"), ({"auto_crop": True}, "query.auto_crop")],
)
async def test_collection_without_regions_is_named(service: Service, rest: dict[str, Any], field: str) -> None:
    with pytest.raises(ServiceError, match="photos") as caught:
        await service.searches.search(Search("photos", EncodedImage(PICTURE), **rest), Deadline.after(30))
    assert (caught.value.reason, caught.value.field) == ("REGIONS_MISSING", field)
    assert service.embedder.embedded == []


async def test_search_sees_that_a_collection_was_created_again_with_regions(
    service: Service, deadline: Deadline
) -> None:
    # The description from before is still in the cache.
    await service.collections.create(NewCollection("again"), deadline, validate_only=False)
    with pytest.raises(ServiceError):
        await service.searches.search(Search("again", vector(1, 0, 0, 0), match=Match.REGIONS), deadline)
    await service.store.delete_collection(service.memory.collection("again"), deadline)
    made = Collection("again", 4, REGION_FINGERPRINT, BEGIN, max_regions=1)
    await service.store.create_collection(made, deadline)
    found = await service.searches.search(Search("again", vector(1, 0, 0, 0), match=Match.REGIONS), deadline)
    assert found.hits == []


def test_page_token_is_valid_for_one_match_and_one_crop() -> None:
    request = search_pb2.SearchRequest(collection="parts", query=search_pb2.Query(image_id="a"))
    digests = {paged_request(request)}
    for match in (search_pb2.MATCH_REGIONS, search_pb2.MATCH_ALL):
        request.match = match
        digests.add(paged_request(request))
    request.query.auto_crop = True
    digests.add(paged_request(request))
    assert len(digests) == 4
    # Tokens of earlier versions stay valid: a request without the new fields has the same digest as before.
    old = search_pb2.SearchRequest(collection="photos", query=search_pb2.Query(image_id="a"), limit=3)
    name = b"imagesearch.search.v1.SearchRequest"
    assert paged_request(old) == hashlib.sha256(name + b"\n\x06photos\x12\x03\x12\x01a").digest()
