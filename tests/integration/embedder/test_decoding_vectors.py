"""Large JPEG files are scaled while they are decoded, and keep their vectors."""

from collections.abc import Mapping
from io import BytesIO

import pytest
from imagesearch.types.v1 import encoded_image_pb2
from PIL import ExifTags, Image, ImageOps

from tests.integration.embedder.helpers import Stub, cosine, png, vector_of

SIZES = [(4000, 3000), (2000, 1500)]
NAMES = ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "china.jpg", "page.png", "brick.png"]
REGIONS = {
    "quarter": (0.5, 0.0, 1.0, 0.5),
    "off the grid": (0.1234, 0.2345, 0.7654, 0.8765),
    "small": (0.4, 0.4, 0.5, 0.5),
    "column": (0.3, 0.0, 0.36, 1.0),
    "row": (0.0, 0.45, 1.0, 0.53),
}


def large_jpeg(image: Image.Image, size: tuple[int, int], orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()


def small_png(jpeg: bytes, edges: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)) -> bytes:
    """What Pillow makes of the whole file, upright, cut and resized to the network's input."""
    image = ImageOps.exif_transpose(Image.open(BytesIO(jpeg)))
    x0, y0, x1, y1 = edges
    box = (
        round(x0 * image.width), round(y0 * image.height), round(x1 * image.width), round(y1 * image.height),
    )  # fmt: skip
    return png(image.crop(box).resize((224, 224), Image.Resampling.BILINEAR))


def opened(photographs: Mapping[str, bytes], name: str) -> Image.Image:
    return Image.open(BytesIO(photographs[name])).convert("RGB")


def mosaic(photographs: Mapping[str, bytes]) -> Image.Image:
    """Sixteen photographs side by side, so that a large image has fine detail."""
    whole = Image.new("RGB", (4000, 3000))
    for number, name in enumerate(list(photographs)[:16]):
        tile = opened(photographs, name).resize((1000, 750), Image.Resampling.BICUBIC)
        whole.paste(tile, (number % 4 * 1000, number // 4 * 750))
    return whole


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
async def test_a_large_jpeg_has_the_vector_of_the_whole_image(
    stub: Stub, photographs: Mapping[str, bytes], name: str, size: tuple[int, int]
) -> None:
    jpeg = large_jpeg(opened(photographs, name), size)
    assert cosine(await vector_of(stub, jpeg), await vector_of(stub, small_png(jpeg))) >= 0.999


async def test_a_large_grey_jpeg_has_the_vector_of_the_whole_image(
    stub: Stub, photographs: Mapping[str, bytes]
) -> None:
    jpeg = large_jpeg(opened(photographs, "camera.png").convert("L"), SIZES[0])
    assert cosine(await vector_of(stub, jpeg), await vector_of(stub, small_png(jpeg))) >= 0.999


@pytest.mark.parametrize("size", SIZES, ids=str)
async def test_a_large_jpeg_full_of_detail_has_the_vector_of_the_whole_image(
    stub: Stub, photographs: Mapping[str, bytes], size: tuple[int, int]
) -> None:
    jpeg = large_jpeg(mosaic(photographs), size)
    assert cosine(await vector_of(stub, jpeg), await vector_of(stub, small_png(jpeg))) >= 0.999


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("image", "name"),
    [
        *[("astronaut.png", name) for name in REGIONS],
        *[("mosaic", name) for name in REGIONS],
    ],
)
async def test_a_region_of_a_large_jpeg_has_the_vector_of_the_cropped_image(
    stub: Stub, photographs: Mapping[str, bytes], image: str, name: str, size: tuple[int, int]
) -> None:
    x0, y0, x1, y1 = REGIONS[name]
    region = encoded_image_pb2.Region(x0=x0, y0=y0, x1=x1, y1=y1)
    jpeg = large_jpeg(mosaic(photographs) if image == "mosaic" else opened(photographs, image), size)
    cut = await vector_of(stub, small_png(jpeg, REGIONS[name]))
    assert cosine(await vector_of(stub, jpeg, region), cut) >= 0.999


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_a_large_jpeg_is_made_upright_by_its_exif_orientation(
    stub: Stub, photographs: Mapping[str, bytes], orientation: int
) -> None:
    jpeg = large_jpeg(opened(photographs, "coffee.png"), SIZES[1], orientation)
    turned = await vector_of(stub, small_png(jpeg))
    assert cosine(await vector_of(stub, jpeg), turned) >= 0.999
    x0, y0, x1, y1 = edges = REGIONS["off the grid"]
    region = encoded_image_pb2.Region(x0=x0, y0=y0, x1=x1, y1=y1)
    part = await vector_of(stub, small_png(jpeg, edges))
    assert cosine(await vector_of(stub, jpeg, region), part) >= 0.999
    # A test that could not tell the ways apart would say nothing.
    assert cosine(part, turned) < 0.999
