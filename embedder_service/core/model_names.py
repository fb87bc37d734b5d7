"""Parses the names of models.

NETWORK[-HEAD][-INPUT[SIDE]][-raw], such as vgg16, vgg16-gem, mobilenet_v2-pad, vgg16-rmac-native512. The defaults are
the head `avg`, the input `squash` with the side on which the network was trained, and vectors of unit length. Case and
spaces around a name do not matter.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from embedder_service.core.heads import HEADS
from embedder_service.core.networks import NETWORKS, STRIDE, Network
from embedder_service.core.types import InputPolicy, Shape

SHAPES: tuple[Shape, ...] = ("squash", "pad", "crop", "native")
MAX_SIDE = 2048
NATIVE_SIDE = 512
FC1, FLATTEN, FC1_DIMENSION = "fc1", "flatten", 4096
# Maximum dimension of a vector in Milvus.
MAX_DIMENSION = 32_768
# Longer texts are not parsed: no model's name is longer.
MAX_LENGTH = 128
ENCODER_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")

# The name of a network means its weights without the classifier. NETWORK_top includes the classifier, for `fc1`.
WEIGHTS_NAMES = (*NETWORKS, *(f"{name}_top" for name, network in NETWORKS.items() if network.has_fc1))


class ModelNameError(ValueError):
    """No model has this name. The message lists what is allowed."""


@dataclass(frozen=True)
class ModelName:
    """The parsed name of a model of a published network."""

    network: Network
    head: str
    input: InputPolicy
    unit: bool
    """Whether vectors are scaled to unit length."""

    @property
    def text(self) -> str:
        """The shortest spelling of the name, without defaults."""
        parts = [self.network.name]
        if self.head != "avg":
            parts.append(self.head)
        default_side = _default_side(self.network, self.input.shape)
        if self.input.side != default_side:
            parts.append(f"{self.input.shape}{self.input.side}")
        elif self.input.shape != "squash":
            parts.append(self.input.shape)
        if not self.unit:
            parts.append("raw")
        return "-".join(parts)

    @property
    def weights(self) -> str:
        """The name of its weights, one of WEIGHTS_NAMES."""
        return f"{self.network.name}_top" if self.head == FC1 else self.network.name


@dataclass(frozen=True)
class EncoderName:
    """An encoder in a folder that `imagesearch train-autoencoder` wrote."""

    text: str
    folder: Path


def parse_model_name(text: str) -> ModelName | EncoderName:
    """Return the model that a name means; NAME=FOLDER means an encoder. Raises ModelNameError."""
    name, equals, folder = text.partition("=")
    name, folder = _normalised(name), folder.strip()
    if equals:
        if not ENCODER_NAME.fullmatch(name) or name in NETWORKS or not folder:
            raise ModelNameError(
                f"{text!r} is not NAME=FOLDER; NAME must begin with a letter, have at most 32 letters, digits and _, "
                "and differ from the names of networks"
            )
        return EncoderName(name, Path(folder))
    first, *rest = name.split("-")
    network = NETWORKS.get(first)
    if network is None:
        raise ModelNameError(f"no network is called {first!r}; use {', '.join(NETWORKS)}, or NAME=FOLDER")
    head, policy, unit = "avg", InputPolicy("squash", network.input_size), True
    heads = (*HEADS, FC1) if network.has_fc1 else tuple(HEADS)
    if rest and rest[0] in heads:
        head = rest.pop(0)
    if rest and (found := re.fullmatch(rf"({'|'.join(SHAPES)})([0-9]{{1,5}})?", rest[0])):
        rest.pop(0)
        shape = next(shape for shape in SHAPES if shape == found[1])
        policy = InputPolicy(shape, int(found[2]) if found[2] else _default_side(network, shape), _min_side(network))
    if rest and rest[0] == "raw":
        rest.pop(0)
        unit = False
    if rest:
        raise ModelNameError(
            f"{text!r} is not a model: {rest[0]!r} must be a head ({', '.join(heads)}), then an input "
            f"({', '.join(SHAPES)}, with a side such as {SHAPES[1]}320), then raw; each of them is optional"
        )
    model = ModelName(network, head, policy, unit)
    _check(model)
    return model


def canonical_name(text: str) -> str:
    """Return the shortest spelling of a model's name; for an encoder, its name in lower case.

    A text that is not a model's name is returned in lower case.
    """
    name = _normalised(text)
    if len(name) > MAX_LENGTH:
        return name
    try:
        found = parse_model_name(name)
    except ModelNameError:
        return name
    return found.text if isinstance(found, ModelName) else name


def weights_name_of(text: str) -> str:
    """Return the name of the weights that a text means: the name of weights or of a model. Raises ModelNameError."""
    name = _normalised(text)
    if name in WEIGHTS_NAMES:
        return name
    try:
        model = parse_model_name(name)
    except ModelNameError:
        model = None
    if not isinstance(model, ModelName):
        raise ModelNameError(
            f"no weights are called {text!r:.80}; use {', '.join(WEIGHTS_NAMES)}, or the name of a model, which means "
            "its weights"
        )
    return model.weights


def _normalised(text: str) -> str:
    return text.strip().lower()


def _default_side(network: Network, shape: Shape) -> int:
    return NATIVE_SIDE if shape == "native" else network.input_size


def _min_side(network: Network) -> int:
    return -(-network.min_size // STRIDE) * STRIDE


def _check(model: ModelName) -> None:
    network, shape, side = model.network, model.input.shape, model.input.side
    if side != network.input_size and (side % STRIDE or not network.min_size <= side <= MAX_SIDE):
        raise ModelNameError(
            f"{model.text!r}: the side must be {network.input_size}, or a multiple of {STRIDE} from "
            f"{_min_side(network)} to {MAX_SIDE}"
        )
    if model.head == FC1 and (shape == "native" or side != network.input_size):
        raise ModelNameError(f"{model.text!r}: {FC1} requires squares of {network.input_size} pixels")
    if model.head == FLATTEN:
        if shape == "native":
            raise ModelNameError(
                f"{model.text!r}: {FLATTEN} requires inputs of one size; use {', '.join(SHAPES[:2])} or {SHAPES[2]}"
            )
        dimension = network.map_side(side) ** 2 * network.dimension
        if dimension > MAX_DIMENSION:
            raise ModelNameError(
                f"{model.text!r}: its vectors have {dimension} components, and the maximum of Milvus is "
                f"{MAX_DIMENSION}; use another head or a smaller side"
            )
