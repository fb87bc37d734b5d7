"""Images in tar files, webdataset's shards among them."""

import dataclasses
import hashlib
import posixpath
import sqlite3
import tarfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial

from imagesearch_ingest.sources.image_formats import skipped_file
from imagesearch_ingest.sources.items import Fault, Item, ReadFile, SkippedFile, SkipReason, SourceEntry, SourceError
from imagesearch_ingest.sources.local_files import is_utf8, name_not_utf8, printable
from imagesearch_ingest.sources.member_uris import member_uri
from imagesearch_ingest.sources.sidecars import MAX_SIDECAR_BYTES, Sidecar, Sidecars, sidecar_of
from imagesearch_ingest.sources.source_file import SourceFile
from imagesearch_ingest.sources.tar_files import (
    ERRORS,
    OpenTar,
    error_text,
    is_damage,
    open_tar,
    raise_too_large,
    read_member,
)

# Images that wait for what is said of them further on, if they can only be read in passing.
MAX_WAITING = 1000
MAX_HELD = 64 * 2**20


class TarSource:
    """Every image in a tar file, compressed or not."""

    def __init__(
        self,
        location: SourceFile,
        by_content: bool,
        max_bytes: int,
        names: Mapping[str, str],
        any_name: bool = False,
    ) -> None:
        """Takes the images of an archive. Raises SourceError where it cannot be opened.

        Args:
            location: where it is.
            by_content: whether ids are the SHA-256 of the images' contents, or the archive's and the member's names.
            max_bytes: larger members are not kept where they can only be read in passing.
            names: the attributes that JSON fields of a sample become where these have other names.
            any_name: whether files of any name are taken if their content is an image.
        """
        self.name = location.name
        self._location = location
        self._by_content = by_content
        self._max_bytes = max_bytes
        self._names = names
        self._any_name = any_name
        self.remarks: Sequence[str] = ()
        """What users should know of the archive, after it was read."""
        try:
            location.open().close()
        except OSError as error:
            raise SourceError(f"{location.name} cannot be read: {error.strerror or error}") from None

    def __iter__(self) -> Iterator[SourceEntry]:
        """Its images, and the files that are none; images that are read in passing are held in memory."""
        waiting: deque[tuple[str, Item]] = deque()
        self.remarks = ()
        with closing(Sidecars(self._names, self._read)) as facts:
            fault = None
            try:
                yield from self._passed_by(facts, waiting)
            except (*ERRORS, sqlite3.Error) as error:
                # What came before the damage is good.
                fault = self._fault(error)
            yield from (_described(name, item, facts) for name, item in waiting)
            for name, position, size, stamp in facts.images():
                item = self._item(name, partial(read_member, self.name, position, size), size, stamp, 0)
                yield _described(name, item, facts)
            if fault is not None:
                yield fault
            remarks = [*self.remarks, facts.remark()]
            self.remarks = [f"{self._location.file_name}: {remark}" for remark in remarks if remark]

    def count(self) -> None:
        """To count takes as long as to read."""
        return

    def _passed_by(self, facts: Sidecars, waiting: deque[tuple[str, Item]]) -> Iterator[SourceEntry]:
        """Notes all members, and gives images that cannot wait; others wait, or are noted with their place."""
        held = 0
        with open_tar(self._location) as archive:
            for member in archive.members():
                found = self._passed(archive, member) or self._image(archive, member, facts)
                if isinstance(found, Item):
                    waiting.append((member.name, found))
                    held += found.held
                elif found is not None:
                    yield found
                if (
                    isinstance(found, SkippedFile)
                    and found.reason is SkipReason.NOT_AN_IMAGE
                    and sidecar_of(member.name)
                ):
                    if facts.is_late(member.name):
                        yield self._late(member)
                    else:
                        facts.add(member.name, self._fact(archive, member))
                while len(waiting) > MAX_WAITING or held > MAX_HELD:
                    name, item = waiting.popleft()
                    held -= item.held
                    yield _described(name, item, facts)
                    facts.leave(name)
            if archive.tar.ignored_bytes:
                self.remarks = [f"{archive.tar.ignored_bytes} bytes behind its end are no archive, and are left out"]

    def _passed(self, archive: OpenTar, member: tarfile.TarInfo) -> SkippedFile | None:
        name = printable(member.name)
        beginning = partial(archive.beginning, member, self._max_bytes)
        found = skipped_file(f"{self._location.file_name}/{name}", member.name, beginning, any_name=self._any_name)
        key = self._id_of(name) or member_uri(name, self.name)
        return None if found is None else dataclasses.replace(found, key=key)

    def _fact(self, archive: OpenTar, member: tarfile.TarInfo) -> Sidecar:
        if not member.isreg():
            return Sidecar(error=f"it is a link to {member.linkname}; make the archive with --hard-dereference")
        if member.size > MAX_SIDECAR_BYTES:
            return Sidecar(error=f"it has more than {MAX_SIDECAR_BYTES} bytes")
        if archive.is_in_place(member):
            return Sidecar(position=member.offset_data, size=member.size)
        return Sidecar(content=archive.content(member))

    def _read(self, position: int, size: int) -> bytes:
        return read_member(self.name, position, size, size)

    def _late(self, member: tarfile.TarInfo) -> Fault:
        return Fault(
            f"{self._location.file_name}/{member.name}",
            "ATTRIBUTES_LATE",
            "it comes too long after its image, which is loaded without it; a file that is not compressed, on this "
            "machine, is read in any order",
            may_hide_items=False,
        )

    def _image(self, archive: OpenTar, member: tarfile.TarInfo, facts: Sidecars) -> SourceEntry | None:
        """An image, or what is wrong with it; None if it is noted with its place."""
        where = f"{self._location.file_name}/{member.name}"
        if not is_utf8(member.name):
            return name_not_utf8(where)
        if not member.isreg():
            return Fault(
                where,
                "ARCHIVE_LINK",
                f"it is a link to {member.linkname}, which has the content; make the archive with --hard-dereference",
            )
        held = 0
        content: ReadFile | None = None
        if archive.is_in_place(member):
            fact = Sidecar(position=member.offset_data, size=member.size)
        elif member.size > self._max_bytes:
            fact = Sidecar(content=b"", size=member.size)
            content = partial(raise_too_large, member.name)
        else:
            kept = archive.content(member)
            held = len(kept)
            fact = Sidecar(content=hashlib.blake2b(kept, digest_size=16).digest(), size=member.size)
            content = partial(_read_kept, kept)
        stamp = str(member.mtime)
        try:
            is_new = facts.note_image(member.name, fact, stamp)
        except ValueError as error:
            return Fault(where, "ID_TWICE", str(error), may_hide_items=False)
        if not is_new:
            return SkippedFile(where, SkipReason.REPEATED)
        if content is None:
            return None
        return self._item(member.name, content, member.size, stamp, held)

    def _item(self, name: str, content: ReadFile, size: int, stamp: str, held: int) -> Item:
        return Item(self._id_of(name), member_uri(name, self.name), content, size=size, stamp=stamp, held=held)

    def _id_of(self, name: str) -> str:
        image_id = posixpath.join(self._location.file_name, posixpath.normpath(name).lstrip("/"))
        return "" if self._by_content else image_id

    def _fault(self, error: Exception) -> Fault:
        told = printable(error_text(error))
        if is_damage(error) and not isinstance(error, sqlite3.Error):
            return Fault(self.name, "ARCHIVE_DAMAGED", f"nothing can be read after this: {told}")
        return Fault(self.name, "ARCHIVE_UNREADABLE", f"it cannot be read on: {told}")


def _described(name: str, item: Item, facts: Sidecars) -> Item | Fault:
    """An image with what is said of it."""
    try:
        return dataclasses.replace(item, attributes=facts.attributes_of(name))
    except ValueError as error:
        return Fault(item.uri, "ROW_INVALID", str(error))
    except OSError as error:
        return Fault(item.uri, "ARCHIVE_UNREADABLE", f"what is beside it cannot be read: {error_text(error)}")


def _read_kept(content: bytes, limit: int) -> bytes:
    return content[:limit]
