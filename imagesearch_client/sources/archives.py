"""Images in tar files, webdataset's shards among them."""

import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from functools import partial

from imagesearch_client.sources.files import is_text, odd_name, shown
from imagesearch_client.sources.items import Fault, Found, Item, Read, SourceError
from imagesearch_client.sources.kinds import passed
from imagesearch_client.sources.locations import Location
from imagesearch_client.sources.member_uris import member_uri
from imagesearch_client.sources.samples import MAX_SIBLING, SIBLINGS, Sample, split_name
from imagesearch_client.sources.tar_files import (
    ERRORS,
    OpenTar,
    is_damage,
    open_tar,
    read_member,
    reason_of,
    refuse_large,
)


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
        try:
            location.open().close()
        except OSError as error:
            raise SourceError(f"{location.name} cannot be read: {error.strerror or error}") from None

    def __iter__(self) -> Iterator[Found]:
        """Its images, and the files that are none; images that are read in passing are held in memory."""
        sample = Sample("", self._names)
        try:
            with open_tar(self._location) as archive:
                for member in archive.members():
                    key, extension = split_name(member.name)
                    if key != sample.key:
                        yield from sample.finish()
                        sample = Sample(key, self._names)
                    where = shown(f"{self._location.file_name}/{member.name}")
                    no_item = passed(
                        where,
                        member.name,
                        partial(archive.beginning, member, self._max_bytes),
                        any_name=self._any_name,
                    )
                    if no_item is None:
                        found = self._image(archive, member)
                        yield from [found] if isinstance(found, Fault) else sample.add_image(found)
                        continue
                    yield no_item
                    if extension in SIBLINGS and member.isreg():
                        sample.add_sibling(extension, None if member.size > MAX_SIBLING else archive.content(member))
            yield from sample.finish()
        except ERRORS as error:
            yield from sample.finish()
            yield self._fault(error)

    def count(self) -> None:
        """To count takes as long as to read."""
        return

    def _image(self, archive: OpenTar, member: tarfile.TarInfo) -> Item | Fault:
        if not is_text(member.name):
            return odd_name(f"{self._location.file_name}/{member.name}")
        if not member.isreg():
            return Fault(
                f"{self._location.file_name}/{member.name}",
                "ARCHIVE_LINK",
                f"it is a link to {member.linkname}, which has the content; make the archive with --hard-dereference",
            )
        held = 0
        content: Read
        if archive.is_in_place(member):
            content = partial(read_member, self.name, member.offset_data, member.size)
        elif member.size > self._max_bytes:
            content = partial(refuse_large, member.name)
        else:
            kept = archive.content(member)
            held = len(kept)
            content = partial(_read_kept, kept)
        image_id = posixpath.join(self._location.file_name, posixpath.normpath(member.name).lstrip("/"))
        return Item(
            "" if self._by_content else image_id,
            member_uri(member.name, self.name),
            content,
            size=member.size,
            stamp=str(member.mtime),
            held=held,
        )

    def _fault(self, error: Exception) -> Fault:
        told = shown(reason_of(error))
        if is_damage(error):
            return Fault(self.name, "ARCHIVE_DAMAGED", f"nothing can be read after this: {told}")
        return Fault(self.name, "ARCHIVE_UNREADABLE", f"it cannot be read on: {told}")


def _read_kept(content: bytes, limit: int) -> bytes:
    return content[:limit]
