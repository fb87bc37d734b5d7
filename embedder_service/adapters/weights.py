"""Weights as tensors: which a network needs, how they are read, written, and known to be the right ones.

A file of weights is HDF5 in the layout that Keras has used for its own downloads (a group for each layer, its
`weight_names` attribute in the order kernel, bias), so that Keras can read it too. A file with a classifier on top is
read as well; what is not needed is left alone.
"""

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

# Tensors by name, "LAYER/kernel" float32[height, width, in, out] or "LAYER/bias" float32[out].
Tensors = Mapping[str, NDArray[np.float32]]


class WeightsError(Exception):
    """Weights are missing or are not the ones asked for. The message says what to do."""


@dataclass(frozen=True)
class WeightsSpec:
    """The weights that a network needs."""

    model: str
    shapes: Mapping[str, tuple[int, ...]]
    """Every tensor's shape, in the network's order; empty where only Keras knows how to read the file."""
    sha256: str
    """`tensors_sha256` of the published weights; empty where that is not known here."""
    origin: str
    """Who made them, and under which licence."""
    keras_file: str = ""
    """The name of the file that Keras downloads."""
    keras_md5: str = ""
    """The MD5 that Keras' own code expects of that file (keras.applications, Keras 3); empty where it expects none."""

    @property
    def file_name(self) -> str:
        """The name of the file in the cache folder."""
        return f"{self.model}.h5"


def _vgg_shapes(deep: int, *, top: bool = False) -> dict[str, tuple[int, ...]]:
    """3x3 convolutions in five blocks, of which the last three have `deep`; the first dense layer with `top`.

    Simonyan and Zisserman, 2015, table 1: configuration D has 3, E has 4.
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
    model="vgg16",
    shapes=_vgg_shapes(3),
    sha256="0e13a8efbb3de7b9b47723fd12eca6dcac2ff7cde53bcc79c4ad7a789ff5d48f",
    origin=_VGG_ORIGIN,
    keras_file=f"vgg16_{_KERNELS}_notop.h5",
    keras_md5="6d6bbae143d832006294945121d1f1fc",
)
MOBILENET = WeightsSpec(
    model="mobilenet",
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
    spec.model: spec
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
    """SHA-256 over names, shapes and little-endian float32 values, in the order of the names.

    The same tensors have the same digest in whatever file they come.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name], dtype="<f4")
        digest.update(f"{name}{list(values.shape)}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def default_cache() -> Path:
    """The folder for fetched weights: EMBEDDER_WEIGHTS_CACHE, or imagesearch/weights in the user's cache folder."""
    configured = os.environ.get("EMBEDDER_WEIGHTS_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagesearch" / "weights"


def read(path: Path, spec: WeightsSpec) -> dict[str, NDArray[np.float32]]:
    """Reads the tensors that `spec` names, whatever their values. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(f"no weights at {path}. {how_to_get(spec)}")
    try:
        with h5py.File(path, "r") as file:
            # A file that Keras saved as a whole model has its weights one group down.
            tensors = _read_layers(file.get("model_weights", file))
    except (OSError, KeyError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise WeightsError(f"{path} is damaged or no file of Keras weights ({error}). {how_to_get(spec)}") from error
    for name, shape in spec.shapes.items():
        found = tensors[name].shape if name in tensors else "nothing"
        if found != shape:
            raise WeightsError(
                f"{path} does not fit {spec.model}: {name} should be {shape}, found {found}. {how_to_get(spec)}"
            )
    return {name: tensors[name] for name in spec.shapes}


def _read_layers(root: h5py.Group) -> dict[str, NDArray[np.float32]]:
    tensors = {}
    for layer, group in root.items():
        names = group.attrs.get("weight_names", ())
        for kind, name in zip(("kernel", "bias"), names, strict=False):
            key = name.decode() if isinstance(name, bytes) else str(name)
            tensors[f"{layer}/{kind}"] = np.asarray(group[key], dtype=np.float32)
    return tensors


def read_verified(
    path: Path,
    spec: WeightsSpec,
    sha256: str = "",
    read: Callable[[Path, WeightsSpec], dict[str, NDArray[np.float32]]] = read,
) -> dict[str, NDArray[np.float32]]:
    """Reads the tensors by `read` and makes sure that they are the expected ones. Raises WeightsError.

    `sha256` is the digest to expect; empty expects the published weights.
    """
    tensors = read(path, spec)
    if reason := refusal(path, tensors, spec, sha256):
        raise WeightsError(
            f"{path} was altered or holds other weights: {reason}. {how_to_get(spec)} To serve weights of your own, "
            f"set EMBEDDER_WEIGHTS_SHA256={spec.model}={tensors_sha256(tensors)}."
        )
    return tensors


def refusal(path: Path, tensors: Tensors, spec: WeightsSpec, sha256: str = "") -> str:
    """Why the tensors of a file are not the expected ones; empty where they are."""
    found, expected = tensors_sha256(tensors), sha256 or spec.sha256
    if expected:
        return "" if found == expected else f"its tensors have SHA-256 {found}, expected {expected}"
    if not spec.keras_md5:
        return f"its tensors have SHA-256 {found}, and no digest of {spec.model} is published to compare it with"
    if (md5 := _md5(path)) != spec.keras_md5:
        return f"the file has MD5 {md5}, expected {spec.keras_md5}, that of Keras' download"
    return ""


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        # Keras' choice; it guards against damage, not against malice.
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def write(path: Path, tensors: Tensors) -> None:
    """Writes the tensors to `path`, whole or not at all; named as `WeightsSpec.shapes` names them, layer by layer."""
    # HDF5 crashes the process if a disk is full when it closes a file: it gets memory.
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
        # mkstemp makes a private file; weights are for every user that may read the folder.
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def how_to_get(spec: WeightsSpec) -> str:
    """What to do to get the right weights."""
    return (
        f"Run `python -m embedder_service.weights fetch {spec.model}`, or set EMBEDDER_WEIGHTS={spec.model}=FILE "
        "to one that holds them (in a container: mount it)."
    )
