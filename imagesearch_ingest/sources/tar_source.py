"""List the images of tar files, including webdataset's shards."""

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
from imagesearch_ingest.sources.sidecars import MAX_SIDECAR_BYTES, MemberContent, Sidecars, split_sidecar_name
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

# Images of a streamed archive that wait for later sidecars, and their bytes.
MAX_WAITING = 1000
MAX_WAITING_BYTES = 64 * 2**20


class TarSource:
    """Every image in a tar file, compressed or not."""

    def __init__(
        self,
        source_file: SourceFile,
        by_content: bool,
        max_bytes: int,
        names: Mapping[str, str],
        any_name: bool = False,
    ) -> None:
        """Open the archive once. Raises SourceError if that fails.

        Args:
            source_file: the archive.
            by_content: use the SHA-256 of an image's content as its id, instead of the names of archive and member.
            max_bytes: the largest member that is kept from a streamed archive.
            names: attribute names by field name, for fields of JSON sidecars to rename.
            any_name: accept files of any name whose content is an image.
        """
        self.name = source_file.name
        self._source_file = source_file
        self._by_content = by_content
        self._max_bytes = max_bytes
        self._names = names
        self._any_name = any_name
        self.remarks: Sequence[str] = ()
        """Remarks for users, after the archive was listed."""
        try:
            source_file.open().close()
        except OSError as error:
            raise SourceError(f"{source_file.name} cannot be read: {error.strerror or error}") from None

    def __iter__(self) -> Iterator[SourceEntry]:
        """Yield the entries. Images of a streamed archive are held in memory until their sidecars can be complete."""
        waiting: deque[tuple[str, Item]] = deque()
        self.remarks = ()
        with closing(Sidecars(self._names, self._read)) as sidecars:
            fault = None
            try:
                yield from self._list_members(sidecars, waiting)
            except (*ERRORS, sqlite3.Error) as error:
                # The members before the damage are intact.
                fault = self._fault(error)
            yield from (_with_attributes(name, item, sidecars) for name, item in waiting)
            for name, position, size, stamp in sidecars.images():
                item = self._item(name, partial(read_member, self.name, position, size), size, stamp, 0)
                yield _with_attributes(name, item, sidecars)
            if fault is not None:
                yield fault
            remarks = [*self.remarks, sidecars.remark()]
            self.remarks = [f"{self._source_file.file_name}: {remark}" for remark in remarks if remark]

    def count(self) -> None:
        """Return None: counting takes as long as reading."""
        return

    def _list_members(self, sidecars: Sidecars, waiting: deque[tuple[str, Item]]) -> Iterator[SourceEntry]:
        """Read all members once, and yield the entries that need no sidecars.

        Images that can be read in place are added to `sidecars`. Images of a streamed archive are added to `waiting`,
        and yielded if they become too many.
        """
        waiting_bytes = 0
        with open_tar(self._source_file) as archive:
            for member in archive.members():
                entry = self._skipped(archive, member) or self._image(archive, member, sidecars)
                if isinstance(entry, Item):
                    waiting.append((member.name, entry))
                    waiting_bytes += entry.held
                elif entry is not None:
                    yield entry
                if (
                    isinstance(entry, SkippedFile)
                    and entry.reason is SkipReason.NOT_AN_IMAGE
                    and split_sidecar_name(member.name)
                ):
                    if sidecars.is_late(member.name):
                        yield self._late(member)
                    else:
                        sidecars.add(member.name, self._sidecar(archive, member))
                while len(waiting) > MAX_WAITING or waiting_bytes > MAX_WAITING_BYTES:
                    name, item = waiting.popleft()
                    waiting_bytes -= item.held
                    yield _with_attributes(name, item, sidecars)
                    sidecars.mark_loaded(name)
            if archive.tar.ignored_bytes:
                self.remarks = [f"{archive.tar.ignored_bytes} bytes after its end are not an archive, and are ignored"]

    def _skipped(self, archive: OpenTar, member: tarfile.TarInfo) -> SkippedFile | None:
        name = printable(member.name)
        header = partial(archive.header, member, self._max_bytes)
        found = skipped_file(f"{self._source_file.file_name}/{name}", member.name, header, any_name=self._any_name)
        key = self._id_of(name) or member_uri(name, self.name)
        return None if found is None else dataclasses.replace(found, key=key)

    def _sidecar(self, archive: OpenTar, member: tarfile.TarInfo) -> MemberContent:
        if not member.isreg():
            return MemberContent(error=f"it is a link to {member.linkname}; make the archive with --hard-dereference")
        if member.size > MAX_SIDECAR_BYTES:
            return MemberContent(error=f"it has more than {MAX_SIDECAR_BYTES} bytes")
        if archive.is_in_place(member):
            return MemberContent(position=member.offset_data, size=member.size)
        return MemberContent(content=archive.content(member))

    def _read(self, position: int, size: int) -> bytes:
        return read_member(self.name, position, size, size)

    def _late(self, member: tarfile.TarInfo) -> Fault:
        return Fault(
            f"{self._source_file.file_name}/{member.name}",
            "ATTRIBUTES_LATE",
            "it comes too long after its image, which was loaded without it; an uncompressed local archive may have "
            "any order",
            may_hide_items=False,
        )

    def _image(self, archive: OpenTar, member: tarfile.TarInfo, sidecars: Sidecars) -> SourceEntry | None:
        """Return the entry of an image; None if the image is added to `sidecars` with its position."""
        where = f"{self._source_file.file_name}/{member.name}"
        if not is_utf8(member.name):
            return name_not_utf8(where)
        if not member.isreg():
            return Fault(
                where,
                "ARCHIVE_LINK",
                f"it is a link to {member.linkname}, which has the content; make the archive with --hard-dereference",
            )
        held = 0
        read_file: ReadFile | None = None
        if archive.is_in_place(member):
            content = MemberContent(position=member.offset_data, size=member.size)
        elif member.size > self._max_bytes:
            content = MemberContent(content=b"", size=member.size)
            read_file = partial(raise_too_large, member.name)
        else:
            kept = archive.content(member)
            held = len(kept)
            content = MemberContent(content=hashlib.blake2b(kept, digest_size=16).digest(), size=member.size)
            read_file = partial(_read_kept, kept)
        stamp = str(member.mtime)
        try:
            is_new = sidecars.add_image(member.name, content, stamp)
        except ValueError as error:
            return Fault(where, "ID_TWICE", str(error), may_hide_items=False)
        if not is_new:
            return SkippedFile(where, SkipReason.REPEATED)
        if read_file is None:
            return None
        return self._item(member.name, read_file, member.size, stamp, held)

    def _item(self, name: str, read_file: ReadFile, size: int, stamp: str, held: int) -> Item:
        return Item(self._id_of(name), member_uri(name, self.name), read_file, size=size, stamp=stamp, held=held)

    def _id_of(self, name: str) -> str:
        image_id = posixpath.join(self._source_file.file_name, posixpath.normpath(name).lstrip("/"))
        return "" if self._by_content else image_id

    def _fault(self, error: Exception) -> Fault:
        text = printable(error_text(error))
        if is_damage(error) and not isinstance(error, sqlite3.Error):
            return Fault(
                self.name, "ARCHIVE_DAMAGED", f"it is damaged, and nothing after the damage can be read: {text}"
            )
        return Fault(self.name, "ARCHIVE_UNREADABLE", f"the rest of it cannot be read: {text}")


def _with_attributes(name: str, item: Item, sidecars: Sidecars) -> Item | Fault:
    """Return the item with the attributes of its sidecars."""
    try:
        return dataclasses.replace(item, attributes=sidecars.attributes_of(name))
    except ValueError as error:
        return Fault(item.uri, "ROW_INVALID", str(error))
    except OSError as error:
        return Fault(
            item.uri, "ARCHIVE_UNREADABLE", f"the file with its attributes cannot be read: {error_text(error)}"
        )


def _read_kept(content: bytes, limit: int) -> bytes:
    return content[:limit]
