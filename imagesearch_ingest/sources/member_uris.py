"""Uris of archive members: tar://MEMBER::ARCHIVE, zip://MEMBER::ARCHIVE, parquet://COLUMN/ROW::FILE."""

import errno
import os
import re
from collections.abc import Callable

from imagesearch_ingest.sources.remote_files import CHAINED, is_url
from imagesearch_ingest.sources.source_file import SourceFile

TAR, ZIP, PARQUET = "tar", "zip", "parquet"
MEMBER_PROTOCOLS = (TAR, ZIP, PARQUET)
# The beginning of an archive that is a URL.
URL_BEGIN = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*://|({'|'.join(sorted(CHAINED))})::")


def member_uri(member: str, archive: str) -> str:
    """Return the uri of a member of a tar file. `archive` is an absolute path or a URL."""
    return f"{TAR}://{member}::{archive}"


def split_member_uri(uri: str) -> list[tuple[str, str]]:
    """Return the possible (member, archive) pairs of a uri; names may contain "::" as well.

    Raises OSError if there is none.
    """
    text = uri.partition("://")[2]
    splits = [(text[:at], text[at + 2 :]) for at in range(len(text)) if text.startswith("::", at)]
    if not splits:
        raise OSError(errno.EINVAL, "the uri of a member is tar://MEMBER::ARCHIVE or zip://MEMBER::ARCHIVE", uri)
    likely = [
        (member, archive)
        for member, archive in splits
        if URL_BEGIN.match(archive) or (os.path.isabs(archive) and not is_url(archive))  # noqa: PTH117 - a string
    ]
    return likely or splits[-1:]


def read_from_archive(uri: str, read: Callable[[SourceFile, str, int], bytes], limit: int) -> bytes:
    """Read at most `limit` bytes of the member that a uri names. Raises OSError."""
    *others, last = split_member_uri(uri)
    for member, archive in others:
        try:
            return read(SourceFile(archive), member, limit)
        except FileNotFoundError:
            # The member may be in the next archive.
            continue
    return read(SourceFile(last[1]), last[0], limit)
