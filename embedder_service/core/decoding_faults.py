"""Decides whether a decoding error is a fault of the file or a lack of memory.

Pillow's decoders raise many classes of errors on invalid bytes. So any error that Pillow raises while it reads a file
is a fault of the file. An error of this project's own code is never a fault of the file.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from PIL import ImageFile

from grpc_kit.errors import InvalidArgumentError, ResourceExhaustedError, ServiceError, out_of_memory
from grpc_kit.server import allocation
from imagesearch_pixels.guards import UnsupportedImageError

log = structlog.stdlib.get_logger()

CONTENT = "image.content"
# Pillow's messages if a decoder cannot allocate memory, which is code -9.
CODEC_MEMORY = (ImageFile.ERRORS[-9], "decoder error -9")


@contextmanager
def reading_the_file() -> Iterator[None]:
    """Turn errors of Pillow into IMAGE_CORRUPT, and a lack of memory into OUT_OF_MEMORY.

    Use it only around calls of Pillow that read the file or values from the file.
    """
    allocation.clear_failures()
    try:
        yield
    except (ServiceError, UnsupportedImageError):
        raise
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise errors of any class
        if is_lack_of_memory(error):
            raise no_memory(error) from None
        raise corrupt(str(error) or type(error).__name__) from None


def corrupt(why: str) -> InvalidArgumentError:
    """Return the error for a file of a known format that cannot be decoded."""
    return InvalidArgumentError("IMAGE_CORRUPT", f"{CONTENT} cannot be decoded: {why}", field=CONTENT)


def unsupported(why: str) -> InvalidArgumentError:
    """Return the error for a valid file of a variant that Pillow cannot decode correctly."""
    return InvalidArgumentError(
        "IMAGE_FORMAT_UNSUPPORTED", f"{CONTENT} cannot be decoded correctly: {why}", field=CONTENT
    )


def too_costly(why: str) -> InvalidArgumentError:
    """Return the error for an image that takes much longer to decode than usual for its size."""
    return InvalidArgumentError(
        "IMAGE_TOO_COSTLY",
        f"{CONTENT} takes too long to decode: {why}; save the image again with the usual settings",
        field=CONTENT,
    )


def no_memory(error: BaseException) -> ResourceExhaustedError:
    """Log a lack of memory, and return the error for the image."""
    log.warning("no memory to decode an image", error=repr(error))
    return out_of_memory()


def is_lack_of_memory(error: BaseException) -> bool:
    """Return whether Pillow failed because it could not allocate memory.

    libjpeg, libtiff and libwebp report a lack of memory as a broken file.
    """
    return isinstance(error, MemoryError) or allocation.has_failed() or any(text in str(error) for text in CODEC_MEMORY)
