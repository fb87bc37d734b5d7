"""Writes published networks as ONNX graphs: from Keras layers in a row, with the head in the graph."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

from embedder_service.adapters import keras_backbones, weights_files
from embedder_service.adapters.onnx_folder import CONFIG_FILE, GRAPH_FILES, OPTIONS_FILE
from embedder_service.adapters.tensorflow_model import MEAN_BGR
from embedder_service.adapters.weights_files import SPECS, WeightsError
from embedder_service.core.heads import GEM_MIN, GEM_P
from embedder_service.core.model_names import ModelName

# The version of the operators. 17 has all that is needed, and every onnxruntime of the last years reads it.
OPSET, IR_VERSION = 17, 8
# Keras' names of paddings, and those of ONNX.
PADDING = {"same": "SAME_UPPER", "valid": "VALID"}
INPUT, OUTPUT, FEATURES = "pixel_values", "pooler_output", "features"


class GraphWriter:
    """Collects the nodes and weights of a graph. Each node reads the output of the one before."""

    def __init__(self) -> None:
        """Begin with the pixels."""
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.last = INPUT

    def add(self, operator: str, *weights: Any, output: str = "", **attributes: Any) -> None:
        """Append an operator with float32 weights as further inputs; integers keep their type."""
        number = len(self.nodes)
        names = []
        for position, values in enumerate(weights):
            array = np.asarray(values)
            name = f"weights_{number}_{position}"
            array = array if array.dtype == np.int64 else array.astype(np.float32)
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
            names.append(name)
        output = output or f"values_{number}"
        self.nodes.append(helper.make_node(operator, [self.last, *names], [output], **attributes))
        self.last = output


def _padding(layer: Any) -> dict[str, Any]:
    return {"auto_pad": PADDING[layer.padding]}


def _convolution(graph: GraphWriter, layer: Any) -> None:
    # Keras has height, width, input and output channels.
    kernel, *bias = layer.get_weights()
    graph.add("Conv", kernel.transpose(3, 2, 0, 1), *bias, strides=list(layer.strides), **_padding(layer))
    _activation(graph, layer)


def _depthwise(graph: GraphWriter, layer: Any) -> None:
    kernel, *bias = layer.get_weights()
    groups = kernel.shape[2]
    # One kernel for each channel.
    kernel = kernel.transpose(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])
    graph.add("Conv", kernel, *bias, strides=list(layer.strides), group=groups, **_padding(layer))
    _activation(graph, layer)


def _activation(graph: GraphWriter, layer: Any) -> None:
    name = layer.activation.__name__
    if name == "relu":
        graph.add("Relu")
    elif name != "linear":
        raise WeightsError(f"layer {layer.name} has the activation {name}, which cannot be exported")


def _normalisation(graph: GraphWriter, layer: Any) -> None:
    graph.add("BatchNormalization", *layer.get_weights(), epsilon=float(layer.epsilon))


def _relu(graph: GraphWriter, layer: Any) -> None:
    if layer.max_value is None:
        graph.add("Relu")
    else:
        graph.add("Clip", np.float32(0), np.float32(layer.max_value))


def _max_pooling(graph: GraphWriter, layer: Any) -> None:
    graph.add("MaxPool", kernel_shape=list(layer.pool_size), strides=list(layer.strides), **_padding(layer))


def _zero_padding(graph: GraphWriter, layer: Any) -> None:
    (top, bottom), (left, right) = layer.padding
    graph.add("Pad", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64), mode="constant")


LAYERS: Mapping[str, Callable[[GraphWriter, Any], None]] = {
    "InputLayer": lambda _graph, _layer: None,
    "Conv2D": _convolution,
    "DepthwiseConv2D": _depthwise,
    "BatchNormalization": _normalisation,
    "ReLU": _relu,
    "MaxPooling2D": _max_pooling,
    "ZeroPadding2D": _zero_padding,
}


def _scale_caffe(graph: GraphWriter) -> None:
    graph.add("Gather", np.array([2, 1, 0], np.int64), axis=1)
    graph.add("Sub", np.array(MEAN_BGR).reshape(1, 3, 1, 1))


def _scale_tf(graph: GraphWriter) -> None:
    graph.add("Div", np.float32(127.5))
    graph.add("Sub", np.float32(1))


SCALES: Mapping[str, Callable[[GraphWriter], None]] = {"caffe": _scale_caffe, "tf": _scale_tf}


def _gem(graph: GraphWriter) -> None:
    graph.add("Clip", np.float32(GEM_MIN))
    graph.add("Pow", np.float32(GEM_P))
    graph.add("GlobalAveragePool")
    graph.add("Pow", np.float32(1 / GEM_P))


HEADS: Mapping[str, Callable[[GraphWriter], None]] = {
    "avg": lambda graph: graph.add("GlobalAveragePool"),
    "max": lambda graph: graph.add("GlobalMaxPool"),
    "gem": _gem,
}
# Networks whose layers form a row.
NETWORKS = ("vgg16", "mobilenet")


def export(model: ModelName, weights: Path, folder: Path, sha256: str = "") -> None:
    """Write a model as a new folder: the graph, and how images become its input. Raises WeightsError, OSError.

    Args:
        model: a model with one of `NETWORKS`, one of `HEADS` and the input `squash`.
        weights: the file of its weights.
        folder: the folder to write.
        sha256: the digest of weights that are not the published ones.
    """
    if model.network.name not in NETWORKS or model.head not in HEADS or model.input.shape != "squash":
        raise WeightsError(
            f"{model.text} cannot be exported; use a network of {', '.join(NETWORKS)}, a head of {', '.join(HEADS)}, "
            "and the input squash"
        )
    spec = SPECS[model.weights]
    tensors = weights_files.read_verified(weights, spec, sha256)
    layers = keras_backbones.build(model.weights, "float32")
    keras_backbones.set_weights(layers, tensors)
    graph = graph_of(layers, model)
    side = model.input.side
    config = {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 2,
        # The graph scales the values.
        "do_rescale": False,
        "do_normalize": False,
    }
    options = {"output": OUTPUT, "normalise": model.unit}
    folder.parent.mkdir(parents=True, exist_ok=True)
    # An interrupted export leaves no folder that looks complete.
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        made = Path(temporary, folder.name)
        made.mkdir()
        (made / GRAPH_FILES[0]).write_bytes(graph.SerializeToString())
        (made / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        (made / OPTIONS_FILE).write_text(json.dumps(options, indent=2) + "\n")
        made.rename(folder)


def graph_of(layers: "tf.keras.Model", model: ModelName) -> onnx.ModelProto:
    """Return the graph of a backbone with its head. Input: float32[N, 3, H, W], RGB in 0..255."""
    graph = GraphWriter()
    SCALES[model.network.scale](graph)
    for layer in layers.layers:
        kind = type(layer).__name__
        if kind not in LAYERS:
            raise WeightsError(f"layer {layer.name} is a {kind}, which cannot be exported; use {', '.join(LAYERS)}")
        LAYERS[kind](graph, layer)
    graph.add("Identity", output=FEATURES)
    HEADS[model.head](graph)
    graph.add("Flatten", output=OUTPUT)
    side, channels = model.input.side, model.network.dimension
    cells = model.network.map_side(side)
    made = helper.make_graph(
        graph.nodes,
        model.text,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, side, side])],
        [
            helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", channels]),
            helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["batch", channels, cells, cells]),
        ],
        graph.weights,
    )
    found = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(found)
    return found
