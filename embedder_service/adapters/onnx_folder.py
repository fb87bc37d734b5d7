"""Reads the folder of an image encoder: `model.onnx`, `preprocessor_config.json`, and optionally `imagesearch.json`.

A folder is data. No code in it runs, and nothing outside of it is read. The graph is read into memory once, with its
external data, so that a later change of the folder has no effect.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

import onnx
from google.protobuf.message import DecodeError

from embedder_service.adapters.weights_files import WeightsError
from embedder_service.core.image_preparation import Preparation, PreparationError, read_preparation
from embedder_service.core.types import MAX_BATCH_SIZE

CONFIG_FILE, OPTIONS_FILE = "preprocessor_config.json", "imagesearch.json"
GRAPH_FILES = ("model.onnx", "onnx/model.onnx", "onnx/vision_model.onnx", "vision_model.onnx")
# A protobuf message, and so a graph in memory, has less than 2 GiB.
MAX_BYTES = 2**31 - 2**20
MAX_JSON_BYTES = 1024 * 1024
# The operators of ONNX, and those that onnxruntime itself has.
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

Pooling: TypeAlias = Literal["none", "cls", "mean"]
POOLINGS: tuple[Pooling, ...] = ("none", "cls", "mean")


@dataclass(frozen=True)
class EncoderOptions:
    """What `imagesearch.json` says; every field is optional."""

    output: str = ""
    """The name of the output; by default it is chosen."""
    pooling: Pooling | Literal[""] = ""
    """How tokens or a feature map become one vector; by default by the output."""
    normalise: bool = True
    """Whether vectors are scaled to unit length."""
    max_batch_size: int = 0
    """Maximum number of images in a batch; 0 for the service's setting."""


@dataclass(frozen=True)
class EncoderFolder:
    """A folder that was read and checked."""

    folder: Path
    graph: bytes
    """The graph with its weights."""
    sha256: str
    """The digest of the file of the graph and of its external data."""
    preparation: Preparation
    options: EncoderOptions

    @property
    def preprocessing(self) -> str:
        """The name of the preprocessing; it changes whenever the values of the input change."""
        # Fields with their defaults are left out, so that a further field of a later version changes no name.
        parts = {name: value for name, value in asdict(self.preparation).items() if value != getattr(Preparation, name)}
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return f"config-{digest[:16]}/1"


def read_folder(folder: Path) -> EncoderFolder:
    """Read and check a folder. Raises WeightsError, which names the file and what is wrong with it."""
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder")
    try:
        preparation = read_preparation(_read_json(folder, CONFIG_FILE))
        options = read_options(folder)
        graph, sha256 = _read_graph(folder)
    except PreparationError as error:
        raise WeightsError(f"{folder / CONFIG_FILE}: {error}") from None
    except OSError as error:
        raise WeightsError(f"{error.filename or folder}: {error.strerror}") from None
    return EncoderFolder(folder, graph, sha256, preparation, options)


def read_options(folder: Path) -> EncoderOptions:
    """Return what `imagesearch.json` says, if the folder has it. Raises WeightsError."""
    if not (folder / OPTIONS_FILE).exists():
        return EncoderOptions()
    found = _read_json(folder, OPTIONS_FILE)
    path = folder / OPTIONS_FILE
    known = [field.name for field in fields(EncoderOptions)]
    for key, value in found.items():
        if key not in known:
            raise WeightsError(f"{path}: {key} is unknown; use {', '.join(known)}")
        kind = type(getattr(EncoderOptions, key))
        if type(value) is not kind:
            raise WeightsError(f"{path}: {key} is {value!r}; it must be {_KINDS[kind]}")
    options = EncoderOptions(**found)
    if options.pooling and options.pooling not in POOLINGS:
        raise WeightsError(f"{path}: pooling is {options.pooling!r}; use {', '.join(POOLINGS)}")
    if not 0 <= options.max_batch_size <= MAX_BATCH_SIZE:
        raise WeightsError(f"{path}: max_batch_size is {options.max_batch_size}; it must be from 1 to {MAX_BATCH_SIZE}")
    return options


_KINDS: Mapping[type, str] = {str: "a text", bool: "true or false", int: "a whole number"}


def graph_path(folder: Path) -> Path:
    """Return the path of the graph. Raises WeightsError."""
    for name in GRAPH_FILES:
        if (folder / name).exists():
            return inside(folder, name)
    raise WeightsError(f"{folder} has no graph; it must have one of {', '.join(GRAPH_FILES)}")


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder. Raises WeightsError if it leads out of the folder or is no file."""
    path = folder / name
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or not path.resolve().is_relative_to(folder.resolve()):
        raise WeightsError(f"{path} leads out of {folder}; copy the file into the folder")
    if not path.is_file():
        raise WeightsError(f"{path} does not exist, or is not a file")
    return path


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.exists():
        raise WeightsError(f"{folder} has no {name}; it says how images become the input of the encoder")
    path = inside(folder, name)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise WeightsError(f"{path} has {path.stat().st_size} bytes; the maximum is {MAX_JSON_BYTES}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path} must contain an object")
    return found


def _read_graph(folder: Path) -> tuple[bytes, str]:
    """Return the graph of a folder with all of its weights inside, and the digest of its files.

    The digest is not that of the returned bytes: another version of protobuf may write them in another way.
    """
    path = graph_path(folder)
    _check_size(path, path.stat().st_size)
    content = path.read_bytes()
    digest = hashlib.sha256(content)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise WeightsError(f"{path} is damaged, or is not an ONNX graph: {error}") from None
    _check_operators(model, path)
    total = len(content)
    del content
    for tensor in tensors_of(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _embed_data(tensor, path, folder, total)
            total += len(tensor.raw_data)
            digest.update(tensor.raw_data)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise WeightsError(f"{path} is not a valid ONNX graph: {str(error).strip().splitlines()[0]}") from None
    return bytes(model.SerializeToString()), digest.hexdigest()


def _check_size(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise WeightsError(
            f"{path} has, with its external data, {size / 1e9:.1f} GB; the maximum is {MAX_BYTES / 1e9:.1f} GB. Use a "
            "smaller encoder, or one in float16"
        )


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    """Raise WeightsError if a graph uses operators that need code from outside."""
    own = {(function.domain, function.name) for function in model.functions}
    custom = sorted(
        {
            f"{node.domain}.{node.op_type}"
            for node in all_nodes(model)
            if node.domain not in DOMAINS and (node.domain, node.op_type) not in own
        }
    )
    if custom:
        raise WeightsError(
            f"{path} uses custom operators, which would need code: {', '.join(custom)}; export the encoder without them"
        )


def nodes_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, and the nodes of the graphs inside of them."""
    for node in nodes:
        yield node
        for graph in graphs_in(node):
            yield from nodes_of(graph.node)


def graphs_in(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that are attributes of a node, such as the branches of an If."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield all tensors: of the graph, of the graphs inside, and of the nodes' attributes."""
    nodes = list(all_nodes(model))
    for graph in (model.graph, *(graph for node in nodes for graph in graphs_in(node))):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            *attribute.sparse_tensors,
        ):
            yield from (sparse.values, sparse.indices)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph, of its functions, and of the graphs inside."""
    yield from nodes_of(model.graph.node)
    for function in model.functions:
        yield from nodes_of(function.node)


def _embed_data(tensor: onnx.TensorProto, graph: Path, folder: Path, total: int) -> None:
    """Read the external data of a tensor into the tensor; `total` bytes were read before. Raises WeightsError."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not location:
        raise WeightsError(f"{graph}: the tensor {tensor.name} names no file of its data")
    path = inside(folder, str(graph.parent.relative_to(folder) / location))
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", path.stat().st_size - offset))
    except ValueError:
        raise WeightsError(f"{graph}: the tensor {tensor.name} has no valid place in {location}") from None
    if offset < 0 or length < 0 or offset + length > path.stat().st_size:
        raise WeightsError(
            f"{path} has {path.stat().st_size} bytes, and the tensor {tensor.name} needs bytes {offset} to "
            f"{offset + length}: the file is truncated, or belongs to another graph"
        )
    wanted = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if length < wanted:
        raise WeightsError(f"{path} has {length} bytes for the tensor {tensor.name}, which needs {wanted}")
    _check_size(graph, total + length)
    with path.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    del tensor.external_data[:]
    tensor.ClearField("data_location")
