"""The pictures behind stored images, as far as their uris can be read: small ones for pages, and how large they are."""

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
from imagesearch_pixels.colours import shown
from imagesearch_pixels.declared import declare
from imagesearch_pixels.opening import open_image
from imagesearch_pixels.reading import Reading

Picture: TypeAlias = Image.Image
Given = TypeVar("Given")
Made = TypeVar("Made")

# A file that is larger is no picture to show.
MAX_BYTES = 64 * 1024 * 1024
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
READING = Reading(nullcontext, UNREADABLE)
THREADS = 4
# Seconds that a picture is tried again which cannot be read at the moment: a page may show thousands.
PATIENCE = 1.0
QUALITY = 80
_allowed = AllowedUris()


@dataclass(frozen=True, slots=True)
class Size:
    """How large an image's file is."""

    width: int
    height: int
    bytes: int

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


@contextmanager
def opening(places: Sequence[str]) -> Iterator[AllowedUris]:
    """Has the files of these places opened and no others, as `AllowedUris` has it; tells which were refused."""
    global _allowed  # noqa: PLW0603 - pictures are read in many threads, below functions that know no options
    before, _allowed = _allowed, AllowedUris(places)
    try:
        yield _allowed
    finally:
        _allowed = before


def read_content(uri: str) -> bytes:
    """The file at a path, a file:// or another URL; relative paths begin at the current folder. Raises OSError."""
    reader = _reader(Path.cwd(), _allowed)
    content = SourceRetries(PATIENCE, is_opening=True).run(lambda: reader.read(uri, MAX_BYTES + 1))
    if len(content) > MAX_BYTES:
        raise OSError(f"{uri} has more than {MAX_BYTES} bytes")
    return content


@functools.cache
def _reader(folder: Path, allowed: AllowedUris) -> UriReader:
    # A command has one, until it ends, so that archives are read once.
    return UriReader(str(folder), MAX_BYTES, allowed)


def read_picture(uri: str, pixels: int, region: Region | None = None) -> Picture | None:
    """The picture at a uri as RGB, upright, of at most so many pixels each way; None where there is none.

    With a region the part of it that it says.
    """
    if not uri:
        return None
    try:
        content = read_content(uri)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _small(content, pixels, region)
    except UNREADABLE:
        return None


def _small(content: bytes, pixels: int, region: Region | None) -> Picture:
    """What the embedder sees, at most so many pixels each way. Raises one of UNREADABLE."""
    opened, part = open_image(content, pillow_formats(), READING)
    with opened:
        declared = declare(opened, part, READING)
        if region is None:
            opened.draft(opened.mode, (pixels, pixels))
        picture, conversion = shown(opened, declared, READING)
        if region is not None:
            width, height = picture.size
            box = (int(region.x0 * width), int(region.y0 * height), int(region.x1 * width), int(region.y1 * height))
            if box[2] > box[0] and box[3] > box[1]:
                picture = picture.crop(box)
        picture.thumbnail((pixels, pixels))
    return picture if conversion is None else conversion(picture)


def read_size(uri: str) -> Size | None:
    """How large the picture at a uri is, its file's bytes too; None where there is none."""
    if not uri:
        return None
    try:
        content = read_content(uri)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened, _ = open_image(content, pillow_formats(), READING)
            with opened:
                return Size(opened.width, opened.height, len(content))
    except UNREADABLE:
        return None


def data_uri(picture: Picture) -> str:
    """A picture as a URL that holds it, for a page that needs nothing else."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def at_once(make: Callable[[Given], Made], given: Iterable[Given]) -> Iterator[Made]:
    """What `make` makes of each, in their order and a few at a time; for reading files."""
    rest = iter(given)
    with ThreadPoolExecutor(THREADS) as threads:
        while some := list(islice(rest, 16 * THREADS)):
            yield from threads.map(make, some)
