"""Folders of this machine, and single files."""

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

# Entries of a directory that are kept and put in order at a time.
CHUNK = 10_000

Entry: TypeAlias = os.DirEntry[str]


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory that is being listed."""

    path: str
    device: int
    inode: int
    entries: Iterator[Entry]
    is_shadow: bool
    """Whether all that is in it is left out."""

    @classmethod
    def opened(cls, path: str, *, is_shadow: bool) -> "_Directory":
        state = os.stat(path)  # noqa: PTH116 - paths are plain texts here, for speed
        return cls(path, state.st_dev, state.st_ino, _entries(path), is_shadow)

    def is_same(self, other: "_Directory") -> bool:
        return (self.device, self.inode) == (other.device, other.inode)


class FolderSource:
    """Every image below a folder. Links are followed, save those that lead back up.

    Files come in order of their names, or where one directory has more than CHUNK of them, in several such orders.
    """

    def __init__(self, root: Path, by_content: bool = False, any_name: bool = False) -> None:
        """Takes the images below `root`; by their content's SHA-256 as ids, or by their paths below `root`.

        `any_name` takes files of any name whose content is an image.
        """
        self.name = os.path.abspath(root)  # noqa: PTH100 - Path.absolute keeps ".."
        self._by_content = by_content
        self._any_name = any_name
        self._prefix = self.name.rstrip(os.sep) + os.sep

    def __iter__(self) -> Iterator[SourceEntry]:
        """Its images, with a look at the size and the time of each, and the files that are none."""
        for found in self._walk():
            item = found if isinstance(found, Fault | SkippedFile) else self._found(found)
            if isinstance(item, SkippedFile):
                yield replace(item, key=self._id_of(item.where) or item.where)
            elif item is not None:
                yield item

    def count(self) -> int | None:
        """How many images there are, by their names alone; None if their names do not tell."""
        if self._any_name:
            return None
        return sum(
            not isinstance(found, Fault | SkippedFile) and has_image_suffix(found.name) for found in self._walk()
        )

    def _walk(self) -> Iterator[Entry | Fault | SkippedFile]:
        """The files, each directory's where it stands among them."""
        # A list, and no recursion: a path may be deeper than Python's calls can be.
        ancestors: list[_Directory] = []
        if (fault := _enter(self.name, ancestors, is_shadow=False)) is not None:
            yield fault
        while ancestors:
            try:
                entry = next(ancestors[-1].entries, None)
            except OSError as error:
                if not ancestors[-1].is_shadow:
                    yield _unreadable(ancestors[-1].path, error)
                entry = None
            if entry is None:
                ancestors.pop()
            elif (found := _look(entry, ancestors)) is not None:
                yield found

    def _found(self, entry: Entry) -> SourceEntry | None:
        def beginning() -> bytes:
            try:
                return read_file(entry.path, HEADER_BYTES)
            except OSError:
                # What cannot be read says no more than its name; if it may be an image, reading it says what is wrong.
                return b"\xff\xd8\xff" if self._any_name else b""

        found = skipped_file(printable(entry.path), entry.name, beginning, any_name=self._any_name)
        return self._item(entry) if found is None else found

    def _item(self, entry: Entry) -> Item | Fault | None:
        size, stamp = None, ""
        try:
            state = entry.stat()
            size, stamp = state.st_size, str(state.st_mtime_ns)
        except FileNotFoundError:
            # It was removed meanwhile; but a link that leads nowhere is still there, and reading it says so.
            if not entry.is_symlink():
                return None
        except OSError:
            # Reading says what is wrong.
            pass
        if not is_utf8(entry.path):
            return name_not_utf8(entry.path)
        return Item(self._id_of(entry.path), entry.path, partial(read_file, entry.path), size=size, stamp=stamp)

    def _id_of(self, path: str) -> str:
        return "" if self._by_content else path.removeprefix(self._prefix).replace(os.sep, "/")


class FileSource:
    """One image file; its id is its name."""

    def __init__(self, path: Path, by_content: bool = False) -> None:
        """Takes this file."""
        self.name = os.path.abspath(path)  # noqa: PTH100 - as above
        self._by_content = by_content

    def __iter__(self) -> Iterator[Item | Fault]:
        """The one item."""
        if not is_utf8(self.name):
            yield name_not_utf8(self.name)
            return
        size, stamp = file_state(self.name)
        image_id = "" if self._by_content else Path(self.name).name
        yield Item(image_id, self.name, partial(read_file, self.name), size=size, stamp=stamp)

    def count(self) -> int:
        """It is one."""
        return 1


def _entries(path: str) -> Iterator[Entry]:
    # With fewer entries than a chunk the directory is closed again before anything below it is opened.
    with thread_retries.get().run(partial(os.scandir, path)) as listing:
        while chunk := sorted(itertools.islice(listing, CHUNK), key=lambda entry: entry.name):
            yield from chunk


def _enter(path: str, ancestors: list[_Directory], *, is_shadow: bool) -> Fault | None:
    """Goes on with a directory, unless it is one of its own ancestors: all that is in it is seen there.

    A shadow folder that cannot be listed hides no image.
    """
    try:
        # A network's file system may fail for a moment.
        directory = thread_retries.get().run(partial(_Directory.opened, path, is_shadow=is_shadow))
    except OSError as error:
        return None if is_shadow else _unreadable(path, error)
    if not any(directory.is_same(ancestor) for ancestor in ancestors):
        ancestors.append(directory)
    return None


def _look(entry: Entry, ancestors: list[_Directory]) -> Entry | Fault | SkippedFile | None:
    """Goes on with a directory, and gives a file; None for what else there is."""
    is_shadow = ancestors[-1].is_shadow
    try:
        if entry.is_dir():
            return _enter(entry.path, ancestors, is_shadow=is_shadow or is_system_folder(entry.name))
        is_file = entry.is_file() or entry.is_symlink()
    except OSError as error:
        if is_shadow:
            return SkippedFile(printable(entry.path), SkipReason.SYSTEM_FILE)
        # A link to where nobody may look: by its name it is an image, or else may be a folder.
        if has_image_suffix(entry.name):
            return entry
        return None if error.errno == errno.ELOOP else _unreadable(entry.path, error)
    # What a link leads to may have been a folder, on a disk that is not there now.
    if _is_dangling(entry) and not is_shadow:
        return _unreadable(entry.path, FileNotFoundError(2, "it is a link to nothing"))
    found = SkippedFile(printable(entry.path), SkipReason.SYSTEM_FILE) if is_shadow else entry
    return found if is_file else None


def _is_dangling(entry: Entry) -> bool:
    return entry.is_symlink() and not Path(entry.name).suffix and not Path(entry.path).exists()


def _unreadable(path: str, error: OSError) -> Fault:
    return Fault(printable(path), "FOLDER_UNREADABLE", f"cannot be listed: {error.strerror or error}")
