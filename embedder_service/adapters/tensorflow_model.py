"""Networks on TensorFlow, and the models that make vectors of what they give."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import tensorflow as tf

from embedder_service.core.networks import PixelScale
from embedder_service.core.pooling import FeatureMaps, unit_length
from embedder_service.core.types import ModelInfo, Pixels, Vectors

# ImageNet's pixels: their mean, blue, green, red, in 0..255 (Simonyan and Zisserman, 2015); and mean and deviation,
# red, green, blue, in 0..1, as PyTorch's networks were trained with.
MEAN_BGR = (103.939, 116.779, 123.68)
MEAN_RGB, DEVIATION_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Runs of which the middle one is taken as the cost.
TIMED_RUNS = 3


def use_threads(threads: int) -> None:
    """Sizes TensorFlow's pools; before the first network is built."""
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # One layer follows the other: there is nothing to run side by side.
        tf.config.threading.set_inter_op_parallelism_threads(1)


def _caffe(pixels: tf.Tensor) -> tf.Tensor:
    return pixels[..., ::-1] - tf.constant(MEAN_BGR, tf.float32)


def _torch(pixels: tf.Tensor) -> tf.Tensor:
    return (pixels / 255.0 - tf.constant(MEAN_RGB, tf.float32)) / tf.constant(DEVIATION_RGB, tf.float32)


SCALES: Mapping[PixelScale, Callable[[tf.Tensor], tf.Tensor]] = {
    "caffe": _caffe,
    "tf": lambda pixels: pixels / 127.5 - 1.0,
    "torch": _torch,
    "raw": lambda pixels: pixels,
    "unit": lambda pixels: pixels / 255.0,
}


class Backbone:
    """A network up to its last feature map. Models that only pool that in other ways share it."""

    def __init__(self, network: "tf.keras.Model", scale: PixelScale, precision: str, weights_sha256: str) -> None:
        """Takes a network that has its weights, whose layers compute in `precision`: "float32" or "bfloat16"."""
        self._network = network
        self._scale = SCALES[scale]
        self.precision = precision
        self.weights_sha256 = weights_sha256
        self._runners: dict[int | None, Callable[[Pixels], FeatureMaps]] = {}
        self.planned: set[tuple[int, int]] = set()
        """The sides and sizes of batches that were run, so that oneDNN has its plan for them."""
        self.seconds: dict[tuple[int, int], float] = {}
        """Seconds per image, by the side and the size of batches."""

    def runner(self, side: int | None) -> Callable[[Pixels], FeatureMaps]:
        """What runs the network on uint8[N, side, side, 3], or on any one size for None; it gives float32[N, ...]."""
        if side not in self._runners:
            self._runners[side] = self._traced(side)
        return self._runners[side]

    def _traced(self, side: int | None) -> Callable[[Pixels], FeatureMaps]:
        def features(pixels: tf.Tensor) -> tf.Tensor:
            scaled = self._scale(tf.cast(pixels, tf.float32))
            return tf.cast(self._network(tf.cast(scaled, self.precision), training=False), tf.float32)

        # One signature for every batch size: TensorFlow traces once and never again.
        signature = tf.TensorSpec((None, side, side, 3), tf.uint8)
        # AutoGraph writes files, and there is nothing of Python's flow to translate.
        traced = tf.function(features, input_signature=[signature], autograph=False)

        def run(pixels: Pixels) -> FeatureMaps:
            try:
                maps: FeatureMaps = traced(tf.constant(pixels)).numpy()
            except tf.errors.ResourceExhaustedError as error:
                raise MemoryError(error.message) from error
            return maps

        return run


class TensorflowModel:
    """A backbone with the head that makes vectors of its feature maps."""

    def __init__(self, info: ModelInfo, backbone: Backbone, head: Callable[[FeatureMaps], Vectors]) -> None:
        """`info` describes the model; callers that do not know the dimension yet set it after the first run."""
        fixed = info.input.shape != "native"
        self.backbone = backbone
        self._features = backbone.runner(info.input.side if fixed else None)
        self._head = head
        self._unit = info.normalisation == "l2"
        self.info = info

    def embed(self, pixels: Pixels) -> Vectors:
        """Embed uint8[N, H, W, 3] as float32[N, D]. Raises MemoryError."""
        return self.vectors_of(self._features(pixels))

    def vectors_of(self, maps: FeatureMaps) -> Vectors:
        """Return the head's vectors, float32[N, D], of the network's feature maps, float32[N, ...]."""
        vectors = self._head(maps)
        return unit_length(vectors) if self._unit else vectors

    def warm_up(self) -> None:
        """Runs every batch size once, so that no caller waits for oneDNN to plan it; measures what an image costs."""
        planned, side, most = self.backbone.planned, self.info.input.side, self.info.max_batch_size
        for size in range(1, most + 1):
            if (side, size) not in planned:
                self.seconds_per_image(size, runs=1)
                planned.add((side, size))
        # Heads cost almost nothing compared with the network.
        seconds = self.backbone.seconds
        if (side, most) not in seconds:
            seconds[side, most] = self.seconds_per_image(most)
        self.info = replace(self.info, seconds_per_image=seconds[side, most])

    def seconds_per_image(self, batch_size: int, runs: int = TIMED_RUNS) -> float:
        """Measures what one image costs in a batch of this size: the median of some runs."""
        pixels = self._pixels(batch_size)
        times = []
        for _ in range(runs):
            began = time.perf_counter()
            self.embed(pixels)
            times.append(time.perf_counter() - began)
        return statistics.median(times) / batch_size

    def _pixels(self, images: int) -> Pixels:
        return np.zeros((images, self.info.input.side, self.info.input.side, 3), np.uint8)
