"""Makes models of their names: finds and verifies weights, chooses a precision, builds, proves and warms up."""

import gc
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from embedder_service.adapters import cpus, keras_networks, memory, precision, weights
from embedder_service.adapters.candidate import Candidate, photographs
from embedder_service.adapters.golden import Golden, GoldenError
from embedder_service.adapters.tensorflow_model import Backbone, TensorflowModel, use_threads
from embedder_service.adapters.weights import SPECS, WeightsError
from embedder_service.core.model_names import FC1, EncoderName, ModelName
from embedder_service.core.networks import PixelScale
from embedder_service.core.pooling import POOLINGS, unit_length
from embedder_service.core.types import InputPolicy, ModelInfo, Vectors
from embedder_service.core.vector_checks import vector_problem

# What the pixels' preparation is called beside its shape and its scale; it changes when the numbers do.
PREPROCESSING = "rgb-bilinear-{shape}-{scale}/3"
ENCODER_FILE, ENCODER_FACTS = "encoder.keras", "model.json"
# What describes an encoder, and what of it this version serves alone.
ENCODER_FIELDS: Mapping[str, type] = {
    "format": int,
    "pixels": str,
    "input": str,
    "input_size": int,
    "dimension": int,
    "encoder_sha256": str,
}
ENCODER_SERVED: Mapping[str, object] = {"format": 1, "pixels": "0..1", "input": "squash"}


@dataclass(frozen=True)
class LoadOptions:
    """How models are loaded."""

    cache: Path
    """The folder of fetched weights."""
    files: Mapping[str, Path]
    """Files of weights that are elsewhere, by the weights' names."""
    sha256: Mapping[str, str]
    """The digests to expect of weights, where they are others than the published ones."""
    precision: precision.Precision
    max_batch_size: int
    threads: int | None
    """None is as many as there are processors."""


class ModelLoader:
    """Loads models; those of one network share it."""

    def __init__(self, options: LoadOptions) -> None:
        """Loads nothing yet."""
        self._options = options
        self._threads = options.threads or cpus.available()
        self._loaded: dict[str, TensorflowModel] = {}
        use_threads(self._threads)

    def load_all(self, names: Sequence[ModelName | EncoderName]) -> list[TensorflowModel]:
        """Return the models, warm and proven. Raises WeightsError and GoldenError."""
        return [self._load(name, names) for name in names]

    def _load(self, name: ModelName | EncoderName, names: Sequence[ModelName | EncoderName]) -> TensorflowModel:
        before = memory.resident_bytes()
        if isinstance(name, EncoderName):
            model = self._encoder(name)
        else:
            if name.text not in self._loaded:
                # All models of a network have the same precision.
                same = [each for each in names if isinstance(each, ModelName) and each.weights == name.weights]
                self._loaded |= self._network(name.weights, same)
            model = self._loaded[name.text]
        model.warm_up()
        gc.collect()
        model.info = replace(model.info, memory_bytes=max(0, memory.resident_bytes() - before))
        return model

    def _network(self, weights_name: str, names: Sequence[ModelName]) -> dict[str, TensorflowModel]:
        """Return the models of one network, by name, in the precision that is right for all of them."""
        spec = SPECS[weights_name]
        path = self._options.files.get(weights_name, self._options.cache / spec.file_name)
        read = weights.read if spec.shapes else keras_networks.read
        tensors = weights.read_verified(path, spec, self._options.sha256.get(weights_name, ""), read)
        digest = weights.tensors_sha256(tensors)
        golden = Golden.of(weights_name)

        def build(chosen: str) -> Candidate:
            keras_network = keras_networks.build(weights_name, chosen)
            keras_networks.assign(keras_network, tensors)
            backbone = Backbone(keras_network, names[0].network.pixels, chosen, digest)
            models = {f"{name.text} (head {name.head})": self._model(name, backbone) for name in names}
            return Candidate(backbone, models, golden, lambda maps: unit_length(POOLINGS["avg"](maps)))

        try:
            chosen = precision.choose(weights_name, self._options.precision, golden, build)
        except GoldenError as error:
            other = (
                "" if self._options.precision == "float32" else "; EMBEDDER_PRECISION=auto takes the right precision"
            )
            raise GoldenError(f"{weights_name}: {error}{other}") from None
        for name, vectors in chosen.probe().items():
            _check_usable(name, vectors, chosen.models[name].info)
        chosen.forget()
        return {model.info.name: model for model in chosen.models.values()}

    def _model(self, name: ModelName, backbone: Backbone) -> TensorflowModel:
        head = (lambda maps: maps) if name.head == FC1 else POOLINGS[name.head]
        info = self._info(
            name.text,
            name.network.name,
            backbone,
            name.input,
            name.head,
            PREPROCESSING.format(shape=name.input.shape, scale=name.network.pixels),
            unit=name.unit,
        )
        return TensorflowModel(info, backbone, head)

    def _encoder(self, name: EncoderName) -> TensorflowModel:
        facts = _encoder_facts(name.folder)
        path = name.folder / ENCODER_FILE
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise WeightsError(f"{path}: {error.strerror}") from None
        if digest != facts["encoder_sha256"]:
            raise WeightsError(f"{path} was altered: its SHA-256 is {digest}, and {ENCODER_FACTS} says another")
        try:
            network = tf.keras.models.load_model(path, compile=False)
        except MemoryError:
            raise
        except Exception as error:
            raise WeightsError(f"{path} is damaged or no model of Keras: {error}") from error
        _check_shapes(network, facts, path)
        scale: PixelScale = "unit"
        policy = InputPolicy("squash", facts["input_size"])
        backbone = Backbone(network, scale, "float32", digest)
        preprocessing = PREPROCESSING.format(shape=policy.shape, scale=scale)
        info = self._info(name.text, name.text, backbone, policy, "latent", preprocessing, unit=False)
        info = replace(info, dimension=facts["dimension"], is_encoder=True)
        model = TensorflowModel(info, backbone, lambda values: values)
        for pixels in photographs(Golden.of(""), policy):
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
            pooling=head,
            preprocessing=preprocessing,
            normalisation="l2" if unit else "none",
            weights_sha256=backbone.weights_sha256,
            precision=backbone.precision,
            # Inputs of native aspect are of many sizes: each is a batch.
            max_batch_size=1 if policy.shape == "native" else self._options.max_batch_size,
            threads=self._threads,
        )


def _check_usable(name: str, vectors: Vectors, info: ModelInfo) -> None:
    """Raise GoldenError if a model gives vectors of photographs that the embedder must not send."""
    for vector in vectors:
        problem = vector_problem(vector, info) or (None if vector.any() else "it is all zero")
        if problem is not None:
            raise GoldenError(f"model {name} makes a vector of a photograph that cannot be used: {problem}")


def _encoder_facts(folder: Path) -> dict[str, Any]:
    """What a folder says of its encoder. Raises WeightsError."""
    path = folder / ENCODER_FACTS
    try:
        facts = json.loads(path.read_text())
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}; `imagesearch train-autoencoder` writes such a folder") from None
    except ValueError as error:
        raise WeightsError(f"{path} is no JSON: {error}") from None
    if not isinstance(facts, dict):
        raise WeightsError(f"{path} should hold an object, with {', '.join(ENCODER_FIELDS)}")
    for field, kind in ENCODER_FIELDS.items():
        value, expected = facts.get(field), ENCODER_SERVED.get(field)
        if type(value) is not kind or (expected is not None and value != expected):
            wanted = kind.__name__ if expected is None else repr(expected)
            raise WeightsError(f"{path}: {field} is {value!r}, and this version serves encoders with {wanted} there")
    return facts


def _check_shapes(network: "tf.keras.Model", facts: Mapping[str, Any], path: Path) -> None:
    """Raises WeightsError where a network does not take or give what is said of it."""
    side, dimension = facts["input_size"], facts["dimension"]
    wanted = (None, side, side, 3), (None, dimension)
    found = network.input_shape, network.output_shape
    if found != wanted:
        raise WeightsError(
            f"{path} makes {found[1]} of {found[0]}, and {ENCODER_FACTS} says {wanted[1]} of {wanted[0]}: they are "
            "not of one training"
        )
