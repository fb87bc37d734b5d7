"""Keras' networks: built without weights, and given those of a file."""

import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from embedder_service.adapters.weights import Tensors, WeightsError, WeightsSpec, how_to_get
from embedder_service.core.model_names import FC1_DIMENSION
from embedder_service.core.networks import NETWORKS, Network

TOP = "_top"


def build(name: str, precision: str) -> "tf.keras.Model":
    """The network whose weights are called `name`, with values of no meaning yet; it computes in `precision`.

    Without its classifier it takes images of any size; with `_top` in its name it ends in `fc1`, and takes one size.
    """
    network = NETWORKS[name.removesuffix(TOP)]
    # Keras has no argument for this, only a policy for all that is built while it is set.
    policy = tf.keras.config.dtype_policy()
    tf.keras.config.set_dtype_policy(precision)
    try:
        return _with_fc1(network) if name.endswith(TOP) else _convolutions(network, None)
    finally:
        tf.keras.config.set_dtype_policy(policy)


def _convolutions(network: Network, side: int | None) -> "tf.keras.Model":
    builder = getattr(tf.keras.applications, network.builder)
    model = builder(include_top=False, weights=None, input_shape=(side, side, 3), **network.arguments)
    model.trainable = False
    return model


def _with_fc1(network: Network) -> "tf.keras.Model":
    convolutions = _convolutions(network, network.input_size)
    flat = tf.keras.layers.Flatten(name="flatten")(convolutions.output)
    fc1 = tf.keras.layers.Dense(FC1_DIMENSION, activation="relu", name="fc1")(flat)
    model = tf.keras.Model(convolutions.input, fc1)
    model.trainable = False
    return model


def assign(network: "tf.keras.Model", tensors: Tensors) -> None:
    """Gives a network its weights, as `tensors_of` and `weights.read` name them."""
    for name, variable in _variables(network, by_layer=any("/" in name for name in tensors)).items():
        variable.assign(tf.cast(tensors[name], variable.dtype))


def tensors_of(network: "tf.keras.Model") -> dict[str, NDArray[np.float32]]:
    """A network's weights, float32, as NUMBER.VARIABLE, where layers that have weights are numbered in their order.

    Not by the names of layers: some of Keras' depend on what was built before.
    """
    return {
        name: np.asarray(variable.numpy(), np.float32) for name, variable in _variables(network, by_layer=False).items()
    }


def _variables(network: "tf.keras.Model", *, by_layer: bool) -> "dict[str, tf.Variable]":
    layers = [layer for layer in network.layers if layer.weights]
    return {
        f"{layer.name}/{variable.name}" if by_layer else f"{number:03}.{variable.name}": variable
        for number, layer in enumerate(layers)
        for variable in layer.weights
    }


def read(path: Path, spec: WeightsSpec) -> dict[str, NDArray[np.float32]]:
    """Reads a file of weights as Keras does, and names them as `tensors_of` does. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(f"no weights at {path}. {how_to_get(spec)}")
    network = build(spec.model, "float32")
    try:
        with warnings.catch_warnings():
            # Where a file lacks layers, Keras only warns, and leaves random values in them.
            warnings.filterwarnings("error", "Skipping nested container")
            network.load_weights(path)
    except MemoryError:
        raise
    except Exception as error:
        # Keras raises whatever it stumbles on.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{path} does not fit {spec.model}, or is damaged ({reason}). {how_to_get(spec)}") from error
    return tensors_of(network)
