"""Changing and removing images that are stored."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, InvalidArgumentError
from search_service.core import checks
from search_service.core.filters import Filter, IdAfter, both, check_filter
from search_service.core.image_locks import ImageLocks
from search_service.core.ports import VectorStore
from search_service.core.read_images import image_not_found
from search_service.core.types import AttributeValue, Collection, Consistency, StoredImage, View

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

    async def update(self, update: ImageUpdate, deadline: Deadline) -> StoredImage:
        """Changes fields of an image and keeps all others, its vector and its create_time.

        It reads the image, changes it and writes it whole; what another process writes in between is lost. Raises
        InvalidArgumentError, NotFoundError.
        """
        checks.check_collection_name(update.collection, "collection")
        checks.check_id(update.id, "image.id")
        _check_paths(update.paths)
        collection = await self._store.get_collection(update.collection, deadline)
        try:
            async with asyncio.timeout(deadline.remaining()), self._locks.hold(collection.name, [update.id]):
                return await self._update(update, collection, deadline)
        except TimeoutError:
            raise DeadlineExceededError(
                "DEADLINE_EXCEEDED", "the deadline passed while another change of the image was under way"
            ) from None

    async def _update(self, update: ImageUpdate, collection: Collection, deadline: Deadline) -> StoredImage:
        ids, strong = [update.id], Consistency.STRONG
        found = await self._store.get(collection.name, ids, View.FULL, strong, deadline)
        if not found:
            raise image_not_found(update.collection, update.id, "image.id")
        changed = dataclasses.replace(_changed(found[0], update), update_time=self._now())
        checks.check_uri(changed.uri)
        checks.check_attributes(changed.attributes)
        await self._store.upsert(collection.name, [changed], deadline)
        return dataclasses.replace(changed, vector=None)

    async def delete_ids(self, collection: str, ids: Sequence[str], deadline: Deadline, *, validate_only: bool) -> int:
        """Removes images by id, or only counts them; gives how many existed."""
        checks.check_collection_name(collection, "collection")
        checks.check_ids(ids, "ids.ids")
        name = (await self._store.get_collection(collection, deadline)).name
        found = await self._store.get(name, list(dict.fromkeys(ids)), View.ID, Consistency.STRONG, deadline)
        existing = [image.id for image in found]
        if existing and not validate_only:
            await self._delete(name, existing, deadline)
        return len(existing)

    async def _delete(self, name: str, ids: Sequence[str], deadline: Deadline) -> None:
        async with self._locks.hold(name, ids):
            await self._store.delete(name, ids, deadline)

    async def delete_matching(
        self, collection: str, condition: Filter, deadline: Deadline, *, validate_only: bool
    ) -> int:
        """Removes the images that fit, or only counts them; gives how many they were.

        Where it fails on its way, some have been removed: calling it again removes the rest.
        """
        checks.check_collection_name(collection, "collection")
        check_filter(condition)
        name = (await self._store.get_collection(collection, deadline)).name
        if validate_only:
            return await self._store.count(name, condition, Consistency.STRONG, deadline)
        removed, last = 0, ""
        while True:
            rest = both(condition, IdAfter(last)) if last else condition
            found = await self._store.query(name, rest, DELETE_BATCH, View.ID, Consistency.STRONG, deadline)
            if found:
                await self._delete(name, [image.id for image in found], deadline)
            removed += len(found)
            if len(found) < DELETE_BATCH:
                return removed
            last = found[-1].id


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
