"""Reads the vectors of a collection's images and regions, for an exact search of regions."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from imagesearch_analysis.disk_space import space_problem
from imagesearch_analysis.evaluation.task import TaskError
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_analysis.vectors import FLOAT, Floats, PartedVectors
from imagesearch_client import Client
from imagesearch_client.types import Image, Match

# Images in one call.
PAGE = 100


@contextmanager
def parted_vectors(
    client: Client, snapshot: Snapshot, match: Match, on_progress: Callable[[int], None] = lambda _: None
) -> Iterator[PartedVectors]:
    """Read the regions of the images of a snapshot into a temporary file, until the context ends.

    An image that has changed since the snapshot has its regions of now, and a deleted image has none. Raises
    ServiceError, TaskError.
    """
    count = client.get_collection(snapshot.collection).max_regions
    if not count:
        raise TaskError(f"{snapshot.collection} has no regions; create a collection with --max-regions")
    shape = (len(snapshot), 1 + count, snapshot.dimension)
    folder = Path(tempfile.gettempdir())
    if problem := space_problem(folder, int(np.prod(shape)) * FLOAT.itemsize):
        raise TaskError(f"not enough disk space for the regions of {len(snapshot)} images: {problem}; set TMPDIR")
    with tempfile.TemporaryFile(dir=folder) as file:
        values: Floats = np.memmap(file, FLOAT, "w+", shape=shape)
        values[:, 0] = snapshot.vectors
        for begin in range(0, len(snapshot), PAGE):
            ids = list(snapshot.ids[begin : begin + PAGE])
            found = client.get_many(snapshot.collection, ids, with_regions=True)
            for position, image_id in enumerate(ids, start=begin):
                if image_id in found:
                    _fill(values[position, 1:], found[image_id])
            on_progress(begin + len(ids))
        yield PartedVectors(values, snapshot.metric, match)


def _fill(rows: Floats, image: Image) -> None:
    for row, region in zip(rows, image.regions, strict=False):
        row[:] = region.embedding.values


def record_of(own: Floats, regions: Sequence[Floats], max_regions: int) -> Floats:
    """Return float32[(1 + max_regions) * dimension]: the vector of an image, and those of its regions or zeros."""
    record: Floats = np.zeros((1 + max_regions, len(own)), np.float32)
    record[0] = own
    for row, region in zip(record[1:], regions, strict=False):
        row[:] = region
    return record.reshape(-1)
