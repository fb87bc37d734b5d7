"""The service's vectors compared with Keras' own layers, and with golden.npz."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras.applications import vgg16
from numpy.typing import NDArray
from PIL import Image, ImageCms

from embedder_service.adapters.golden_vectors import GoldenVectors
from embedder_service.adapters.weights_files import VGG16
from tests.integration.embedder.helpers import SAME, Vectors, cosines

GOLDEN = Path(__file__).parent / "golden.npz"


# JPEG files of at least four times the network's side are scaled while they are decoded.
SCALED_WHILE_DECODED = ("retina.jpg",)
# Photographs with other colour profiles than sRGB: Adobe RGB, and the dot gain of a printing press.
NOT_SRGB = ("rocket.jpg", "page.png")


@pytest.fixture(scope="module")
def network(published_weights: Path) -> Any:
    """VGG16's convolutions and global average pooling as Keras documents them, without code of this project."""
    convolutions = vgg16.VGG16(include_top=False, weights=str(published_weights))
    return keras.Sequential([convolutions, keras.layers.GlobalAveragePooling2D()])


def features(network: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    batch = vgg16.preprocess_input(pixels.astype(np.float32))
    values: NDArray[np.float32] = network.predict(batch, batch_size=8, verbose=0)
    return values


@pytest.fixture(scope="module")
def reference(photographs: Mapping[str, bytes], network: Any) -> NDArray[np.float32]:
    """Return the reference vectors of the photographs, float32[N, 512]."""
    return features(network, np.stack([decoded_by_pillow(name, content) for name, content in photographs.items()]))


def decoded_by_pillow(name: str, content: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a photograph, decoded by Pillow only."""
    image = Image.open(BytesIO(content))
    if name not in NOT_SRGB:
        return np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
    small = image.resize((224, 224), Image.Resampling.BILINEAR)
    profile = ImageCms.ImageCmsProfile(BytesIO(image.info["icc_profile"]))
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    converted = ImageCms.profileToProfile(small, profile, ImageCms.createProfile("sRGB"), intent, "RGB", flags=flags)
    return np.asarray(converted)


def assert_cosines(names: list[str], similar: NDArray[np.float64], least: float) -> None:
    lower = {
        name: value
        for name, value in zip(names, similar, strict=True)
        if value < (0.999 if name in SCALED_WHILE_DECODED else least)
    }
    assert lower == {}


def test_vectors_equal_the_vectors_of_keras_layers(vectors: Vectors, reference: NDArray[np.float32]) -> None:
    assert len(vectors.names) >= 12
    assert_cosines(vectors.names, cosines(vectors.values, reference), SAME)


def test_float32_vectors_equal_the_vectors_of_keras_layers(
    exact_vectors: Vectors, reference: NDArray[np.float32]
) -> None:
    assert_cosines(exact_vectors.names, cosines(exact_vectors.values, reference), 0.999999)


def test_golden_vectors_equal_the_vectors_of_keras_layers(network: Any) -> None:
    golden = GoldenVectors.of("vgg16")
    assert golden.weights_sha256 == VGG16.sha256
    assert len(golden.pixels) >= 4
    assert cosines(golden.vectors, features(network, golden.pixels)).min() >= 0.99999


def test_golden_images_differ_from_each_other() -> None:
    unit = GoldenVectors.of("vgg16").vectors
    others = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    assert others.max() < 0.98


def test_the_reference_distinguishes_photographs(reference: NDArray[np.float32]) -> None:
    unit = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    others = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    assert others.max() < 0.98


def test_vectors_have_unit_length_and_512_components(vectors: Vectors) -> None:
    assert vectors.values.shape[1] == 512
    assert np.linalg.norm(vectors.values, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_vectors_and_fingerprint_equal_the_golden_file(
    vectors: Vectors, exact_vectors: Vectors, request: pytest.FixtureRequest
) -> None:
    (fingerprint,) = set(exact_vectors.fingerprints)
    if request.config.getoption("--write-golden", default=False):
        np.savez_compressed(
            GOLDEN, names=exact_vectors.names, vectors=exact_vectors.values.astype(np.float16), fingerprint=fingerprint
        )
    with np.load(GOLDEN) as golden:
        assert golden["names"].tolist() == exact_vectors.names == vectors.names
        assert cosines(exact_vectors.values, golden["vectors"]).min() >= 0.99999
        assert cosines(vectors.values, golden["vectors"]).min() >= SAME
        assert golden["fingerprint"] == fingerprint
