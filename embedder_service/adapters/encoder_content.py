"""Digests of what an encoder computes, whatever it and its layers are called and wherever it is stored."""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from embedder_service.adapters.weights import tensors_sha256

# The parts of Keras' description that differ between two saves of one network, or change no vector.
IGNORED = {"shared_object_id", "trainable"}
# Where the description of a network names its layers.
REFERENCES = ("keras_history", "input_layers", "output_layers", "inbound_nodes")


def weights_sha256(network: "tf.keras.Model") -> str:
    """Return the digest of an encoder's tensors in their order, as `tensors_sha256` computes it."""
    return tensors_sha256(
        {
            f"{number:04}.{variable.name}": np.asarray(variable.numpy(), np.float32)
            for number, variable in enumerate(network.weights)
        }
    )


def architecture_sha256(path: Path) -> str:
    """Return the digest of the layers and connections in a `.keras` file: its `config.json`, with layers numbered.

    Keras numbers the names of layers on within a process, and writes addresses of the process's memory.
    """
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    numbers: dict[str, int] = {}
    for name in _layer_names(config):
        numbers.setdefault(name, len(numbers))
    return hashlib.sha256(json.dumps(_canonical(config, numbers), sort_keys=True).encode()).hexdigest()


def _layer_names(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        config = part.get("config")
        # A type of numbers has a name too, and that one counts.
        is_layer = not str(part.get("class_name", "DTypePolicy")).endswith("DTypePolicy")
        if is_layer and isinstance(config, dict) and isinstance(config.get("name"), str):
            yield config["name"]
        for each in part.values():
            yield from _layer_names(each)
    elif isinstance(part, list):
        for each in part:
            yield from _layer_names(each)


def _canonical(part: Any, numbers: dict[str, int], *, is_reference: bool = False) -> Any:
    if isinstance(part, dict):
        return {
            key: _canonical(value, numbers, is_reference=key == "name" or key in REFERENCES)
            for key, value in part.items()
            if key not in IGNORED
        }
    if isinstance(part, list):
        return [_canonical(each, numbers, is_reference=is_reference) for each in part]
    return numbers.get(part, part) if is_reference and isinstance(part, str) else part
