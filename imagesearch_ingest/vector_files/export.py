"""Writes a collection with its vectors and attributes to one file, in parts that outlast a stop on the way."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagesearch_client import Client
from imagesearch_client.filters import Filter
from imagesearch_client.listing import Listing
from imagesearch_client.types import Collection
from imagesearch_ingest.vector_files.formats import format_of, write_vectors
from imagesearch_ingest.vector_files.parts import ExportError, Parts
from imagesearch_ingest.vector_files.rows import FORMAT_VERSION, Facts, RowError, Rows
from imagesearch_ingest.vector_files.settings import notes_of

# A part is written when it has so many rows, or so many bytes of vectors and texts.
PART_ROWS = 10_000
PART_BYTES = 32 * 1024 * 1024
DEFAULT_PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What came of an export."""

    collection: str
    target: str
    rows: int
    resumed_rows: int
    """Those of them that an earlier run had read."""
    seconds: float
    """Of this run."""
    bytes: int
    """Of the file."""
    pages: int
    """Pages that this run asked the service for."""

    def as_json(self) -> dict[str, object]:
        """The report as JSON has it."""
        return {
            "collection": self.collection,
            "target": self.target,
            "rows": self.rows,
            "resumed_rows": self.resumed_rows,
            "seconds": round(self.seconds, 3),
            "bytes": self.bytes,
            "pages": self.pages,
        }


class Export:
    """Exports one collection to one file.

    What is written to the collection meanwhile may be in the file or not: nothing holds it still.
    """

    def __init__(
        self,
        client: Client,
        collection_name: str,
        target: Path,
        condition: Filter | None,
        step: Callable[[int], None],
        *,
        restart: bool = False,
        overwrite: bool = False,
        patience: float = DEFAULT_PATIENCE,
    ) -> None:
        """An export of the images that fit.

        Args:
            client: of the service.
            collection_name: the collection, or an alias of it.
            target: the file; its suffix says its format.
            condition: only images that fit; None is all.
            step: is told the rows so far after each page, those of an earlier run among them.
            restart: whether to begin anew where an earlier run could go on.
            overwrite: whether a file that is there may be replaced.
            patience: seconds for which a page is asked for again where the service is away.
        """
        self._client = client
        self._name = collection_name
        self._target = target.absolute()
        self._condition = condition
        self._step = step
        self._restart = restart
        self._overwrite = overwrite
        self._patience = patience

    def run(self) -> ExportReport:
        """Exports, and goes on where an earlier run stopped.

        Raises ServiceError, and ExportError where the file cannot be written or an earlier run was of something else;
        what was read by then is kept for the next run.
        """
        begin = time.perf_counter()
        try:
            format_of(self._target)
        except ValueError as error:
            raise ExportError(str(error)) from None
        if self._target.exists() and not self._overwrite:
            raise ExportError(f"{self._target} exists; name another file, or add --force to replace it")
        collection = self._client.get_collection(self._name)
        parts = Parts(self._target, _identity(collection, self._condition))
        with _clear_errors(self._target, parts), parts.opened(restart=self._restart):
            resumed = parts.summary.rows
            listing = Listing(self._client, collection, self._condition, parts.place, self._patience)
            self._read(listing, parts, collection.dimension)
            self._check_same(collection)
            facts = Facts(parts.summary, collection.dimension, notes_of(collection))
            size = write_vectors(self._target, facts, parts.batches)
            parts.remove()
        seconds = time.perf_counter() - begin
        rows = facts.summary.rows
        return ExportReport(collection.name, str(self._target), rows, resumed, seconds, size, listing.pages_asked)

    def _read(self, listing: Listing, parts: Parts, dimension: int) -> None:
        """Reads the rest of the listing into parts."""
        waiting: list[Rows] = []
        rows, size = 0, 0
        for images, place in listing.pages():
            page = Rows.of(images, dimension)
            waiting.append(page)
            rows += len(page)
            size += page.vectors.nbytes + page.text_size()
            self._step(parts.summary.rows + rows)
            if rows >= PART_ROWS or size >= PART_BYTES or place.complete:
                parts.add(Rows.joined(waiting, dimension), place)
                waiting, rows, size = [], 0, 0

    def _check_same(self, collection: Collection) -> None:
        """Raises ExportError where the collection was removed meanwhile, and another one made under its name."""
        now = self._client.get_collection(collection.name)
        if now.create_time != collection.create_time:
            raise ExportError(
                f"the collection {collection.name} was removed during the export, and made anew; --restart begins anew"
            )


@contextmanager
def _clear_errors(target: Path, parts: Parts) -> Iterator[None]:
    """Says what can be done about what the disk or the format refuses."""
    try:
        yield
    except RowError as error:
        raise ExportError(f"{target} cannot be written: {error}; its parts are kept in {parts.folder}") from None
    except OSError as error:
        raise ExportError(
            f"{target} cannot be written: {error}; what was read so far is kept in {parts.folder}, and the same export "
            "goes on from there"
        ) from None


def _identity(collection: Collection, condition: Filter | None) -> Mapping[str, Any]:
    """What must be the same for a listing to be taken up again."""
    return {
        "format_version": FORMAT_VERSION,
        "collection": collection.name,
        "create_time": collection.create_time.isoformat(),
        "fingerprint": collection.fingerprint,
        "dimension": collection.dimension,
        "filter": None if condition is None else condition.SerializeToString(deterministic=True).hex(),
    }
