"""Errors of reading and decoding files: transient or permanent, of the file or of the machine."""

import errno
import io
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from grpc_kit.errors import InvalidArgumentError, NotFoundError, ServiceError, UnavailableError
from imagesearch_ingest.load.decisions import Action, decide
from imagesearch_ingest.load.dry_run_destination import check_decodable
from imagesearch_ingest.load.errors import LoadStoppedError
from imagesearch_ingest.load.image_reader import read_image
from imagesearch_ingest.load.ledger_rows import ItemState, row_of_item
from imagesearch_ingest.load.load_options import LoadOptions
from imagesearch_ingest.sources.items import Item
from tests.unit.embedder.crafted_files import png_chunk
from tests.unit.embedder.crafted_samples import FLOAT, SIGNED, tiff

ITEM = Item("a.jpg", "/photos/a.jpg", lambda _: b"", None, 10, "1")


def failure(number: int) -> ServiceError:
    def fail(_: int) -> bytes:
        raise OSError(number, "it does not work")

    with pytest.raises(ServiceError) as raised:
        read_image(fail, 100)
    return raised.value


@pytest.mark.parametrize(
    "number",
    [
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ESTALE,
        errno.EIO,
        errno.ETIMEDOUT,
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENOTCONN,
        errno.EPIPE,
        errno.EREMOTEIO,
        errno.ENOLCK,
    ],
)
def test_transient_read_errors_are_retried_by_the_next_run(number: int) -> None:
    error = failure(number)
    assert isinstance(error, UnavailableError)
    assert error.reason == "UNREADABLE_NOW"
    row = row_of_item(ITEM, ItemState.FAILED, error.reason, error.message)
    assert decide(ITEM, row, LoadOptions()) is Action.LOAD


@pytest.mark.parametrize(
    "number", [errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG]
)
def test_permanent_read_errors_are_not_retried(number: int) -> None:
    error = failure(number)
    assert isinstance(error, NotFoundError)
    assert error.reason == "UNREADABLE"
    row = row_of_item(ITEM, ItemState.FAILED, error.reason, error.message)
    assert decide(ITEM, row, LoadOptions()) is Action.SKIP_FAILED


def png() -> bytes:
    file = BytesIO()
    Image.new("L", (9, 9)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("error", [MemoryError(), OSError(ImageFile.ERRORS[-9])], ids=repr)
def test_dry_run_out_of_memory_stops_without_rejecting_the_file(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(PngImagePlugin.PngImageFile, "load", fail)
        with pytest.raises(LoadStoppedError) as stopped:
            check_decodable(png())
    assert stopped.value.reason == "OUT_OF_MEMORY"
    check_decodable(png())
    with pytest.raises(InvalidArgumentError, match="cannot be decoded"):
        check_decodable(png()[:45])


@pytest.mark.parametrize(
    ("content", "declared"),
    [
        (tiff(np.full((8, 8), 9), 14, 1), "BitsPerSample 14"),
        (tiff(np.full((8, 8), 9), 16, 1, sample_format=SIGNED), "SampleFormat signed"),
        (tiff(np.full((8, 8), 1e9), 32, 1, sample_format=FLOAT), "floating-point samples reach 1e+09"),
    ],
)
def test_dry_run_rejects_unsupported_samples_like_the_embedder(content: bytes, declared: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        check_decodable(content)
    assert refused.value.reason == "IMAGE_FORMAT_UNSUPPORTED"
    assert declared in refused.value.message


@pytest.mark.parametrize("name", ["PPM", "ICO", "TGA", "EPS", "JPEG2000"])
def test_dry_run_rejects_unsupported_formats(name: str) -> None:
    file = BytesIO()
    Image.new("RGB", (16, 16)).save(file, name)
    with pytest.raises(InvalidArgumentError) as refused:
        check_decodable(file.getvalue())
    assert refused.value.reason == "IMAGE_FORMAT_UNSUPPORTED"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"gAMA", b"\0"),
        (b"pHYs", b"\0"),
        (b"acTL", b"\0"),
        (b"zTXt", b"comment\0\0" + zlib.compress(bytes(65 * 2**20))),
    ],
    ids=["gAMA", "pHYs", "acTL", "zTXt"],
)
def test_dry_run_accepts_images_with_broken_or_large_metadata(kind: bytes, data: bytes) -> None:
    content = png()
    chunk = png_chunk(kind, data)
    for place in (33, content.index(b"IEND") - 4):
        check_decodable(content[:place] + chunk + content[place:])


def test_dry_run_accepts_images_with_a_short_metadata_segment() -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "JPEG")
    content = file.getvalue()
    check_decodable(content[:2] + b"\xff\xee\0\x07Adobe" + content[2:])
