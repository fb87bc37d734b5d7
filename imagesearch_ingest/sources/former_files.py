"""Find out whether files that were loaded earlier still exist."""

import os
import threading

from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.sources.member_uris import MEMBER_PROTOCOLS, split_member_uri
from imagesearch_ingest.sources.remote_files import connect, is_url, protocol_of, read_path
from imagesearch_ingest.sources.source_file import local_path

# Protocols with two names.
SAME_PROTOCOL = {"s3a": "s3", "gcs": "gs"}


class FormerFiles:
    """Looks for files by their stored uris. Safe for several threads; every method blocks."""

    def __init__(self) -> None:
        """Start without any request."""
        self._lock = threading.Lock()
        # Hosts and buckets that failed. They get no further requests.
        self._failed_hosts: set[str] = set()

    def former_exists(self, uri: str, former: str) -> bool:
        """Return whether the file `former` still exists and is not the same file as `uri`. True if unknown."""
        former = local_path(former)
        if not former:
            # A ready vector without a uri is in the source itself, which exists.
            return True
        if not is_url(former):
            return path_exists(former) and not _is_same_file(local_path(uri), former)
        if protocol_of(former) in MEMBER_PROTOCOLS:
            # Looking for a member would mean reading the archive, so look for the archive.
            own = dict(_archives(uri))
            archives = _archives(former)
            return not archives or any(self.former_exists(own.get(member, ""), archive) for member, archive in archives)
        return self._url_exists(former)

    def _url_exists(self, url: str) -> bool:
        host = "/".join(url.split("/", 3)[:3])
        if host in self._failed_hosts:
            return True
        try:
            with self._lock:
                system, path = connect(url)
            read_path(system, path, url, 1)
        except FileNotFoundError:
            return False
        except (OSError, SourceError) as error:
            if not isinstance(error, PermissionError):
                self._failed_hosts.add(host)
        return True


def canonical_uri(uri: str) -> str:
    """Return the spelling of a uri in which equal ones can be compared."""
    uri = local_path(uri)
    if not is_url(uri):
        return uri
    protocol = protocol_of(uri)
    return SAME_PROTOCOL.get(protocol, protocol) + uri[len(protocol) :]


def path_exists(path: str) -> bool:
    """Return whether a local path exists; True if that cannot be found out."""
    try:
        os.stat(path)  # noqa: PTH116 - paths are plain strings here, for speed
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return True


def _archives(uri: str) -> list[tuple[str, str]]:
    """Return the possible (member, archive) pairs of a uri; empty if it is not the uri of a member."""
    if protocol_of(uri) not in MEMBER_PROTOCOLS:
        return []
    try:
        return split_member_uri(uri)
    except OSError:
        return []


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 - as above
    except (OSError, ValueError):
        return False
