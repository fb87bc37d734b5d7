"""The networks that can be served, as data: what `keras.applications` calls them, and what goes in and comes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

# How the network that was trained took its pixels; Keras' own names for it (keras.applications.imagenet_utils).
# caffe: blue, green, red, less ImageNet's mean. tf: -1 to 1. torch: 0 to 1, less the mean, by the deviation of each
# channel. raw: 0 to 255, the network has layers of its own for the rest. unit: 0 to 1.
PixelScale: TypeAlias = Literal["caffe", "tf", "torch", "raw", "unit"]

# Every network halves its map five times.
STRIDE = 32


@dataclass(frozen=True)
class Network:
    """An architecture of `keras.applications`, without its classifier."""

    name: str
    builder: str
    """The name of its function in `keras.applications`."""
    dimension: int
    """Channels of the last feature map."""
    input_size: int
    """Side of the square that it was trained on, in pixels."""
    pixels: PixelScale
    paper: str
    least_size: int = 32
    """The smallest side that it takes, in pixels."""
    has_fc1: bool = False
    """Whether its classifier begins with the dense layer `fc1` of 4096 values."""
    unpadded: tuple[tuple[int, int], ...] = ()
    """Kernel and stride of the layers that make its map smaller, where these do not pad at the border."""
    arguments: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """What its function is given beside."""

    def map_side(self, side: int) -> int:
        """The side in cells of the last map of a square of `side` pixels, a multiple of STRIDE or the usual side."""
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
        # Its global average is the layer PreLogits of the authors' own code.
        Network(
            "inception_v3",
            "InceptionV3",
            2048,
            299,
            "tf",
            "Szegedy et al., 2016",
            least_size=75,
            unpadded=((3, 2), (3, 1), (3, 2), (3, 1), (3, 2), (3, 2), (3, 2)),
        ),
        Network("resnet50", "ResNet50", 2048, 224, "caffe", "He et al., 2016"),
        Network("densenet121", "DenseNet121", 1024, 224, "torch", "Huang et al., 2017"),
        Network("mobilenet", "MobileNet", 1024, 224, "tf", "Howard et al., 2017"),
        # The widest that was published, whose last layer has 1.4 times the channels.
        Network("mobilenet_v2", "MobileNetV2", 1792, 224, "tf", "Sandler et al., 2018", arguments={"alpha": 1.4}),
        Network("efficientnet_v2_b0", "EfficientNetV2B0", 1280, 224, "raw", "Tan and Le, 2021"),
    )
}
