"""Takes snapshots: reads a collection page by page, and resumes after a stop.

The database records a page, and the position of the next page, only after the vectors of the page are on disk. A killed
process loses at most one page.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from grpc_kit.errors import DeadlineExceededError
from imagesearch_analysis.disk_space import space_problem
from imagesearch_analysis.snapshot import (
    DATABASE_FILE,
    VECTORS_FILE,
    Origin,
    Snapshot,
    SnapshotError,
    read_notes,
)
from imagesearch_analysis.vectors import FLOAT
from imagesearch_client import Client
from imagesearch_client.filters import Filter
from imagesearch_client.listing import Listing, ListingPosition
from imagesearch_client.retrying import retry
from imagesearch_client.types import Collection, Image
from imagesearch_ingest.empty_collection import EmptyCollectionError
from imagesearch_ingest.work_folder import WorkFolder

Result = TypeVar("Result")

FILES = r"vectors\.f32|images\.sqlite(-journal)?"
RETRY_SECONDS = 300.0
# The estimated size of an image in the database: an id, a uri and some attributes.
IMAGE_BYTES = 512
OTHER_DISK = "use --snapshot FOLDER to name a folder on another disk"
SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uri TEXT NOT NULL, content_sha256 TEXT NOT NULL,
    region TEXT, attributes TEXT NOT NULL
);
"""


def snapshot_folder(folder: Path) -> WorkFolder:
    """Return the lockable folder of a snapshot."""
    return WorkFolder(folder, "snapshot", FILES, SnapshotError)


def take_snapshot(
    client: Client,
    collection: str,
    folder: Path,
    *,
    where: Filter | None = None,
    replace: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
    retry_seconds: float = RETRY_SECONDS,
) -> Snapshot:
    """Read a collection into a folder, and return its snapshot.

    A snapshot in the folder is used again if the collection has not changed since; an incomplete one is resumed. If the
    collection has changed, it is read again. Images that are written during the reading may be in the snapshot or not.

    Args:
        client: the client of the search service.
        collection: the name of the collection, or an alias.
        folder: the folder of this snapshot alone; it is created if it does not exist.
        where: read only images that match this filter.
        replace: remove a snapshot of another collection, model or filter that is in the folder; otherwise raise an
            error.
        on_progress: receives the number of images that were read so far, after each page.
        retry_seconds: how long a page is requested again while the service is unavailable.

    Raises ServiceError; EmptyCollectionError; SnapshotError if the folder cannot be used or written. Pages that were
    read before an error stay in the folder.
    """
    found = client.get_collection(collection)
    origin, count = retry_timeouts(lambda: _origin(client, found, where), retry_seconds)
    if not count:
        raise EmptyCollectionError(found.name, where)
    try:
        with SnapshotWriter(folder, origin, replace=replace) as writer:
            on_progress(writer.rows)
            writer.check_space(count)
            for images, position in Listing(client, found, where, writer.position, retry_seconds).pages():
                writer.add(images, position)
                on_progress(writer.rows)
    except (OSError, sqlite3.Error) as error:
        raise SnapshotError(f"{folder} cannot be written: {error}; {OTHER_DISK}") from None
    if client.get_collection(found.name).create_time != found.create_time:
        raise SnapshotError(
            f"the collection {found.name} was deleted and created again meanwhile; run the command again"
        )
    return Snapshot(folder)


def retry_timeouts(call: Callable[[], Result], retry_seconds: float = RETRY_SECONDS) -> Result:
    """Return the result of a call; repeat the call if its deadline expires, for `retry_seconds` at most.

    Raises ServiceError. Other errors than DeadlineExceededError are raised at once.
    """
    return retry(call, retry_seconds, lambda error: isinstance(error, DeadlineExceededError))


class SnapshotWriter:
    """Writes a snapshot page by page, and resumes an incomplete one. Locks its folder for this process."""

    def __init__(self, folder: Path, origin: Origin, *, replace: bool = False) -> None:
        """Lock the folder, and start or resume the snapshot; `take_snapshot` explains `replace`.

        Raises SnapshotError, OSError and sqlite3.Error.
        """
        self._folder = folder
        self._origin = origin
        self._lock = snapshot_folder(folder).__enter__()
        try:
            self._open(replace=replace)
        except BaseException:
            self._lock.__exit__()
            raise

    def _open(self, *, replace: bool) -> None:
        if (self._folder / DATABASE_FILE).exists() and not self._can_resume(replace=replace):
            self._lock.clear()
        self._database = sqlite3.connect(self._folder / DATABASE_FILE)
        if not _has_tables(self._database):
            self._database.executescript(f"BEGIN; {SCHEMA}")
            self._note("origin", asdict(self._origin))
            self._note("place", asdict(ListingPosition()))
            self._database.commit()
        self.position = read_notes(self._database)[1]
        self.rows = int(self._database.execute("SELECT COUNT(*) FROM images").fetchone()[0])
        self._vectors = (self._folder / VECTORS_FILE).open("ab")
        # Drop the vectors of a page that the database did not record.
        self._vectors.truncate(self.rows * self._origin.dimension * FLOAT.itemsize)

    def _can_resume(self, *, replace: bool) -> bool:
        """Return whether the snapshot in the folder has the same origin. Raises SnapshotError if it must not go."""
        database = sqlite3.connect(self._folder / DATABASE_FILE)
        try:
            if not _has_tables(database):
                return False
            origin, _ = read_notes(database)
            rows = int(database.execute("SELECT COUNT(*) FROM images").fetchone()[0])
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError) as error:
            raise SnapshotError(
                f"the snapshot in {self._folder} cannot be read: {error}; remove it, or name another folder"
            ) from None
        finally:
            database.close()
        for name in ("collection", "fingerprint", "condition"):
            stored, wanted = getattr(origin, name), getattr(self._origin, name)
            if stored != wanted and not replace:
                what = "another filter" if name == "condition" else f"the {name} {stored}, not of {wanted}"
                raise SnapshotError(f"{self._folder} is a snapshot of {what}; name another folder, or remove it")
        vectors = self._folder / VECTORS_FILE
        size = vectors.stat().st_size if vectors.exists() else 0
        return origin == self._origin and size >= rows * self._origin.dimension * FLOAT.itemsize

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()
        self._vectors.close()
        self._lock.__exit__()

    def check_space(self, images: int) -> None:
        """Raise SnapshotError if the disk has too little space for these images; OSError if the disk cannot be asked.

        Pages that were read before stay. A snapshot without any page is removed.
        """
        left = max(0, images - self.rows)
        problem = space_problem(self._folder, left * (self._origin.dimension * FLOAT.itemsize + IMAGE_BYTES))
        if not problem:
            return
        if not self.rows:
            self._lock.clear()
        raise SnapshotError(f"not enough disk space for the snapshot of {left} images: {problem}; {OTHER_DISK}")

    def add(self, images: Sequence[Image], position: ListingPosition) -> None:
        """Write a page of images with their vectors, and the position of the next page; both or neither."""
        vectors = np.empty((len(images), self._origin.dimension), FLOAT)
        for row, image in enumerate(images):
            if image.embedding is None or len(image.embedding.values) != self._origin.dimension:
                raise SnapshotError(f"image {image.id!r:.80} has no vector of {self._origin.dimension} components")
            vectors[row] = image.embedding.values
        self._vectors.write(vectors.tobytes())
        self._vectors.flush()
        os.fsync(self._vectors.fileno())
        with self._database:
            self._database.executemany(
                "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)",
                ((self.rows + row, *_columns(image)) for row, image in enumerate(images)),
            )
            self._note("place", asdict(position))
        self.rows += len(images)
        self.position = position

    def _note(self, name: str, value: Mapping[str, Any]) -> None:
        self._database.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, json.dumps(value)))


def _columns(image: Image) -> tuple[str, str, str, str | None, str]:
    region = None if image.region is None else json.dumps(astuple(image.region))
    return image.id, image.uri, image.content_sha256, region, json.dumps(dict(image.attributes), ensure_ascii=False)


def _has_tables(database: sqlite3.Connection) -> bool:
    """Return whether the database has its tables; a process may be killed before it creates them."""
    return database.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone() is not None


def _origin(client: Client, collection: Collection, where: Filter | None) -> tuple[Origin, int]:
    """Return the present origin of a snapshot of the collection, and its number of images."""
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
