"""Encoded bytes to the pixels that a network takes. Everything that bytes can do wrong is found here."""

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

from embedder_service.core.batching import TimeLeft, out_of_time
from embedder_service.core.decoding_costs import (
    CountedFile,
    charge,
    check_cost,
    check_header,
    check_sum,
    is_scalable,
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
from embedder_service.core.types import EncodedImage, InputPolicy, Limits, Pixels, Region
from grpc_kit.errors import InvalidArgumentError
from grpc_kit.server.hang_watch import HangWatch
from imagesearch_pixels.colour_profiles import Conversion
from imagesearch_pixels.colours import to_srgb
from imagesearch_pixels.declared import check_unread, check_variant, declare
from imagesearch_pixels.image_boxes import AVIF_BRANDS, HEIC_BRANDS, brand_of, coded_images
from imagesearch_pixels.picture_parts import without_metadata
from imagesearch_pixels.reading import Reading, TooManyPartsError, UnsupportedImageError
from imagesearch_pixels.samples import to_rgb, upright

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", *HEIC_FORMATS)
# As people call them.
FORMAT_NAMES = tuple("HEIC" if name == "HEIF" else name for name in FORMATS)
REGION = "image.region"

READING = Reading(reading_the_file, InvalidArgumentError)

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"BM")

# Left, top, right, bottom, in pixels.
Box: TypeAlias = tuple[float, float, float, float]

# A large JPEG is decoded at a half, a quarter or an eighth of its size, but never below this many times the result's
# side: from there on the last step averages over at least two pixels each way, as it does without this.
DRAFT_MARGIN = 2

# What the sides of an input of native aspect are multiples of: one cell of a network's map. It bounds the number of
# sizes as well, each of which the engine plans for.
NATIVE_STEP = 32


class PixelBudget:
    """Bounds the pixels that are decoded at a time, by all threads together; who came first goes first."""

    def __init__(self, pixels: int, watch: HangWatch | None = None) -> None:
        """`pixels` is the maximum at a time, at least those of the largest image. Waiting is no work for `watch`."""
        self._free = self._most = pixels
        self._watch = watch or HangWatch()
        self._changed = threading.Condition()
        self._turns: deque[object] = deque()

    @contextmanager
    def hold(self, pixels: int, patience: TimeLeft) -> Iterator[None]:
        """Waits until so many pixels are free. Raises DeadlineExceededError."""
        # More than all is all: it waits until nobody else decodes.
        share = min(pixels, self._most)
        turn = object()
        with self._changed:
            self._turns.append(turn)
            try:
                with self._watch.waiting():
                    self._wait(turn, share, patience)
                self._free -= share
            finally:
                self._turns.remove(turn)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()

    def _wait(self, turn: object, share: int, patience: TimeLeft) -> None:
        while self._turns[0] is not turn or self._free < share:
            # Asked again each time: it grows when somebody joins who wants the same image.
            seconds = patience.remaining()
            if seconds <= 0:
                raise out_of_time()
            self._changed.wait(min(seconds, threading.TIMEOUT_MAX))


class ImageDecoder:
    """Decodes images to what a network takes."""

    def __init__(self, policy: InputPolicy, limits: Limits, budget: PixelBudget) -> None:
        """`policy` says what the result is like; `budget` may be shared with other decoders."""
        self._policy = policy
        self._limits = limits
        self._budget = budget

    def decode(self, image: EncodedImage, patience: TimeLeft) -> Pixels:
        """Gives the image as uint8[height, width, 3], of which both are the policy's side but for `native`.

        The first frame of a JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or HEIC file, turned as its EXIF orientation says
        (AVIF and HEIC: as their own properties say), in sRGB with transparency over white, cut to its region, and made
        the policy's size by Pillow's bilinear filter (which averages over all pixels that fall into one). A JPEG of at
        least four times that size is scaled while it is decoded, which is several times faster; its vector stays
        within a cosine of 0.999. Raises InvalidArgumentError, DeadlineExceededError when patience ends, and
        ResourceExhaustedError if memory runs out.
        """
        try:
            return self._decode(image, patience)
        except MemoryError as error:
            raise no_memory(error) from None
        except UnsupportedImageError as error:
            raise unsupported(str(error)) from None
        except TooManyPartsError as error:
            raise too_costly(str(error)) from None
        except InvalidArgumentError as error:
            if error.reason == "IMAGE_CORRUPT":
                refuse_unread_variant(image.content)
            raise

    def _decode(self, image: EncodedImage, patience: TimeLeft) -> Pixels:
        content = image.content
        if not content:
            raise InvalidArgumentError(
                "IMAGE_MISSING", f"{CONTENT} is empty; it should hold an image file", field=CONTENT
            )
        if len(content) > self._limits.max_image_bytes:
            raise InvalidArgumentError(
                "IMAGE_TOO_LARGE",
                f"{CONTENT} has {len(content)} bytes; at most {self._limits.max_image_bytes} are taken",
                field=CONTENT,
                metadata={"max_image_bytes": str(self._limits.max_image_bytes)},
            )
        opened, content = self._open(content, patience)
        with opened:
            self._check_dimensions(opened.width, opened.height)
            self._check_tiles(opened)
            coded = self._check_coded(content)
            check_cost(opened, content, self._limits.max_image_pixels)
            if image.region is not None:
                check_region(image.region)
            declared = declare(opened, content, READING)
            scale = self._draft(opened, image.region) if is_scalable(opened, content) else 1
            with self._budget.hold(max(coded, charge(opened, content, scale)), patience):
                loaded = upright(opened, declared, READING)
                conversion = to_srgb(loaded, declared, READING)
                colour = to_rgb(loaded, declared.depth, READING, keep_inks=conversion is not None)
                box = None
                if image.region:
                    # Cut first: the filter would look beyond the edges of a box.
                    colour, box = cut(colour, box_of(image.region, colour, scale))
                resized = fit(colour, box, self._policy, conversion)
        return np.asarray(resized, dtype=np.uint8)

    def _draft(self, opened: Image.Image, region: Region | None) -> int:
        """Let Pillow scale a large JPEG while it decodes, to 1, a half, a quarter or an eighth of its size."""
        width = opened.width
        # The region's shorter side, whichever way the image will be turned.
        fraction = min(region.x1 - region.x0, region.y1 - region.y0) if region else 1.0
        side = math.ceil(DRAFT_MARGIN * self._policy.side / fraction)
        with reading_the_file():
            opened.draft(opened.mode, (side, side))
        return round(width / opened.width)

    def _check_dimensions(self, width: int, height: int) -> None:
        """Refuses from the header, before a pixel is decoded."""
        if width < 1 or height < 1:
            raise InvalidArgumentError(
                "IMAGE_EMPTY", f"{CONTENT} is an image of {width} x {height} pixels; it has none", field=CONTENT
            )
        most = self._limits.max_image_pixels
        if width * height > most:
            raise InvalidArgumentError(
                "IMAGE_DIMENSIONS_TOO_LARGE",
                f"{CONTENT} is an image of {width} x {height} = {width * height} pixels; at most {most} are taken",
                field=CONTENT,
                metadata={"max_image_pixels": str(most), "width": str(width), "height": str(height)},
            )

    def _check_tiles(self, image: Image.Image) -> None:
        """Refuses a TIFF file whose tiles are larger than any image may be: one is decoded whole."""
        if not isinstance(image, TiffImageFile):
            return
        width, height = (tag_number(image, tag, 0) for tag in (TILEWIDTH, TILELENGTH))
        if width and height:
            self._check_dimensions(width, height)

    def _check_coded(self, content: bytes) -> int:
        """Refuse an AVIF or HEIC file whose coded images are larger than an image may be, and return their pixels."""
        if not brand_of(content):
            return 0
        images = coded_images(content)
        if not images:
            raise corrupt("no AV1 or HEVC image is found in it")
        for image in images:
            self._check_dimensions(image.width, image.height)
        check_sum(images, self._limits.max_image_pixels)
        return sum(image.most for image in images)

    def _open(self, content: bytes, patience: TimeLeft) -> tuple[Image.Image, bytes]:
        """Read the header of what is the image in a file, and return that too.

        Metadata never decide over a good picture: if the file cannot be opened, it is opened without any. Raises
        InvalidArgumentError and UnsupportedImageError.
        """
        picture = without_metadata(content)
        check_variant(picture)
        try:
            return self._open_picture(picture, patience), picture
        except InvalidArgumentError:
            bare = without_metadata(content, bare=True)
            if bare == picture:
                raise
            return self._open_picture(bare, patience), bare

    def _open_picture(self, content: bytes, patience: TimeLeft) -> Image.Image:
        check_header(content)
        file = CountedFile(content, patience)
        with reading_the_file():
            try:
                return Image.open(file, formats=FORMATS)
            except (UnidentifiedImageError, Image.DecompressionBombError) as error:
                if is_lack_of_memory(error):
                    raise
                is_too_large = isinstance(error, Image.DecompressionBombError)
        # Not above: an error of this project's own code is no fault of the file.
        raise self._too_large_for_pillow() if is_too_large else self._unidentified(content)

    def _too_large_for_pillow(self) -> InvalidArgumentError:
        """Return the error of an image to which Pillow applies its own limit, before the size is known."""
        most = self._limits.max_image_pixels
        return InvalidArgumentError(
            "IMAGE_DIMENSIONS_TOO_LARGE",
            f"{CONTENT} is an image of over {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; at most {most} are taken",
            field=CONTENT,
            metadata={"max_image_pixels": str(most)},
        )

    def _unidentified(self, content: bytes) -> InvalidArgumentError:
        size = stated_size(content)
        if size is not None and 0 in size:
            self._check_dimensions(*size)
        brand = brand_of(content)
        if content.startswith(SIGNATURES) or brand in AVIF_BRANDS or (brand and HEIC_FORMATS):
            return corrupt("it ends in its header, or its header is wrong")
        if brand in HEIC_BRANDS:
            return InvalidArgumentError(
                "IMAGE_FORMAT_UNSUPPORTED",
                f"{CONTENT} is a HEIC file, and pillow-heif is not installed; {HOW_TO_INSTALL}",
                field=CONTENT,
                metadata={"formats": ",".join(FORMAT_NAMES)},
            )
        return InvalidArgumentError(
            "IMAGE_FORMAT_UNSUPPORTED",
            f"{CONTENT} is no image of a known format; {', '.join(FORMAT_NAMES)} are taken",
            field=CONTENT,
            metadata={"formats": ",".join(FORMAT_NAMES)},
        )


def refuse_unread_variant(content: bytes) -> None:
    """Raise InvalidArgumentError if Pillow cannot read a file because of its variant, and not because it is broken."""
    try:
        check_unread(content)
    except UnsupportedImageError as error:
        raise unsupported(str(error)) from None


def stated_size(content: bytes) -> tuple[int, int] | None:
    """Width and height as the header states them, where Pillow tells nothing because one of them is zero."""
    for signature, layout, offset in (
        (b"\x89PNG\r\n\x1a\n", ">II", 16),
        (b"GIF8", "<HH", 6),
        (b"BM", "<ii", 18),
    ):
        if content.startswith(signature) and len(content) >= offset + struct.calcsize(layout):
            width, height = struct.unpack_from(layout, content, offset)
            return width, height
    return None


def check_region(region: Region) -> None:
    """Raises InvalidArgumentError where a region is no box within the image."""
    box = (region.x0, region.y0, region.x1, region.y1)
    inside = all(math.isfinite(edge) and 0.0 <= edge <= 1.0 for edge in box)
    if not inside or region.x0 >= region.x1 or region.y0 >= region.y1:
        raise InvalidArgumentError(
            "REGION_INVALID",
            f"{REGION} is x0={region.x0:g}, y0={region.y0:g}, x1={region.x1:g}, y1={region.y1:g}; "
            "0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 should hold",
            field=REGION,
        )


def cut(image: Image.Image, box: Box) -> tuple[Image.Image, Box]:
    """The pixels that a box touches, and where the box is among them."""
    left, top = math.floor(box[0]), math.floor(box[1])
    part = image.crop((left, top, math.ceil(box[2]), math.ceil(box[3])))
    return part, (box[0] - left, box[1] - top, box[2] - left, box[3] - top)


def fit(image: Image.Image, box: Box | None, policy: InputPolicy, conversion: Conversion | None = None) -> Image.Image:
    """A box of an image, or the whole, as an input of a network; colours are converted when it is small."""
    left, top, right, bottom = box or (0, 0, image.width, image.height)
    width, height, side = right - left, bottom - top, policy.side

    def resized(to_width: float, to_height: float, part: Box = (left, top, right, bottom)) -> Image.Image:
        size = (max(1, round(to_width)), max(1, round(to_height)))
        small = image.resize(size, Image.Resampling.BILINEAR, part)
        return small if conversion is None else conversion(small)

    match policy.shape:
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
            # Never enlarged but to the next cell of the network's map.
            scale = min(1.0, side / max(width, height))
            to_width, to_height = (
                max(policy.least, NATIVE_STEP * round(edge * scale / NATIVE_STEP)) for edge in (width, height)
            )
            return resized(to_width, to_height)


def box_of(region: Region, image: Image.Image, scale: int) -> Box:
    """The box of a region in an upright image that was decoded at 1 / scale of its size.

    It lies between whole pixels of the full size. Raises InvalidArgumentError.
    """
    width, height = image.width * scale, image.height * scale
    left, right = round(region.x0 * width), round(region.x1 * width)
    top, bottom = round(region.y0 * height), round(region.y1 * height)
    if left >= right or top >= bottom:
        raise InvalidArgumentError(
            "REGION_INVALID",
            f"{REGION} covers less than one pixel of the image's {width} x {height}",
            field=REGION,
        )
    return left / scale, top / scale, right / scale, bottom / scale
