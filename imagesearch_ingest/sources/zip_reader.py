"""Read members of zip files by name, in any order and from many threads."""

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

# Maximum number of open archives. zipfile keeps the directory of each in memory.
MAX_OPEN = 4


@dataclass(eq=False)
class _OpenZip:
    """A zip file that is opened on its first read. One thread at a time reads it."""

    state: tuple[int | None, str]
    """Size and stamp of a local file. They show whether the file was changed since."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    file: zipfile.ZipFile | None = None

    def read(self, source_file: SourceFile, member: str, limit: int) -> bytes:
        with self.lock:
            if self.file is None:
                # The last reference closes the file.
                self.file = zipfile.ZipFile(source_file.open())
            with self.file.open(member) as content:
                return content.read(limit)


class ZipReader:
    """Reads members of any number of archives. Opens each archive, and reads its directory, once."""

    def __init__(self) -> None:
        """Start without an open archive."""
        self._lock = threading.Lock()
        # By name, the most recently used one at the end.
        self._open: OrderedDict[str, _OpenZip] = OrderedDict()

    def close(self) -> None:
        """Close the archives."""
        with self._lock:
            self._open.clear()

    def read(self, uri: str, limit: int) -> bytes:
        """Return the beginning of the member that a uri names, at most `limit` bytes. Raises OSError."""
        return read_from_archive(uri, self._read, limit)

    def _read(self, source_file: SourceFile, member: str, limit: int) -> bytes:
        try:
            return self._opened(source_file).read(source_file, member.lstrip("/"), limit)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, f"{source_file.file_name} has no such member", member) from None
        except SourceError as error:
            raise file_system_error(error, source_file.name) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise OSError(errno.EINVAL, f"{source_file.file_name} cannot be read: {error}", member) from error

    def _opened(self, source_file: SourceFile) -> _OpenZip:
        state = (None, "") if source_file.is_remote else file_state(source_file.name)
        with self._lock:
            found = self._open.get(source_file.name)
            if found is None or found.state != state:
                found = self._open[source_file.name] = _OpenZip(state)
            self._open.move_to_end(source_file.name)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
            return found
