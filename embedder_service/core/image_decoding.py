"""Decodes the bytes of an image file to a network's input pixels. All faults of a file are detected here."""

import math
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from embedder_service.core.deadlines import AnyDeadline, deadline_exceeded
from embedder_service.core.decoding_costs import (
    CountedFile,
    check_cost,
    check_header,
    check_sum,
    is_scalable,
    pixels_in_memory,
    tag_number,
)
from embedder_service.core.decoding_faults import (
    CONTENT,
    corrupt,
    is_lack_of_memory,
    no_memory,
    reading_the_file,
    too_costly,
    unsupported,
)
from embedder_service.core.heif import HEIC_FORMATS, HOW_TO_INSTALL
from embedder_service.core.image_preparation import Preparation
from embedder_service.core.types import EncodedImage, InputPolicy, Limits, Pixels, Region, RegionRequest
from grpc_kit.errors import InvalidArgumentError
from grpc_kit.server.hang_watch import HangWatch
from imagesearch_pixels.colour_profiles import Conversion
from imagesearch_pixels.colours import to_upright_rgb
from imagesearch_pixels.declarations import check_unread, check_variant, declarations_of
from imagesearch_pixels.guards import PillowGuard, TooManyPartsError, UnsupportedImageError
from imagesearch_pixels.image_boxes import AVIF_BRANDS, HEIC_BRANDS, brand_of, coded_images
from imagesearch_pixels.metadata_removal import without_metadata

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", *HEIC_FORMATS)
# The names in messages.
FORMAT_NAMES = tuple("HEIC" if name == "HEIF" else name for name in FORMATS)
REGION = "image.region"

GUARD = PillowGuard(reading_the_file, InvalidArgumentError)

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"BM")

# Left, top, right, bottom, in pixels.
Box: TypeAlias = tuple[float, float, float, float]

# A large JPEG is decoded at a half, a quarter or an eighth of its size. The decoded side is at least the result's side
# times this. So the final resize still averages over at least two pixels in each direction.
DRAFT_MARGIN = 2

# The sides of a native input are multiples of this: one cell of a network's feature map. This also bounds the number
# of different sizes, because TensorFlow plans for each one.
NATIVE_STEP = 32


class PixelBudget:
    """Bounds the pixels that all threads together decode at a time. Images wait in order of arrival (FIFO)."""

    def __init__(self, pixels: int, watch: HangWatch | None = None) -> None:
        """`pixels` is the maximum at a time, at least those of the largest image. `watch` ignores waiting threads."""
        self._free = self._max_pixels = pixels
        self._watch = watch or HangWatch()
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def hold(self, pixels: int, deadline: AnyDeadline) -> Iterator[None]:
        """Wait until this many pixels are free, and hold them in this context. Raises DeadlineExceededError."""
        # An image of more pixels than the maximum is decoded alone.
        share = min(pixels, self._max_pixels)
        waiter = object()
        with self._changed:
            self._waiting.append(waiter)
            try:
                with self._watch.waiting():
                    self._wait(waiter, share, deadline)
                self._free -= share
            finally:
                self._waiting.remove(waiter)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()

    def _wait(self, waiter: object, share: int, deadline: AnyDeadline) -> None:
        while self._waiting[0] is not waiter or self._free < share:
            # Read again each time, because the deadline is later if another caller joins the same image.
            seconds = deadline.remaining()
            if seconds <= 0:
                raise deadline_exceeded()
            self._changed.wait(min(seconds, threading.TIMEOUT_MAX))


class ImageDecoder:
    """Decodes images to a network's input."""

    def __init__(self, policy: InputPolicy, limits: Limits, budget: PixelBudget) -> None:
        """`policy` describes the network's input; decoders may share a `budget`."""
        self._policy = policy
        self._limits = limits
        self._budget = budget

    def decode(self, image: EncodedImage, deadline: AnyDeadline, request: RegionRequest | None = None) -> Pixels:
        """Return the image as uint8[height, width, 3]. Both sides are the policy's side, except with `native`.

        The file is a JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or HEIC file. The decoder takes its first frame, and turns
        it by its EXIF orientation (AVIF and HEIC: by their own properties). It converts the frame to sRGB, puts
        transparency over white and crops the region. Then it resizes the crop with Pillow's bilinear filter, which
        averages over all pixels that fall into one. A JPEG of at least four times the result's size is scaled while it
        is decoded. This is several times faster, and the vector stays within a cosine of 0.999.

        Each box of `request` must cover at least one pixel of the whole image.

        Raises InvalidArgumentError, DeadlineExceededError, and ResourceExhaustedError if memory runs out.
        """
        try:
            return self._decode(image, deadline, request)
        except MemoryError as error:
            raise no_memory(error) from None
        except UnsupportedImageError as error:
            raise unsupported(str(error)) from None
        except TooManyPartsError as error:
            raise too_costly(str(error)) from None
        except InvalidArgumentError as error:
            if error.reason == "IMAGE_CORRUPT":
                refuse_unreadable_variant(image.content)
            raise

    def _decode(self, image: EncodedImage, deadline: AnyDeadline, request: RegionRequest | None) -> Pixels:
        content = image.content
        if not content:
            raise InvalidArgumentError(
                "IMAGE_MISSING", f"{CONTENT} is empty; it must contain an image file", field=CONTENT
            )
        if len(content) > self._limits.max_image_bytes:
            raise InvalidArgumentError(
                "IMAGE_TOO_LARGE",
                f"{CONTENT} has {len(content)} bytes; the maximum is {self._limits.max_image_bytes}",
                field=CONTENT,
                metadata={"max_image_bytes": str(self._limits.max_image_bytes)},
            )
        opened, content = self._open(content, deadline)
        with opened:
            self._check_dimensions(opened.width, opened.height)
            self._check_tiles(opened)
            coded = self._check_coded(content)
            check_cost(opened, content, self._limits.max_image_pixels)
            if image.region is not None:
                check_region(image.region, REGION)
            declared = declarations_of(opened, content, GUARD)
            scale = self._draft(opened, image.region) if is_scalable(opened, content) else 1
            with self._budget.hold(max(coded, pixels_in_memory(opened, content, scale)), deadline):
                colour, conversion = to_upright_rgb(opened, declared, GUARD)
                if request is not None:
                    for number, each in enumerate(request.boxes):
                        box_of(each, colour, scale, request.path_of(number))
                box = None
                if image.region:
                    # Crop first, because the filter would also read pixels beyond the edges of the box.
                    colour, box = crop(colour, box_of(image.region, colour, scale, REGION))
                resized = fit(colour, box, self._policy, conversion)
        return np.asarray(resized, dtype=np.uint8)

    def _draft(self, opened: Image.Image, region: Region | None) -> int:
        """Make Pillow scale a large JPEG while it decodes. Return the divisor: 1, 2, 4 or 8."""
        if self._policy.preparation is not None:
            # The pixels must be those of the encoder's own image processor.
            return 1
        width = opened.width
        # The shorter side of the region, because EXIF may still swap the sides.
        fraction = min(region.x1 - region.x0, region.y1 - region.y0) if region else 1.0
        side = math.ceil(DRAFT_MARGIN * self._policy.side / fraction)
        with reading_the_file():
            opened.draft(opened.mode, (side, side))
        return round(width / opened.width)

    def _check_dimensions(self, width: int, height: int) -> None:
        """Refuse an image by the size in its header, before its pixels are decoded."""
        if width < 1 or height < 1:
            raise InvalidArgumentError(
                "IMAGE_EMPTY", f"{CONTENT} has {width} x {height} pixels; both sides must be at least 1", field=CONTENT
            )
        max_pixels = self._limits.max_image_pixels
        if width * height > max_pixels:
            raise InvalidArgumentError(
                "IMAGE_DIMENSIONS_TOO_LARGE",
                f"{CONTENT} has {width} x {height} = {width * height} pixels; the maximum is {max_pixels}",
                field=CONTENT,
                metadata={"max_image_pixels": str(max_pixels), "width": str(width), "height": str(height)},
            )

    def _check_tiles(self, image: Image.Image) -> None:
        """Refuse a TIFF file whose tiles are larger than an image may be, because a tile is decoded as a whole."""
        if not isinstance(image, TiffImageFile):
            return
        width, height = (tag_number(image, tag, 0) for tag in (TILEWIDTH, TILELENGTH))
        if width and height:
            self._check_dimensions(width, height)

    def _check_coded(self, content: bytes) -> int:
        """Refuse an AVIF or HEIC file with a coded image that is too large. Return the pixels of all coded images."""
        if not brand_of(content):
            return 0
        images = coded_images(content)
        if not images:
            raise corrupt("it contains no AV1 or HEVC image")
        for image in images:
            self._check_dimensions(image.width, image.height)
        check_sum(images, self._limits.max_image_pixels)
        return sum(image.max_pixels for image in images)

    def _open(self, content: bytes, deadline: AnyDeadline) -> tuple[Image.Image, bytes]:
        """Return the opened image, and the bytes that were opened.

        Broken metadata must not make an image unreadable: if the file cannot be opened, it is opened without any
        metadata. Raises InvalidArgumentError and UnsupportedImageError.
        """
        picture = without_metadata(content)
        check_variant(picture)
        try:
            return self._open_picture(picture, deadline), picture
        except InvalidArgumentError:
            bare = without_metadata(content, bare=True)
            if bare == picture:
                raise
            return self._open_picture(bare, deadline), bare

    def _open_picture(self, content: bytes, deadline: AnyDeadline) -> Image.Image:
        check_header(content)
        file = CountedFile(content, deadline)
        with reading_the_file():
            try:
                return Image.open(file, formats=FORMATS)
            except (UnidentifiedImageError, Image.DecompressionBombError) as error:
                if is_lack_of_memory(error):
                    raise
                is_too_large = isinstance(error, Image.DecompressionBombError)
        # Outside of `reading_the_file`, which would report an error of this project's code as a fault of the file.
        raise self._too_large_for_pillow() if is_too_large else self._unidentified(content)

    def _too_large_for_pillow(self) -> InvalidArgumentError:
        """Return the error for an image that exceeds Pillow's own limit. Its size is not known."""
        max_pixels = self._limits.max_image_pixels
        return InvalidArgumentError(
            "IMAGE_DIMENSIONS_TOO_LARGE",
            f"{CONTENT} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; the maximum is {max_pixels}",
            field=CONTENT,
            metadata={"max_image_pixels": str(max_pixels)},
        )

    def _unidentified(self, content: bytes) -> InvalidArgumentError:
        size = stated_size(content)
        if size is not None and 0 in size:
            self._check_dimensions(*size)
        brand = brand_of(content)
        if content.startswith(SIGNATURES) or brand in AVIF_BRANDS or (brand and HEIC_FORMATS):
            return corrupt("its header is incomplete or wrong")
        if brand in HEIC_BRANDS:
            return InvalidArgumentError(
                "IMAGE_FORMAT_UNSUPPORTED",
                f"{CONTENT} is a HEIC file, and the embedder has no pillow-heif; {HOW_TO_INSTALL}",
                field=CONTENT,
                metadata={"formats": ",".join(FORMAT_NAMES)},
            )
        return InvalidArgumentError(
            "IMAGE_FORMAT_UNSUPPORTED",
            f"{CONTENT} is not an image of a supported format; use {', '.join(FORMAT_NAMES)}",
            field=CONTENT,
            metadata={"formats": ",".join(FORMAT_NAMES)},
        )


def refuse_unreadable_variant(content: bytes) -> None:
    """Raise InvalidArgumentError if a file is valid, but of a variant that Pillow cannot decode."""
    try:
        check_unread(content)
    except UnsupportedImageError as error:
        raise unsupported(str(error)) from None


def stated_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height from the header of a PNG, GIF or BMP file, or None. Pillow does not open empty images."""
    for signature, layout, offset in (
        (b"\x89PNG\r\n\x1a\n", ">II", 16),
        (b"GIF8", "<HH", 6),
        (b"BM", "<ii", 18),
    ):
        if content.startswith(signature) and len(content) >= offset + struct.calcsize(layout):
            width, height = struct.unpack_from(layout, content, offset)
            return width, height
    return None


def check_region(region: Region, field: str) -> None:
    """Raise InvalidArgumentError if a region is not a box within the image; `field` is its path in the request."""
    box = (region.x0, region.y0, region.x1, region.y1)
    inside = all(math.isfinite(edge) and 0.0 <= edge <= 1.0 for edge in box)
    if not inside or region.x0 >= region.x1 or region.y0 >= region.y1:
        raise InvalidArgumentError(
            "REGION_INVALID",
            f"{field} is x0={region.x0:g}, y0={region.y0:g}, x1={region.x1:g}, y1={region.y1:g}; "
            "it must have 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1",
            field=field,
        )


def crop(image: Image.Image, box: Box) -> tuple[Image.Image, Box]:
    """Return the pixels that a box touches, and the position of the box in them."""
    left, top = math.floor(box[0]), math.floor(box[1])
    part = image.crop((left, top, math.ceil(box[2]), math.ceil(box[3])))
    return part, (box[0] - left, box[1] - top, box[2] - left, box[3] - top)


def fit(image: Image.Image, box: Box | None, policy: InputPolicy, conversion: Conversion | None = None) -> Image.Image:
    """Return an image, or a box of it, as a network's input. Converting colours after the resize is faster."""
    left, top, right, bottom = box or (0, 0, image.width, image.height)
    width, height, side = right - left, bottom - top, policy.side

    def resized(to_width: float, to_height: float, part: Box = (left, top, right, bottom)) -> Image.Image:
        size = (max(1, round(to_width)), max(1, round(to_height)))
        small = image.resize(size, Image.Resampling.BILINEAR, part)
        return small if conversion is None else conversion(small)

    match policy.shape:
        case "config":
            if not isinstance(policy.preparation, Preparation):
                raise TypeError("the input config needs a preparation")
            # The image was not scaled while it was decoded, so a box of it was cut out at whole pixels already.
            return policy.preparation.place(image, conversion)
        case "squash":
            return resized(side, side)
        case "crop":
            edge = min(width, height)
            x0, y0 = left + (width - edge) / 2, top + (height - edge) / 2
            return resized(side, side, (x0, y0, x0 + edge, y0 + edge))
        case "pad":
            scale = side / max(width, height)
            inner = resized(width * scale, height * scale)
            padded = Image.new("RGB", (side, side))
            padded.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
            return padded
        case "native":
            # Images are not enlarged, except to the next multiple of a cell.
            scale = min(1.0, side / max(width, height))
            to_width, to_height = (
                max(policy.min_side, NATIVE_STEP * round(edge * scale / NATIVE_STEP)) for edge in (width, height)
            )
            return resized(to_width, to_height)


def box_of(region: Region, image: Image.Image, scale: int, field: str) -> Box:
    """Return the box of a region in an upright image that was decoded at 1 / scale of its size.

    The edges of the box are at whole pixels of the full size. `field` is the path of the region in the request. Raises
    InvalidArgumentError.
    """
    width, height = image.width * scale, image.height * scale
    left, right = round(region.x0 * width), round(region.x1 * width)
    top, bottom = round(region.y0 * height), round(region.y1 * height)
    if left >= right or top >= bottom:
        raise InvalidArgumentError(
            "REGION_INVALID",
            f"{field} covers less than one pixel of the image, which has {width} x {height}; use a larger region",
            field=field,
        )
    return left / scale, top / scale, right / scale, bottom / scale
