"""Image encoders of ONNX folders, on onnxruntime."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from embedder_service.adapters.golden_vectors import GoldenVectors, golden_batches
from embedder_service.adapters.onnx_folder import EncoderFolder, Pooling
from embedder_service.adapters.timing import median_seconds
from embedder_service.adapters.weights_files import WeightsError
from embedder_service.core.heads import unit_length
from embedder_service.core.model_names import MAX_DIMENSION
from embedder_service.core.types import (
    MAX_BATCH_SIZE,
    ImageVectors,
    InputPolicy,
    ModelInfo,
    Pixels,
    RegionRequest,
    Vectors,
)

# Outputs with one vector an image, and with tokens, by the names that exporters of Hugging Face give. The first counts.
VECTOR_OUTPUTS = ("image_embeds", "pooler_output")
OUTPUT_OF_TOKENS = "last_hidden_state"
# Dimensions of a batch of vectors, of tokens, and of images or feature maps.
VECTORS, TOKENS, IMAGES = 2, 3, 4
CHANNELS = 3
ELEMENTS: Mapping[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
# Warnings of onnxruntime are about its own optimisations.
ERRORS_ONLY = 3

# The dimensions of the outputs that a pooling accepts.
RANKS: Mapping[Pooling, tuple[int, ...]] = {"cls": (TOKENS,), "mean": (TOKENS, IMAGES), "none": (VECTORS, IMAGES)}
POOL: Mapping[Pooling, Callable[[NDArray[np.float32]], Vectors]] = {
    # The class token is the first one.
    "cls": lambda values: values[:, 0],
    "mean": lambda values: values.mean(axis=1),
    "none": lambda values: values.reshape(len(values), -1),
}


@dataclass(frozen=True)
class Graph:
    """A graph that onnxruntime has loaded, and how it is used."""

    session: onnxruntime.InferenceSession
    input_name: str
    element: Any
    """The dtype of the input."""
    channels_first: bool
    batch_size: int
    """The batch size of a graph that accepts only one; 0 for any."""
    output: str
    pooling: Pooling


class RunError(Exception):
    """onnxruntime could not run a graph."""


def load_graph(encoder: EncoderFolder, threads: int) -> Graph:
    """Load the graph of a folder, and choose its output. Raises WeightsError."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(encoder.graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime's classes of errors are not public
        raise WeightsError(f"{encoder.folder}: onnxruntime refuses the graph: {_first_line(error)}") from None
    name, shape, element = _input_of(session, encoder)
    channels_first = _is_channels_first(shape, encoder)
    sides = shape[2:4] if channels_first else shape[1:3]
    for side, wanted in zip(sides, encoder.preparation.size, strict=True):
        if isinstance(side, int) and side != wanted:
            raise WeightsError(
                f"{encoder.folder}: the graph accepts {sides[0]} x {sides[1]} pixels, and preprocessor_config.json "
                f"makes {encoder.preparation.size[0]} x {encoder.preparation.size[1]}"
            )
    output, pooling = _output_of(session, encoder)
    batch_size = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else 0
    if batch_size > MAX_BATCH_SIZE:
        raise WeightsError(
            f"{encoder.folder}: the graph accepts only batches of {batch_size} images; the maximum is {MAX_BATCH_SIZE}"
        )
    return Graph(session, name, element, channels_first, batch_size, output, pooling)


def _input_of(session: onnxruntime.InferenceSession, encoder: EncoderFolder) -> tuple[str, list[Any], Any]:
    """Return name, shape and dtype of the only input. Raises WeightsError."""
    found = session.get_inputs()
    if len(found) != 1:
        names = ", ".join(each.name for each in found)
        raise WeightsError(
            f"{encoder.folder}: the graph has the inputs {names or 'none'}; it must have one, the pixels. Export the "
            "image part alone"
        )
    (pixels,) = found
    if len(pixels.shape) != IMAGES or pixels.type not in ELEMENTS:
        raise WeightsError(
            f"{encoder.folder}: the input {pixels.name} is {pixels.type} of shape {pixels.shape}; it must be a batch "
            "of images, with four dimensions"
        )
    return pixels.name, list(pixels.shape), ELEMENTS[pixels.type]


def _is_channels_first(shape: Sequence[Any], encoder: EncoderFolder) -> bool:
    if shape[1] == CHANNELS or (shape[3] != CHANNELS and not isinstance(shape[1], int)):
        return True
    if shape[3] == CHANNELS:
        return False
    raise WeightsError(f"{encoder.folder}: the input has shape {list(shape)}; one of its dimensions must be 3 channels")


def _output_of(session: onnxruntime.InferenceSession, encoder: EncoderFolder) -> tuple[str, Pooling]:
    """Return name and pooling of the output that has the vectors. Raises WeightsError."""
    outputs = {each.name: list(each.shape) for each in session.get_outputs()}
    asked = encoder.options.output
    if asked and asked not in outputs:
        raise WeightsError(f"{encoder.folder}: the graph has no output {asked}; it has {', '.join(outputs)}")
    name = asked or next((each for each in (*VECTOR_OUTPUTS, OUTPUT_OF_TOKENS) if each in outputs), "")
    if not name and len(outputs) == 1:
        (name,) = outputs
    if not name:
        raise WeightsError(
            f"{encoder.folder}: which output has the vectors? Name one of {', '.join(outputs)} as output in "
            "imagesearch.json"
        )
    shape = outputs[name]
    pooling: Pooling = encoder.options.pooling or ("cls" if len(shape) == TOKENS else "none")
    # Exporters of feature maps keep two dimensions of size 1 after pooling.
    if len(shape) not in RANKS[pooling] or (pooling == "none" and len(shape) == IMAGES and shape[2:] != [1, 1]):
        raise WeightsError(
            f"{encoder.folder}: the output {name} has shape {shape}, which pooling {pooling} cannot turn into a "
            "vector; set output and pooling in imagesearch.json (none for [N, D], cls or mean for [N, tokens, D], "
            "mean for [N, D, height, width])"
        )
    return name, pooling


class OnnxModel:
    """An encoder of an ONNX folder."""

    def __init__(self, name: str, encoder: EncoderFolder, threads: int, max_batch_size: int) -> None:
        """Load the graph. Raises WeightsError.

        Args:
            name: the name that the operator gave.
            encoder: the folder.
            threads: threads of onnxruntime.
            max_batch_size: maximum number of images in a batch, if the folder does not say it.
        """
        self.graph = load_graph(encoder, threads)
        self._folder = encoder.folder
        self._preparation = encoder.preparation
        self._unit = encoder.options.normalise
        limit = encoder.options.max_batch_size or max_batch_size
        self.info = ModelInfo(
            name=name,
            network=name,
            dimension=0,
            input=InputPolicy("config", max(encoder.preparation.size), preparation=encoder.preparation),
            head=f"{self.graph.output}-{self.graph.pooling}",
            preprocessing=encoder.preprocessing,
            normalisation="l2" if self._unit else "none",
            weights_sha256=encoder.sha256,
            precision="float16" if self.graph.element is np.float16 else "float32",
            max_batch_size=min(limit, self.graph.batch_size) if self.graph.batch_size else limit,
            threads=threads,
            is_encoder=True,
        )

    def probe(self) -> Vectors:
        """Return the vectors of some photographs, float32[N, D], and set the dimension. Raises WeightsError."""
        batches = golden_batches(GoldenVectors.of(""), self.info.input)
        try:
            vectors = np.concatenate([self.embed(image[np.newaxis]) for batch in batches for image in batch])
        except (RunError, MemoryError) as error:
            raise WeightsError(f"{self._folder}: the encoder fails on a photograph: {_first_line(error)}") from error
        if vectors.shape[1] > MAX_DIMENSION:
            raise WeightsError(
                f"{self._folder}: its vectors have {vectors.shape[1]} components; the maximum of Milvus is "
                f"{MAX_DIMENSION}"
            )
        self.info = replace(self.info, dimension=vectors.shape[1])
        return vectors

    def embed(self, pixels: Pixels) -> Vectors:
        """Embed uint8[N, H, W, 3] as float32[N, D]. Raises MemoryError, RunError."""
        graph = self.graph
        values = self._preparation.values(pixels)
        if graph.channels_first:
            values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        count = len(values)
        if graph.batch_size > count:
            values = np.concatenate([values, np.repeat(values[-1:], graph.batch_size - count, axis=0)])
        found = np.asarray(self._output(values.astype(graph.element, copy=False)), np.float32)[:count]
        if found.ndim == IMAGES and graph.pooling == "mean":
            found = found.reshape(*found.shape[:2], -1).transpose(0, 2, 1)
        vectors = POOL[graph.pooling](found)
        return unit_length(vectors) if self._unit else np.ascontiguousarray(vectors)

    def _output(self, values: NDArray[Any]) -> NDArray[Any]:
        try:
            (found,) = self.graph.session.run([self.graph.output], {self.graph.input_name: values})
        except Exception as error:  # onnxruntime's classes of errors are not public
            is_memory = "allocate memory" in str(error).lower() or "bad_alloc" in str(error)
            raise (MemoryError if is_memory else RunError)(str(error)) from error
        return np.asarray(found)

    def run(self, pixels: Pixels, requests: Sequence[RegionRequest | None]) -> list[ImageVectors]:
        """Embed uint8[N, H, W, 3]. The service refuses regions of this model before."""
        return [ImageVectors(vector) for vector, _ in zip(self.embed(pixels), requests, strict=True)]

    def warm_up(self) -> None:
        """Run the smallest and the largest batch once, and measure the seconds per image."""
        largest = np.zeros((self.info.max_batch_size, *self._preparation.size, 3), np.uint8)
        for pixels in (largest[:1], largest):
            self.embed(pixels)
        seconds = median_seconds(self.embed, largest)
        self.info = replace(self.info, seconds_per_image=seconds / self.info.max_batch_size)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
