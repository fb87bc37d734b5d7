"""Loads models by name: verifies weights, chooses the precision, builds models, verifies their vectors and warms up."""

import gc
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import tensorflow as tf

from embedder_service.adapters import cpus, keras_backbones, memory, precision, weights_files
from embedder_service.adapters.golden_vectors import GoldenError, GoldenVectors, golden_batches
from embedder_service.adapters.onnx_folder import CONFIG_FILE, read_folder
from embedder_service.adapters.onnx_model import OnnxModel
from embedder_service.adapters.precision_candidate import PrecisionCandidate
from embedder_service.adapters.tensorflow_model import Backbone, TensorflowModel, use_threads
from embedder_service.adapters.weights_files import SPECS, WeightsError
from embedder_service.core.heads import HEADS, unit_length
from embedder_service.core.model_names import FC1, EncoderName, ModelName
from embedder_service.core.networks import PixelScale
from embedder_service.core.types import InputPolicy, ModelInfo, Vectors
from embedder_service.core.vector_checks import vector_problem

# The name of the preprocessing. Its version changes whenever the values of the input change.
PREPROCESSING = "rgb-bilinear-{shape}-{scale}/3"
ENCODER_FILE, ENCODER_DESCRIPTION = "encoder.keras", "model.json"
# The fields of model.json, and the values that this version supports.
ENCODER_FIELDS: Mapping[str, type] = {
    "format": int,
    "pixels": str,
    "input": str,
    "input_size": int,
    "dimension": int,
    "encoder_sha256": str,
}
ENCODER_SUPPORTED: Mapping[str, object] = {"format": 1, "pixels": "0..1", "input": "squash"}


LoadedModel: TypeAlias = TensorflowModel | OnnxModel


@dataclass(frozen=True)
class LoadOptions:
    """Options for loading models."""

    cache: Path
    """The folder of fetched weights."""
    files: Mapping[str, Path]
    """Weights files outside of the cache, by the names of weights."""
    sha256: Mapping[str, str]
    """Expected digests of weights that are not the published ones, by the names of weights."""
    precision: precision.Precision
    max_batch_size: int
    threads: int | None
    """None means the number of available processors."""


class ModelLoader:
    """Loads models. Models with the same weights share a backbone."""

    def __init__(self, options: LoadOptions) -> None:
        """Create a loader. This sets TensorFlow's number of threads."""
        self._options = options
        self._threads = options.threads or cpus.available()
        self._loaded: dict[str, TensorflowModel] = {}
        use_threads(self._threads)

    def load_all(self, names: Sequence[ModelName | EncoderName]) -> list[LoadedModel]:
        """Return the models, with verified vectors and warmed up. Raises WeightsError and GoldenError."""
        return [self._load(name, names) for name in names]

    def _load(self, name: ModelName | EncoderName, names: Sequence[ModelName | EncoderName]) -> LoadedModel:
        before = memory.resident_bytes()
        model: LoadedModel
        if isinstance(name, EncoderName):
            model = self._onnx(name) if (name.folder / CONFIG_FILE).exists() else self._encoder(name)
        else:
            if name.text not in self._loaded:
                # All models with these weights share the backbone, and so its precision.
                sharing = [each for each in names if isinstance(each, ModelName) and each.weights == name.weights]
                self._loaded |= self._models_sharing(name.weights, sharing)
            model = self._loaded[name.text]
        model.warm_up()
        gc.collect()
        model.info = replace(model.info, memory_bytes=max(0, memory.resident_bytes() - before))
        return model

    def _models_sharing(self, weights_name: str, names: Sequence[ModelName]) -> dict[str, TensorflowModel]:
        """Return the models with these weights, by name, in the precision that is right for all of them."""
        spec = SPECS[weights_name]
        path = self._options.files.get(weights_name, self._options.cache / spec.file_name)
        tensors = weights_files.read_verified(path, spec, self._options.sha256.get(weights_name, ""))
        digest = weights_files.tensors_sha256(tensors)
        golden = GoldenVectors.of(weights_name)

        def build(chosen: str) -> PrecisionCandidate:
            layers = keras_backbones.build(weights_name, chosen)
            keras_backbones.set_weights(layers, tensors)
            backbone = Backbone(layers, names[0].network.scale, chosen, digest)
            models = {f"{name.text} (head {name.head})": self._model(name, backbone) for name in names}
            return PrecisionCandidate(backbone, models, golden, lambda maps: unit_length(HEADS["avg"](maps)))

        try:
            chosen = precision.choose(weights_name, self._options.precision, golden, build)
        except GoldenError as error:
            advice = "" if self._options.precision == "float32" else "; use EMBEDDER_PRECISION=auto"
            raise GoldenError(f"{weights_name}: {error}{advice}") from None
        for name, vectors in chosen.probe().items():
            _check_usable(name, vectors, chosen.models[name].info)
        chosen.free_feature_maps()
        return {model.info.name: model for model in chosen.models.values()}

    def _model(self, name: ModelName, backbone: Backbone) -> TensorflowModel:
        head = (lambda maps: maps) if name.head == FC1 else HEADS[name.head]
        info = self._info(
            name.text,
            name.network.name,
            backbone,
            name.input,
            name.head,
            PREPROCESSING.format(shape=name.input.shape, scale=name.network.scale),
            unit=name.unit,
        )
        return TensorflowModel(info, backbone, head)

    def _onnx(self, name: EncoderName) -> OnnxModel:
        model = OnnxModel(name.text, read_folder(name.folder), self._threads, self._options.max_batch_size)
        _check_usable(f"{name.text} ({name.folder})", model.probe(), model.info)
        return model

    def _encoder(self, name: EncoderName) -> TensorflowModel:
        description = _encoder_description(name.folder)
        path = name.folder / ENCODER_FILE
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise WeightsError(f"{path}: {error.strerror}") from None
        if digest != description["encoder_sha256"]:
            raise WeightsError(f"{path} was altered: its SHA-256 is {digest}, but not in {ENCODER_DESCRIPTION}")
        try:
            layers = tf.keras.models.load_model(path, compile=False)
        except MemoryError:
            raise
        except Exception as error:
            raise WeightsError(f"{path} is damaged or is not a Keras model: {error}") from error
        _check_shapes(layers, description, path)
        scale: PixelScale = "unit"
        policy = InputPolicy("squash", description["input_size"])
        backbone = Backbone(layers, scale, "float32", digest)
        preprocessing = PREPROCESSING.format(shape=policy.shape, scale=scale)
        info = self._info(name.text, name.text, backbone, policy, "latent", preprocessing, unit=False)
        info = replace(info, dimension=description["dimension"], is_encoder=True)
        model = TensorflowModel(info, backbone, lambda values: values)
        for pixels in golden_batches(GoldenVectors.of(""), policy):
            _check_usable(f"{name.text} ({path})", model.embed(pixels), info)
        return model

    def _info(
        self,
        name: str,
        network: str,
        backbone: Backbone,
        policy: InputPolicy,
        head: str,
        preprocessing: str,
        *,
        unit: bool,
    ) -> ModelInfo:
        return ModelInfo(
            name=name,
            network=network,
            dimension=0,
            input=policy,
            head=head,
            preprocessing=preprocessing,
            normalisation="l2" if unit else "none",
            weights_sha256=backbone.weights_sha256,
            precision=backbone.precision,
            # Native inputs have different sizes, so each image is a batch.
            max_batch_size=1 if policy.shape == "native" else self._options.max_batch_size,
            threads=self._threads,
        )


def _check_usable(name: str, vectors: Vectors, info: ModelInfo) -> None:
    """Raise GoldenError if a vector of a photograph is one that the embedder must not send."""
    for vector in vectors:
        problem = vector_problem(vector, info) or (None if vector.any() else "it is all zero")
        if problem is not None:
            raise GoldenError(f"model {name} computes an invalid vector of a photograph: {problem}")


def _encoder_description(folder: Path) -> dict[str, Any]:
    """Return the description of the encoder in a folder. Raises WeightsError."""
    path = folder / ENCODER_DESCRIPTION
    try:
        description = json.loads(path.read_text())
    except OSError as error:
        raise WeightsError(
            f"{path}: {error.strerror}; use a folder that `imagesearch train-autoencoder` wrote"
        ) from None
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON: {error}") from None
    if not isinstance(description, dict):
        raise WeightsError(f"{path} must contain an object with {', '.join(ENCODER_FIELDS)}")
    for field, kind in ENCODER_FIELDS.items():
        value, expected = description.get(field), ENCODER_SUPPORTED.get(field)
        if type(value) is not kind or (expected is not None and value != expected):
            wanted = kind.__name__ if expected is None else repr(expected)
            raise WeightsError(f"{path}: {field} is {value!r}; this version requires {wanted}")
    return description


def _check_shapes(layers: "tf.keras.Model", description: Mapping[str, Any], path: Path) -> None:
    """Raise WeightsError if an encoder's input and output do not have the described shapes."""
    side, dimension = description["input_size"], description["dimension"]
    wanted = (None, side, side, 3), (None, dimension)
    found = layers.input_shape, layers.output_shape
    if found != wanted:
        raise WeightsError(
            f"{path} computes {found[1]} from {found[0]}, but {ENCODER_DESCRIPTION} has {wanted[1]} and {wanted[0]}: "
            "the files are not from the same training"
        )
