"""The regions of many images as arrays: a file of vectors has millions of numbers of them."""

import array
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imagesearch_client.types import Embedding, Region, RegionEmbedding

# The name of the column. The column "region" is the part of the image that was embedded.
COLUMN = "regions"


@dataclass(frozen=True, slots=True)
class RegionColumns:
    """The regions of the rows of a batch, one after the other."""

    counts: NDArray[np.int64]
    """The number of regions of each row."""
    boxes: NDArray[np.float32]
    """float32[regions, 4]: x0, y0, x1, y1."""
    saliencies: NDArray[np.float32]
    vectors: NDArray[np.float32]
    """float32[regions, dimension]."""

    @classmethod
    def from_images(cls, images: Iterable[Sequence[RegionEmbedding]], dimension: int) -> Self:
        """Return the regions of images. Raises ValueError if a region has no vector of this dimension."""
        each = list(images)
        regions = [region for some in each for region in some]
        if any(len(region.embedding.values) != dimension for region in regions):
            raise ValueError(f"a region has no vector of {dimension} components")
        vectors = np.empty((len(regions), dimension), np.float32)
        for row, region in enumerate(regions):
            vectors[row] = region.embedding.values
        return cls(
            np.array([len(some) for some in each], np.int64),
            np.array([astuple(region.box) for region in regions], np.float32).reshape(-1, 4),
            np.array([region.saliency for region in regions], np.float32),
            vectors,
        )

    @classmethod
    def concatenate(cls, parts: Sequence["RegionColumns"]) -> Self:
        """Return the regions of the rows of all parts; there is at least one part."""
        return cls(
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.saliencies for part in parts]),
            np.concatenate([part.vectors for part in parts]),
        )

    @classmethod
    def from_arrow(cls, column: Any) -> Self:
        """Return the regions of an Arrow column of the type `arrow_type`. A missing list has no regions."""
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        counts = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        regions = column.flatten()
        dimension = regions.type.field("vector").type.list_size
        # `field` would ignore the offset of a slice.
        boxes, saliencies, vectors = regions.flatten()
        return cls(
            counts,
            boxes.flatten().to_numpy(zero_copy_only=False).reshape(-1, 4),
            saliencies.to_numpy(zero_copy_only=False),
            vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension),
        )

    def to_arrow(self, kind: Any) -> Any:
        """Return the Arrow column of the type `arrow_type`."""
        fields = [kind.value_type.field(name) for name in ("box", "saliency", "vector")]
        boxes, saliencies, vectors = (field.type for field in fields)
        regions = pa.StructArray.from_arrays(
            [
                pa.FixedSizeListArray.from_arrays(pa.array(self.boxes.reshape(-1)), type=boxes),
                pa.array(self.saliencies, saliencies),
                pa.FixedSizeListArray.from_arrays(pa.array(self.vectors.reshape(-1)), type=vectors),
            ],
            fields=fields,
        )
        offsets = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), regions, type=kind)

    def of_rows(self, fingerprint: str) -> list[tuple[RegionEmbedding, ...]]:
        """Return the regions of each row, with this fingerprint."""
        ends = np.cumsum(self.counts)
        return [
            tuple(self._region(number, fingerprint) for number in range(end - count, end))
            for count, end in zip(self.counts.tolist(), ends.tolist(), strict=True)
        ]

    def _region(self, number: int, fingerprint: str) -> RegionEmbedding:
        # An array is as small as in the file, and becomes a message as fast as a list.
        values = array.array("f", self.vectors[number].tobytes())
        box = Region(*self.boxes[number].tolist())
        return RegionEmbedding(box, Embedding(values, fingerprint), float(self.saliencies[number]))


def arrow_type(dimension: int) -> Any:
    """Return the type of the column: a list of boxes with their saliency and vector."""
    return pa.list_(
        pa.struct(
            [
                pa.field("box", pa.list_(pa.float32(), 4), nullable=False),
                pa.field("saliency", pa.float32(), nullable=False),
                pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False),
            ]
        )
    )
