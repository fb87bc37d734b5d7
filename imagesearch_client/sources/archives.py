"""Images in tar files, webdataset's shards among them."""

import bz2
import errno
import gzip
import lzma
import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Self

from imagesearch_client.sources.files import is_image, is_text, odd_name, shown
from imagesearch_client.sources.items import Fault, Item, Read, SourceError
from imagesearch_client.sources.locations import Location
from imagesearch_client.sources.samples import MAX_SIBLING, SIBLINGS, Sample, split_name

# What compressed files begin with. Python's own files for them are used: tarfile's way copies all that it has
# decompressed for each member, and stops after the first part of a file that was compressed in parts.
COMPRESSED: Mapping[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


class _Member(tarfile.TarInfo):
    """A member whose header says when the archive is damaged: else tarfile takes that for its end."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            # Not public, and the one that is right: an empty block at the end.
            if type(error).__name__ == "EOFHeaderError":
                raise
            raise tarfile.ReadError(f"it is cut off or damaged ({error})") from error


@dataclass(frozen=True)
class _Archive:
    """A tar file that is open."""

    tar: tarfile.TarFile
    size: int | None
    """Bytes of the file; None where it can only be read in passing."""


class Archive:
    """Every image in a tar file, compressed or not."""

    def __init__(self, location: Location, by_content: bool, max_bytes: int, names: Mapping[str, str]) -> None:
        """Takes the images of an archive. Raises SourceError where it cannot be opened.

        Args:
            location: where it is.
            by_content: whether ids are the SHA-256 of the images' contents, or the archive's and the member's names.
            max_bytes: larger members are not kept where they can only be read in passing.
            names: the attributes that JSON fields of a sample become where these have other names.
        """
        self.name = location.name
        self._location = location
        self._by_content = by_content
        self._max_bytes = max_bytes
        self._names = names
        try:
            location.open().close()
        except OSError as error:
            raise SourceError(f"{location.name} cannot be read: {error.strerror or error}") from None

    def __iter__(self) -> Iterator[Item | Fault]:
        """Its images; those that are read in passing are held in memory."""
        sample = Sample("", self._names)
        try:
            with self._opened() as archive:
                for member in _members(archive.tar):
                    key, extension = split_name(member.name)
                    if key != sample.key:
                        yield from sample.finish()
                        sample = Sample(key, self._names)
                    if is_image(member.name):
                        found = self._image(archive, member)
                        yield from [found] if isinstance(found, Fault) else sample.add_image(found)
                    elif extension in SIBLINGS:
                        sample.add_sibling(extension, _sibling(archive.tar, member))
            yield from sample.finish()
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError) as error:
            yield from sample.finish()
            yield self._fault(error)

    def count(self) -> None:
        """To count takes as long as to read."""
        return

    @contextmanager
    def _opened(self) -> Iterator[_Archive]:
        with self._location.open() as file:
            begin = file.peek(6)
            unpack = next((unpack for mark, unpack in COMPRESSED.items() if begin.startswith(mark)), None)
            if unpack is not None:
                with unpack(file) as content, _open_tar(content, "r|") as tar:
                    yield _Archive(tar, None)
            elif self._location.is_remote:
                with _open_tar(file, "r|") as tar:
                    yield _Archive(tar, None)
            else:
                with _open_tar(file, "r:") as tar:
                    yield _Archive(tar, os.fstat(file.fileno()).st_size)

    def _image(self, archive: _Archive, member: tarfile.TarInfo) -> Item | Fault:
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
        if archive.size is not None and not member.issparse():
            if member.offset_data + member.size > archive.size:
                raise tarfile.ReadError(f"it is cut off within {member.name}")
            content = partial(_read_member, self.name, member.offset_data, member.size)
        elif member.size > self._max_bytes:
            content = partial(_refuse, member.name)
        else:
            kept = _content(archive.tar, member)
            held = len(kept)
            content = partial(_read_kept, kept)
        image_id = posixpath.join(self._location.file_name, posixpath.normpath(member.name).lstrip("/"))
        return Item(
            "" if self._by_content else image_id,
            f"tar://{member.name}::{self.name}",
            content,
            size=member.size,
            stamp=str(member.mtime),
            held=held,
        )

    def _fault(self, error: Exception) -> Fault:
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        # bzip2's errors are OSErrors without a number.
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, gzip.BadGzipFile):
            return Fault(self.name, "ARCHIVE_UNREADABLE", f"it cannot be read on: {shown(told)}")
        return Fault(self.name, "ARCHIVE_DAMAGED", f"nothing can be read after this: {shown(told)}")


def _open_tar(file: BinaryIO, mode: str) -> tarfile.TarFile:
    options: dict[str, Any] = {"tarinfo": _Member, "encoding": "utf-8", "errors": "surrogateescape"}
    return tarfile.open(fileobj=file, mode=mode, **options)  # type: ignore[call-overload,no-any-return]


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The regular files, and links that are named as images, without keeping them."""
    while (member := tar.next()) is not None:
        # tarfile keeps them all, for what is not asked here.
        tar.members.clear()  # type: ignore[attr-defined]
        if member.isreg() or ((member.islnk() or member.issym()) and is_image(member.name)):
            yield member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    content = b"" if file is None else file.read()
    if len(content) != member.size:
        raise tarfile.ReadError(f"it is cut off within {member.name}")
    return content


def _sibling(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    return None if member.size > MAX_SIBLING else _content(tar, member)


def _read_member(path: str, offset: int, size: int, limit: int) -> bytes:
    """A member's content. Threads do not get into each other's way: each reads where it says."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        content = bytearray()
        wanted = min(size, limit)
        while len(content) < wanted:
            part = os.pread(descriptor, wanted - len(content), offset + len(content))
            if not part:
                raise OSError(errno.EIO, "the archive has become shorter", path)
            content += part
        return bytes(content)
    finally:
        os.close(descriptor)


def _read_kept(content: bytes, limit: int) -> bytes:
    return content[:limit]


def _refuse(name: str, limit: int) -> bytes:  # noqa: ARG001 - what reads has it
    raise OSError(errno.EFBIG, "the file is too large to be kept while its archive is read", name)
