"""Describes the networks of `keras.applications` that the embedder serves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

# The values of a network's input, by Keras' names (keras.applications.imagenet_utils):
# caffe: blue, green, red, minus ImageNet's mean. tf: -1 to 1. torch: 0 to 1, minus the mean, divided by the standard
# deviation of each channel. raw: 0 to 255, for networks that have their own preprocessing layers. unit: 0 to 1.
PixelScale: TypeAlias = Literal["caffe", "tf", "torch", "raw", "unit"]

# Every network halves its feature map five times.
STRIDE = 32


@dataclass(frozen=True)
class Network:
    """Describes an architecture of `keras.applications`, without its classifier."""

    name: str
    builder: str
    """The name of its function in `keras.applications`."""
    dimension: int
    """Channels of the last feature map."""
    input_size: int
    """Side of the squares that it was trained on, in pixels."""
    scale: PixelScale
    paper: str
    min_size: int = 32
    """Minimum side of its input in pixels."""
    has_fc1: bool = False
    """Whether its classifier begins with the dense layer `fc1`, which has 4096 values."""
    unpadded: tuple[tuple[int, int], ...] = ()
    """Kernel and stride of the layers that shrink its feature map, if these do not pad the borders."""
    arguments: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Further arguments of its function in `keras.applications`."""

    def map_side(self, side: int) -> int:
        """Return the side of the last feature map, in cells, for a square of `side` pixels.

        `side` is `input_size` or a multiple of STRIDE.
        """
        if not self.unpadded:
            return side // STRIDE
        for kernel, stride in self.unpadded:
            side = (side - kernel) // stride + 1
        return side


NETWORKS: Mapping[str, Network] = {
    network.name: network
    for network in (
        Network("vgg16", "VGG16", 512, 224, "caffe", "Simonyan and Zisserman, 2015", has_fc1=True),
        Network("vgg19", "VGG19", 512, 224, "caffe", "Simonyan and Zisserman, 2015", has_fc1=True),
        # The head avg computes the layer PreLogits of the authors' code.
        Network(
            "inception_v3",
            "InceptionV3",
            2048,
            299,
            "tf",
            "Szegedy et al., 2016",
            min_size=75,
            unpadded=((3, 2), (3, 1), (3, 2), (3, 1), (3, 2), (3, 2), (3, 2)),
        ),
        Network("resnet50", "ResNet50", 2048, 224, "caffe", "He et al., 2016"),
        Network("densenet121", "DenseNet121", 1024, 224, "torch", "Huang et al., 2017"),
        Network("mobilenet", "MobileNet", 1024, 224, "tf", "Howard et al., 2017"),
        # The widest published variant: its last layer has 1.4 times the channels.
        Network("mobilenet_v2", "MobileNetV2", 1792, 224, "tf", "Sandler et al., 2018", arguments={"alpha": 1.4}),
        Network("efficientnet_v2_b0", "EfficientNetV2B0", 1280, 224, "raw", "Tan and Le, 2021"),
    )
}
