"""Reads the pictures behind stored images: thumbnails for pages and plots, and sizes."""

import base64
import functools
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

from PIL import Image

from imagesearch_client.types import Region
from imagesearch_ingest.pillow_formats import pillow_formats
from imagesearch_ingest.sources.allowed_uris import AllowedUris
from imagesearch_ingest.sources.source_retries import SourceRetries
from imagesearch_ingest.sources.uri_reader import UriReader
from imagesearch_pixels.colours import to_upright_rgb
from imagesearch_pixels.declarations import declarations_of
from imagesearch_pixels.guards import PillowGuard
from imagesearch_pixels.opening import open_image

Picture: TypeAlias = Image.Image
Argument = TypeVar("Argument")
Result = TypeVar("Result")

MAX_BYTES = 64 * 1024 * 1024
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
GUARD = PillowGuard(nullcontext, UNREADABLE)
THREADS = 4
# A page may show thousands of pictures, so a failing one is retried only shortly.
RETRY_SECONDS = 1.0
JPEG_QUALITY = 80
_allowed = AllowedUris()


@dataclass(frozen=True, slots=True)
class Size:
    """The size of an image file."""

    width: int
    height: int
    bytes: int

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


@contextmanager
def allowing(places: Sequence[str]) -> Iterator[AllowedUris]:
    """Open only the files of these places until the block ends, as `AllowedUris` explains. Counts the refused files."""
    global _allowed  # noqa: PLW0603 - threads read pictures below functions that have no options
    before, _allowed = _allowed, AllowedUris(places)
    try:
        yield _allowed
    finally:
        _allowed = before


def read_content(uri: str) -> bytes:
    """Return the file at a path or URL. A relative path starts at the current folder. Raises OSError."""
    reader = _reader(Path.cwd(), _allowed)
    content = SourceRetries(RETRY_SECONDS, is_opening=True).run(lambda: reader.read(uri, MAX_BYTES + 1))
    if len(content) > MAX_BYTES:
        raise OSError(f"{uri} has more than {MAX_BYTES} bytes")
    return content


@functools.cache
def _reader(folder: Path, allowed: AllowedUris) -> UriReader:
    # One reader for the whole command reads the index of an archive only once.
    return UriReader(str(folder), MAX_BYTES, allowed)


def read_picture(uri: str, max_side: int, region: Region | None = None) -> Picture | None:
    """Return the picture at a uri as upright RGB, or only a region of it; None if it cannot be read.

    Width and height are at most `max_side` pixels.
    """
    if not uri:
        return None
    try:
        content = read_content(uri)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _thumbnail(content, max_side, region)
    except UNREADABLE:
        return None


def _thumbnail(content: bytes, max_side: int, region: Region | None) -> Picture:
    """Return a thumbnail with the samples that the embedder sees. Raises one of UNREADABLE."""
    opened, part = open_image(content, pillow_formats(), GUARD)
    with opened:
        declared = declarations_of(opened, part, GUARD)
        if region is None:
            opened.draft(opened.mode, (max_side, max_side))
        picture, conversion = to_upright_rgb(opened, declared, GUARD)
        if region is not None:
            width, height = picture.size
            box = (int(region.x0 * width), int(region.y0 * height), int(region.x1 * width), int(region.y1 * height))
            if box[2] > box[0] and box[3] > box[1]:
                picture = picture.crop(box)
        picture.thumbnail((max_side, max_side))
    return picture if conversion is None else conversion(picture)


def read_size(uri: str) -> Size | None:
    """Return the size of the image file at a uri; None if it cannot be read."""
    if not uri:
        return None
    try:
        content = read_content(uri)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened, _ = open_image(content, pillow_formats(), GUARD)
            with opened:
                return Size(opened.width, opened.height, len(content))
    except UNREADABLE:
        return None


def data_url(picture: Picture) -> str:
    """Return a picture as a data: URL, for a page without other files."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def thumbnail_url(uri: str, max_side: int, region: Region | None = None) -> str:
    """Return the picture at a uri as a data: URL, as `read_picture`; empty if it cannot be read."""
    picture = read_picture(uri, max_side, region)
    return "" if picture is None else data_url(picture)


def map_in_threads(function: Callable[[Argument], Result], arguments: Iterable[Argument]) -> Iterator[Result]:
    """Return the result for each argument in order, a few at a time in threads; for functions that read files."""
    rest = iter(arguments)
    with ThreadPoolExecutor(THREADS) as threads:
        while some := list(islice(rest, 16 * THREADS)):
            yield from threads.map(function, some)
