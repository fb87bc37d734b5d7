"""List the images of local folders, and single files."""

import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from imagesearch_ingest.sources.image_formats import HEADER_BYTES, has_image_suffix, is_system_folder, skipped_file
from imagesearch_ingest.sources.items import Fault, Item, SkippedFile, SkipReason, SourceEntry
from imagesearch_ingest.sources.local_files import file_state, is_utf8, name_not_utf8, printable, read_file
from imagesearch_ingest.sources.source_retries import thread_retries

# Entries of a directory that are sorted and held in memory at a time.
CHUNK = 10_000

Entry: TypeAlias = os.DirEntry[str]


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory that is being listed."""

    path: str
    device: int
    inode: int
    entries: Iterator[Entry]
    is_system: bool
    """Whether a system or a program made the directory, so that all files in it are skipped."""

    @classmethod
    def opened(cls, path: str, *, is_system: bool) -> "_Directory":
        state = os.stat(path)  # noqa: PTH116 - paths are plain strings here, for speed
        return cls(path, state.st_dev, state.st_ino, _entries(path), is_system)

    def is_same(self, other: "_Directory") -> bool:
        return (self.device, self.inode) == (other.device, other.inode)


class FolderSource:
    """Every image below a folder. Symbolic links are followed, except those to a parent folder.

    Files are sorted by name. In a directory with more than CHUNK files, each chunk is sorted.
    """

    def __init__(self, root: Path, by_content: bool = False, any_name: bool = False) -> None:
        """Set the folder. Ids are paths relative to `root`, or the SHA-256 of the content if `by_content` is true.

        `any_name` accepts files of any name whose content is an image.
        """
        self.name = os.path.abspath(root)  # noqa: PTH100 - Path.absolute keeps ".."
        self._by_content = by_content
        self._any_name = any_name
        self._prefix = self.name.rstrip(os.sep) + os.sep

    def __iter__(self) -> Iterator[SourceEntry]:
        """Yield the entries of all files, with their sizes and modification times."""
        for found in self._walk():
            item = found if isinstance(found, Fault | SkippedFile) else self._entry(found)
            if isinstance(item, SkippedFile):
                yield replace(item, key=self._id_of(item.where) or item.where)
            elif item is not None:
                yield item

    def count(self) -> int | None:
        """Return the number of images by their names alone; None if any name is accepted."""
        if self._any_name:
            return None
        return sum(
            not isinstance(found, Fault | SkippedFile) and has_image_suffix(found.name) for found in self._walk()
        )

    def _walk(self) -> Iterator[Entry | Fault | SkippedFile]:
        """Yield the files in sorted order, with the files of a subfolder at the subfolder's place."""
        # Without recursion: a path may be deeper than Python's call stack.
        ancestors: list[_Directory] = []
        if (fault := _enter(self.name, ancestors, is_system=False)) is not None:
            yield fault
        while ancestors:
            try:
                entry = next(ancestors[-1].entries, None)
            except OSError as error:
                if not ancestors[-1].is_system:
                    yield _unreadable(ancestors[-1].path, error)
                entry = None
            if entry is None:
                ancestors.pop()
            elif (found := _visit(entry, ancestors)) is not None:
                yield found

    def _entry(self, entry: Entry) -> SourceEntry | None:
        def header() -> bytes:
            try:
                return read_file(entry.path, HEADER_BYTES)
            except OSError:
                # With `any_name` assume an image. Reading it reports the error.
                return b"\xff\xd8\xff" if self._any_name else b""

        found = skipped_file(printable(entry.path), entry.name, header, any_name=self._any_name)
        return self._item(entry) if found is None else found

    def _item(self, entry: Entry) -> Item | Fault | None:
        size, stamp = None, ""
        try:
            state = entry.stat()
            size, stamp = state.st_size, str(state.st_mtime_ns)
        except FileNotFoundError:
            # A removed file is ignored. A dangling link still exists, and reading it reports the error.
            if not entry.is_symlink():
                return None
        except OSError:
            # Reading the file reports the error.
            pass
        if not is_utf8(entry.path):
            return name_not_utf8(entry.path)
        return Item(self._id_of(entry.path), entry.path, partial(read_file, entry.path), size=size, stamp=stamp)

    def _id_of(self, path: str) -> str:
        return "" if self._by_content else path.removeprefix(self._prefix).replace(os.sep, "/")


class FileSource:
    """One image file. Its id is its name."""

    def __init__(self, path: Path, by_content: bool = False) -> None:
        """Set the file."""
        self.name = os.path.abspath(path)  # noqa: PTH100 - as above
        self._by_content = by_content

    def __iter__(self) -> Iterator[Item | Fault]:
        """Yield the one item."""
        if not is_utf8(self.name):
            yield name_not_utf8(self.name)
            return
        size, stamp = file_state(self.name)
        image_id = "" if self._by_content else Path(self.name).name
        yield Item(image_id, self.name, partial(read_file, self.name), size=size, stamp=stamp)

    def count(self) -> int:
        """Return 1."""
        return 1


def _entries(path: str) -> Iterator[Entry]:
    # A directory with less than one chunk is closed before its subfolders are opened.
    with thread_retries.get().run(partial(os.scandir, path)) as listing:
        while chunk := sorted(itertools.islice(listing, CHUNK), key=lambda entry: entry.name):
            yield from chunk


def _enter(path: str, ancestors: list[_Directory], *, is_system: bool) -> Fault | None:
    """Start listing a directory, unless it is one of its own parents, which list its files already.

    A system folder that cannot be listed hides no image, so it is not a fault.
    """
    try:
        # A network file system may fail for a moment.
        directory = thread_retries.get().run(partial(_Directory.opened, path, is_system=is_system))
    except OSError as error:
        return None if is_system else _unreadable(path, error)
    if not any(directory.is_same(ancestor) for ancestor in ancestors):
        ancestors.append(directory)
    return None


def _visit(entry: Entry, ancestors: list[_Directory]) -> Entry | Fault | SkippedFile | None:
    """Start listing a directory, or return the entry of a file; None for anything else."""
    is_system = ancestors[-1].is_system
    try:
        if entry.is_dir():
            return _enter(entry.path, ancestors, is_system=is_system or is_system_folder(entry.name))
        is_file = entry.is_file() or entry.is_symlink()
    except OSError as error:
        if is_system:
            return SkippedFile(printable(entry.path), SkipReason.SYSTEM_FILE)
        # The link's target is forbidden. By its name it is an image, or else it may be a folder.
        if has_image_suffix(entry.name):
            return entry
        return None if error.errno == errno.ELOOP else _unreadable(entry.path, error)
    # The link's target may be a folder on a disk that is not mounted.
    if _is_dangling(entry) and not is_system:
        return _unreadable(entry.path, FileNotFoundError(2, "it is a link to a missing file or folder"))
    found = SkippedFile(printable(entry.path), SkipReason.SYSTEM_FILE) if is_system else entry
    return found if is_file else None


def _is_dangling(entry: Entry) -> bool:
    return entry.is_symlink() and not Path(entry.name).suffix and not Path(entry.path).exists()


def _unreadable(path: str, error: OSError) -> Fault:
    return Fault(printable(path), "FOLDER_UNREADABLE", f"cannot be listed: {error.strerror or error}")
