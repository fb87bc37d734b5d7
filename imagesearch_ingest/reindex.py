"""Builds a collection anew beside the old one, with another index, metric or model, and moves the alias to it."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from grpc_kit.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ServiceError,
)
from imagesearch_client import Client
from imagesearch_client.types import Collection, Image, Index, IndexParameters, Metric, NewImage, WriteResult
from imagesearch_ingest.load.image_reader import DEFAULT_READERS, read_image
from imagesearch_ingest.sources.allowed_uris import AllowedUris
from imagesearch_ingest.sources.source_options import MAX_BYTES
from imagesearch_ingest.sources.source_retries import SourceRetries
from imagesearch_ingest.sources.uri_reader import UriReader

# Images that are compared or read again at a time.
CHUNK = 100
EPOCH = datetime.fromtimestamp(0, UTC)
# How long after its time an image may be seen for the first time: a write to Milvus takes so long at most, and the
# clocks of the service's replicas differ.
LATE = timedelta(seconds=30)
# Attempts to copy all that has changed in the old collection meanwhile, before the alias moves.
ROUNDS = 5
# How long writers wait at most while the last changes are copied.
HOLD = timedelta(seconds=30)
# Seconds that a file is tried again which cannot be read at the moment.
PATIENCE = 60.0
# Refusals of a move after which another attempt helps: too much changed for one hold.
PASSING = ("HOLD_EXPIRED", "REINDEX_INCOMPLETE")


@dataclass(frozen=True)
class Change:
    """What is different in the new collection; None keeps what the old one has."""

    model: str | None = None
    index: Index | None = None
    index_parameters: IndexParameters | None = None
    metric: Metric | None = None


@dataclass
class ReindexReport:
    """What came of it."""

    source: str
    collection: str
    embedded_anew: bool
    """Whether the images' files were read and embedded; else their vectors were copied."""
    copied: int = 0
    failed: list[WriteResult] = field(default_factory=list)
    differences: int = 0
    """Images that only one of the two collections has, though they were not changed in the last moment."""
    source_count: int = 0
    count: int = 0
    moved: dict[str, str] = field(default_factory=dict)
    """The aliases that were moved, and where they pointed before."""
    finished: bool = False
    """Whether the copy is what the old collection was, and the aliases point at it."""

    @property
    def complete(self) -> bool:
        """Whether every image was copied."""
        return not self.failed and not self.differences

    def as_json(self) -> dict[str, object]:
        """The report as JSON has it."""
        failed = [
            {"id": result.id, "reason": result.error.reason, "message": result.error.message}
            for result in self.failed
            if result.error is not None
        ]
        return {
            "source": self.source,
            "collection": self.collection,
            "embedded_anew": self.embedded_anew,
            "copied": self.copied,
            "failed": failed,
            "differences": self.differences,
            "source_count": self.source_count,
            "count": self.count,
            "moved": self.moved,
        }


def check_aliases(client: Client, aliases: Iterable[str]) -> None:
    """Raises ServiceError where one of these is no name, or a collection's; to be asked before all is copied."""
    for alias in aliases:
        with suppress(NotFoundError):
            if client.get_collection(alias).name == alias:
                raise AlreadyExistsError(
                    "COLLECTION_EXISTS", f"{alias} is a collection, and no alias can have its name", field="alias"
                )


def make_new(client: Client, source: Collection, name: str, change: Change) -> Collection:
    """Make the new collection: like the old one, but for the change; return it also if an earlier run has made it.

    Raises AlreadyExistsError if it is another collection, and what the service says of the change.
    """
    same_index = change.index in (None, source.index)
    try:
        return client.create_collection(
            name,
            model=source.model if change.model is None else change.model,
            # With another model its own are taken.
            dimension=source.dimension if change.model is None else 0,
            fingerprint=source.fingerprint if change.model is None else "",
            metric=change.metric or source.metric,
            index=change.index or source.index,
            index_parameters=change.index_parameters or (source.index_parameters if same_index else None),
            consistency=source.consistency,
            ttl=source.ttl,
            description=source.description,
            labels=source.labels,
        )
    except AlreadyExistsError as error:
        found = client.get_collection(name)
        # The service resolves the given name: the collection has the embedder's own spelling.
        model = change.model if change.model is None else error.metadata.get("model", change.model)
        if not _is_copy(source, found, replace(change, model=model)):
            raise
        try:
            client.start_reindex(source.name, name)
        except FailedPreconditionError:
            raise error from None
        return found


def _is_copy(source: Collection, found: Collection, change: Change) -> bool:
    """Return whether a collection is what `make_new` would make."""
    if change.model is None and (found.model, found.fingerprint) != (source.model, source.fingerprint):
        return False
    same_index = change.index in (None, source.index)
    parameters = change.index_parameters or (source.index_parameters if same_index else found.index_parameters)
    return (
        found.model == (source.model if change.model is None else change.model)
        and found.metric == (change.metric or source.metric)
        and found.index == (change.index or source.index)
        and found.index_parameters == parameters
        and (found.consistency, found.ttl) == (source.consistency, source.ttl)
    )


class Reindexing:
    """Copies one collection into another, and keeps up with what changes in it meanwhile.

    No write is lost and no deleted image comes back, whoever writes through the alias or to the old collection: deletes
    reach both collections, changes are copied by their times, and writers wait for a moment when the alias moves (the
    service's StartReindex, HoldWrites and FinishReindex). A run that was interrupted is resumed by another one.
    """

    def __init__(
        self,
        client: Client,
        source: Collection,
        new: Collection,
        root: Path | str,
        step: Callable[[int], None],
        *,
        readers: int = DEFAULT_READERS,
        opens: Sequence[str] = (),
    ) -> None:
        """Makes a copy of `source` in `new`.

        Args:
            client: of the service that has both.
            source: the old collection.
            new: the new one, which is empty or holds what an earlier run copied.
            root: where relative uris begin, a path or a URL, if images are to be embedded anew.
            step: is told the failures so far after each image.
            readers: files that are read at a time.
            opens: the uris that may be opened, as `sources.allowed.Allowed` takes them.
        """
        self._client = client
        self._source = source
        self._new = new
        self._reader = UriReader(str(root), allowed=AllowedUris(opens, str(root)))
        self._step = step
        self._readers = readers
        self._embeds = source.fingerprint != new.fingerprint
        self._failed: dict[str, WriteResult] = {}
        # From when on a change in the old collection may not have been copied, by the service's clock.
        self._since = EPOCH
        # Of what changed since then: the change that each copy was made after.
        self._versions: dict[str, datetime] = {}
        self.copied_until = 0.0
        """When the last copy of changes began, in seconds since 1970 by this machine's clock."""
        self.report = ReindexReport(source.name, new.name, self._embeds)

    def close(self) -> None:
        """Close the archives that files were read from."""
        self._reader.close()

    def copy(self) -> None:
        """Copy every image, then what was written, changed or removed meanwhile, and compare the two.

        Images that an earlier run has copied are not copied again.
        """
        self._since = self._client.start_reindex(self._source.name, self._new.name) - LATE
        if not self._client.count(self._new.name):
            everything = self._client.list(
                self._source.name, with_vector=not self._embeds, page_size=CHUNK, strong=True
            )
            self._write(everything)
        for _ in range(ROUNDS):
            begin = self._latest_change() - LATE
            self._copy_changes()
            self.report.differences = self._unexplained(self._mend(), begin)
            if not self.report.differences:
                break
        self._count()

    def move(self, aliases: Sequence[str], *, allow_fewer: bool = False) -> None:
        """Point aliases at the new collection, after a last copy of what changed, for which writers wait.

        Raises ServiceError; some aliases may have moved by then. `allow_fewer` allows a copy that has fewer images,
        though never an empty one.
        """
        for attempt in range(ROUNDS):
            self._copy_changes()
            self._client.hold_writes(self._source.name, HOLD)
            self.copied_until = time.time()
            try:
                self._copy_changes()
                self.report.moved = self._client.finish_reindex(self._source.name, aliases, allow_fewer=allow_fewer)
                self.report.finished = True
                break
            except FailedPreconditionError as error:
                self._release_writes()
                if error.reason not in PASSING or attempt == ROUNDS - 1:
                    raise
                self._mend()
            except BaseException:
                self._release_writes()
                raise
        self._count()

    def _release_writes(self) -> None:
        # They are released by themselves soon, if the service cannot be reached.
        with suppress(ServiceError):
            self._client.hold_writes(self._source.name, timedelta(0))

    def _latest_change(self) -> datetime:
        latest = next(self._client.list(self._source.name, latest_first=True, page_size=1, strong=True), None)
        return latest.update_time if latest else EPOCH + LATE

    def _copy_changes(self) -> None:
        """Copy what was changed since `_since` and is not copied as it is now."""
        begin = max(self._since, self._latest_change() - LATE)
        for page in self._latest_pages():
            self._copy_ids([image.id for image in page if self._versions.get(image.id) != image.update_time])
        self._since = begin
        self._versions = {image_id: moment for image_id, moment in self._versions.items() if moment >= begin}

    def _latest_pages(self) -> Iterator[list[Image]]:
        """Yield what was changed since `_since`, the latest first.

        An image that changes while it is listed can stand at the place of another time, so that one that is older ends
        nothing: only a page of which all are older does.
        """
        token = ""
        while True:
            page, token = self._client.list_page(
                self._source.name, page_token=token, latest_first=True, page_size=1000, strong=True
            )
            changed = [image for image in page if image.update_time >= self._since]
            yield changed
            if not changed or not token:
                return

    def _copy_ids(self, ids: Sequence[str]) -> None:
        for chunk in _chunks(ids, CHUNK):
            found = self._client.get_many(self._source.name, chunk, with_vector=not self._embeds, strong=True)
            self._write(found.values())
            # What was deleted since it was read was deleted from the copy before it was written there.
            self._delete_gone(chunk)

    def _delete_gone(self, ids: Sequence[str]) -> None:
        """Remove from the new collection what the old one does not have."""
        kept = self._client.get_many(self._source.name, ids, strong=True)
        if gone := [image_id for image_id in ids if image_id not in kept]:
            self._client.delete(self._new.name, gone)

    def _mend(self) -> list[str]:
        """Copy the images that only the old collection has, and remove those that only the new one has.

        Return the ids of the first. Images that could not be copied are tried once by a run.
        """
        old, new = (
            (image.id for image in self._client.list(name, page_size=1000, strong=True))
            for name in (self._source.name, self._new.name)
        )
        missing, extra = _differences(old, new)
        self._failed = {image_id: self._failed[image_id] for image_id in missing if image_id in self._failed}
        missing = [image_id for image_id in missing if image_id not in self._failed]
        self._copy_ids(missing)
        for chunk in _chunks(extra, CHUNK):
            self._delete_gone(chunk)
        return missing

    def _unexplained(self, missing: Sequence[str], begin: datetime) -> int:
        """Return how many images were missing in the copy although they were not changed since a moment."""
        count = 0
        for chunk in _chunks(missing, CHUNK):
            found = self._client.get_many(self._source.name, chunk, strong=True)
            count += sum(image.update_time < begin for image in found.values())
        return count

    def _count(self) -> None:
        self.report.failed = list(self._failed.values())
        self.report.source_count = self._client.count(self._source.name)
        self.report.count = self._client.count(self._new.name)

    def _write(self, images: Iterable[Image]) -> None:
        versions: dict[str, datetime] = {}
        for result in self._client.write(self._new.name, self._readable(images, versions)):
            version = versions.pop(result.id)
            if result.error is None:
                self.report.copied += 1
                self._failed.pop(result.id, None)
                if version >= self._since:
                    self._versions[result.id] = version
            else:
                self._failed[result.id] = result
            self._step(len(self._failed))

    def _readable(self, images: Iterable[Image], versions: dict[str, datetime]) -> Iterator[NewImage]:
        """Yield the images that can be written; `versions` gets the time of each one's last change.

        Files are read ahead, some at a time.
        """
        with ThreadPoolExecutor(self._readers) as pool:
            reading: deque[tuple[Image, Future[NewImage]]] = deque()
            for image in images:
                reading.append((image, pool.submit(self._new_image, image)))
                if len(reading) >= self._readers:
                    yield from self._read_one(*reading.popleft(), versions)
            while reading:
                yield from self._read_one(*reading.popleft(), versions)

    def _read_one(self, image: Image, reading: "Future[NewImage]", versions: dict[str, datetime]) -> Iterator[NewImage]:
        try:
            new_image = reading.result()
        except ServiceError as error:
            self._failed[image.id] = WriteResult(image.id, error)
            self._step(len(self._failed))
        else:
            versions[image.id] = image.update_time
            yield new_image

    def _new_image(self, image: Image) -> NewImage:
        """Return the image as it is to be written. Raises ServiceError if its file cannot be used."""
        if image.embedding is not None:
            return NewImage(
                image.id,
                image.embedding,
                image.uri,
                image.attributes,
                image.region,
                content_sha256=image.content_sha256,
            )
        content, sha256 = self._read(image.uri)
        if image.content_sha256 not in ("", sha256):
            raise _unusable(image.uri, "the file is no longer the one that was stored (its SHA-256 differs)")
        return NewImage(image.id, content, image.uri, image.attributes, image.region)

    def _read(self, uri: str) -> tuple[bytes, str]:
        """Return a file and its SHA-256; a failure that passes is waited for. Raises ServiceError."""
        retries = SourceRetries(PATIENCE)
        try:
            return read_image(lambda limit: retries.run(lambda: self._reader.read(uri, limit)), MAX_BYTES)
        except (NotFoundError, InvalidArgumentError) as error:
            raise _unusable(uri, error.message) from None


def _unusable(uri: str, problem: str) -> NotFoundError:
    return NotFoundError("FILE_UNUSABLE", f"{uri or 'no uri'}: {problem}", field="uri")


def _chunks(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[begin : begin + size] for begin in range(0, len(ids), size))


def _differences(old: Iterable[str], new: Iterable[str]) -> tuple[list[str], list[str]]:
    """What only the one and what only the other of two ordered listings has."""
    only_old: list[str] = []
    only_new: list[str] = []
    left, right = iter(old), iter(new)
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one < other):
            only_old.append(str(one))
            one = next(left, None)
        elif one is None or other < one:
            only_new.append(other)
            other = next(right, None)
        else:
            one, other = next(left, None), next(right, None)
    return only_old, only_new
