"""Reads the files of items."""

import hashlib

from grpc_kit.errors import InvalidArgumentError, NotFoundError, ServiceError
from imagesearch_client.sources.items import Item, Read


def read(item: Item, content: Read, max_bytes: int) -> tuple[bytes, str]:
    """A file and its SHA-256, 64 hexadecimal digits. Blocks. Raises ServiceError where it cannot be an image's file."""
    if item.size is not None and item.size > max_bytes:
        raise _too_large(item.size, max_bytes)
    try:
        found = content(max_bytes + 1)
    except OSError as error:
        raise NotFoundError("UNREADABLE", f"it cannot be read: {error.strerror or error}", field="uri") from None
    if not found:
        raise InvalidArgumentError("FILE_EMPTY", "the file has no bytes", field="uri")
    if len(found) > max_bytes:
        raise _too_large(len(found), max_bytes)
    return found, hashlib.sha256(found).hexdigest()


def _too_large(size: int, max_bytes: int) -> ServiceError:
    return InvalidArgumentError(
        "IMAGE_TOO_LARGE", f"it has {size} bytes or more; at most {max_bytes} are taken", field="uri"
    )
