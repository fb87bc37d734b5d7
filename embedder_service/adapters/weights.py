"""Weights as tensors: which a network needs, how they are read, written, and known to be the right ones.

A file of weights is HDF5 in the layout that Keras has used for its own downloads (a group for each layer, its
`weight_names` attribute in the order kernel, bias), so that Keras can read it too. A file with a classifier on top is
read as well; what is not needed is left alone.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
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
    """Every tensor's shape, in the network's order."""
    sha256: str
    """`tensors_sha256` of the published weights."""
    origin: str
    """Who made them, and under which licence."""

    @property
    def file_name(self) -> str:
        """The name of the file in the cache folder."""
        return f"{self.model}.h5"


def _vgg16_shapes() -> dict[str, tuple[int, ...]]:
    """Thirteen 3x3 convolutions in five blocks (Simonyan and Zisserman, 2015, table 1, configuration D)."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for block, (filters, layers) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], start=1):
        for layer in range(1, layers + 1):
            shapes[f"block{block}_conv{layer}/kernel"] = (3, 3, channels, filters)
            shapes[f"block{block}_conv{layer}/bias"] = (filters,)
            channels = filters
    return shapes


VGG16 = WeightsSpec(
    model="vgg16",
    shapes=_vgg16_shapes(),
    sha256="0e13a8efbb3de7b9b47723fd12eca6dcac2ff7cde53bcc79c4ad7a789ff5d48f",
    origin="Visual Geometry Group, University of Oxford; ImageNet; CC BY 4.0; converted for Keras",
)
SPECS = {spec.model: spec for spec in (VGG16,)}


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


def read_verified(path: Path, spec: WeightsSpec, sha256: str = "") -> dict[str, NDArray[np.float32]]:
    """Reads the tensors and makes sure that they are the expected ones. Raises WeightsError.

    `sha256` is the digest to expect; empty expects the published weights.
    """
    tensors = read(path, spec)
    expected = sha256 or spec.sha256
    found = tensors_sha256(tensors)
    if found != expected:
        raise WeightsError(
            f"{path} was altered or holds other weights: their tensors' SHA-256 is {found}, expected {expected}. "
            f"{how_to_get(spec)} To serve weights of your own, set EMBEDDER_WEIGHTS_SHA256={found}."
        )
    return tensors


def write(path: Path, tensors: Tensors) -> None:
    """Writes the tensors to `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        with h5py.File(temporary, "w") as file:
            layers = list(dict.fromkeys(name.split("/")[0] for name in tensors))
            file.attrs["layer_names"] = [layer.encode() for layer in layers]
            for layer in layers:
                group = file.create_group(layer)
                names = [f"{layer}/{kind}:0" for kind in ("kernel", "bias")]
                group.attrs["weight_names"] = [name.encode() for name in names]
                for kind, name in zip(("kernel", "bias"), names, strict=True):
                    group.create_dataset(name, data=tensors[f"{layer}/{kind}"])
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes a private file; weights are for every user that may read the folder.
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def how_to_get(spec: WeightsSpec) -> str:
    """What to do to get the right weights."""
    return (
        f"Run `python -m embedder_service.weights fetch {spec.model}` (or `make weights`), or set EMBEDDER_WEIGHTS "
        "to a file that holds them."
    )
