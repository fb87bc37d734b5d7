"""Makes models of their names: finds and verifies weights, chooses a precision, builds, proves and warms up."""

import gc
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from embedder_service.adapters import cpus, keras_networks, memory, precision, weights
from embedder_service.adapters.golden import Golden
from embedder_service.adapters.tensorflow_model import Backbone, TensorflowModel, use_threads
from embedder_service.adapters.weights import SPECS, WeightsError
from embedder_service.core.model_names import FC1, EncoderName, ModelName
from embedder_service.core.networks import NETWORKS, PixelScale
from embedder_service.core.pooling import POOLINGS
from embedder_service.core.types import InputPolicy, ModelInfo

# What the pixels' preparation is called beside its shape and its scale; it changes when the numbers do.
PREPROCESSING = "rgb-bilinear-{shape}-{scale}/2"
ENCODER_FILE, ENCODER_FACTS = "encoder.keras", "model.json"
ENCODER_FORMAT = 1


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
        self._backbones: dict[str, Backbone] = {}
        use_threads(self._threads)

    def load(self, name: ModelName | EncoderName) -> TensorflowModel:
        """The model, warm and proven. Raises WeightsError and GoldenError."""
        before = memory.resident_bytes()
        model = self._encoder(name) if isinstance(name, EncoderName) else self._model(name)
        model.warm_up()
        gc.collect()
        model.info = replace(model.info, memory_bytes=max(0, memory.resident_bytes() - before))
        return model

    def _model(self, name: ModelName) -> TensorflowModel:
        backbone = self._backbones.get(name.weights)
        if backbone is None:
            backbone = self._backbones[name.weights] = self._backbone(name.weights)
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

    def _backbone(self, weights_name: str) -> Backbone:
        spec = SPECS[weights_name]
        path = self._options.files.get(weights_name, self._options.cache / spec.file_name)
        read = weights.read if spec.shapes else keras_networks.read
        tensors = weights.read_verified(path, spec, self._options.sha256.get(weights_name, ""), read)
        digest = weights.tensors_sha256(tensors)
        network = NETWORKS[weights_name.removesuffix(keras_networks.TOP)]
        golden = Golden.of(weights_name)

        def build(chosen: str) -> TensorflowModel:
            keras_network = keras_networks.build(weights_name, chosen)
            keras_networks.assign(keras_network, tensors)
            backbone = Backbone(keras_network, network.pixels, chosen, digest)
            policy = InputPolicy("squash", golden.pixels.shape[1])
            head = POOLINGS["flatten" if weights_name.endswith(keras_networks.TOP) else "avg"]
            return TensorflowModel(
                self._info("probe", network.name, backbone, policy, "avg", "", unit=True), backbone, head
            )

        return precision.choose(self._options.precision, golden, build).backbone

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
        except Exception as error:
            raise WeightsError(f"{path} is damaged or no model of Keras: {error}") from error
        scale: PixelScale = "unit"
        policy = InputPolicy("squash", facts["input_size"])
        backbone = Backbone(network, scale, "float32", digest)
        preprocessing = PREPROCESSING.format(shape=policy.shape, scale=scale)
        info = self._info(name.text, name.text, backbone, policy, "latent", preprocessing, unit=False)
        return TensorflowModel(info, backbone, lambda values: values)

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


def _encoder_facts(folder: Path) -> dict[str, Any]:
    """What a folder says of its encoder. Raises WeightsError."""
    path = folder / ENCODER_FACTS
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
        known = facts["format"] == ENCODER_FORMAT and (facts["pixels"], facts["input"]) == ("0..1", "squash")
        usable = known and isinstance(facts["input_size"], int) and isinstance(facts["encoder_sha256"], str)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}; `imagesearch train-autoencoder` writes such a folder") from None
    except (ValueError, KeyError, TypeError):
        usable = False
    if not usable:
        raise WeightsError(f"{path} does not describe an encoder that this version serves")
    return facts
