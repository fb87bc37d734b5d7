"""Whose fault it is when an image cannot be decoded: the file's, or a lack of memory.

What Pillow raises while it reads a file is the file's fault, whatever its class: its decoders raise anything on bytes
that are not what they say. What this project's own code raises is never the file's fault.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from PIL import ImageFile

from grpc_kit import allocation
from grpc_kit.errors import InvalidArgumentError, ResourceExhaustedError, ServiceError, out_of_memory

log = structlog.stdlib.get_logger()

CONTENT = "image.content"
# What Pillow says if its decoders cannot allocate memory, which is code -9.
CODEC_MEMORY = (ImageFile.ERRORS[-9], "decoder error -9")


@contextmanager
def reading_the_file() -> Iterator[None]:
    """Turns what Pillow raises into IMAGE_CORRUPT, and a lack of memory into OUT_OF_MEMORY.

    Only calls of Pillow that read the file, or what the file says, belong into it.
    """
    allocation.forget_failures()
    try:
        yield
    except ServiceError:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise whatever they stumble on
        if is_lack_of_memory(error):
            raise no_memory(error) from None
        raise corrupt(str(error) or type(error).__name__) from None


def corrupt(why: str) -> InvalidArgumentError:
    """Return the refusal of a file of a known format that cannot be decoded."""
    return InvalidArgumentError("IMAGE_CORRUPT", f"{CONTENT} cannot be decoded: {why}", field=CONTENT)


def no_memory(error: BaseException) -> ResourceExhaustedError:
    """Return the refusal of an image for which there is no memory now, and log it."""
    log.warning("no memory to decode an image", error=repr(error))
    return out_of_memory()


def is_lack_of_memory(error: BaseException) -> bool:
    """Return whether Pillow failed because memory could not be allocated.

    libjpeg, libtiff and libwebp report that as they report a broken file.
    """
    return isinstance(error, MemoryError) or allocation.has_failed() or any(text in str(error) for text in CODEC_MEMORY)
