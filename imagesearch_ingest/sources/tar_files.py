"""Open tar files, local or remote, compressed or not, and read their members."""

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

# The first bytes of compressed files. tarfile's own decompression copies all data for each member, and stops after the
# first part of a file that was compressed in parts. So Python's modules decompress instead.
COMPRESSED: Mapping[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
# Errors of archives that are damaged or cannot be read.
ERRORS = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)


class _Tar(tarfile.TarFile):
    """A tar file that may consist of several concatenated ones. The zeros at the end of each are ignored."""

    is_after_end = False
    """Whether zeros were read after the last member."""
    ignored_bytes = 0
    """Bytes after such zeros that are not a member."""


class _Member(tarfile.TarInfo):
    """A member whose header reports a damaged archive. tarfile would take the damage for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        assert isinstance(tar, _Tar)  # noqa: S101 - for the types
        try:
            member = super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            # The classes are not public: the first one means a block of zeros, the second one the end of the file.
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
    """An open tar file."""

    tar: _Tar
    size: int | None
    """Bytes of the file; None if the file is streamed, and can be read only once."""
    kept: list[tuple[tarfile.TarInfo, bytes]] = field(default_factory=list)
    """The last member and its content, if its header was read from a streamed file."""

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield the regular files and the links. Keeps none of them."""
        while (member := self.tar.next()) is not None:
            # tarfile would keep all members for lookups by name.
            self.tar.members.clear()  # type: ignore[attr-defined]
            if member.isreg() or member.islnk() or member.issym():
                yield member

    def is_in_place(self, member: tarfile.TarInfo) -> bool:
        """Return whether the content can be read at its position in the file at any time.

        Raises ReadError if the file ends before the content does.
        """
        if self.size is None or member.issparse():
            return False
        if member.offset_data + member.size > self.size:
            raise tarfile.ReadError(f"it is cut off within {member.name}")
        return True

    def header(self, member: tarfile.TarInfo, most: int) -> bytes:
        """Return the first bytes of the last member; none of a link, or of a streamed member larger than `most`."""
        if not member.isreg():
            return b""
        if self.size is None:
            # A streamed member can be read only once, so it is kept for `content`.
            self.kept[:] = [(member, self.content(member))] if member.size <= most else []
            return self.kept[0][1][:HEADER_BYTES] if self.kept else b""
        file = self.tar.extractfile(member)
        return b"" if file is None else file.read(HEADER_BYTES)

    def content(self, member: tarfile.TarInfo) -> bytes:
        """Return the content of the last member."""
        if self.kept and self.kept[0][0] is member:
            return self.kept.pop()[1]
        file = self.tar.extractfile(member)
        content = b"" if file is None else file.read()
        if len(content) != member.size:
            raise tarfile.ReadError(f"it is cut off within {member.name}")
        return content


@contextmanager
def open_tar(source_file: SourceFile) -> Iterator[OpenTar]:
    """Open a tar file. Raises OSError, TarError, and SourceError if the file system of a URL cannot be used."""
    with source_file.open() as file:
        begin = file.peek(6)
        unpack = next((unpack for mark, unpack in COMPRESSED.items() if begin.startswith(mark)), None)
        if unpack is not None:
            with unpack(file) as content, _tar_file(content, "r|") as tar:
                yield OpenTar(tar, None)
        elif source_file.is_remote:
            with _tar_file(file, "r|") as tar:
                yield OpenTar(tar, None)
        else:
            with _tar_file(file, "r:") as tar:
                yield OpenTar(tar, os.fstat(file.fileno()).st_size)


def _tar_file(file: BinaryIO, mode: str) -> _Tar:
    options: dict[str, Any] = {"tarinfo": _Member, "encoding": "utf-8", "errors": "surrogateescape"}
    return _Tar.open(fileobj=file, mode=mode, ignore_zeros=True, **options)  # type: ignore[call-overload,no-any-return]


def is_damage(error: Exception) -> bool:
    """Return whether the archive itself is damaged, not the access to it."""
    # Errors of bzip2 are OSErrors without a number.
    return not isinstance(error, OSError) or error.errno is None or isinstance(error, gzip.BadGzipFile)


def error_text(error: Exception) -> str:
    """Return the message of an error, or its class if it has none."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read_member(path: str, offset: int, size: int, limit: int) -> bytes:
    """Return at most `limit` bytes of a member's content. Thread-safe: it opens the file again."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        return read_at(descriptor, path, offset, min(size, limit))
    finally:
        os.close(descriptor)


def read_at(descriptor: int, path: str, offset: int, wanted: int) -> bytes:
    """Return `wanted` bytes of an open file from `offset` on. Raises OSError if there are fewer."""
    content = bytearray()
    while len(content) < wanted:
        part = os.pread(descriptor, wanted - len(content), offset + len(content))
        if not part:
            raise OSError(errno.EIO, "the archive was truncated", path)
        content += part
    return bytes(content)


def raise_too_large(name: str, limit: int) -> bytes:  # noqa: ARG001 - the signature of ReadFile
    """Read a member that was too large to be kept. Always raises OSError."""
    raise OSError(errno.EFBIG, "the file is too large to be kept while its archive is streamed", name)
