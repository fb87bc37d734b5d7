"""Reading and removing single images."""

from collections.abc import Sequence
from dataclasses import dataclass

from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError
from search_service.core import checks
from search_service.core.ports import VectorStore
from search_service.core.types import Consistency, StoredImage, View


@dataclass(frozen=True)
class FoundImage:
    """A stored image, and the fingerprint of its collection's vectors."""

    image: StoredImage
    fingerprint: str


async def get_image(
    store: VectorStore, collection: str, image_id: str, view: View, consistency: Consistency, deadline: Deadline
) -> FoundImage:
    """One image. Raises InvalidArgumentError, NotFoundError."""
    checks.check_collection_name(collection, "collection")
    checks.check_id(image_id, "id")
    # First, because a store may hold collections that are not the service's.
    fingerprint = (await store.get_collection(collection, deadline)).fingerprint
    found = await store.get(collection, [image_id], view, consistency, deadline)
    if not found:
        raise image_not_found(collection, image_id, "id")
    return FoundImage(found[0], fingerprint)


async def count_images(store: VectorStore, collection: str, deadline: Deadline) -> int:
    """The number of a collection's images. Raises InvalidArgumentError, NotFoundError."""
    checks.check_collection_name(collection, "collection")
    await store.get_collection(collection, deadline)
    return await store.count(collection, deadline)


async def delete_images(
    store: VectorStore, collection: str, ids: Sequence[str], deadline: Deadline, *, validate_only: bool
) -> int:
    """Removes images, or only counts them; gives how many existed. Raises InvalidArgumentError, NotFoundError."""
    checks.check_collection_name(collection, "collection")
    checks.check_ids(ids, "ids.ids")
    await store.get_collection(collection, deadline)
    existing = [image.id for image in await store.get(collection, ids, View.ID, Consistency.STRONG, deadline)]
    if existing and not validate_only:
        await store.delete(collection, existing, deadline)
    return len(existing)


def image_not_found(collection: str, image_id: str, field: str) -> NotFoundError:
    """No image has this id."""
    return NotFoundError(
        "IMAGE_NOT_FOUND",
        f"collection {collection} has no image {checks.shown(image_id)}",
        field=field,
        metadata={"collection": collection},
    )
