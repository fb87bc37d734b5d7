"""Folders of this machine, and single files."""

import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from imagesearch_client.sources.files import file_state, is_image, is_text, odd_name, read_file, shown
from imagesearch_client.sources.items import Fault, Item
from imagesearch_client.sources.retries import current

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

    @classmethod
    def opened(cls, path: str) -> "_Directory":
        state = os.stat(path)  # noqa: PTH116 - paths are plain texts here, for speed
        return cls(path, state.st_dev, state.st_ino, _entries(path))

    def is_same(self, other: "_Directory") -> bool:
        return (self.device, self.inode) == (other.device, other.inode)


class Folder:
    """Every image below a folder. Links are followed, save those that lead back up.

    Files come in order of their names, or where one directory has more than CHUNK of them, in several such orders.
    """

    def __init__(self, root: Path, by_content: bool = False) -> None:
        """Takes the images below `root`; by their content's SHA-256 as ids, or by their paths below `root`."""
        self.name = os.path.abspath(root)  # noqa: PTH100 - Path.absolute keeps ".."
        self._by_content = by_content
        self._prefix = self.name.rstrip(os.sep) + os.sep

    def __iter__(self) -> Iterator[Item | Fault]:
        """Its images, with a look at the size and the time of each."""
        for found in self._walk():
            item = found if isinstance(found, Fault) else self._item(found)
            if item is not None:
                yield item

    def count(self) -> int:
        """How many images there are, by their names alone."""
        return sum(not isinstance(found, Fault) for found in self._walk())

    def _walk(self) -> Iterator[Entry | Fault]:
        """The files whose names are images', each directory's where it stands among them."""
        # A list, and no recursion: a path may be deeper than Python's calls can be.
        ancestors: list[_Directory] = []
        if (fault := _enter(self.name, ancestors)) is not None:
            yield fault
        while ancestors:
            try:
                entry = next(ancestors[-1].entries, None)
            except OSError as error:
                yield _unreadable(ancestors[-1].path, error)
                entry = None
            if entry is None:
                ancestors.pop()
            elif (found := _look(entry, ancestors)) is not None:
                yield found

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
        if not is_text(entry.path):
            return odd_name(entry.path)
        image_id = "" if self._by_content else entry.path.removeprefix(self._prefix).replace(os.sep, "/")
        return Item(image_id, entry.path, partial(read_file, entry.path), size=size, stamp=stamp)


class SingleFile:
    """One image file; its id is its name."""

    def __init__(self, path: Path, by_content: bool = False) -> None:
        """Takes this file."""
        self.name = os.path.abspath(path)  # noqa: PTH100 - as above
        self._by_content = by_content

    def __iter__(self) -> Iterator[Item | Fault]:
        """The one item."""
        if not is_text(self.name):
            yield odd_name(self.name)
            return
        size, stamp = file_state(self.name)
        image_id = "" if self._by_content else Path(self.name).name
        yield Item(image_id, self.name, partial(read_file, self.name), size=size, stamp=stamp)

    def count(self) -> int:
        """It is one."""
        return 1


def _entries(path: str) -> Iterator[Entry]:
    # With fewer entries than a chunk the directory is closed again before anything below it is opened.
    with current.get().run(partial(os.scandir, path)) as listing:
        while chunk := sorted(itertools.islice(listing, CHUNK), key=lambda entry: entry.name):
            yield from chunk


def _enter(path: str, ancestors: list[_Directory]) -> Fault | None:
    """Goes on with a directory, unless it is one of its own ancestors: all that is in it is seen there."""
    try:
        # A network's file system may fail for a moment.
        directory = current.get().run(partial(_Directory.opened, path))
    except OSError as error:
        return _unreadable(path, error)
    if not any(directory.is_same(ancestor) for ancestor in ancestors):
        ancestors.append(directory)
    return None


def _look(entry: Entry, ancestors: list[_Directory]) -> Entry | Fault | None:
    """Goes on with a directory, and gives an image file; None for what else there is."""
    try:
        if entry.is_dir():
            return _enter(entry.path, ancestors)
        is_file = entry.is_file() or entry.is_symlink()
    except OSError as error:
        # A link to where nobody may look: by its name it is an image, or else may be a folder.
        if is_image(entry.name):
            return entry
        return None if error.errno == errno.ELOOP else _unreadable(entry.path, error)
    if is_file and is_image(entry.name):
        return entry
    # What a link leads to may have been a folder, on a disk that is not there now.
    return _unreadable(entry.path, FileNotFoundError(2, "it is a link to nothing")) if _is_dangling(entry) else None


def _is_dangling(entry: Entry) -> bool:
    return entry.is_symlink() and not entry.is_file() and not Path(entry.name).suffix


def _unreadable(path: str, error: OSError) -> Fault:
    return Fault(shown(path), "FOLDER_UNREADABLE", f"cannot be listed: {error.strerror or error}")
