"""The keys of a `preprocessor_config.json`, against the image processors that write such files."""

import math
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import transformers
from numpy.typing import NDArray
from PIL import Image

from embedder_service.core import image_preparation
from embedder_service.core.image_preparation import Preparation, PreparationError, read_preparation
from embedder_service.core.model_names import MAX_SIDE

COUNT = 200
# float32 rounds 0..255 to about this.
EQUAL = 1e-5
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SQUARE = {"height": 224, "width": 224}
# What a file must say.
PLAIN: dict[str, Any] = {"resample": 2, "do_normalize": False}
COMPLETE: dict[str, Any] = {"resample": 2, **IMAGENET}
# The image processors with the settings of published encoders.
PROCESSORS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "CLIP": (transformers.CLIPImageProcessor, {}),
    "SigLIP": (transformers.SiglipImageProcessor, {}),
    "DINOv2": (
        transformers.BitImageProcessor,
        {"size": {"shortest_edge": 256}, "crop_size": SQUARE, "resample": 3, **IMAGENET},
    ),
    "ViT": (transformers.ViTImageProcessor, {}),
    "ConvNeXT at 224": (
        transformers.ConvNextImageProcessor,
        {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3, **IMAGENET},
    ),
    "ConvNeXT at 384": (transformers.ConvNextImageProcessor, {"size": {"shortest_edge": 384}}),
    "MobileNetV2": (transformers.MobileNetV2ImageProcessor, {}),
}


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Return crops of photographs, of many sizes and aspect ratios."""
    dice = np.random.default_rng(7)
    names = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")
    photographs = [np.asarray(Image.open(Path(skimage.__file__).parent / "data" / name)) for name in names]
    found = [
        Image.fromarray(photographs[0][:height, :width]) for height, width in ((1, 1), (1, 90), (90, 1), (223, 225))
    ]
    while len(found) < COUNT:
        photograph = photographs[len(found) % len(photographs)]
        height, width = (int(dice.integers(20, side + 1)) for side in photograph.shape[:2])
        top, left = (
            int(dice.integers(0, whole - part + 1))
            for whole, part in zip(photograph.shape, (height, width), strict=False)
        )
        found.append(Image.fromarray(photograph[top : top + height, left : left + width]))
    return found


def virtual_bytes() -> int:
    """Return the address space of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def prepared(preparation: Preparation, picture: Image.Image) -> NDArray[np.float32]:
    """Return float32[3, H, W]."""
    values: NDArray[np.float32] = preparation.values(np.asarray(preparation.place(picture))[np.newaxis])[0]
    return values.transpose(2, 0, 1)


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_equal_those_of_the_image_processor(name: str, pictures: list[Image.Image]) -> None:
    kind, settings = PROCESSORS[name]
    processor = kind(**settings)
    preparation = read_preparation(processor.to_dict())
    for picture in pictures:
        # The processor cannot tell the channels of an image of one pixel.
        options = {"return_tensors": "np", "input_data_format": "channels_last"}
        (expected,) = processor(images=picture, **options)["pixel_values"]
        found = prepared(preparation, picture)
        assert found.shape == expected.shape == (3, *preparation.size)
        assert float(np.abs(found - expected).max()) < EQUAL


WHITE = Image.new("RGB", (300, 200), (255, 255, 255))
SPELLINGS: Mapping[str, tuple[Mapping[str, Any], tuple[Any, Any, Any]]] = {
    "number, crops": ({"size": 256, "crop_size": 224}, (256, None, (224, 224))),
    "number, square": ({"size": 224}, (None, (224, 224), None)),
    "number, not a square": ({"size": 224, "default_to_square": False, "crop_size": 200}, (224, None, (200, 200))),
    "number, crop_pct": ({"size": 224, "crop_pct": 0.875}, (256, None, (224, 224))),
    "crop with an edge": ({"size": {"shortest_edge": 99}, "crop_size": {"shortest_edge": 90}}, (99, None, (90, 90))),
    "no resize": ({"do_resize": False, "size": 99, "crop_size": 50}, (None, None, (50, 50))),
    "no crop": ({"size": SQUARE, "do_center_crop": False, "crop_size": 200}, (None, (224, 224), None)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_older_spellings_of_sizes(spelling: str) -> None:
    config, (edge, size, crop) = SPELLINGS[spelling]
    found = read_preparation({**PLAIN, **config})
    assert (found.shortest_edge, found.resize_to, found.crop) == (edge, size, crop)


def test_values_are_scaled_as_the_file_says() -> None:
    pixels = np.array([[[[0, 51, 255]]]], np.uint8)
    assert read_preparation(PLAIN | {"size": 1}).values(pixels).ravel() == pytest.approx([0.0, 0.2, 1.0])
    plain = read_preparation(PLAIN | {"size": 1, "do_rescale": False, **IMAGENET})
    assert plain.values(pixels).tolist() == pixels.tolist()
    # SigLIP and others have one number for all channels.
    both = read_preparation({"size": 1, "resample": 2, "image_mean": 0.5, "image_std": 0.5})
    assert both.values(pixels).ravel().tolist() == pytest.approx([-1.0, -0.6, 1.0])


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (30_000, 7)])
def test_a_thin_picture_needs_little_memory_and_has_the_pixels_of_its_middle(size: tuple[int, int]) -> None:
    preparation = read_preparation(PLAIN | {"size": {"shortest_edge": 224}, "crop_size": 224, "resample": 3})
    values = np.linspace(0, 255, max(size)).astype(np.uint8).reshape(size[1], size[0]) if 1 in size else None
    picture = Image.fromarray(values).convert("RGB") if values is not None else Image.new("RGB", size, (9, 8, 7))
    resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes() + 1024**3, resource.RLIM_INFINITY))
    try:
        placed = np.asarray(preparation.place(picture))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert placed.shape == (224, 224, 3)
    # The middle of a ramp from 0 to 255, or of a picture of one colour.
    assert placed[112, 112].tolist() == ([9, 8, 7] if values is None else [127, 127, 127])


def test_a_large_scaled_picture_has_nearly_the_pixels_of_a_small_one(
    pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PLAIN | {"size": {"shortest_edge": 224}, "crop_size": 224, "resample": 3}
    preparation = read_preparation(config)
    exact = [np.asarray(preparation.place(picture), np.int16) for picture in pictures]
    monkeypatch.setattr(image_preparation, "MAX_SCALED_PIXELS", 0)
    # Pillow may scale the sides of a part in the other order, which rounds in another way.
    for picture, whole in zip(pictures, exact, strict=True):
        assert float(np.abs(np.asarray(preparation.place(picture), np.int16) - whole).mean()) < 1


def test_padding_is_black_at_the_bottom_and_on_the_right() -> None:
    preparation = read_preparation(PLAIN | {"size": {"height": 20, "width": 30}, "do_pad": True, "pad_size": 40})
    placed = np.asarray(preparation.place(WHITE))
    assert placed.shape == (40, 40, 3)
    assert placed[:20, :30].min() == 255
    assert placed[20:].max() == placed[:, 30:].max() == 0


def test_what_is_switched_off_may_be_unknown() -> None:
    off = {
        "do_reduce_labels": False,
        "do_align_long_axis": None,
        "image_processor_type": "Other",
        "processor_class": "X",
    }
    assert read_preparation(PLAIN | {"size": SQUARE, **off}) == read_preparation(PLAIN | {"size": SQUARE})


FAULTS: Mapping[str, Mapping[str, Any]] = {
    "auto_map: unknown": {"size": 224, "auto_map": {"AutoImageProcessor": "own.Processor"}},
    "crop_pct is True": {"size": 224, "crop_pct": True},
    "size divided by crop_pct has the side 224000": {"size": 224, "crop_pct": 0.001},
    "resample is None": {"size": 224, "resample": None},
    "image_mean is None": {"size": 224, "image_mean": None},
    "image_std is None": {"size": 224, "image_std": None},
    "image_std is [True, True, True]": {"size": 224, "image_std": [True] * 3},
    "do_flip_channel_order": {"size": 224, "do_flip_channel_order": True},
    "rescale_offset": {"size": 224, "rescale_offset": 1},
    "size is None": {"do_resize": True},
    "size is True": {"size": True},
    "size is {'height': 224}": {"size": {"height": 224}},
    "size has the side -1": {"size": {"height": -1, "width": 224}},
    "size has the side 1.5": {"size": {"height": 224, "width": 1.5}},
    f"size has the side {MAX_SIDE + 1}": {"size": MAX_SIDE + 1},
    "size has the side 0": {"size": 0},
    "crop_size is 'x'": {"size": 224, "crop_size": "x"},
    "crop_size is None": {"size": 224, "do_center_crop": True},
    "images would have different sizes": {"size": {"shortest_edge": 224}, "do_center_crop": False},
    "use size with height and width": {},
    "crop_pct is 0": {"size": 224, "crop_pct": 0},
    "crop_pct is 'x'": {"size": 224, "crop_pct": "x"},
    "do_resize is 1": {"size": 224, "do_resize": 1},
    "resample is 60": {"size": 224, "resample": 60},
    "resample is 'bicubic'": {"size": 224, "resample": "bicubic"},
    "rescale_factor is 0": {"size": 224, "rescale_factor": 0},
    "rescale_factor is nan": {"size": 224, "rescale_factor": math.nan},
    "image_mean is [0.5]": {"size": 224, "image_mean": [0.5], "image_std": [1, 1, 1]},
    "image_std is [1, 0, 1]": {"size": 224, "image_mean": [0, 0, 0], "image_std": [1, 0, 1]},
    "image_std is ['a', 'b', 'c']": {"size": 224, "image_mean": [0, 0, 0], "image_std": ["a", "b", "c"]},
    "pad_size is None": {"size": 224, "do_pad": True},
    "pad_size is 100 x 100, less than 224 x 224": {"size": 224, "do_pad": True, "pad_size": 100},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_cannot_be_followed_is_refused_by_its_key(fault: str) -> None:
    with pytest.raises(PreparationError) as refused:
        read_preparation({**COMPLETE, **FAULTS[fault]})
    assert fault in str(refused.value)
