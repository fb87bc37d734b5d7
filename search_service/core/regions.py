"""Generations: each write of an image with regions has a number that no other write has.

A generation holds its time, so that a sweep knows the age of a region without an image. The random part keeps the
generations of two replicas apart.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from search_service.core.types import Collection

# Bytes of region vectors that one step reads, writes or joins; and regions in one request.
STEP_BYTES = 8 * 1024 * 1024
STEP_REGIONS = 8192
# The rows of regions outlive those of their images by this much.
REGION_MARGIN = timedelta(hours=1)
RANDOM_BITS = 44
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)


class Generations:
    """Create generations."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        """`now` returns the time in UTC."""
        self._now = now
        self._last = 0

    def new(self) -> int:
        """Return a generation that is higher than all earlier ones of this process."""
        self._last = max((self._now() - EPOCH) // TICK, self._last + 1)
        return self._last << RANDOM_BITS | secrets.randbits(RANDOM_BITS)


def first_generation(moment: datetime) -> int:
    """Return the lowest generation of a time."""
    return (moment - EPOCH) // TICK << RANDOM_BITS


def image_bytes(collection: Collection) -> int:
    """Return the maximum bytes of the vectors of an image with its regions."""
    return 4 * collection.dimension * (1 + collection.max_regions)


def generations_per_read(collection: Collection) -> int:
    """Return the number of generations whose regions one request reads."""
    rows = min(STEP_REGIONS, STEP_BYTES // (4 * collection.dimension))
    return max(1, rows // collection.max_regions)
