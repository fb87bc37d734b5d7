"""Weights with random values of a fixed seed, for networks whose published weights no package index has."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras.src.legacy.saving import legacy_h5_format
from numpy.typing import NDArray

from embedder_service.adapters import keras_backbones, weights_files
from embedder_service.adapters.weights_files import SPECS
from embedder_service.core.networks import NETWORKS

# Name of the Keras module of each network.
MODULES = {
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "inception_v3": "inception_v3",
    "resnet50": "resnet50",
    "densenet121": "densenet",
    "mobilenet_v2": "mobilenet_v2",
    "efficientnet_v2_b0": "efficientnet_v2",
}
NEW_LAYOUT = {"resnet50"}
CACHE = Path(__file__).parents[1] / ".cache" / "seeded-weights"
# Images float32[N, side, side, 3] in 0..255.
Images = NDArray[np.float32]


@dataclass(frozen=True)
class Seeded:
    """A weights file and the digest of its tensors."""

    path: Path
    sha256: str


def cached(name: str, images: Callable[[int], Images]) -> Seeded:
    """Return the file that `make` writes. It is cached until this module, Keras or NumPy changes."""
    recipe = hashlib.sha256(Path(__file__).read_bytes())
    recipe.update(f"{name} {keras.__version__} {np.__version__}".encode())
    folder = CACHE / recipe.hexdigest()[:16]
    facts = folder / "seeded.json"
    if not facts.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = make(name, folder, images)
        facts.write_text(json.dumps({"file": made.path.name, "sha256": made.sha256}))
    found = json.loads(facts.read_text())
    return Seeded(folder / found["file"], found["sha256"])


def make(name: str, folder: Path, images: Callable[[int], Images]) -> Seeded:
    """Writes weights of a name of `weights_files.SPECS` in Keras' old layout, as its downloads are, or its new one.

    `images` returns photographs with a given side length. Batch normalisation layers take their statistics from them;
    otherwise random layers would give similar vectors for all images.
    """
    seed = sorted(SPECS).index(name)
    if name.endswith("_top"):
        return _written(folder, _seeded(keras.applications.VGG16(weights=None, classes=10), seed), name)
    network = NETWORKS[name]
    builder = getattr(keras.applications, network.builder)
    made = _seeded(builder(include_top=False, weights=None, input_shape=(None, None, 3), **network.arguments), seed)
    if SPECS[name].shapes:
        return _written(folder, made, name)
    normalisations = [layer for layer in made.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in normalisations:
        layer.momentum = 0.0
    if normalisations:
        made(preprocess(name, images(network.input_size)), training=True)
    path = folder / (f"{name}.weights.h5" if name in NEW_LAYOUT else f"{name}.h5")
    if name in NEW_LAYOUT:
        made.save_weights(path)
    else:
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, made)
    return Seeded(path, weights_files.tensors_sha256(keras_backbones.tensors_of(made)))


def preprocess(name: str, images: Images) -> Images:
    """Return images with the preprocessing that Keras defines for a network."""
    module = getattr(keras.applications, MODULES[name])
    prepared: Images = module.preprocess_input(np.array(images))
    return prepared


def _seeded(network: Any, seed: int) -> Any:
    """Assign random values to every variable, of a size that keeps activations in a normal range."""
    random = np.random.default_rng(seed)
    for variable in network.variables:
        shape = tuple(variable.shape)
        match variable.name:
            case "gamma" | "moving_variance" | "variance":
                values = random.uniform(0.8, 1.2, shape)
            case "beta" | "bias" | "moving_mean" | "mean":
                values = random.normal(0, 0.05, shape)
            case "depthwise_kernel":
                values = random.normal(0, np.sqrt(2 / 9), shape)
            case _:
                values = random.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[:-1]))
        variable.assign(values)
    return network


def _written(folder: Path, network: Any, name: str) -> Seeded:
    layers = {
        f"{layer.name}/{variable.name}": np.asarray(variable.numpy(), np.float32)
        for layer in network.layers
        for variable in layer.weights
    }
    path = folder / f"{name}.h5"
    weights_files.write(path, layers)
    return Seeded(path, weights_files.tensors_sha256({tensor: layers[tensor] for tensor in SPECS[name].shapes}))
