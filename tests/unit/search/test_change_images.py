"""List, change and delete images, in the in-memory store."""

import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, InvalidArgumentError, NotFoundError, ServiceError
from search_service.core import read_images
from search_service.core.change_images import ChangeImages, ImageUpdate
from search_service.core.filters import Equals, Not
from search_service.core.image_locks import ImageLocks
from search_service.core.page_tokens import PageTokens
from search_service.core.read_images import Listing, Order, count_images, get_images, list_images
from search_service.core.types import Collection, Consistency, StoredImage, View
from tests.memory_store import MemoryStore

NOW = datetime(2026, 5, 4, 3, 2, 1, 5, UTC)
NEVER = Deadline.after(None)


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    await store.create_collection(Collection("photos", 2, "f", NOW), NEVER)
    return store


async def write(store: MemoryStore, *images: tuple[str, datetime]) -> None:
    made = [
        StoredImage(name, f"u/{name}", {"even": number % 2 == 0}, "", NOW, moment, np.ones(2, np.float32))
        for number, (name, moment) in enumerate(images)
    ]
    await store.upsert(store.collection("photos"), made, NEVER)


def flat(found: list[list[str]]) -> list[str]:
    return [image_id for page in found for image_id in page]


async def pages(store: MemoryStore, listing: Listing) -> list[list[str]]:
    """Return the ids of every page."""
    found = []
    while True:
        page = await list_images(store, listing, NEVER)
        found.append([image.id for image in page.images])
        if page.end is None:
            return found
        listing = Listing(
            listing.collection, listing.condition, listing.order, listing.page_size, page.end, listing.view
        )


def moments(*offsets: float) -> list[tuple[str, datetime]]:
    return [(f"i{number:03d}", NOW - timedelta(seconds=offset)) for number, offset in enumerate(offsets)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_listing_by_id_returns_all_images_in_order(store: MemoryStore, size: int) -> None:
    await write(store, *moments(5, 3, 3, 1, 90000, 0, 2))
    found = await pages(store, Listing("photos", page_size=size))
    assert flat(found) == [f"i{number:03d}" for number in range(7)]
    assert all(len(page) == size for page in found[:-1])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("window", [2, 10_000])
async def test_listing_by_time_returns_the_latest_first(
    store: MemoryStore, size: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_images, "MAX_WINDOW", max(window, size + 1))
    offsets = [5, 3, 3, 3, 1, 90000, 0, 2, 0.000001, 3e7, 3e7, 3e7, 3e7, 3e7, 1e9]
    await write(store, *moments(*offsets))
    found = await pages(store, Listing("photos", order=Order.UPDATE_TIME_DESC, page_size=size))
    assert flat(found) == [
        f"i{number:03d}" for number, _ in sorted(enumerate(offsets), key=lambda pair: (pair[1], pair[0]))
    ]
    assert all(len(page) == size for page in found[:-1])


async def test_listing_applies_filter_and_view(store: MemoryStore) -> None:
    await write(store, *moments(1, 2, 3, 4))
    for order in Order:
        page = await list_images(store, Listing("photos", Equals("even", True), order, view=View.FULL), NEVER)
        assert [image.id for image in page.images] == ["i000", "i002"]
        assert all(image.vector is not None and image.uri for image in page.images)
        page = await list_images(store, Listing("photos", Equals("even", True), order, view=View.ID), NEVER)
        assert page.images == [StoredImage("i000"), StoredImage("i002")]


@pytest.mark.parametrize("size", [0, -1, 1001])
async def test_listing_rejects_page_size_out_of_range(store: MemoryStore, size: int) -> None:
    with pytest.raises(InvalidArgumentError, match="between 1 and 1000") as refused:
        await list_images(store, Listing("photos", page_size=size), NEVER)
    assert (refused.value.reason, refused.value.field) == ("PAGE_SIZE_INVALID", "page_size")


async def test_get_images_keeps_the_order_of_the_ids(store: MemoryStore) -> None:
    await write(store, *moments(1, 2, 3))
    ids = ["i002", "missing", "i000", "i002", "also missing"]
    found, missing = await get_images(store, "photos", ids, View.BASIC, Consistency.STRONG, NEVER)
    assert [image.id for image in found.images] == ["i002", "i000"]
    assert missing == ["missing", "also missing"]


def changes(store: MemoryStore) -> ChangeImages:
    return ChangeImages(store, lambda: NOW + timedelta(hours=1), ImageLocks())


@pytest.mark.parametrize(
    ("paths", "uri", "attributes"),
    [
        (["uri"], "new", {"even": True, "kept": 1}),
        (["attributes"], "u/i000", {"other": "x"}),
        (["attributes.other"], "u/i000", {"even": True, "kept": 1, "other": "x"}),
        (["attributes.even"], "u/i000", {"kept": 1}),
        (["uri", "attributes.kept", "attributes.other"], "new", {"even": True, "other": "x"}),
    ],
)
async def test_update_changes_only_the_fields_in_the_mask(
    store: MemoryStore, paths: list[str], uri: str, attributes: dict[str, object]
) -> None:
    vector = np.array([3, 4], np.float32)
    await store.upsert(
        store.collection("photos"),
        [StoredImage("i000", "u/i000", {"even": True, "kept": 1}, "ab", NOW, NOW, vector)],
        NEVER,
    )
    answer = await changes(store).update(ImageUpdate("photos", "i000", paths, "new", {"other": "x"}), NEVER)
    (stored,) = await store.get(store.collection("photos"), ["i000"], View.FULL, Consistency.STRONG, NEVER)
    assert (stored.uri, stored.attributes) == (answer.uri, answer.attributes) == (uri, attributes)
    assert (stored.content_sha256, stored.create_time) == ("ab", NOW)
    assert stored.update_time == NOW + timedelta(hours=1)
    assert stored.vector is vector


@pytest.mark.parametrize(
    ("update", "error", "reason", "field"),
    [
        (ImageUpdate("photos", "nobody", ["uri"], "", {}), NotFoundError, "IMAGE_NOT_FOUND", "image.id"),
        (ImageUpdate("photos", "", ["uri"], "", {}), InvalidArgumentError, "ID_INVALID", "image.id"),
        (ImageUpdate("nowhere", "i", ["uri"], "", {}), NotFoundError, "COLLECTION_NOT_FOUND", "collection"),
        (ImageUpdate("photos", "i", [], "", {}), InvalidArgumentError, "UPDATE_MASK_INVALID", "update_mask"),
        (ImageUpdate("photos", "i", ["vector"], "", {}), InvalidArgumentError, "UPDATE_MASK_INVALID", "update_mask"),
        (ImageUpdate("photos", "i", ["attributes.1"], "", {}), InvalidArgumentError, "UPDATE_MASK_INVALID", "update_mask"),
        (ImageUpdate("photos", "i000", ["uri"], "u" * 2049, {}), InvalidArgumentError, "URI_INVALID", "uri"),
        (ImageUpdate("photos", "i000", ["attributes"], "", {"_": 1}), InvalidArgumentError, "ATTRIBUTE_INVALID", "attributes"),
    ],
)  # fmt: skip
async def test_invalid_update_is_rejected(
    store: MemoryStore, update: ImageUpdate, error: type[ServiceError], reason: str, field: str
) -> None:
    await write(store, *moments(1))
    with pytest.raises(error) as refused:
        await changes(store).update(update, NEVER)
    assert (refused.value.reason, refused.value.field) == (reason, field)


class SlowStore(MemoryStore):
    """A store that lets other tasks run between a read and a write."""

    async def get(self, *args: object) -> list[StoredImage]:
        found = await super().get(*args)  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        return found


async def test_concurrent_updates_of_one_image_all_persist() -> None:
    store = SlowStore()
    await store.create_collection(Collection("photos", 2, "f", NOW), NEVER)
    await write(store, *moments(1))
    changing = changes(store)
    updates = [ImageUpdate("photos", "i000", [f"attributes.a{n}"], "", {f"a{n}": n}) for n in range(20)]
    await asyncio.gather(*(changing.update(update, NEVER) for update in updates))
    (stored,) = await store.get(store.collection("photos"), ["i000"], View.BASIC, Consistency.STRONG, NEVER)
    assert stored.attributes == {"even": True, **{f"a{n}": n for n in range(20)}}


async def test_update_that_waits_for_another_update_ends_at_its_deadline() -> None:
    store = SlowStore()
    await store.create_collection(Collection("photos", 2, "f", NOW), NEVER)
    await write(store, *moments(1))
    changing = changes(store)
    first = asyncio.create_task(changing.update(ImageUpdate("photos", "i000", ["uri"], "x", {}), NEVER))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceededError):
        await changing.update(ImageUpdate("photos", "i000", ["uri"], "y", {}), Deadline.after(0.001))
    assert (await first).uri == "x"


async def test_delete_by_filter_counts_and_deletes(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search_service.core.change_images.DELETE_BATCH", 3)
    await write(store, *moments(*range(15)))
    even = Equals("even", True)
    assert await count_images(store, "photos", even, NEVER) == 8
    assert await changes(store).delete_matching("photos", even, NEVER, validate_only=True) == 8
    assert await count_images(store, "photos", None, NEVER) == 15
    assert await changes(store).delete_matching("photos", even, NEVER, validate_only=False) == 8
    assert (
        await count_images(store, "photos", Not(even), NEVER) == await count_images(store, "photos", None, NEVER) == 7
    )


async def test_delete_by_filter_respects_max_count(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search_service.core.change_images.DELETE_BATCH", 3)
    await write(store, *moments(*range(15)))
    even = Equals("even", True)
    removed = [
        await changes(store).delete_matching("photos", even, NEVER, validate_only=False, max_count=4) for _ in range(3)
    ]
    assert removed == [4, 4, 0]
    assert await count_images(store, "photos", None, NEVER) == 7
    with pytest.raises(InvalidArgumentError, match="max_count is -1"):
        await changes(store).delete_matching("photos", even, NEVER, validate_only=False, max_count=-1)


def test_page_token_is_valid_for_one_key_and_one_request() -> None:
    tokens = PageTokens(b"key")
    token = tokens.make(b"request", ["an id", 5])
    assert tokens.read(token, b"request") == ["an id", 5]
    assert tokens.read("", b"request") is None
    changed = token[:-8] + ("A" if token[-8] != "A" else "B") + token[-7:]
    for wrong, request, key in (
        (token, b"another", b"key"),
        (token, b"request", b"another"),
        (changed, b"request", b"key"),
        (token[:-4], b"request", b"key"),
        ("x", b"request", b"key"),
        ("ü", b"request", b"key"),
        ("AAAA", b"request", b"key"),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            PageTokens(key).read(wrong, request)
        assert (refused.value.reason, refused.value.field) == ("PAGE_TOKEN_INVALID", "page_token")
