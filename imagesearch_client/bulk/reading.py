"""Reads the files of items, and of images that are stored."""

import errno
import hashlib

from grpc_kit.errors import InvalidArgumentError, NotFoundError, ServiceError, UnavailableError
from imagesearch_client.sources.items import Item, Read
from imagesearch_client.sources.remote import is_lasting
from imagesearch_client.sources.uris import UriReader

# Errors of this process or its system, which are not faults of the file.
LACKS = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}


def read(item: Item, content: Read, max_bytes: int) -> tuple[bytes, str]:
    """A file and its SHA-256, 64 hexadecimal digits. Blocks. Raises ServiceError where it cannot be an image's file."""
    if item.size is not None and item.size > max_bytes:
        raise _too_large(item.size, max_bytes)
    try:
        found = content(max_bytes + 1)
    except OSError as error:
        raise (_unreadable_now(error) if error.errno in LACKS else _unreadable(error)) from None
    return _checked(found, max_bytes)


def read_again(reader: UriReader, uri: str, max_bytes: int) -> tuple[bytes, str]:
    """The file of a stored image and its SHA-256, as `read` gives them. Blocks; any number of threads may call it.

    Raises:
        NotFoundError: the file is gone, forbidden or no file, so that trying again is no use.
        UnavailableError: it cannot be read now, and may be later; `retry_after` is what a server says of that.
        InvalidArgumentError: it is empty or too large.
    """
    try:
        found = reader.read(uri, max_bytes + 1)
    except OSError as error:
        if is_lasting(error):
            raise _unreadable(error) from None
        raise _unreadable_now(error) from None
    return _checked(found, max_bytes)


def _unreadable(error: OSError) -> ServiceError:
    return NotFoundError("UNREADABLE", f"it cannot be read: {error.strerror or error}", field="uri")


def _unreadable_now(error: OSError) -> ServiceError:
    message = f"it cannot be read now: {error.strerror or error}"
    wait = getattr(error, "retry_after", None)
    return UnavailableError("UNREADABLE_NOW", message, field="uri", retry_after=wait)


def _checked(found: bytes, max_bytes: int) -> tuple[bytes, str]:
    if not found:
        raise InvalidArgumentError("FILE_EMPTY", "the file has no bytes", field="uri")
    if len(found) > max_bytes:
        raise _too_large(len(found), max_bytes)
    return found, hashlib.sha256(found).hexdigest()


def _too_large(size: int, max_bytes: int) -> ServiceError:
    return InvalidArgumentError(
        "IMAGE_TOO_LARGE", f"it has {size} bytes or more; at most {max_bytes} are taken", field="uri"
    )
