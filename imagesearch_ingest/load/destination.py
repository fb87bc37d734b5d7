"""The interface to which a load writes its images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imagesearch_client.types import AttributeValue, Embedding, Region, RegionEmbedding

# The default limit of the services, for loads that do not ask an embedder for its limit.
DEFAULT_MAX_IMAGE_BYTES = 20 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """Data that is stored with an image, besides its vector."""

    id: str
    uri: str
    attributes: Mapping[str, AttributeValue] | None
    """None if the source has no attributes; the stored attributes are then kept."""
    sha256: str
    region: Region | None = None
    regions: tuple[RegionEmbedding, ...] = ()
    """The regions of a ready vector."""
    may_exist: bool = False
    """Whether the collection may already have an image with this id."""
    is_known: bool = False
    """Whether the ledger has a record of the stored image with this id."""


class Destination:
    """Stores images. The default methods find no images and store nothing.

    Every method raises ServiceError, and LoadStoppedError if the load cannot continue.
    """

    max_image_bytes: int
    is_dry_run: bool
    """Whether the destination stores nothing. The ledger then records nothing."""

    async def store(self, image: ImageMetadata, content: bytes) -> bool:  # noqa: ARG002 - subclasses use them
        """Embed and store an image. Return after the image is stored.

        Returns whether the write replaced another image, of which the ledger has no record.
        """
        return False

    async def store_vector(self, image: ImageMetadata, vector: Embedding) -> bool:  # noqa: ARG002 - as above
        """Store an image with a given vector. Returns the same as `store`."""
        return False

    async def update_metadata(self, image: ImageMetadata) -> bool:  # noqa: ARG002 - as above
        """Update the uri and the attributes of a stored image.

        Returns False if the stored vector belongs to other content. The caller must then embed the image.
        """
        return False

    async def delete(self, ids: Sequence[str]) -> None:
        """Delete images."""

    async def ids_of_other_images(self, images: Sequence[ImageMetadata]) -> set[str]:  # noqa: ARG002 - as above
        """Return the ids whose stored image has other content and another uri."""
        return set()

    async def store_duplicate_uris(self, image_id: str, uris: Sequence[str]) -> None:
        """Store the uris of an image's duplicates as an attribute of the image."""

    def flush(self) -> None:
        """Send pending requests at once, because no further items are expected."""

    def cancel_pending(self) -> None:
        """Cancel images that wait for the embedder. Calls in flight and writes of embedded images continue."""
