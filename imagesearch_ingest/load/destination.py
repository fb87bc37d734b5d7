"""The interface to which a load writes its images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imagesearch_client.types import AttributeValue, Embedding, Region

# The limit of the services by default, for loads that do not ask an embedder.
DEFAULT_MAX_IMAGE_BYTES = 20 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """What is stored with an image besides its vector."""

    id: str
    uri: str
    attributes: Mapping[str, AttributeValue] | None
    """None if the source has no attributes, so that stored ones are kept."""
    sha256: str
    region: Region | None = None
    may_exist: bool = False
    """Whether an image may be stored under the id already."""
    is_known: bool = False
    """Whether the ledger knows the image that is stored under the id."""


class Destination:
    """Stores images. By default it has no images, and stores none.

    Every method raises ServiceError, and LoadStoppedError if the load cannot continue.
    """

    max_image_bytes: int
    is_dry_run: bool
    """Whether nothing is stored, so that the ledger records nothing."""

    async def store(self, image: ImageMetadata, content: bytes) -> bool:  # noqa: ARG002 - subclasses use them
        """Embed an image and store it, and return when it is stored.

        Returns whether it replaced another image that the ledger does not know.
        """
        return False

    async def store_vector(self, image: ImageMetadata, vector: Embedding) -> bool:  # noqa: ARG002 - as above
        """Store an image with a ready vector. Returns the same as `store`."""
        return False

    async def update_metadata(self, image: ImageMetadata) -> bool:  # noqa: ARG002 - as above
        """Update the uri and the attributes of a stored image.

        Returns False if the stored vector is not of the image's content, so that the image has to be embedded.
        """
        return False

    async def delete(self, ids: Sequence[str]) -> None:
        """Remove images."""

    async def ids_of_other_images(self, images: Sequence[ImageMetadata]) -> set[str]:  # noqa: ARG002 - as above
        """Return those ids under which a different image is stored, with other content and another uri."""
        return set()

    async def store_duplicate_uris(self, image_id: str, uris: Sequence[str]) -> None:
        """Store the uris of an image's duplicates as an attribute of the image."""

    def flush(self) -> None:
        """Send pending requests at once, because no further items are expected."""

    def cancel_pending(self) -> None:
        """Cancel images that wait to be embedded. Calls in flight and embedded images continue."""
