"""Reads again what was ingested, by the uris that images are stored with."""

import errno
from types import TracebackType
from typing import Self

from imagesearch_ingest.sources.allowed_uris import AllowedUris
from imagesearch_ingest.sources.path_resolver import PathResolver
from imagesearch_ingest.sources.source_options import MAX_BYTES

FILE_URL = "file://"


class UriReader:
    """Reads the file of any uri that a source gives its items, as the source reads it. For several threads.

    Archives are read from their beginning once, and are closed with the reader.
    """

    def __init__(self, root: str = ".", max_bytes: int = MAX_BYTES, allowed: AllowedUris | None = None) -> None:
        """Reads nothing yet.

        Args:
            root: where relative uris begin, a path or a URL.
            max_bytes: larger members of an archive that can only be read in passing cannot be read.
            allowed: the uris that may be opened; None is the default of `AllowedUris`.
        """
        self._allowed = allowed or AllowedUris(root=root or ".")
        self._places = PathResolver(root or ".", max_bytes)

    def __enter__(self) -> Self:
        """The reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the archives."""
        self.close()

    def close(self) -> None:
        """Closes the archives, and removes the temporary files."""
        self._places.close()

    def read(self, uri: str, limit: int) -> bytes:
        """The file from its beginning, at most so many bytes.

        Raises OSError; `failures.is_lasting` says whether trying again is no use.
        """
        if not uri:
            raise FileNotFoundError(errno.ENOENT, "the image has no uri")
        self._allowed.check(uri)
        try:
            return self._places.find(uri).content(limit)
        except (FileNotFoundError, IsADirectoryError):
            # Some write the path behind file:// as it is, without the % that stand for odd characters.
            path = uri[len(FILE_URL) :]
            if not uri.lower().startswith(FILE_URL) or not path.startswith("/"):
                raise
            self._allowed.check(path)
            return self._places.find(path).content(limit)
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error), uri) from error
