"""Copy a collection into a new one while it changes, and move its aliases to the copy."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from grpc_kit.errors import FailedPreconditionError, ServiceError
from imagesearch_client import Client
from imagesearch_client.types import Collection, Image, NewImage, WriteResult
from imagesearch_ingest.load.limits import DEFAULT_READERS
from imagesearch_ingest.reindex.new_images import NewImages
from imagesearch_ingest.reindex.reindex_report import ReindexReport

# Images that are compared or copied again in one call.
CHUNK = 100
EPOCH = datetime.fromtimestamp(0, UTC)
# An image may become visible this long after its time of change: a write to Milvus takes at most this long, and the
# clocks of the service's replicas differ.
VISIBILITY_DELAY = timedelta(seconds=30)
# Passes that copy the changes of the old collection, and attempts to move the aliases.
MAX_ATTEMPTS = 5
# The longest time that writers wait while the last changes are copied.
HOLD = timedelta(seconds=30)
# Reasons to try the move again: too much changed during one hold.
TRANSIENT_REASONS = ("HOLD_EXPIRED", "REINDEX_INCOMPLETE")


class Reindexing:
    """Copies one collection into another one while other clients write.

    No write is lost, and no deleted image comes back. The service applies deletes to both collections, changes are
    copied by their times, and writers wait for a moment while the alias moves (StartReindex, HoldWrites and
    FinishReindex of the service). Another run resumes an interrupted one.
    """

    def __init__(
        self,
        client: Client,
        source: Collection,
        new: Collection,
        root: Path | str,
        on_progress: Callable[[int], None],
        *,
        readers: int = DEFAULT_READERS,
        opens: Sequence[str] = (),
    ) -> None:
        """Set the collections.

        Args:
            client: a client of the service that has both.
            source: the old collection.
            new: the new collection, which is empty or has the copies of an earlier run.
            root: the path or URL to which relative uris are relative, if images are embedded anew.
            on_progress: receives the number of failures so far after each image.
            readers: files to read at a time.
            opens: the uris that may be opened, as in `AllowedUris`.
        """
        self._client = client
        self._source = source
        self._new = new
        self._new_images = NewImages(root, readers, opens, new.max_regions)
        self._on_progress = on_progress
        # Images with fewer regions than the new collection wants do not have the others.
        self._embeds = source.fingerprint != new.fingerprint or source.max_regions < new.max_regions
        self._failed: dict[str, WriteResult] = {}
        # Changes of the old collection from this time on may not have been copied. By the service's clock.
        self._since = EPOCH
        # The time of change of each image that was copied since then.
        self._versions: dict[str, datetime] = {}
        self.copied_until = 0.0
        """When the last pass of copying began, as in `time.time` on this machine."""
        self.report = ReindexReport(source.name, new.name, self._embeds)

    def close(self) -> None:
        """Close the archives of the files."""
        self._new_images.close()

    def copy(self) -> None:
        """Copy every image, then the writes and deletes that happened meanwhile, and compare the two collections.

        Images that an earlier run has copied are not copied again.
        """
        self._since = self._client.start_reindex(self._source.name, self._new.name) - VISIBILITY_DELAY
        if not self._client.count(self._new.name):
            everything = self._client.list(
                self._source.name, with_regions=not self._embeds, page_size=CHUNK, strong=True
            )
            self._write(everything)
        for _ in range(MAX_ATTEMPTS):
            begin = self._latest_change() - VISIBILITY_DELAY
            self._copy_changes()
            self.report.differences = self._count_unexplained(self._copy_differences(), begin)
            if not self.report.differences:
                break
        self._set_counts()

    def move(self, aliases: Sequence[str], *, allow_fewer: bool = False) -> None:
        """Move aliases to the new collection, after a last pass of copying during which writers wait.

        `allow_fewer` accepts a copy with fewer images, but never an empty one. Raises ServiceError; some aliases may
        have moved by then.
        """
        for attempt in range(MAX_ATTEMPTS):
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
                if error.reason not in TRANSIENT_REASONS or attempt == MAX_ATTEMPTS - 1:
                    raise
                self._copy_differences()
            except BaseException:
                self._release_writes()
                raise
        self._set_counts()

    def _release_writes(self) -> None:
        # If the service cannot be reached, the hold expires soon.
        with suppress(ServiceError):
            self._client.hold_writes(self._source.name, timedelta(0))

    def _latest_change(self) -> datetime:
        latest = next(self._client.list(self._source.name, latest_first=True, page_size=1, strong=True), None)
        return latest.update_time if latest else EPOCH + VISIBILITY_DELAY

    def _copy_changes(self) -> None:
        """Copy the images that have changed since `_since`, unless their copies are current."""
        begin = max(self._since, self._latest_change() - VISIBILITY_DELAY)
        for page in self._latest_pages():
            self._copy_ids([image.id for image in page if self._versions.get(image.id) != image.update_time])
        self._since = begin
        self._versions = {image_id: moment for image_id, moment in self._versions.items() if moment >= begin}

    def _latest_pages(self) -> Iterator[list[Image]]:
        """Yield the images that have changed since `_since`, the latest first.

        An image that changes while it is listed may appear at the position of an older time. So only a page with none
        but older images ends the listing.
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
            found = self._client.get_many(self._source.name, chunk, with_regions=not self._embeds, strong=True)
            self._write(found.values())
            # A delete since the read reached the copy before the write did, so delete again.
            self._delete_missing(chunk)

    def _delete_missing(self, ids: Sequence[str]) -> None:
        """Remove images from the new collection that the old one does not have."""
        kept = self._client.get_many(self._source.name, ids, strong=True)
        if deleted := [image_id for image_id in ids if image_id not in kept]:
            self._client.delete(self._new.name, deleted)

    def _copy_differences(self) -> list[str]:
        """Copy the images that only the old collection has, and remove those that only the new one has.

        Return the ids of the copied ones. A run tries each image once that cannot be copied.
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
            self._delete_missing(chunk)
        return missing

    def _count_unexplained(self, missing: Sequence[str], begin: datetime) -> int:
        """Count the images that were missing in the copy, although they have not changed since `begin`."""
        count = 0
        for chunk in _chunks(missing, CHUNK):
            found = self._client.get_many(self._source.name, chunk, strong=True)
            count += sum(image.update_time < begin for image in found.values())
        return count

    def _set_counts(self) -> None:
        self.report.failed = list(self._failed.values())
        self.report.source_count = self._client.count(self._source.name)
        self.report.count = self._client.count(self._new.name)

    def _write(self, images: Iterable[Image]) -> None:
        versions: dict[str, datetime] = {}

        def new_images() -> Iterator[NewImage]:
            for image, new_image in self._new_images.make(images):
                if isinstance(new_image, ServiceError):
                    self._failed[image.id] = WriteResult(image.id, new_image)
                    self._on_progress(len(self._failed))
                else:
                    versions[image.id] = image.update_time
                    yield new_image

        for result in self._client.write(self._new.name, new_images()):
            version = versions.pop(result.id)
            if result.error is None:
                self.report.copied += 1
                self._failed.pop(result.id, None)
                if version >= self._since:
                    self._versions[result.id] = version
            else:
                self._failed[result.id] = result
            self._on_progress(len(self._failed))


def _chunks(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[begin : begin + size] for begin in range(0, len(ids), size))


def _differences(old: Iterable[str], new: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the ids that only the first, and that only the second of two sorted listings contains."""
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
