"""Collections that a load creates when it stores its first image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from grpc_kit.errors import AlreadyExistsError, NotFoundError
from imagesearch_client.client import Client
from imagesearch_client.types import Collection


@dataclass(frozen=True)
class PlannedCollection:
    """A collection that does not exist yet. A load that stores no image does not create it."""

    collection: Collection
    """The collection as it will be, except for its time of creation."""
    create: Callable[[], Collection]
    """Create the collection, or return the one that another process has created meanwhile. Raises ServiceError."""


class CreateCollection(Protocol):
    """Create a collection, or only check that it could be created. Raises ServiceError."""

    def __call__(self, *, validate_only: bool) -> Collection:
        """Return the collection."""


def ensure_collection(client: Client, name: str) -> Collection:
    """Return a collection; create it for the embedder's default model if it does not exist. Raises ServiceError."""
    found = plan_collection(client, name)
    return found.create() if isinstance(found, PlannedCollection) else found


def plan_collection(client: Client, name: str) -> Collection | PlannedCollection:
    """Return a collection; plan one for the embedder's default model if it does not exist. Raises ServiceError."""
    return get_or_plan_collection(
        client, name, lambda *, validate_only: client.create_collection(name, validate_only=validate_only)
    )


def get_or_plan_collection(client: Client, name: str, create: CreateCollection) -> Collection | PlannedCollection:
    """Return a collection; plan one that `create` creates if it does not exist. Raises ServiceError."""

    def create_or_get() -> Collection:
        try:
            return create(validate_only=False)
        except AlreadyExistsError:
            # Another process has created it since.
            return client.get_collection(name)

    try:
        return client.get_collection(name)
    except NotFoundError:
        try:
            return PlannedCollection(create(validate_only=True), create_or_get)
        except AlreadyExistsError:
            return client.get_collection(name)
