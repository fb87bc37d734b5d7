"""Images that were prepared for a collection, while its name was moved to another one."""

from datetime import UTC, datetime

import numpy as np
import pytest

from search_service.core.kept_parts import Keep
from search_service.core.prepare_images import PreparedImage
from search_service.core.types import Collection, Region, StoredImage, StoredRegion

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def prepared(fingerprint: str = "f", dimension: int = 4, regions: int = 0) -> PreparedImage:
    vector = np.ones(dimension, np.float32)
    found = tuple(StoredRegion(Region(0, 0, 1, 1), vector, 1.0) for _ in range(regions))
    image = StoredImage("a", vector=vector, regions=found)
    return PreparedImage(image, fingerprint=fingerprint, embedded=False, keep=Keep())


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (prepared("other"), "EMBEDDING_MISMATCH"),
        (prepared(dimension=5), "VECTOR_DIMENSION_MISMATCH"),
        (prepared(dimension=5, regions=9), "VECTOR_DIMENSION_MISMATCH"),
        (prepared(regions=3), "TOO_MANY_REGIONS"),
    ],
)
def test_the_error_names_what_does_not_fit(image: PreparedImage, reason: str) -> None:
    collection = Collection("photos", 4, "f", NOW, max_regions=2)
    assert not image.fits(collection)
    assert image.mismatch(collection).reason == reason
