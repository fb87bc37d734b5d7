"""The service's vectors against Keras' own layers, and against those of the day when golden.npz was written."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras.applications import vgg16
from numpy.typing import NDArray
from PIL import Image

GOLDEN = Path(__file__).parent / "golden.npz"


def cosines(some: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """The cosine of each row with the same row of the other matrix, float64[N]."""
    some, others = some.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    products: NDArray[np.float64] = (some * others).sum(axis=1) / lengths
    return products


@pytest.fixture(scope="module")
def reference(photographs: Mapping[str, bytes], published_weights: Path) -> NDArray[np.float32]:
    """VGG16's convolutions and global average pooling as Keras documents them, float32[N, 512]; nothing of ours."""
    convolutions = vgg16.VGG16(include_top=False, weights=str(published_weights))
    network = keras.Sequential([convolutions, keras.layers.GlobalAveragePooling2D()])
    images = [
        np.asarray(Image.open(BytesIO(content)).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
        for content in photographs.values()
    ]
    batch = vgg16.preprocess_input(np.stack(images).astype(np.float32))
    features: NDArray[np.float32] = network.predict(batch, batch_size=8, verbose=0)
    return features


def test_vectors_are_those_of_keras_layers(vectors: Any, reference: NDArray[np.float32]) -> None:
    assert len(vectors.names) >= 12
    similar = cosines(vectors.values, reference)
    assert dict(zip(vectors.names, similar, strict=True)) == {
        name: pytest.approx(1.0, abs=1e-4) for name in vectors.names
    }


def test_the_reference_tells_photographs_apart(reference: NDArray[np.float32]) -> None:
    unit = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    others = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    assert others.max() < 0.98


def test_vectors_have_unit_length_and_512_components(vectors: Any) -> None:
    assert vectors.values.shape[1] == 512
    assert np.linalg.norm(vectors.values, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_vectors_and_fingerprint_are_the_golden_ones(vectors: Any, request: pytest.FixtureRequest) -> None:
    (fingerprint,) = set(vectors.fingerprints)
    if request.config.getoption("--write-golden", default=False):
        np.savez_compressed(
            GOLDEN, names=vectors.names, vectors=vectors.values.astype(np.float16), fingerprint=fingerprint
        )
    with np.load(GOLDEN) as golden:
        assert golden["names"].tolist() == vectors.names
        assert cosines(vectors.values, golden["vectors"]).min() >= 0.9999
        assert golden["fingerprint"] == fingerprint
