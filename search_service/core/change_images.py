"""Change and delete stored images."""

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

# Images that one call to the store deletes.
DELETE_BATCH = 1000
URI, ATTRIBUTES = "uri", "attributes"


@dataclass(frozen=True)
class ImageUpdate:
    """New values of some fields of an image."""

    collection: str
    id: str
    paths: Sequence[str]
    """The fields to change: "uri", "attributes" or "attributes.NAME"."""
    uri: str
    attributes: dict[str, AttributeValue]
    """New attributes. An attribute that `paths` names and this does not have is deleted."""


class ChangeImages:
    """Change and delete images."""

    def __init__(self, store: VectorStore, now: Callable[[], datetime], locks: ImageLocks) -> None:
        """`now` returns the time in UTC; `locks` are the image locks that all writers share."""
        self._store = store
        self._now = now
        self._locks = locks
        self._fence = WriteFence(store, now, locks)

    async def update(self, update: ImageUpdate, deadline: Deadline) -> StoredImage:
        """Change fields of an image, and return the image without its vector.

        The service reads the image, changes it and writes it back. A write of another process in between is lost.
        Raises InvalidArgumentError, NotFoundError.
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
        return dataclasses.replace(changed, vector=None, regions=())

    async def delete_ids(self, collection: str, ids: Sequence[str], deadline: Deadline, *, validate_only: bool) -> int:
        """Delete images by id, or only count them; return how many existed."""
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
        """Delete the images that meet a condition, or only count them; return their number.

        `max_count` limits how many are deleted; 0 sets no limit. If the call fails, some images are deleted; a repeated
        call deletes the rest. An image that changes meanwhile is deleted only if it still meets the condition. (A write
        of another replica in the milliseconds between the check and the deletion is missed.)
        """
        checks.check_collection_name(collection, "collection")
        check_filter(condition)
        if max_count < 0:
            raise InvalidArgumentError(
                "LIMIT_INVALID", f"max_count is {max_count}; it must be 0 (no limit) or more", field="max_count"
            )
        described = await self._store.get_collection(collection, deadline)
        if validate_only:
            return await self._store.count(described, condition, Consistency.STRONG, deadline)
        removed, last = 0, ""
        while True:
            rest = both(condition, IdAfter(last)) if last else condition
            described = await self._fence.writable(collection, deadline)
            size = min(DELETE_BATCH, max_count - removed) if max_count else DELETE_BATCH
            found = await self._store.query(described, rest, size, View.ID, Consistency.STRONG, deadline)
            ids = [image.id for image in found]
            if ids:
                removed += await self._delete(collection, ids, condition, deadline)
            if len(found) < size or removed == max_count > 0:
                return removed
            last = ids[-1]

    async def _delete(self, name: str, ids: Sequence[str], condition: Filter | None, deadline: Deadline) -> int:
        """Delete those images that exist and meet a condition; return how many did."""
        removed: set[str] = set()

        async def delete(collection: Collection) -> None:
            fitting = both(IdIn(tuple(ids)), condition)
            found = await self._store.query(collection, fitting, len(ids), View.ID, Consistency.STRONG, deadline)
            existing = [image.id for image in found]
            if existing:
                await self._store.delete(collection, existing, deadline)
                removed.update(existing)
            # Without a condition, all ids: an earlier attempt may have deleted an image here and not from the copy.
            await self._fence.delete_from_copy(collection, existing if condition else ids, deadline)

        def write(collection: Collection) -> Awaitable[None]:
            return self._locks.run(collection.name, ids, partial(delete, collection), deadline)

        await self._fence.apply(name, write, deadline)
        return len(removed)


def _check_paths(paths: Sequence[str]) -> None:
    if not paths:
        raise InvalidArgumentError(
            "UPDATE_MASK_INVALID", "update_mask is empty; it must name the fields to change", field="update_mask"
        )
    for path in paths:
        kind, _, name = path.partition(".")
        whole = path in (URI, ATTRIBUTES)
        if not whole and not (kind == ATTRIBUTES and checks.ATTRIBUTE_NAME.fullmatch(name)):
            raise InvalidArgumentError(
                "UPDATE_MASK_INVALID",
                f"update_mask has {checks.shown(path)}; it may have uri, attributes and attributes.NAME; NAME is "
                f"{checks.ATTRIBUTE_NAME_RULE}",
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
