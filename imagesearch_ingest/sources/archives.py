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

from imagesearch_ingest.sources.files import is_text, odd_name, shown
from imagesearch_ingest.sources.items import Fault, Found, Item, Passed, Read, SourceError, Why
from imagesearch_ingest.sources.kinds import passed
from imagesearch_ingest.sources.locations import Location
from imagesearch_ingest.sources.member_uris import member_uri
from imagesearch_ingest.sources.samples import MAX_SIBLING, Fact, Facts, fact_of
from imagesearch_ingest.sources.tar_files import (
    ERRORS,
    OpenTar,
    is_damage,
    open_tar,
    read_member,
    reason_of,
    refuse_large,
)

# Images that wait for what is said of them further on, if they can only be read in passing.
MAX_WAITING = 1000
MAX_HELD = 64 * 2**20


class Archive:
    """Every image in a tar file, compressed or not."""

    def __init__(
        self,
        location: Location,
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

    def __iter__(self) -> Iterator[Found]:
        """Its images, and the files that are none; images that are read in passing are held in memory."""
        waiting: deque[tuple[str, Item]] = deque()
        self.remarks = ()
        with closing(Facts(self._names, self._read)) as facts:
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

    def _passed_by(self, facts: Facts, waiting: deque[tuple[str, Item]]) -> Iterator[Found]:
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
                if isinstance(found, Passed) and found.why is Why.OTHER and fact_of(member.name):
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

    def _passed(self, archive: OpenTar, member: tarfile.TarInfo) -> Passed | None:
        name = shown(member.name)
        beginning = partial(archive.beginning, member, self._max_bytes)
        found = passed(f"{self._location.file_name}/{name}", member.name, beginning, any_name=self._any_name)
        key = self._id_of(name) or member_uri(name, self.name)
        return None if found is None else dataclasses.replace(found, key=key)

    def _fact(self, archive: OpenTar, member: tarfile.TarInfo) -> Fact:
        if not member.isreg():
            return Fact(error=f"it is a link to {member.linkname}; make the archive with --hard-dereference")
        if member.size > MAX_SIBLING:
            return Fact(error=f"it has more than {MAX_SIBLING} bytes")
        if archive.is_in_place(member):
            return Fact(position=member.offset_data, size=member.size)
        return Fact(content=archive.content(member))

    def _read(self, position: int, size: int) -> bytes:
        return read_member(self.name, position, size, size)

    def _late(self, member: tarfile.TarInfo) -> Fault:
        return Fault(
            f"{self._location.file_name}/{member.name}",
            "ATTRIBUTES_LATE",
            "it comes too long after its image, which is loaded without it; a file that is not compressed, on this "
            "machine, is read in any order",
            hides=False,
        )

    def _image(self, archive: OpenTar, member: tarfile.TarInfo, facts: Facts) -> Found | None:
        """An image, or what is wrong with it; None if it is noted with its place."""
        where = f"{self._location.file_name}/{member.name}"
        if not is_text(member.name):
            return odd_name(where)
        if not member.isreg():
            return Fault(
                where,
                "ARCHIVE_LINK",
                f"it is a link to {member.linkname}, which has the content; make the archive with --hard-dereference",
            )
        held = 0
        content: Read | None = None
        if archive.is_in_place(member):
            fact = Fact(position=member.offset_data, size=member.size)
        elif member.size > self._max_bytes:
            fact = Fact(content=b"", size=member.size)
            content = partial(refuse_large, member.name)
        else:
            kept = archive.content(member)
            held = len(kept)
            fact = Fact(content=hashlib.blake2b(kept, digest_size=16).digest(), size=member.size)
            content = partial(_read_kept, kept)
        stamp = str(member.mtime)
        try:
            is_new = facts.note_image(member.name, fact, stamp)
        except ValueError as error:
            return Fault(where, "ID_TWICE", str(error), hides=False)
        if not is_new:
            return Passed(where, Why.REPEATED)
        if content is None:
            return None
        return self._item(member.name, content, member.size, stamp, held)

    def _item(self, name: str, content: Read, size: int, stamp: str, held: int) -> Item:
        return Item(self._id_of(name), member_uri(name, self.name), content, size=size, stamp=stamp, held=held)

    def _id_of(self, name: str) -> str:
        image_id = posixpath.join(self._location.file_name, posixpath.normpath(name).lstrip("/"))
        return "" if self._by_content else image_id

    def _fault(self, error: Exception) -> Fault:
        told = shown(reason_of(error))
        if is_damage(error) and not isinstance(error, sqlite3.Error):
            return Fault(self.name, "ARCHIVE_DAMAGED", f"nothing can be read after this: {told}")
        return Fault(self.name, "ARCHIVE_UNREADABLE", f"it cannot be read on: {told}")


def _described(name: str, item: Item, facts: Facts) -> Item | Fault:
    """An image with what is said of it."""
    try:
        return dataclasses.replace(item, attributes=facts.attributes_of(name))
    except ValueError as error:
        return Fault(item.uri, "ROW_INVALID", str(error))
    except OSError as error:
        return Fault(item.uri, "ARCHIVE_UNREADABLE", f"what is beside it cannot be read: {reason_of(error)}")


def _read_kept(content: bytes, limit: int) -> bytes:
    return content[:limit]
