"""Exports a collection with its vectors and attributes to one file, in parts from which a later run resumes."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagesearch_client import Client
from imagesearch_client.filters import Filter
from imagesearch_client.listing import Listing
from imagesearch_client.types import Collection
from imagesearch_ingest.empty_collection import EmptyCollectionError
from imagesearch_ingest.vector_files.collection_settings import notes_of
from imagesearch_ingest.vector_files.export_parts import ExportError, ExportParts, FormatError
from imagesearch_ingest.vector_files.formats import format_of, write_vectors
from imagesearch_ingest.vector_files.rows import FORMAT_VERSION, FileInfo, RowError, Rows

# A part is written when it has this many rows, or this many bytes of vectors and texts.
PART_ROWS = 10_000
PART_BYTES = 32 * 1024 * 1024
RETRY_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The outcome of an export."""

    collection: str
    target: str
    rows: int
    resumed_rows: int
    """The number of rows that an earlier run has read."""
    seconds: float
    """The duration of this run."""
    bytes: int
    """The size of the file."""
    pages: int
    """The number of pages that this run has requested."""

    def as_json(self) -> dict[str, object]:
        """Return the report for JSON."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


def export_collection(
    client: Client,
    name: str,
    target: Path,
    *,
    where: Filter | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    restart: bool = False,
    overwrite: bool = False,
    retry_seconds: float = RETRY_SECONDS,
) -> ExportReport:
    """Export a collection to a file, or resume an earlier export to the same file.

    Images that are written during the export may be in the file or not.

    Args:
        client: the client of the search service.
        name: the name of the collection, or an alias.
        target: the file; its suffix is the format.
        where: export only images that match this filter.
        on_progress: receives the number of rows so far, after each page; it includes the rows of earlier runs.
        restart: start again instead of resuming an earlier run.
        overwrite: replace an existing file.
        retry_seconds: how long a page is requested again while the service is unavailable.

    Raises ServiceError; EmptyCollectionError; ExportError if the file cannot be written, or an earlier run was an
    export of something else. Rows that were read before an error stay for the next run.
    """
    started = time.perf_counter()
    target = target.absolute()
    try:
        format_of(target)
    except ValueError as error:
        raise ExportError(str(error)) from None
    if target.exists() and not overwrite:
        raise ExportError(f"{target} exists; name another file, or use --force to replace it")
    collection = client.get_collection(name)
    if collection.max_regions and format_of(target) != "parquet":
        raise FormatError(f"{target.suffix} files cannot store the regions of {collection.name}; use a .parquet file")
    parts = ExportParts(target, _identity(collection, where))
    with _explained_errors(target, parts), parts.opened(restart=restart):
        resumed = parts.summary.rows
        listing = Listing(client, collection, where, parts.place, retry_seconds, with_regions=True)
        _read_pages(listing, parts, collection, on_progress)
        if client.get_collection(collection.name).create_time != collection.create_time:
            raise ExportError(
                f"the collection {collection.name} was deleted and created again during the export; use --restart"
            )
        if not parts.summary.rows:
            parts.remove()
            raise EmptyCollectionError(collection.name, where)
        info = FileInfo(parts.summary, collection.dimension, notes_of(collection))
        size = write_vectors(target, info, parts.batches)
        parts.remove()
    seconds = time.perf_counter() - started
    return ExportReport(collection.name, str(target), info.summary.rows, resumed, seconds, size, listing.pages_asked)


def _read_pages(
    listing: Listing, parts: ExportParts, collection: Collection, on_progress: Callable[[int], None]
) -> None:
    """Read the remaining pages of the listing into parts."""
    pending: list[Rows] = []
    rows, size = 0, 0
    for images, place in listing.pages():
        page = Rows.from_images(images, collection.dimension, with_regions=collection.max_regions > 0)
        pending.append(page)
        rows += len(page)
        size += page.array_size() + page.text_size()
        on_progress(parts.summary.rows + rows)
        if rows >= PART_ROWS or size >= PART_BYTES or place.complete:
            parts.add(Rows.concatenate(pending, collection.dimension), place)
            pending, rows, size = [], 0, 0


@contextmanager
def _explained_errors(target: Path, parts: ExportParts) -> Iterator[None]:
    """Raise errors of the disk and of the format as ExportError, which says what to do."""
    try:
        yield
    except RowError as error:
        raise ExportError(f"{target} cannot be written: {error}; the rows are kept in {parts.folder}") from None
    except OSError as error:
        raise ExportError(
            f"{target} cannot be written: {error}; the rows that were read are kept in {parts.folder}. Run the same "
            "command again to resume"
        ) from None


def _identity(collection: Collection, where: Filter | None) -> Mapping[str, Any]:
    """Return what must not change if a later run is to resume the export."""
    return {
        "format_version": FORMAT_VERSION,
        "collection": collection.name,
        "create_time": collection.create_time.isoformat(),
        "fingerprint": collection.fingerprint,
        "dimension": collection.dimension,
        "filter": None if where is None else where.SerializeToString(deterministic=True).hex(),
    }
