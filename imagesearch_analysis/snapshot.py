"""A collection on disk: its vectors in one file, their images in an SQLite database beside it.

Both grow page by page. The database is told of a page once its vectors are on the disk, and remembers where the listing
goes on, so that a reading that was killed goes on where it was.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from grpc_kit.errors import DeadlineExceededError
from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.free_space import lack_of_space
from imagesearch_client import Client
from imagesearch_client.filters import Filter
from imagesearch_client.listing import Listing, Place
from imagesearch_client.retrying import retry
from imagesearch_client.types import AttributeValue, Collection, Image, Metric, Region
from imagesearch_ingest.sources.attribute_values import ATTRIBUTE_NAME
from imagesearch_ingest.work_folder import WorkFolder

Answer = TypeVar("Answer")

VECTORS, IMAGES = "vectors.f32", "images.sqlite"
FILES = r"vectors\.f32|images\.sqlite(-journal)?"
FLOAT = np.dtype("<f4")
DEFAULT_PATIENCE = 300.0
# What an image takes in the database, with an id, a uri and some attributes.
DESCRIPTION_BYTES = 512
ELSEWHERE = "--snapshot FOLDER puts it on another disk"
SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uri TEXT NOT NULL, content_sha256 TEXT NOT NULL,
    region TEXT, attributes TEXT NOT NULL
);
"""


class SnapshotError(AnalysisError):
    """A snapshot that cannot be taken or read; says what to do."""


def snapshot_folder(folder: Path) -> WorkFolder:
    """The folder of a snapshot."""
    return WorkFolder(folder, "snapshot", FILES, SnapshotError)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a snapshot is of."""

    collection: str
    fingerprint: str
    metric: str
    dimension: int
    condition: str = ""
    """The filter, as the hexadecimal digits of its message; empty is all images."""
    state: str = ""
    """Another one when the collection has changed: when it was made, how many images it has, and the latest change."""


@dataclass(frozen=True, slots=True)
class Described:
    """An image of a snapshot, less its vector."""

    id: str
    uri: str
    attributes: Mapping[str, AttributeValue]
    content_sha256: str
    region: Region | None
    """The part of the original that the vector is of; None is the whole."""


class Snapshot:
    """A collection's vectors and descriptions on disk, for what needs all of them. To be used in one thread.

    An image's position is its place in the order of ids, from 0 on.
    """

    def __init__(self, folder: Path) -> None:
        """Opens the folder of a finished one. Raises SnapshotError."""
        if not all((folder / name).is_file() for name in (IMAGES, VECTORS)):
            raise SnapshotError(f"{folder} holds no snapshot")
        self.folder = folder
        # Held open: whoever takes the snapshot anew writes other files.
        self._vectors = (folder / VECTORS).open("rb")
        self._images = sqlite3.connect(f"{(folder / IMAGES).absolute().as_uri()}?mode=ro", uri=True)
        try:
            self.origin, place = _about(self._images)
            self._size = int(self._images.execute("SELECT COUNT(*) FROM images").fetchone()[0])
            size = os.fstat(self._vectors.fileno()).st_size
        except (sqlite3.Error, OSError, ValueError, KeyError, TypeError) as error:
            self.close()
            raise SnapshotError(f"{folder} is no readable snapshot: {error}") from None
        if not place.complete or size != self._size * self.origin.dimension * FLOAT.itemsize:
            self.close()
            raise SnapshotError(f"the snapshot in {folder} is not finished; take it again, which goes on where it was")
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
        """Closes the files."""
        self._images.close()
        self._vectors.close()

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """float32[images, dimension] as the service holds them, by position; memory-mapped."""
        shape = (len(self), self.dimension)
        # An empty file cannot be mapped.
        return np.memmap(self._vectors, FLOAT, "r", shape=shape) if len(self) else np.empty(shape, FLOAT)

    def block(self, begin: int, end: int) -> NDArray[np.float32]:
        """float32[end - begin, dimension]: the vectors of these positions, scaled to unit length for COSINE.

        Read into memory of its own: whoever goes through all of them needs the room of one block.
        """
        end = min(end, len(self))
        count = max(0, end - begin) * self.dimension
        self._vectors.seek(begin * self.dimension * FLOAT.itemsize)
        raw = np.fromfile(self._vectors, FLOAT, count)
        return self.comparable(raw.reshape(-1, self.dimension))

    def comparable(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors as the metric compares them: float32[n, dimension], of unit length for COSINE, else as they are."""
        if self.metric is not Metric.COSINE:
            return vectors
        norms: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
        norms[norms == 0] = 1
        return vectors / norms

    @property
    def ids(self) -> Sequence[str]:
        """The images' ids by position, read from the disk when they are asked for."""
        return Column(self._images, "id", len(self))

    def values(self, attribute: str) -> Sequence[str | None]:
        """An attribute's values by position, as texts: numbers and lists as JSON has them; None where there is none.

        Raises ValueError for what is no attribute's name.
        """
        if not ATTRIBUTE_NAME.fullmatch(attribute):
            raise ValueError(
                f"{attribute!r:.80} is no name of an attribute: a letter, then letters, digits, underscores"
            )
        path = f"$.{attribute}"
        # A text without its quotes; all else as it is written, because SQLite rounds numbers and has no truth values.
        text = f"json_extract(attributes, '{path}')"
        written = f"attributes -> '{path}'"
        kind = f"json_type(attributes, '{path}')"
        return Column(self._images, f"CASE {kind} WHEN 'text' THEN {text} ELSE {written} END", len(self))

    def describe(self, position: int) -> Described:
        """The image at a position. Raises IndexError."""
        row = self._images.execute(
            "SELECT id, uri, attributes, content_sha256, region FROM images WHERE position = ?", (int(position),)
        ).fetchone()
        if row is None:
            raise IndexError(f"there is no position {position} among {len(self)} images")
        image_id, uri, attributes, content_sha256, region = row
        box = Region(*json.loads(region)) if region else None
        return Described(image_id, uri, json.loads(attributes), content_sha256, box)

    def position(self, image_id: str) -> int | None:
        """Where an image is; None where there is none of that id."""
        row = self._images.execute("SELECT position FROM images WHERE id = ?", (image_id,)).fetchone()
        return None if row is None else int(row[0])

    def same_content(self) -> Iterator[list[int]]:
        """The positions of images whose files are the same byte for byte, of two images or more, in ascending order."""
        rows = self._images.execute(
            "SELECT json_group_array(position) FROM images WHERE content_sha256 != '' "
            "GROUP BY content_sha256, region HAVING COUNT(*) > 1 ORDER BY MIN(position)"
        )
        return (sorted(json.loads(positions)) for (positions,) in rows)


class Column(Sequence[Any]):
    """A column of a snapshot's database by position; nothing of it stays in memory."""

    def __init__(self, images: sqlite3.Connection, expression: str, size: int) -> None:
        self._images = images
        self._one = f"SELECT {expression} FROM images WHERE position = ?"  # noqa: S608 - made here, of checked names
        self._all = f"SELECT {expression} FROM images WHERE position >= ? AND position < ? ORDER BY position"  # noqa: S608 - as above
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
            return [value for (value,) in self._images.execute(self._all, (begin, end))]
        position = int(index) + (self._size if index < 0 else 0)
        row = self._images.execute(self._one, (position,)).fetchone()
        if row is None:
            raise IndexError(f"there is no position {index} among {self._size}")
        return row[0]

    def __iter__(self) -> Iterator[Any]:
        return (value for (value,) in self._images.execute(self._all, (0, self._size)))


def take(
    client: Client,
    collection: str,
    folder: Path,
    *,
    where: Filter | None = None,
    replace: bool = False,
    tell: Callable[[int], None] = lambda _: None,
    patience: float = DEFAULT_PATIENCE,
) -> Snapshot:
    """Reads a collection into a folder, which is made where there is none.

    What is there of the same collection is taken as it is; an unfinished one goes on; and where the collection has
    changed since, it begins anew. What is written to the collection meanwhile may be in it or not.

    Args:
        client: of the service.
        collection: its name, or an alias.
        folder: of this snapshot alone.
        where: only images that fit.
        replace: whether a snapshot of something else that is there is removed, and not refused.
        tell: is told the images so far after each page.
        patience: seconds for which a page is asked for again where the service is away.

    Raises ServiceError, and SnapshotError where the folder is of something else or cannot be written; what was read by
    then is kept.
    """
    found = client.get_collection(collection)
    origin, count = patiently(lambda: _origin(client, found, where), patience)
    try:
        with SnapshotWriter(folder, origin, replace=replace) as writer:
            tell(writer.rows)
            writer.check_space(count)
            for images, place in Listing(client, found, where, writer.place, patience).pages():
                writer.add(images, place)
                tell(writer.rows)
    except (OSError, sqlite3.Error) as error:
        raise SnapshotError(f"{folder} cannot be written: {error}; {ELSEWHERE}") from None
    if client.get_collection(found.name).create_time != found.create_time:
        raise SnapshotError(f"the collection {found.name} was removed meanwhile, and made anew; begin again")
    return Snapshot(folder)


def patiently(call: Callable[[], Answer], patience: float = DEFAULT_PATIENCE) -> Answer:
    """What a call gives; again for so many seconds where it takes too long.

    Raises ServiceError, and that of a service which is not there at once.
    """
    return retry(call, patience, lambda error: isinstance(error, DeadlineExceededError))


class SnapshotWriter:
    """Writes a snapshot page by page, or goes on with one; holds its folder for this process meanwhile."""

    def __init__(self, folder: Path, origin: Origin, *, replace: bool = False) -> None:
        """Begins in a folder, or goes on there; `replace` is as with `take`.

        Raises SnapshotError, OSError and sqlite3.Error.
        """
        self._folder = folder
        self._origin = origin
        self._own = snapshot_folder(folder).__enter__()
        try:
            self._begin(replace=replace)
        except BaseException:
            self._own.__exit__()
            raise

    def _begin(self, *, replace: bool) -> None:
        if (self._folder / IMAGES).exists() and not self._fits(replace=replace):
            # Whoever still reads the old ones keeps them.
            self._own.clear()
        self._images = sqlite3.connect(self._folder / IMAGES)
        if not _is_made(self._images):
            self._images.executescript(f"BEGIN; {SCHEMA}")
            self._note("origin", asdict(self._origin))
            self._note("place", asdict(Place()))
            self._images.commit()
        self.place = _about(self._images)[1]
        self.rows = int(self._images.execute("SELECT COUNT(*) FROM images").fetchone()[0])
        self._vectors = (self._folder / VECTORS).open("ab")
        # What was written of a page that the database was not told of.
        self._vectors.truncate(self.rows * self._origin.dimension * FLOAT.itemsize)

    def _fits(self, *, replace: bool) -> bool:
        """Whether what is there can be gone on with. Raises SnapshotError where it is of something else."""
        images = sqlite3.connect(self._folder / IMAGES)
        try:
            if not _is_made(images):
                return False
            origin, _ = _about(images)
            rows = int(images.execute("SELECT COUNT(*) FROM images").fetchone()[0])
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError) as error:
            raise SnapshotError(
                f"{self._folder} is no readable snapshot: {error}; remove it, or name another"
            ) from None
        finally:
            images.close()
        for name in ("collection", "fingerprint", "condition"):
            was, now = getattr(origin, name), getattr(self._origin, name)
            if was != now and not replace:
                what = "another filter" if name == "condition" else f"the {name} {was}, and not of {now}"
                raise SnapshotError(f"{self._folder} is a snapshot of {what}; name another folder, or remove it")
        vectors = self._folder / VECTORS
        size = vectors.stat().st_size if vectors.exists() else 0
        return origin == self._origin and size >= rows * self._origin.dimension * FLOAT.itemsize

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._images.close()
        self._vectors.close()
        self._own.__exit__()

    def check_space(self, images: int) -> None:
        """Raises SnapshotError if the disk has no room for so many images; what was read before stays. Raises OSError.

        A snapshot without any image is removed.
        """
        left = max(0, images - self.rows)
        problem = lack_of_space(self._folder, left * (self._origin.dimension * FLOAT.itemsize + DESCRIPTION_BYTES))
        if not problem:
            return
        if not self.rows:
            self._own.clear()
        raise SnapshotError(f"the snapshot of {left} images has no room: {problem}; {ELSEWHERE}")

    def add(self, images: Sequence[Image], place: Place) -> None:
        """Writes images with their vectors, and that the listing goes on at `place`; both or none."""
        vectors = np.empty((len(images), self._origin.dimension), FLOAT)
        for row, image in enumerate(images):
            if image.embedding is None or len(image.embedding.values) != self._origin.dimension:
                raise SnapshotError(f"{image.id!r:.80} has no vector of {self._origin.dimension} numbers")
            vectors[row] = image.embedding.values
        self._vectors.write(vectors.tobytes())
        self._vectors.flush()
        os.fsync(self._vectors.fileno())
        with self._images:
            self._images.executemany(
                "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)",
                ((self.rows + row, *_columns(image)) for row, image in enumerate(images)),
            )
            self._note("place", asdict(place))
        self.rows += len(images)
        self.place = place

    def _note(self, name: str, value: Mapping[str, Any]) -> None:
        self._images.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, json.dumps(value)))


def _columns(image: Image) -> tuple[str, str, str, str | None, str]:
    region = None if image.region is None else json.dumps(astuple(image.region))
    return image.id, image.uri, image.content_sha256, region, json.dumps(dict(image.attributes), ensure_ascii=False)


def _is_made(images: sqlite3.Connection) -> bool:
    """Whether the database has its tables: a process may be killed before that."""
    return images.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone() is not None


def _about(images: sqlite3.Connection) -> tuple[Origin, Place]:
    notes = dict(images.execute("SELECT name, value FROM about"))
    return Origin(**json.loads(notes["origin"])), Place(**json.loads(notes["place"]))


def _origin(client: Client, collection: Collection, where: Filter | None) -> tuple[Origin, int]:
    """What a snapshot of the collection is of now, and how many images it has."""
    latest = next(client.list(collection.name, where=where, latest_first=True, page_size=1, strong=True), None)
    count = client.count(collection.name, where=where)
    state = [collection.create_time.isoformat(), count, latest.update_time.isoformat() if latest else None]
    origin = Origin(
        collection.name,
        collection.fingerprint,
        collection.metric.value,
        collection.dimension,
        "" if where is None else where.SerializeToString(deterministic=True).hex(),
        json.dumps(state),
    )
    return origin, count
