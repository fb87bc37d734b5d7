"""Opens an image file as the embedder does, for programs that decode without it."""

from io import BytesIO

from PIL import Image

from imagesearch_pixels.declared import check_unread, check_variant
from imagesearch_pixels.picture_parts import without_metadata
from imagesearch_pixels.reading import Reading


def open_image(content: bytes, formats: tuple[str, ...], reading: Reading) -> tuple[Image.Image, bytes]:
    """Return the opened image, and what of the file it is.

    Metadata never decide over a good picture: if the file cannot be opened with them, it is opened without any. Raises
    the refusals of `reading`, UnsupportedImageError and TooManyPartsError.
    """
    picture = without_metadata(content)
    check_variant(picture)
    try:
        return _opened(picture, formats, reading), picture
    except reading.refusal:
        bare = without_metadata(content, bare=True)
        if bare != picture:
            return _opened(bare, formats, reading), bare
        check_unread(content)
        raise


def _opened(content: bytes, formats: tuple[str, ...], reading: Reading) -> Image.Image:
    with reading():
        return Image.open(BytesIO(content), formats=formats)
