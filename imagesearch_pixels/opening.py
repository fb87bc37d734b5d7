"""Opens an image file like the embedder, for programs that decode images themselves."""

from io import BytesIO

from PIL import Image

from imagesearch_pixels.declarations import check_unread, check_variant
from imagesearch_pixels.guards import PillowGuard
from imagesearch_pixels.metadata_removal import without_metadata


def open_image(content: bytes, formats: tuple[str, ...], guard: PillowGuard) -> tuple[Image.Image, bytes]:
    """Return the opened image, and the bytes that were opened.

    Broken metadata must not make an image unreadable: if the file cannot be opened, it is opened without any metadata.
    Raises the errors of `guard`, UnsupportedImageError and TooManyPartsError.
    """
    picture = without_metadata(content)
    check_variant(picture)
    try:
        return _opened(picture, formats, guard), picture
    except guard.refusal:
        bare = without_metadata(content, bare=True)
        if bare != picture:
            return _opened(bare, formats, guard), bare
        check_unread(content)
        raise


def _opened(content: bytes, formats: tuple[str, ...], guard: PillowGuard) -> Image.Image:
    with guard():
        return Image.open(BytesIO(content), formats=formats)
