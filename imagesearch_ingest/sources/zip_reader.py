"""Reads members of zip files by name, in any order and from many threads."""

import errno
import threading
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field

from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.sources.local_files import file_state
from imagesearch_ingest.sources.member_uris import read_from_archive
from imagesearch_ingest.sources.remote_files import file_system_error
from imagesearch_ingest.sources.source_file import SourceFile

# Archives that are open at a time. The directory of each is in memory, as zipfile has it.
MAX_OPEN = 4


@dataclass(eq=False)
class _OpenZip:
    """A zip file that is open, or will be; one thread at a time reads it."""

    state: tuple[int | None, str]
    """Tells that a file of this machine was changed since."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    file: zipfile.ZipFile | None = None

    def read(self, location: SourceFile, member: str, limit: int) -> bytes:
        with self.lock:
            if self.file is None:
                # Open as long as somebody reads it: the last reference closes it.
                self.file = zipfile.ZipFile(location.open())
            with self.file.open(member) as content:
                return content.read(limit)


class ZipReader:
    """Members of any number of archives; each is opened, and its directory read, once."""

    def __init__(self) -> None:
        """Knows no archive yet."""
        self._lock = threading.Lock()
        # By name, the one that was used last at the end.
        self._open: OrderedDict[str, _OpenZip] = OrderedDict()

    def close(self) -> None:
        """Closes the archives."""
        with self._lock:
            self._open.clear()

    def read(self, uri: str, limit: int) -> bytes:
        """The content of the member that a uri names, at most so many bytes. Raises OSError."""
        return read_from_archive(uri, self._read, limit)

    def _read(self, location: SourceFile, member: str, limit: int) -> bytes:
        try:
            return self._opened(location).read(location, member.lstrip("/"), limit)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, f"{location.file_name} has no such member", member) from None
        except SourceError as error:
            raise file_system_error(error, location.name) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise OSError(errno.EINVAL, f"{location.file_name} cannot be read: {error}", member) from error

    def _opened(self, location: SourceFile) -> _OpenZip:
        state = (None, "") if location.is_remote else file_state(location.name)
        with self._lock:
            found = self._open.get(location.name)
            if found is None or found.state != state:
                found = self._open[location.name] = _OpenZip(state)
            self._open.move_to_end(location.name)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
            return found
