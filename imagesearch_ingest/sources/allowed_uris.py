"""Decide which stored uris may be opened. Writers of a collection choose its uris, but do not run this program."""

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from fsspec.registry import known_implementations

from imagesearch_ingest.sources.member_uris import MEMBER_PROTOCOLS, split_member_uri
from imagesearch_ingest.sources.metadata_addresses import metadata_address
from imagesearch_ingest.sources.remote_files import CHAINED, WEB, is_url, protocol_of
from imagesearch_ingest.sources.source_file import local_path

FILE = "file"
BUCKETS = ("s3", "s3a", "gs", "gcs")
DEFAULT = (FILE, *WEB, *BUCKETS)


class AllowedUris:
    """The uris that may be opened. Protects against uris that somebody else has stored. Thread-safe."""

    def __init__(self, places: Sequence[str] = (), root: str = ".") -> None:
        """Allow only the given places.

        Args:
            places: protocols, such as "sftp", and beginnings of uris, such as "/photos" or "s3://bucket/". By default
                local files, http, https, s3 and gs are allowed, except for cloud metadata services.
            root: the path or URL to which relative uris are relative. Everything below it is allowed.
        """
        root = local_path(root)
        self._root = root.rstrip("/") + "/" if is_url(root) else os.path.realpath(root)
        self._is_default = not places
        named = [local_path(os.path.expanduser(location)) for location in places or DEFAULT]  # noqa: PTH111 - a string
        self._protocols = frozenset(name.lower() for name in named if _is_protocol(name))
        others = [name for name in named if not _is_protocol(name)]
        self._urls = tuple(name for name in others if is_url(name))
        self._folders = tuple(os.path.realpath(name) for name in others if not is_url(name))
        self._lock = threading.Lock()
        self.refused = 0
        """Number of refused uris."""
        self.first_refusal = ""
        """The reason of the first refusal."""

    def check(self, uri: str) -> None:
        """Raise PermissionError if a uri may not be opened. The message names the option that allows it."""
        if problem := next(filter(None, map(self._problem, _parts(uri))), ""):
            with self._lock:
                self.refused += 1
                self.first_refusal = self.first_refusal or f"{uri}: {problem}"
            raise PermissionError(errno.EACCES, problem, uri)

    def _problem(self, uri: str) -> str:
        """Return why one file may not be opened; an empty string if it may."""
        uri = local_path(uri)
        if is_url(uri):
            return self._url_problem(uri)
        if is_url(self._root) and not os.path.isabs(uri):  # noqa: PTH117 - a string
            return "it leads out of --root" if ".." in uri.split("/") else ""
        return self._local_problem(uri if is_url(self._root) else os.path.join(self._root, uri))  # noqa: PTH118

    def _url_problem(self, url: str) -> str:
        protocol = protocol_of(url)
        if any(_is_below(url, location) for location in (*self._urls, self._root) if is_url(location)):
            return ""
        if protocol not in self._protocols:
            if protocol in CHAINED or "::" in protocol:
                return f"{protocol}:// leads to another address; --open with the beginning of the uri allows it"
            return f"this command does not open it; --open {protocol} allows {protocol}://"
        if protocol in WEB and self._is_default and (address := metadata_address(urlsplit(url).hostname or "")):
            return f"{address} is a cloud metadata service with secrets; --open with the beginning of the uri allows it"
        return ""

    def _local_problem(self, path: str) -> str:
        try:
            real = os.path.realpath(path)
            is_other = os.path.exists(real) and not os.path.isdir(real) and not os.path.isfile(real)  # noqa: PTH110, PTH112, PTH113
        except (OSError, ValueError):
            # Reading the file reports the error.
            return ""
        if FILE not in self._protocols and not any(_is_in(real, folder) for folder in (*self._folders, self._root)):
            return f"this command does not open it; --open {os.path.dirname(real)} allows its folder"  # noqa: PTH120
        return "it is not a regular file" if is_other else ""


def _is_protocol(location: str) -> bool:
    """Return whether a location is a protocol, not a folder."""
    name = location.lower()
    return name in known_implementations or (name.isalnum() and not os.path.exists(location))  # noqa: PTH110 - a string


def _parts(uri: str) -> Iterator[str]:
    """Yield the files to open for a uri: the uri itself, or every archive that the uri of a member may mean."""
    if is_url(uri) and protocol_of(uri) in MEMBER_PROTOCOLS:
        yield from (archive for _, archive in split_member_uri(uri))
    else:
        yield uri


def _is_below(url: str, location: str) -> bool:
    """Return whether a URL is below another one: it continues at a slash, and does not contain ".."."""
    begin = location if location.endswith("/") else f"{location}/"
    rest = url[len(begin) :]
    return url == location or (
        url.startswith(begin) and ".." not in rest.replace("%2e", ".").replace("%2E", ".").split("/")
    )


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
