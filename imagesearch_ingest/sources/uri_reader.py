"""Read files by the uris of stored images."""

import errno
from types import TracebackType
from typing import Self

from imagesearch_ingest.sources.allowed_uris import AllowedUris
from imagesearch_ingest.sources.path_resolver import PathResolver
from imagesearch_ingest.sources.source_options import MAX_BYTES

FILE_URL = "file://"


class UriReader:
    """Reads the file of an item's uri. Thread-safe.

    The reader reads an archive once, from its beginning. `close` closes the archives.
    """

    def __init__(self, root: str = ".", max_bytes: int = MAX_BYTES, allowed: AllowedUris | None = None) -> None:
        """Set which files may be read.

        Args:
            root: the path or URL from which relative uris start.
            max_bytes: maximum size of a member that is kept, if its archive can be read only once.
            allowed: the uris that may be opened; None uses the default of `AllowedUris`.
        """
        self._allowed = allowed or AllowedUris(root=root or ".")
        self._resolver = PathResolver(root or ".", max_bytes)

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the archives."""
        self.close()

    def close(self) -> None:
        """Close the archives, and remove the temporary files."""
        self._resolver.close()

    def read(self, uri: str, limit: int) -> bytes:
        """Return the beginning of the file, at most `limit` bytes.

        Raises OSError; `file_errors.is_permanent` returns whether a retry is useless.
        """
        if not uri:
            raise FileNotFoundError(errno.ENOENT, "the image has no uri")
        try:
            self._allowed.check(uri)
            return self._resolver.resolve(uri).content(limit)
        except (FileNotFoundError, IsADirectoryError):
            # Some programs do not encode the path of a file:// URL.
            path = uri[len(FILE_URL) :]
            if not uri.lower().startswith(FILE_URL) or not path.startswith("/"):
                raise
            self._allowed.check(path)
            return self._resolver.resolve(path).content(limit)
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error), uri) from error
