"""A destination that decodes images and stores nothing, to show what a load would do."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ImageFile as PillowImageFile
from PIL import UnidentifiedImageError

from grpc_kit.errors import InvalidArgumentError
from imagesearch_ingest.extras import how_to_install
from imagesearch_ingest.load.destination import DEFAULT_MAX_IMAGE_BYTES, Destination, ImageMetadata
from imagesearch_ingest.load.errors import LoadStoppedError
from imagesearch_ingest.pillow_formats import pillow_formats
from imagesearch_pixels.colours import to_upright_rgb
from imagesearch_pixels.declarations import declarations_of
from imagesearch_pixels.guards import PillowGuard, TooManyPartsError, UnsupportedImageError
from imagesearch_pixels.opening import open_image

MAX_IMAGE_PIXELS = 50_000_000


class DryRunDestination(Destination):
    """Decodes images, and stores nothing."""

    is_dry_run = True
    max_image_bytes = DEFAULT_MAX_IMAGE_BYTES

    async def store(self, image: ImageMetadata, content: bytes) -> bool:  # noqa: ARG002 - see Destination
        """Decode an image."""
        await asyncio.to_thread(check_decodable, content)
        return False


def check_decodable(content: bytes) -> None:
    """Decode an image's first frame as the embedder does. Raises InvalidArgumentError and LoadStoppedError."""
    if content[4:8] == b"ftyp" and content[8:11] == b"hei" and "HEIF" not in pillow_formats():
        raise InvalidArgumentError(
            "IMAGE_FORMAT_UNSUPPORTED", f"the file is a HEIC file: {how_to_install('pillow-heif', 'cli,heic')}"
        )
    try:
        image, picture = open_image(content, pillow_formats(), GUARD)
        with image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise InvalidArgumentError(
                    "IMAGE_DIMENSIONS_TOO_LARGE",
                    f"the image has {image.width} x {image.height} pixels; the default limit is {MAX_IMAGE_PIXELS}",
                )
            to_upright_rgb(image, declarations_of(image, picture, GUARD), GUARD)
    except UnsupportedImageError as error:
        raise InvalidArgumentError("IMAGE_FORMAT_UNSUPPORTED", str(error)) from None
    except TooManyPartsError as error:
        raise InvalidArgumentError("IMAGE_TOO_COSTLY", str(error)) from None
    except MemoryError:
        raise _out_of_memory() from None


def _out_of_memory() -> LoadStoppedError:
    return LoadStoppedError("OUT_OF_MEMORY", "this process has no memory left to decode an image")


@contextmanager
def _converted_errors() -> Iterator[None]:
    """Convert Pillow's errors to InvalidArgumentError, and a lack of memory to LoadStoppedError."""
    try:
        yield
    except UnsupportedImageError:
        raise
    except UnidentifiedImageError:
        raise InvalidArgumentError("IMAGE_FORMAT_UNSUPPORTED", "the file is not an image of a known format") from None
    except Exception as error:  # noqa: BLE001 - decoders raise errors of any class on damaged files
        if isinstance(error, MemoryError) or PillowImageFile.ERRORS[-9] in str(error):
            raise _out_of_memory() from None
        raise InvalidArgumentError("IMAGE_CORRUPT", f"the file cannot be decoded: {error}") from None


GUARD = PillowGuard(_converted_errors, InvalidArgumentError)
