"""Builds backbones with Keras, and reads and sets their weights."""

import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf

from embedder_service.adapters.weights_files import Tensors, WeightsError, WeightsSpec, how_to_get
from embedder_service.core.model_names import FC1_DIMENSION
from embedder_service.core.networks import NETWORKS, Network

TOP = "_top"


def build(name: str, precision: str) -> "tf.keras.Model":
    """Return the backbone for the weights `name`, with random values and the given precision.

    The backbone accepts images of any size. If `name` ends in `_top`, the backbone includes `fc1` and accepts one size.
    """
    network = NETWORKS[name.removesuffix(TOP)]
    # Keras has no argument for the precision: new layers use the global policy.
    policy = tf.keras.config.dtype_policy()
    tf.keras.config.set_dtype_policy(precision)
    try:
        return _with_fc1(network) if name.endswith(TOP) else _convolutions(network, None)
    finally:
        tf.keras.config.set_dtype_policy(policy)


def _convolutions(network: Network, side: int | None) -> "tf.keras.Model":
    builder = getattr(tf.keras.applications, network.builder)
    backbone = builder(include_top=False, weights=None, input_shape=(side, side, 3), **network.arguments)
    backbone.trainable = False
    return backbone


def _with_fc1(network: Network) -> "tf.keras.Model":
    convolutions = _convolutions(network, network.input_size)
    flat = tf.keras.layers.Flatten(name="flatten")(convolutions.output)
    fc1 = tf.keras.layers.Dense(FC1_DIMENSION, activation="relu", name="fc1")(flat)
    backbone = tf.keras.Model(convolutions.input, fc1)
    backbone.trainable = False
    return backbone


def set_weights(backbone: "tf.keras.Model", tensors: Tensors) -> None:
    """Set a backbone's weights. `tensors` are in the order of its layers."""
    for variable, values in zip(_variables(backbone).values(), tensors.values(), strict=True):
        variable.assign(tf.cast(values, variable.dtype))


def tensors_of(backbone: "tf.keras.Model") -> Tensors:
    """Return a backbone's weights, named NUMBER.VARIABLE.

    NUMBER counts the layers with weights. The names of layers depend on what the process has built before.
    """
    return {name: np.asarray(variable.numpy(), np.float32) for name, variable in _variables(backbone).items()}


def _variables(backbone: "tf.keras.Model") -> "dict[str, tf.Variable]":
    layers = [layer for layer in backbone.layers if layer.weights]
    return {
        f"{number:03}.{variable.name}": variable for number, layer in enumerate(layers) for variable in layer.weights
    }


def read(path: Path, spec: WeightsSpec) -> Tensors:
    """Return the tensors of a weights file, read by Keras. Raises WeightsError."""
    backbone = build(spec.name, "float32")
    try:
        with warnings.catch_warnings():
            # If a file lacks layers, Keras only warns, and their weights stay random.
            warnings.filterwarnings("error", "Skipping nested container")
            backbone.load_weights(path)
    except MemoryError:
        raise
    except Exception as error:
        # Keras raises errors of any class.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{path} does not fit {spec.name}, or is damaged ({reason}). {how_to_get(spec)}") from error
    return tensors_of(backbone)
