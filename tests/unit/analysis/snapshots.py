"""Writes snapshots for tests as the commands write them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from imagesearch_analysis.snapshot import Origin, Snapshot
from imagesearch_analysis.snapshot_writer import SnapshotWriter
from imagesearch_client import AttributeValue, Embedding, Image, Metric, Region
from imagesearch_client.listing import ListingPosition

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def image_of(
    number: int,
    vector: NDArray[np.float32],
    attributes: Mapping[str, AttributeValue],
    uri: str = "",
    content_sha256: str = "",
    region: Region | None = None,
) -> Image:
    return Image(f"i{number:05d}", uri, attributes, content_sha256, NOW, NOW, Embedding(vector.tolist(), "f"), region)


def snapshot_of(
    folder: Path,
    vectors: NDArray[np.float32],
    metric: Metric = Metric.COSINE,
    attributes: Sequence[Mapping[str, AttributeValue]] | None = None,
    uris: Sequence[str] | None = None,
    contents: Sequence[str] | None = None,
) -> Snapshot:
    """Return a complete snapshot of vectors, float32[images, dimension]; the ids are i00000, i00001 and so on."""
    count = len(vectors)
    columns = zip(vectors, attributes or [{}] * count, uris or [""] * count, contents or [""] * count, strict=True)
    images = [image_of(number, *row) for number, row in enumerate(columns)]
    with SnapshotWriter(folder, Origin("shoes", "f", metric.value, vectors.shape[1])) as writer:
        writer.add(images, ListingPosition(complete=True))
    return Snapshot(folder)


def normal(count: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def red_pixels(path: Path) -> int:
    """Return the number of red pixels of a picture."""
    with Picture.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return int(((pixels[..., 0] > 180) & (pixels[..., 1:] < 30).all(axis=-1)).sum())


def pixels_of(path: Path, grey: int) -> int:
    """Return the number of pixels of a picture with this grey."""
    with Picture.open(path) as picture:
        return int((np.asarray(picture.convert("RGB")) == grey).all(axis=-1).sum())
