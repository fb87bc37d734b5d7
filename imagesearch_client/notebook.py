"""Tables of hits, images and collections for notebooks, with thumbnails of images on this machine."""

import base64
import io
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from imagesearch_client.types import Collection, Hit, Image, Region

MAX_ROWS = 50
# Only these files become thumbnails, whatever decoders Pillow has.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_FILE_BYTES = 24 * 1024 * 1024
MAX_PIXELS = 50_000_000
SIDE = 96
# Colours come from the notebook's theme, light or dark.
CELL = "padding:4px 8px;text-align:left;vertical-align:middle;border-bottom:1px solid rgba(128,128,128,0.35)"


def hits_html(hits: Sequence["Hit"]) -> str:
    """Return a table of hits."""
    rows = ([_picture(hit.image, hit.region), _text(f"{hit.score:.4f}"), *_facts(hit.image)] for hit in hits)
    return _table(["", "score", "id", "uri", "attributes"], rows, len(hits))


def images_html(images: Sequence["Image"]) -> str:
    """Return a table of images."""
    return _table(["", "id", "uri", "attributes"], ([_picture(image), *_facts(image)] for image in images), len(images))


def collection_html(collection: "Collection") -> str:
    """Return a table of the settings of a collection."""
    values = ((field.name, getattr(collection, field.name)) for field in fields(collection))
    rows = [
        [_text(name.replace("_", " ")), _text(_shown(value))] for name, value in values if value not in (None, "", {})
    ]
    return _table(["collection", collection.name], rows[1:], len(rows) - 1)


def _facts(image: "Image") -> list[str]:
    return [_text(image.id), _text(image.uri), _text(_shown(image.attributes))]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_shown(each)}" for name, each in value.items())
    return str(getattr(value, "value", value))


def _text(value: str) -> str:
    return escape(value if len(value) <= 200 else f"{value[:199]}…")  # noqa: PLR2004 - a cell stays readable


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], count: int) -> str:
    head = "".join(f'<th style="{CELL}">{escape(heading)}</th>' for heading in headings)
    body = "".join(
        "<tr>" + "".join(f'<td style="{CELL}">{cell}</td>' for cell in row) + "</tr>" for row in islice(rows, MAX_ROWS)
    )
    rest = f"<p>{count - MAX_ROWS:,} more</p>" if count > MAX_ROWS else ""
    return f'<table style="border-collapse:collapse"><tr>{head}</tr>{body}</table>{rest}'


def _picture(image: "Image", region: "Region | None" = None) -> str:
    """Return a thumbnail, with a frame round a region of it."""
    source = thumbnail(image.uri)
    if not source:
        return ""
    picture = f'<img src="{source}" alt="" style="max-width:{SIDE}px;max-height:{SIDE}px;display:block">'
    if region is None:
        return picture
    edges = (
        ("left", region.x0),
        ("top", region.y0),
        ("width", region.x1 - region.x0),
        ("height", region.y1 - region.y0),
    )
    place = ";".join(f"{name}:{100 * value:.1f}%" for name, value in edges)
    # Two colours, so that the frame is visible on every picture.
    frame = "position:absolute;box-sizing:border-box;border:2px solid #ffd400;outline:1px solid #000"
    return f'<div style="position:relative;display:inline-block">{picture}<div style="{frame};{place}"></div></div>'


def thumbnail(uri: str) -> str | None:
    """Return a data URL of a small JPEG if a uri is an image file on this machine and Pillow is installed, or None.

    It reads only regular files, a bounded number of bytes and pixels, and nothing from a network.
    """
    path = local_path(uri)
    if path is None:
        return None
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415 - the SDK does not require Pillow
    except ImportError:
        return None
    try:
        with Image.open(io.BytesIO(_read_regular(path)), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return None
            picture.draft("RGB", (SIDE, SIDE))
            small = ImageOps.exif_transpose(picture).convert("RGBA")
            small.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB").save(buffer, "JPEG")
    except Exception:  # noqa: BLE001 - Pillow raises many kinds of errors for a broken file; a table needs no thumbnail
        return None
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def local_path(uri: str) -> Path | None:
    """Return the path of a uri that is a path or a file URL, or None. A path of another host is none."""
    plain = uri.replace("\\", "/")
    if not uri or plain.startswith("//") or "\0" in uri:
        return None
    if plain.lower().startswith("file:"):
        parts = urlsplit(plain)
        path = unquote(parts.path)
        return None if parts.netloc not in ("", "localhost") or path.startswith("//") else Path(path)
    return None if "://" in uri else Path(uri)


def _read_regular(path: Path) -> bytes:
    """Return the bytes of a regular file. Raises OSError for a file that is not regular, and one that is too large."""
    # Without O_NONBLOCK a pipe without a writer would block here.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_FILE_BYTES:
            raise OSError(f"{path} is no regular file of at most {MAX_FILE_BYTES} bytes")
        return file.read(MAX_FILE_BYTES)
