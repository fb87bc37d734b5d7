"""A copy of a collection on disk: the vectors in one file, and everything else in an SQLite database beside it."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.vectors import FLOAT, Floats, Positions, comparable
from imagesearch_client.listing import ListingPosition
from imagesearch_client.types import AttributeValue, Metric, Region
from imagesearch_ingest.sources.attribute_values import ATTRIBUTE_NAME

VECTORS_FILE, DATABASE_FILE = "vectors.f32", "images.sqlite"


class SnapshotError(AnalysisError):
    """A snapshot cannot be taken or read; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The collection that a snapshot is of, and its state when the snapshot was taken.

    Files on disk have these names: a change would make them unreadable.
    """

    collection: str
    fingerprint: str
    metric: str
    dimension: int
    condition: str = ""
    """The filter as the hexadecimal digits of its protobuf message; empty if all images are in the snapshot."""
    state: str = ""
    """Changes whenever the collection changes: creation time, number of images and time of the latest change."""


@dataclass(frozen=True, slots=True)
class SnapshotImage:
    """An image of a snapshot without its vector."""

    id: str
    uri: str
    attributes: Mapping[str, AttributeValue]
    content_sha256: str
    region: Region | None
    """The part of the original image that the vector describes; None is the whole image."""


class Snapshot:
    """All vectors and images of a collection on disk. A snapshot must be used in one thread.

    The position of an image is its rank in the order of ids, from 0. A snapshot is a `VectorSet`.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder of a complete snapshot. Raises SnapshotError."""
        if not all((folder / name).is_file() for name in (DATABASE_FILE, VECTORS_FILE)):
            raise SnapshotError(f"{folder} contains no snapshot")
        self.folder = folder
        # The open files stay readable while another command replaces the snapshot with new files.
        self._vectors = (folder / VECTORS_FILE).open("rb")
        self._database = sqlite3.connect(f"{(folder / DATABASE_FILE).absolute().as_uri()}?mode=ro", uri=True)
        try:
            self.origin, place = read_notes(self._database)
            self._size = int(self._database.execute("SELECT COUNT(*) FROM images").fetchone()[0])
            size = os.fstat(self._vectors.fileno()).st_size
        except (sqlite3.Error, OSError, ValueError, KeyError, TypeError) as error:
            self.close()
            raise SnapshotError(f"the snapshot in {folder} cannot be read: {error}") from None
        if not place.complete or size != self._size * self.origin.dimension * FLOAT.itemsize:
            self.close()
            raise SnapshotError(f"the snapshot in {folder} is not complete; run the command again to resume it")
        self.collection = self.origin.collection
        self.fingerprint = self.origin.fingerprint
        self.metric = Metric(self.origin.metric)
        self.dimension = self.origin.dimension

    def __len__(self) -> int:
        return self._size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._database.close()
        self._vectors.close()

    @cached_property
    def vectors(self) -> Floats:
        """float32[images, dimension]: all vectors as the service stores them, memory-mapped."""
        shape = (len(self), self.dimension)
        # An empty file cannot be mapped.
        return np.memmap(self._vectors, FLOAT, "r", shape=shape) if len(self) else np.empty(shape, FLOAT)

    def block(self, begin: int, end: int) -> Floats:
        """Return float32[at most end - begin, dimension]: consecutive vectors as the metric compares them.

        The block is read, not mapped: a loop over all blocks needs the memory of one block.
        """
        end = min(end, len(self))
        count = max(0, end - begin) * self.dimension
        self._vectors.seek(begin * self.dimension * FLOAT.itemsize)
        return comparable(np.fromfile(self._vectors, FLOAT, count).reshape(-1, self.dimension), self.metric)

    def at(self, positions: Positions) -> Floats:
        """Return float32[len(positions), dimension]: the vectors at positions as the metric compares them."""
        return comparable(np.asarray(self.vectors[positions]), self.metric)

    @property
    def ids(self) -> Sequence[str]:
        """The id of each image by position. Ids are read from disk on access."""
        return _Column(self._database, "id", len(self))

    def attribute_values(self, attribute: str) -> Sequence[str | None]:
        """Return the value of an attribute for each image by position, as text; None if the image has none.

        Numbers, truth values and lists are written as JSON. Values are read from disk on access. Raises ValueError if
        `attribute` cannot be the name of an attribute.
        """
        if not ATTRIBUTE_NAME.fullmatch(attribute):
            raise ValueError(
                f"{attribute!r:.80} cannot be an attribute name; a name is a letter, then letters, digits, underscores"
            )
        path = f"$.{attribute}"
        # json_extract rounds numbers and has no truth values. So only texts are extracted, without their quotes.
        text = f"json_extract(attributes, '{path}')"
        literal = f"attributes -> '{path}'"
        kind = f"json_type(attributes, '{path}')"
        return _Column(self._database, f"CASE {kind} WHEN 'text' THEN {text} ELSE {literal} END", len(self))

    def image(self, position: int) -> SnapshotImage:
        """Return the image at a position. Raises IndexError."""
        row = self._database.execute(
            "SELECT id, uri, attributes, content_sha256, region FROM images WHERE position = ?", (int(position),)
        ).fetchone()
        if row is None:
            raise IndexError(f"there is no position {position} among {len(self)} images")
        image_id, uri, attributes, content_sha256, region = row
        box = Region(*json.loads(region)) if region else None
        return SnapshotImage(image_id, uri, json.loads(attributes), content_sha256, box)

    def position(self, image_id: str) -> int | None:
        """Return the position of the image with an id; None if there is no such image."""
        row = self._database.execute("SELECT position FROM images WHERE id = ?", (image_id,)).fetchone()
        return None if row is None else int(row[0])

    def groups_of_same_file(self) -> Iterator[list[int]]:
        """Return the ascending positions of the images of each file that at least two images have in common.

        Images have the same file if their SHA-256 and their regions are equal.
        """
        rows = self._database.execute(
            "SELECT json_group_array(position) FROM images WHERE content_sha256 != '' "
            "GROUP BY content_sha256, region HAVING COUNT(*) > 1 ORDER BY MIN(position)"
        )
        return (sorted(json.loads(positions)) for (positions,) in rows)


class _Column(Sequence[Any]):
    """A column of the images table by position, read from disk on access."""

    def __init__(self, database: sqlite3.Connection, expression: str, size: int) -> None:
        self._database = database
        # Expressions come from this module, with checked names.
        self._select_one = f"SELECT {expression} FROM images WHERE position = ?"  # noqa: S608
        self._select_range = f"SELECT {expression} FROM images WHERE position >= ? AND position < ? ORDER BY position"  # noqa: S608
        self._size = size

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            begin, end, step = index.indices(self._size)
            if step != 1:
                return [self[position] for position in range(begin, end, step)]
            return [value for (value,) in self._database.execute(self._select_range, (begin, end))]
        position = int(index) + (self._size if index < 0 else 0)
        row = self._database.execute(self._select_one, (position,)).fetchone()
        if row is None:
            raise IndexError(f"there is no position {index} among {self._size}")
        return row[0]

    def __iter__(self) -> Iterator[Any]:
        return (value for (value,) in self._database.execute(self._select_range, (0, self._size)))


def read_notes(database: sqlite3.Connection) -> tuple[Origin, ListingPosition]:
    """Return the origin of a snapshot, and the place where its listing continues.

    Raises sqlite3.Error, ValueError, KeyError and TypeError if the database is not that of a snapshot.
    """
    notes = dict(database.execute("SELECT name, value FROM about"))
    return Origin(**json.loads(notes["origin"])), ListingPosition(**json.loads(notes["place"]))
