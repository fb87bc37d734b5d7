"""What a write keeps of the image that is stored under its id.

It is read when the image is written, while the image is locked, and not earlier: an embedding takes seconds, and what
somebody changes meanwhile must not be undone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from grpc_kit.errors import FailedPreconditionError
from search_service.core import checks
from search_service.core.read_images import image_not_found
from search_service.core.types import Collection, StoredImage, View

# Bytes of stored vectors that one write reads at a time.
READ_BYTES = 16 * 1024 * 1024
# Vectors of one image differ by less if the same model made them in batches of other sizes.
SAME_VECTOR = 1e-3


@dataclass(frozen=True)
class Keep:
    """What is kept of the stored image, and what is reported of it."""

    attributes: bool = False
    """Whether its attributes stay that the write does not name."""
    vector: bool = False
    """Whether its vector stays, with its region and create_time."""
    report: bool = False
    """Whether the answer says that another image was replaced."""

    def __bool__(self) -> bool:
        return self.attributes or self.vector or self.report


@dataclass(frozen=True)
class Written:
    """What became of an image that is stored."""

    create_time: datetime
    replaced: bool = False
    """Whether another image was stored under its id."""


def view_of(writes: Iterable[tuple[StoredImage, Keep]]) -> View:
    """Return how much has to be read of the stored images: vectors only if they are kept, or tell images apart."""
    needs_vectors = any(keep.vector or (keep.report and not image.content_sha256) for image, keep in writes)
    return View.FULL if needs_vectors else View.BASIC


def chunk_size(collection: Collection, writes: Sequence[tuple[StoredImage, Keep]]) -> int:
    """Return how many images are written at a time, so that the stored vectors stay within a bound."""
    if view_of(writes) is not View.FULL:
        return max(1, len(writes))
    return max(1, READ_BYTES // (4 * collection.dimension))


def merged(
    image: StoredImage, keep: Keep, stored: StoredImage | None, now: datetime, collection: Collection
) -> tuple[StoredImage, Written]:
    """Return the image as it is to be stored at a moment, and what its answer says.

    Raises NotFoundError, FailedPreconditionError if the vector is to be kept and is not of the same content, and
    InvalidArgumentError if both have too many attributes together.
    """
    made = replace(image, create_time=now, update_time=now)
    if keep.vector:
        if stored is None or stored.vector is None or stored.create_time is None:
            raise image_not_found(collection.name, image.id, "id")
        if stored.content_sha256 != image.content_sha256:
            raise content_changed(image, stored)
        made = replace(made, vector=stored.vector, region=stored.region, create_time=stored.create_time)
    if keep.attributes and stored is not None:
        made = replace(made, attributes={**stored.attributes, **image.attributes})
        checks.check_attributes(made.attributes)
    replaced = keep.report and stored is not None and _is_another(made, stored)
    return made, Written(made.create_time or now, replaced)


def content_changed(image: StoredImage, stored: StoredImage) -> FailedPreconditionError:
    """Return the error for a vector that is to be kept and is of another content."""
    return FailedPreconditionError(
        "CONTENT_CHANGED",
        f"the stored image has the content_sha256 {stored.content_sha256!r}, and the write is for "
        f"{image.content_sha256!r}; send the image or its vector",
        field="content_sha256",
        metadata={"id": image.id},
    )


def _is_another(image: StoredImage, stored: StoredImage) -> bool:
    if image.uri == stored.uri and image.uri:
        return False
    if image.content_sha256 and stored.content_sha256:
        return image.content_sha256 != stored.content_sha256
    if image.vector is None or stored.vector is None:
        return True
    length = float(np.linalg.norm(stored.vector))
    return float(np.linalg.norm(image.vector - stored.vector)) > SAME_VECTOR * length
