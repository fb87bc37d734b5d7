"""Weights files: reads, writes and verifies the tensors of a network.

A weights file is HDF5 in the layout of Keras' downloads: a group for each layer, with the attribute `weight_names` in
the order kernel, bias. So Keras can read it too.
"""

import hashlib
import io
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

# Float32 tensors by name, in the order of the network's layers: "LAYER/kernel" and "LAYER/bias" if the spec has shapes;
# otherwise "NUMBER.VARIABLE", where NUMBER counts the layers with weights.
Tensors: TypeAlias = dict[str, NDArray[np.float32]]


class WeightsError(Exception):
    """Weights are missing or are not the expected ones. The message says what to do."""


@dataclass(frozen=True)
class WeightsSpec:
    """Describes the weights of a network."""

    name: str
    """One of `model_names.WEIGHTS_NAMES`."""
    shapes: Mapping[str, tuple[int, ...]]
    """The shape of each tensor, in the order of the layers; empty if only Keras can read the file."""
    sha256: str
    """`tensors_sha256` of the published weights; empty if unknown."""
    origin: str
    """Their author and licence."""
    keras_file: str = ""
    """The name of the file that Keras downloads."""
    keras_md5: str = ""
    """The MD5 of that file in the code of Keras 3 (keras.applications); empty if it has none."""

    @property
    def file_name(self) -> str:
        """The name of the file in the cache folder."""
        return f"{self.name}.h5"


def _vgg_shapes(deep: int, *, top: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the shapes of VGG's tensors (Simonyan and Zisserman, 2015, table 1).

    Args:
        deep: number of 3x3 convolutions in each of the last three blocks: 3 in configuration D, 4 in E.
        top: whether to include the first dense layer.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for block, (filters, layers) in enumerate([(64, 2), (128, 2), (256, deep), (512, deep), (512, deep)], start=1):
        for layer in range(1, layers + 1):
            shapes[f"block{block}_conv{layer}/kernel"] = (3, 3, channels, filters)
            shapes[f"block{block}_conv{layer}/bias"] = (filters,)
            channels = filters
    if top:
        shapes["fc1/kernel"] = (7 * 7 * channels, 4096)
        shapes["fc1/bias"] = (4096,)
    return shapes


_VGG_ORIGIN = "Visual Geometry Group, University of Oxford; ImageNet; CC BY 4.0; converted for Keras"
_KERAS_ORIGIN = "keras.applications; ImageNet; Apache 2.0"
_KERNELS = "weights_tf_dim_ordering_tf_kernels"

VGG16 = WeightsSpec(
    name="vgg16",
    shapes=_vgg_shapes(3),
    sha256="0e13a8efbb3de7b9b47723fd12eca6dcac2ff7cde53bcc79c4ad7a789ff5d48f",
    origin=_VGG_ORIGIN,
    keras_file=f"vgg16_{_KERNELS}_notop.h5",
    keras_md5="6d6bbae143d832006294945121d1f1fc",
)
MOBILENET = WeightsSpec(
    name="mobilenet",
    shapes={},
    sha256="905648fe85ba35a8011ce712d554d73c5d1541a1420352122fe161ccde160759",
    origin="TensorFlow-Slim's MobileNet V1 1.0 224; ImageNet; Apache 2.0; converted for Keras",
    keras_file="mobilenet_1_0_224_tf_no_top.h5",
)


def _vgg(model: str, layers: int, md5: str, *, top: bool = False) -> WeightsSpec:
    name = f"{model}_top" if top else model
    file = f"{model}_{_KERNELS}.h5" if top else f"{model}_{_KERNELS}_notop.h5"
    return WeightsSpec(name, _vgg_shapes(layers, top=top), "", _VGG_ORIGIN, file, md5)


def _keras(model: str, file: str, md5: str = "") -> WeightsSpec:
    return WeightsSpec(model, {}, "", _KERAS_ORIGIN, file, md5)


SPECS = {
    spec.name: spec
    for spec in (
        VGG16,
        _vgg("vgg16", 3, "64373286793e3c8b2b4e3219cbf3544b", top=True),
        _vgg("vgg19", 4, "253f8cb515780f3b799900260a226db6"),
        _vgg("vgg19", 4, "cbe5617147190e668d6c5d5026f83318", top=True),
        _keras("inception_v3", f"inception_v3_{_KERNELS}_notop.h5", "bcbd6486424b2319ff4ef7d526e38f63"),
        _keras("resnet50", f"resnet50_{_KERNELS}_notop.h5", "4d473c1dd8becc155b73f8504c6f6626"),
        _keras("densenet121", f"densenet121_{_KERNELS}_notop.h5", "30ee3e1110167f948a6b9946edeeb738"),
        MOBILENET,
        _keras("mobilenet_v2", f"mobilenet_v2_{_KERNELS}_1.4_224_no_top.h5"),
        _keras("efficientnet_v2_b0", "efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff"),
    )
}


def tensors_sha256(tensors: Tensors) -> str:
    """Return the SHA-256 over names, shapes and little-endian float32 values, in the order of the names.

    It does not depend on the layout of the file.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name], dtype="<f4")
        digest.update(f"{name}{list(values.shape)}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def default_cache() -> Path:
    """Return the folder of fetched weights: EMBEDDER_WEIGHTS_CACHE, or imagesearch/weights in the user's cache."""
    configured = os.environ.get("EMBEDDER_WEIGHTS_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagesearch" / "weights"


def read(path: Path, spec: WeightsSpec) -> Tensors:
    """Return the tensors of `spec`, without a check of their values. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(f"no weights at {path}. {how_to_get(spec)}")
    if spec.shapes:
        return _read_without_keras(path, spec)
    from embedder_service.adapters import keras_backbones  # noqa: PLC0415 - TensorFlow takes seconds to import

    return keras_backbones.read(path, spec)


def _read_without_keras(path: Path, spec: WeightsSpec) -> Tensors:
    """Return the tensors of `spec`. The file may contain further layers, such as a classifier."""
    try:
        with h5py.File(path, "r") as file:
            # A file of a whole Keras model has the weights in a group.
            tensors = _read_layers(file.get("model_weights", file))
    except (OSError, KeyError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise WeightsError(f"{path} is damaged or is not a Keras weights file ({error}). {how_to_get(spec)}") from error
    for name, shape in spec.shapes.items():
        found = tensors[name].shape if name in tensors else "nothing"
        if found != shape:
            raise WeightsError(
                f"{path} does not fit {spec.name}: {name} must be {shape}, found {found}. {how_to_get(spec)}"
            )
    return {name: tensors[name] for name in spec.shapes}


def _read_layers(root: h5py.Group) -> Tensors:
    tensors = {}
    for layer, group in root.items():
        names = group.attrs.get("weight_names", ())
        for kind, name in zip(("kernel", "bias"), names, strict=False):
            key = name.decode() if isinstance(name, bytes) else str(name)
            tensors[f"{layer}/{kind}"] = np.asarray(group[key], dtype=np.float32)
    return tensors


def read_verified(path: Path, spec: WeightsSpec, sha256: str = "") -> Tensors:
    """Return the tensors of `spec`, verified. Raises WeightsError.

    `sha256` is the expected digest of the tensors; empty expects the published weights.
    """
    tensors = read(path, spec)
    if reason := refusal(path, tensors, spec, sha256):
        raise WeightsError(
            f"{path} was altered or contains other weights: {reason}. {how_to_get(spec)} To serve weights of your own, "
            f"set EMBEDDER_WEIGHTS_SHA256={spec.name}={tensors_sha256(tensors)}."
        )
    return tensors


def refusal(path: Path, tensors: Tensors, spec: WeightsSpec, sha256: str = "") -> str:
    """Return why the tensors of a file are not the expected ones, or an empty text."""
    found, expected = tensors_sha256(tensors), sha256 or spec.sha256
    if expected:
        return "" if found == expected else f"its tensors have SHA-256 {found}, expected {expected}"
    if not spec.keras_md5:
        return f"its tensors have SHA-256 {found}, and no digest of {spec.name} is published for comparison"
    if (md5 := _md5(path)) != spec.keras_md5:
        return f"the file has MD5 {md5}, expected {spec.keras_md5} of Keras' download"
    return ""


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        # Keras publishes MD5. It detects damage, but not malice.
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def write(path: Path, tensors: Tensors) -> None:
    """Write tensors named "LAYER/VARIABLE" to `path`, atomically."""
    # HDF5 crashes the process if the disk is full when it closes a file, so it writes to memory.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        layers = list(dict.fromkeys(name.split("/")[0] for name in tensors))
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer)
            names = [name for name in tensors if name.split("/")[0] == layer]
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                group.create_dataset(f"{name}:0", data=tensors[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as written:
            written.write(content.getbuffer())
            written.flush()
            os.fsync(written.fileno())
        # mkstemp creates a private file, but all users of the folder may read weights.
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def how_to_get(spec: WeightsSpec) -> str:
    """Return the instruction to get the right weights."""
    return (
        f"Run `python -m embedder_service.weights fetch {spec.name}`, or set EMBEDDER_WEIGHTS={spec.name}=FILE "
        "to a file that contains them (in a container: mount it)."
    )
