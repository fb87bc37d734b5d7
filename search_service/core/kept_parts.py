"""The parts of a stored image that a write keeps.

They are read while the image is locked, just before it is stored. An embedding takes seconds; a change by another
caller in that time must not be lost.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from grpc_kit.errors import FailedPreconditionError
from search_service.core import checks
from search_service.core.read_images import image_not_found
from search_service.core.regions import image_bytes
from search_service.core.types import Collection, StoredImage, View

# Bytes of stored vectors that one write reads at a time.
READ_BYTES = 16 * 1024 * 1024
# Relative difference of two vectors of one image, computed in batches of different sizes.
SAME_VECTOR = 1e-3


@dataclass(frozen=True)
class Keep:
    """What a write keeps of the stored image, and what it reports."""

    attributes: bool = False
    """Keep stored attributes that the write does not name."""
    vector: bool = False
    """Keep the vector, with its region, its regions and create_time."""
    report: bool = False
    """Report whether another image was replaced."""

    def __bool__(self) -> bool:
        return self.attributes or self.vector or self.report


@dataclass(frozen=True)
class Written:
    """The outcome of a write that was stored."""

    create_time: datetime
    replaced: bool = False
    """Whether another image had the id."""


def view_of(writes: Iterable[tuple[StoredImage, Keep]]) -> View:
    """Return the view of the stored images that writes need: vectors only to keep them, or to compare images."""
    view = View.BASIC
    for image, keep in writes:
        if keep.vector:
            return View.FULL
        if keep.report and not image.content_sha256:
            view = View.VECTOR
    return view


def chunk_size(collection: Collection, writes: Sequence[tuple[StoredImage, Keep]]) -> int:
    """Return the number of images to write at a time, which limits the bytes of the stored vectors."""
    match view_of(writes):
        case View.FULL:
            return max(1, READ_BYTES // image_bytes(collection))
        case View.VECTOR:
            return max(1, READ_BYTES // (4 * collection.dimension))
    return max(1, len(writes))


def merged(
    image: StoredImage, keep: Keep, stored: StoredImage | None, now: datetime, collection: Collection
) -> tuple[StoredImage, Written]:
    """Return the image to store at a time, and the outcome.

    Raises NotFoundError or FailedPreconditionError if the vector cannot be kept, and InvalidArgumentError if the image
    has too many attributes after the merge.
    """
    made = replace(image, create_time=now, update_time=now)
    if keep.vector:
        if stored is None or stored.vector is None or stored.create_time is None:
            raise image_not_found(collection.name, image.id, "id")
        if stored.content_sha256 != image.content_sha256:
            raise _content_changed(image, stored)
        made = replace(
            made,
            vector=stored.vector,
            region=stored.region,
            regions=stored.regions,
            create_time=stored.create_time,
        )
    if keep.attributes and stored is not None:
        made = replace(made, attributes={**stored.attributes, **image.attributes})
        checks.check_attributes(made.attributes)
    replaced = keep.report and stored is not None and _is_another(made, stored)
    return made, Written(made.create_time or now, replaced)


def _content_changed(image: StoredImage, stored: StoredImage) -> FailedPreconditionError:
    return FailedPreconditionError(
        "CONTENT_CHANGED",
        f"content_sha256 is {image.content_sha256!r}, and the stored image has {stored.content_sha256!r}, so its "
        "vector cannot be kept; send the image or its vector",
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
