"""Changing and removing images that are stored."""

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError
from search_service.core import checks
from search_service.core.filters import Filter, IdAfter, IdIn, both, check_filter
from search_service.core.image_locks import ImageLocks
from search_service.core.ports import VectorStore
from search_service.core.read_images import image_not_found
from search_service.core.types import AttributeValue, Collection, Consistency, StoredImage, View
from search_service.core.write_fence import WriteFence

# Images that are removed in one call to the store.
DELETE_BATCH = 1000
URI, ATTRIBUTES = "uri", "attributes"


@dataclass(frozen=True)
class ImageUpdate:
    """New values for some fields of an image."""

    collection: str
    id: str
    paths: Sequence[str]
    """The fields that change: "uri", "attributes", "attributes.NAME"."""
    uri: str
    attributes: dict[str, AttributeValue]
    """Those with a name among the paths replace or add; a name among the paths that is not here is removed."""


class ChangeImages:
    """Changes and removes images."""

    def __init__(self, store: VectorStore, now: Callable[[], datetime], locks: ImageLocks) -> None:
        """`now` gives the time in UTC; `locks` are those of all who write to the store."""
        self._store = store
        self._now = now
        self._locks = locks
        self._fence = WriteFence(store, now, locks)

    async def update(self, update: ImageUpdate, deadline: Deadline) -> StoredImage:
        """Changes fields of an image and keeps all others, its vector and its create_time.

        It reads the image, changes it and writes it whole; what another process writes in between is lost. Raises
        InvalidArgumentError, NotFoundError.
        """
        checks.check_collection_name(update.collection, "collection")
        checks.check_id(update.id, "image.id")
        _check_paths(update.paths)

        def write(collection: Collection) -> Awaitable[StoredImage]:
            change = partial(self._update, update, collection, deadline)
            return self._locks.run(collection.name, [update.id], change, deadline)

        return await self._fence.apply(update.collection, write, deadline)

    async def _update(self, update: ImageUpdate, collection: Collection, deadline: Deadline) -> StoredImage:
        ids, strong = [update.id], Consistency.STRONG
        found = await self._store.get(collection, ids, View.FULL, strong, deadline)
        if not found:
            raise image_not_found(update.collection, update.id, "image.id")
        changed = dataclasses.replace(_changed(found[0], update), update_time=self._now())
        checks.check_uri(changed.uri)
        checks.check_attributes(changed.attributes)
        await self._store.upsert(collection, [changed], deadline)
        return dataclasses.replace(changed, vector=None)

    async def delete_ids(self, collection: str, ids: Sequence[str], deadline: Deadline, *, validate_only: bool) -> int:
        """Remove images by id, or only count them; return how many existed."""
        checks.check_collection_name(collection, "collection")
        checks.check_ids(ids, "ids.ids")
        unique = list(dict.fromkeys(ids))
        if validate_only:
            found = await self._store.get_collection(collection, deadline)
            return len(await self._store.get(found, unique, View.ID, Consistency.STRONG, deadline))
        return await self._delete(collection, unique, None, deadline)

    async def delete_matching(
        self, collection: str, condition: Filter, deadline: Deadline, *, validate_only: bool, max_count: int = 0
    ) -> int:
        """Remove the images that fit, or only count them; return how many they were.

        With a `max_count` it removes no more than that. If it returns as many, others may fit.

        If it fails on its way, some have been removed: calling it again removes the rest. An image that a write changes
        meanwhile is removed only if it fits after the write. (A write by another replica between the last look at the
        image and its removal is not seen: some milliseconds.)
        """
        checks.check_collection_name(collection, "collection")
        check_filter(condition)
        if max_count < 0:
            raise InvalidArgumentError(
                "LIMIT_INVALID", f"max_count is {max_count}; it should be 0, which is all, or more", field="max_count"
            )
        described = await self._store.get_collection(collection, deadline)
        if validate_only:
            return await self._store.count(described, condition, Consistency.STRONG, deadline)
        removed, last = 0, ""
        while True:
            rest = both(condition, IdAfter(last)) if last else condition
            described = await self._fence.settled(collection, deadline)
            size = min(DELETE_BATCH, max_count - removed) if max_count else DELETE_BATCH
            found = await self._store.query(described, rest, size, View.ID, Consistency.STRONG, deadline)
            ids = [image.id for image in found]
            if ids:
                removed += await self._delete(collection, ids, condition, deadline)
            if len(found) < size or removed == max_count > 0:
                return removed
            last = ids[-1]

    async def _delete(self, name: str, ids: Sequence[str], condition: Filter | None, deadline: Deadline) -> int:
        """Remove those of some images that exist and fit; return how many they were."""
        removed: set[str] = set()

        async def delete(collection: Collection) -> None:
            fitting = both(IdIn(tuple(ids)), condition)
            found = await self._store.query(collection, fitting, len(ids), View.ID, Consistency.STRONG, deadline)
            existing = [image.id for image in found]
            if existing:
                await self._store.delete(collection, existing, deadline)
                removed.update(existing)
            # An id that is gone here may be in the copy still: an earlier attempt may have ended in between.
            await self._fence.delete_from_copy(collection, existing if condition else ids, deadline)

        def write(collection: Collection) -> Awaitable[None]:
            return self._locks.run(collection.name, ids, partial(delete, collection), deadline)

        await self._fence.apply(name, write, deadline)
        return len(removed)


def _check_paths(paths: Sequence[str]) -> None:
    if not paths:
        raise InvalidArgumentError(
            "UPDATE_MASK_INVALID", "update_mask is empty; it should name what changes", field="update_mask"
        )
    for path in paths:
        kind, _, name = path.partition(".")
        whole = path in (URI, ATTRIBUTES)
        if not whole and not (kind == ATTRIBUTES and checks.ATTRIBUTE_NAME.fullmatch(name)):
            raise InvalidArgumentError(
                "UPDATE_MASK_INVALID",
                f"update_mask has {checks.shown(path)}; uri, attributes and attributes.NAME can change, where NAME is "
                "a letter, then at most 127 letters, digits or underscores",
                field="update_mask",
            )


def _changed(image: StoredImage, update: ImageUpdate) -> StoredImage:
    uri, attributes = image.uri, dict(image.attributes)
    for path in update.paths:
        name = path.partition(".")[2]
        if path == URI:
            uri = update.uri
        elif path == ATTRIBUTES:
            attributes = dict(update.attributes)
        elif name in update.attributes:
            attributes[name] = update.attributes[name]
        else:
            attributes.pop(name, None)
    return dataclasses.replace(image, uri=uri, attributes=attributes)
