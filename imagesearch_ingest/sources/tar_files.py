"""Opens tar files, compressed or not, here or elsewhere, and reads their members."""

import bz2
import errno
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Self

from imagesearch_ingest.sources.image_formats import HEADER_BYTES
from imagesearch_ingest.sources.source_file import SourceFile

# What compressed files begin with. Python's own files for them are used: tarfile's way copies all that it has
# decompressed for each member, and stops after the first part of a file that was compressed in parts.
COMPRESSED: Mapping[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
# What is raised of an archive that is damaged or cannot be read on.
ERRORS = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)


class _Tar(tarfile.TarFile):
    """A tar file that may be several, one behind the other: the zeros at the end of each are passed over."""

    is_after_end = False
    """Whether zeros were read after the last member."""
    ignored_bytes = 0
    """Bytes behind such zeros that are no member."""


class _Member(tarfile.TarInfo):
    """A member whose header says when the archive is damaged: else tarfile takes that for its end."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        assert isinstance(tar, _Tar)  # noqa: S101 - for the types
        try:
            member = super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            # The names are not public. The first one is of a block of zeros, the second one of the end of the file.
            kind = type(error).__name__
            if kind == "EOFHeaderError":
                tar.is_after_end = True
                raise
            if not tar.is_after_end:
                raise tarfile.ReadError(f"it is cut off or damaged ({error})") from error
            if kind == "InvalidHeaderError":
                tar.ignored_bytes += tarfile.BLOCKSIZE
            raise
        tar.is_after_end = False
        return member


@dataclass(frozen=True)
class OpenTar:
    """A tar file that is open."""

    tar: _Tar
    size: int | None
    """Bytes of the file; None where it can only be read in passing."""
    kept: list[tuple[tarfile.TarInfo, bytes]] = field(default_factory=list)
    """The member that was met last, if its beginning was asked for, with its content."""

    def members(self) -> Iterator[tarfile.TarInfo]:
        """The regular files and the links, without keeping them."""
        while (member := self.tar.next()) is not None:
            # tarfile keeps them all, for what is not asked here.
            self.tar.members.clear()  # type: ignore[attr-defined]
            if member.isreg() or member.islnk() or member.issym():
                yield member

    def is_in_place(self, member: tarfile.TarInfo) -> bool:
        """Whether the file holds the member's content as it is, so that it can be read there at any time.

        Raises ReadError where the file ends before the content does.
        """
        if self.size is None or member.issparse():
            return False
        if member.offset_data + member.size > self.size:
            raise tarfile.ReadError(f"it is cut off within {member.name}")
        return True

    def beginning(self, member: tarfile.TarInfo, most: int) -> bytes:
        """The first bytes of the member that was met last; none of one that cannot be kept, and of a link."""
        if not member.isreg():
            return b""
        if self.size is None:
            # It can be read once only, and is kept for `content` if it has at most so many bytes.
            self.kept[:] = [(member, self.content(member))] if member.size <= most else []
            return self.kept[0][1][:HEADER_BYTES] if self.kept else b""
        file = self.tar.extractfile(member)
        return b"" if file is None else file.read(HEADER_BYTES)

    def content(self, member: tarfile.TarInfo) -> bytes:
        """The content of the member that was met last."""
        if self.kept and self.kept[0][0] is member:
            return self.kept.pop()[1]
        file = self.tar.extractfile(member)
        content = b"" if file is None else file.read()
        if len(content) != member.size:
            raise tarfile.ReadError(f"it is cut off within {member.name}")
        return content


@contextmanager
def open_tar(location: SourceFile) -> Iterator[OpenTar]:
    """Opens a tar file. Raises OSError, TarError, and SourceError where its file system cannot be used."""
    with location.open() as file:
        begin = file.peek(6)
        unpack = next((unpack for mark, unpack in COMPRESSED.items() if begin.startswith(mark)), None)
        if unpack is not None:
            with unpack(file) as content, _tar_file(content, "r|") as tar:
                yield OpenTar(tar, None)
        elif location.is_remote:
            with _tar_file(file, "r|") as tar:
                yield OpenTar(tar, None)
        else:
            with _tar_file(file, "r:") as tar:
                yield OpenTar(tar, os.fstat(file.fileno()).st_size)


def _tar_file(file: BinaryIO, mode: str) -> _Tar:
    options: dict[str, Any] = {"tarinfo": _Member, "encoding": "utf-8", "errors": "surrogateescape"}
    return _Tar.open(fileobj=file, mode=mode, ignore_zeros=True, **options)  # type: ignore[call-overload,no-any-return]


def is_damage(error: Exception) -> bool:
    """Whether an archive is at fault, and not the way to it."""
    # bzip2's errors are OSErrors without a number.
    return not isinstance(error, OSError) or error.errno is None or isinstance(error, gzip.BadGzipFile)


def error_text(error: Exception) -> str:
    """What an error says, or else its name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read_member(path: str, offset: int, size: int, limit: int) -> bytes:
    """A member's content. Threads do not get into each other's way: each reads where it says."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        return read_at(descriptor, path, offset, min(size, limit))
    finally:
        os.close(descriptor)


def read_at(descriptor: int, path: str, offset: int, wanted: int) -> bytes:
    """So many bytes of an open file from `offset` on. Raises OSError where there are fewer."""
    content = bytearray()
    while len(content) < wanted:
        part = os.pread(descriptor, wanted - len(content), offset + len(content))
        if not part:
            raise OSError(errno.EIO, "the archive has become shorter", path)
        content += part
    return bytes(content)


def raise_too_large(name: str, limit: int) -> bytes:  # noqa: ARG001 - what reads has it
    """Stands for a member that is too large to be kept. Raises OSError."""
    raise OSError(errno.EFBIG, "the file is too large to be kept while its archive is read", name)
