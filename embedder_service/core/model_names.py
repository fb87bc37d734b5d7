"""Names of models: a network, what makes a vector of its last feature map, and how an image becomes its input.

NETWORK[-HEAD][-INPUT[SIDE]][-raw], such as vgg16, vgg16-gem, mobilenet_v2-pad, vgg16-rmac-native512. What is left out
is the usual: `avg`, `squash` at the side that the network was trained on, and vectors of unit length. The case of a
name and spaces around it do not matter.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from embedder_service.core.networks import NETWORKS, STRIDE, Network
from embedder_service.core.pooling import POOLINGS
from embedder_service.core.types import InputPolicy, Shape

SHAPES: tuple[Shape, ...] = ("squash", "pad", "crop", "native")
LARGEST_SIDE = 2048
NATIVE_SIDE = 512
FC1, FLATTEN, FC1_DIMENSION = "fc1", "flatten", 4096
# The most components that Milvus stores.
MAX_DIMENSION = 32_768
# No name of a model has more characters.
MAX_LENGTH = 128
ENCODER_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


# The networks', and those of the networks that have `fc1`, with their classifier.
WEIGHTS_NAMES = (*NETWORKS, *(f"{name}_top" for name, network in NETWORKS.items() if network.has_fc1))


class ModelNameError(ValueError):
    """No model has this name. The message says what would be one."""


@dataclass(frozen=True)
class ModelName:
    """A model of a published network, as its name says."""

    network: Network
    head: str
    input: InputPolicy
    unit: bool
    """Whether vectors are scaled to unit length."""

    @property
    def text(self) -> str:
        """The name, with nothing in it that goes without saying."""
        parts = [self.network.name]
        if self.head != "avg":
            parts.append(self.head)
        usual = _usual_side(self.network, self.input.shape)
        if self.input.shape != "squash" or self.input.side != usual:
            parts.append(f"{self.input.shape}{self.input.side}" if self.input.side != usual else self.input.shape)
        if not self.unit:
            parts.append("raw")
        return "-".join(parts)

    @property
    def weights(self) -> str:
        """The name of the weights that it needs: those of the network, or those with its classifier."""
        return f"{self.network.name}_top" if self.head == FC1 else self.network.name


@dataclass(frozen=True)
class EncoderName:
    """An encoder of one's own, in a folder as `imagesearch train-autoencoder` writes it."""

    text: str
    folder: Path


def parse(text: str) -> ModelName | EncoderName:
    """The model that a name means, NAME=FOLDER one's own. Raises ModelNameError."""
    name, equals, folder = text.partition("=")
    name, folder = _plain(name), folder.strip()
    if equals:
        if not ENCODER_NAME.fullmatch(name) or name in NETWORKS or not folder:
            raise ModelNameError(
                f"{text!r} should be NAME=FOLDER; NAME has up to 32 letters, digits and _, begins with a letter, and "
                "is no network's name"
            )
        return EncoderName(name, Path(folder))
    first, *rest = name.split("-")
    network = NETWORKS.get(first)
    if network is None:
        raise ModelNameError(f"no network is called {first!r}; there are {', '.join(NETWORKS)}, or NAME=FOLDER")
    head, policy, unit = "avg", InputPolicy("squash", network.input_size), True
    heads = (*POOLINGS, FC1) if network.has_fc1 else tuple(POOLINGS)
    if rest and rest[0] in heads:
        head = rest.pop(0)
    if rest and (found := re.fullmatch(rf"({'|'.join(SHAPES)})([0-9]{{1,5}})?", rest[0])):
        rest.pop(0)
        shape = next(shape for shape in SHAPES if shape == found[1])
        least = -(-network.least_size // STRIDE) * STRIDE
        policy = InputPolicy(shape, int(found[2]) if found[2] else _usual_side(network, shape), least)
    if rest and rest[0] == "raw":
        rest.pop(0)
        unit = False
    if rest:
        raise ModelNameError(
            f"{text!r} is no model: {rest[0]!r} should be a head ({', '.join(heads)}), then an input "
            f"({', '.join(SHAPES)}, with a side such as {SHAPES[1]}320), then raw, each where it differs from the usual"
        )
    model = ModelName(network, head, policy, unit)
    _check(model)
    return model


def same_name(text: str) -> str:
    """Return the shortest spelling of a model's name; for an encoder, its name in lower case.

    A text that names no model is returned in lower case: no model has this name either.
    """
    name = _plain(text)
    if len(name) > MAX_LENGTH:
        return name
    try:
        found = parse(name)
    except ModelNameError:
        return name
    return found.text if isinstance(found, ModelName) else name


def weights_of(text: str) -> str:
    """Return the name of weights for their own name or for a model's name. Raises ModelNameError."""
    name = _plain(text)
    if name in WEIGHTS_NAMES:
        return name
    try:
        model = parse(name)
    except ModelNameError:
        model = None
    if not isinstance(model, ModelName):
        raise ModelNameError(
            f"no weights are called {text!r:.80}; there are {', '.join(WEIGHTS_NAMES)}, and a model's name means its "
            "weights"
        )
    return model.weights


def _plain(text: str) -> str:
    return text.strip().lower()


def _usual_side(network: Network, shape: Shape) -> int:
    return NATIVE_SIDE if shape == "native" else network.input_size


def _check(model: ModelName) -> None:
    network, shape, side = model.network, model.input.shape, model.input.side
    if side != network.input_size and (side % STRIDE or not network.least_size <= side <= LARGEST_SIDE):
        raise ModelNameError(
            f"{model.text!r}: a side should be {network.input_size} or a multiple of {STRIDE} from "
            f"{-(-network.least_size // STRIDE) * STRIDE} to {LARGEST_SIDE}"
        )
    if model.head == FC1 and (shape == "native" or side != network.input_size):
        raise ModelNameError(f"{model.text!r}: {FC1} takes just squares of {network.input_size} pixels")
    if model.head == FLATTEN:
        if shape == "native":
            raise ModelNameError(
                f"{model.text!r}: {FLATTEN} needs inputs of one size; {', '.join(SHAPES[:3])} give them"
            )
        dimension = network.map_side(side) ** 2 * network.dimension
        if dimension > MAX_DIMENSION:
            raise ModelNameError(
                f"{model.text!r}: its vectors would have {dimension} components, and Milvus stores up to "
                f"{MAX_DIMENSION}; another head or a smaller side gives fewer"
            )
