"""Builds a collection anew beside the old one, with another index, metric or model, and moves the alias to it."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from grpc_kit.errors import AlreadyExistsError, NotFoundError
from imagesearch_client.client import Client
from imagesearch_client.types import Collection, Image, Index, IndexParameters, Metric, NewImage, WriteResult

# Images that are compared or read again at a time.
CHUNK = 100
EPOCH = datetime.fromtimestamp(0, UTC)
# How long after its time an image may be seen for the first time: a stream stores it when what came before is stored.
LATE = timedelta(minutes=1)
# Looks at what has changed in the old collection meanwhile, before the alias moves.
ROUNDS = 5


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
    """Makes the new collection: like the old one, but for the change.

    Raises AlreadyExistsError, and what the service says of the change.
    """
    same_index = change.index in (None, source.index)
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


class Reindexing:
    """Copies one collection into another, and keeps up with what changes in it meanwhile.

    Nobody else may write to the new collection before the alias moves.
    """

    def __init__(
        self, client: Client, source: Collection, new: Collection, root: Path, step: Callable[[int], None]
    ) -> None:
        """Makes a copy of `source` in `new`.

        Args:
            client: of the service that has both.
            source: the old collection.
            new: the new one, which is empty.
            root: where relative uris begin, if images are to be embedded anew.
            step: is told the failures so far after each image.
        """
        self._client = client
        self._source = source
        self._new = new
        self._root = root
        self._step = step
        self._embeds = source.fingerprint != new.fingerprint
        self._failed: dict[str, WriteResult] = {}
        # From when on a change in the old collection may not have been copied, by the service's clock.
        self._since = self._latest_change() - LATE
        # Of what changed since then: the change that each copy was made after.
        self._versions: dict[str, datetime] = {}
        self._last_write = EPOCH
        self.report = ReindexReport(source.name, new.name, self._embeds)

    def copy(self) -> None:
        """Copies every image, then what was written, changed or removed meanwhile, and compares the two."""
        self._write(self._client.list(self._source.name, with_vector=not self._embeds, page_size=CHUNK, strong=True))
        for _ in range(ROUNDS):
            begin = self._latest_change() - LATE
            self._copy_changes(self._since)
            missing, extra = self._differences()
            unexplained = self._mend(missing, extra, begin)
            if not missing and not extra:
                break
        self.report.differences = unexplained
        self._tell()

    def move(self, aliases: Iterable[str]) -> None:
        """Points aliases at the new collection, and copies what was written to the old one until then.

        Raises ServiceError; the report says which aliases have been moved by then.
        """
        missing, extra = self._differences()
        self._mend(missing, extra, self._since)
        last_write = self._last_write
        for alias in aliases:
            self.report.moved[alias] = self._client.set_alias(alias, self._new.name)
        # From here on others write to the new collection, and what they write stays.
        self._copy_changes(self._since, not_after=last_write)
        self._tell()

    def _latest_change(self) -> datetime:
        latest = next(self._client.list(self._source.name, latest_first=True, page_size=1, strong=True), None)
        return latest.update_time if latest else EPOCH + LATE

    def _copy_changes(self, since: datetime, not_after: datetime | None = None) -> None:
        """Copies what was changed since a moment and is not copied as it is now.

        With `not_after`, what the new collection holds of a later time is somebody else's, and so is what it had and
        has no more.
        """
        latest = self._client.list(self._source.name, latest_first=True, page_size=CHUNK, strong=True)
        changed = itertools.takewhile(lambda image: image.update_time >= since, latest)
        ids = [image.id for image in changed if self._versions.get(image.id) != image.update_time]
        if not_after is not None:
            ids = self._still_ours(ids, not_after)
        self._copy_ids(ids)

    def _still_ours(self, ids: Sequence[str], not_after: datetime) -> list[str]:
        ours: list[str] = []
        for chunk in _chunks(ids, CHUNK):
            new = self._client.get_many(self._new.name, chunk, strong=True)
            ours += [
                image_id
                for image_id in chunk
                if (new[image_id].update_time <= not_after if image_id in new else image_id not in self._versions)
            ]
        return ours

    def _copy_ids(self, ids: Sequence[str]) -> None:
        for chunk in _chunks(ids, CHUNK):
            found = self._client.get_many(self._source.name, chunk, with_vector=not self._embeds, strong=True)
            self._write(found.values())

    def _differences(self) -> tuple[list[str], list[str]]:
        """The ids that only the old collection has, less those that failed, and those of the new one only."""
        old, new = (
            (image.id for image in self._client.list(name, page_size=1000, strong=True))
            for name in (self._source.name, self._new.name)
        )
        missing, extra = _differences(old, new)
        return [image_id for image_id in missing if image_id not in self._failed], extra

    def _mend(self, missing: Sequence[str], extra: Sequence[str], begin: datetime) -> int:
        """Removes from the new collection what is gone from the old one, and copies what is missing.

        Gives how many of these were not changed since `begin`, so that nothing explains them.
        """
        unexplained = 0
        for chunk in _chunks(missing, CHUNK):
            found = self._client.get_many(self._source.name, chunk, strong=True)
            unexplained += sum(image.update_time < begin for image in found.values())
        self._copy_ids(missing)
        for chunk in _chunks(extra, CHUNK):
            # What came back in between stays.
            back = self._client.get_many(self._source.name, chunk, strong=True)
            if gone := [image_id for image_id in chunk if image_id not in back]:
                self._client.delete(self._new.name, gone)
        return unexplained

    def _tell(self) -> None:
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
                self._last_write = max(self._last_write, result.create_time or EPOCH)
            else:
                self._failed[result.id] = result
            self._step(len(self._failed))

    def _readable(self, images: Iterable[Image], versions: dict[str, datetime]) -> Iterator[NewImage]:
        """The images that can be written; `versions` gets the time of each one's last change."""
        for image in images:
            try:
                new_image = self._new_image(image)
            except (OSError, ValueError) as error:
                fault = NotFoundError("FILE_UNUSABLE", f"{image.uri or 'no uri'}: {error}", field="uri")
                self._failed[image.id] = WriteResult(image.id, fault)
                self._step(len(self._failed))
            else:
                versions[image.id] = image.update_time
                yield new_image

    def _new_image(self, image: Image) -> NewImage:
        """The image as it is to be written. Raises OSError and ValueError where its file cannot be used."""
        if image.embedding is not None:
            return NewImage(
                image.id,
                image.embedding,
                image.uri,
                image.attributes,
                image.region,
                content_sha256=image.content_sha256,
            )
        content = (self._root / image.uri.removeprefix("file://")).read_bytes()
        if image.content_sha256 and hashlib.sha256(content).hexdigest() != image.content_sha256:
            raise ValueError("the file is no longer the one that was stored (its SHA-256 differs)")
        return NewImage(image.id, content, image.uri, image.attributes, image.region)


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
