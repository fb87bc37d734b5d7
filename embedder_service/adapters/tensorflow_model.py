"""Models on TensorFlow: backbones, and models that add a head."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf

from embedder_service.adapters.timing import TIMED_RUNS, median_seconds
from embedder_service.core.heads import FeatureMaps, unit_length
from embedder_service.core.networks import PixelScale
from embedder_service.core.regions import regions_of
from embedder_service.core.types import ImageVectors, ModelInfo, Pixels, RegionRequest, Vectors

# Statistics of ImageNet's pixels. The mean of blue, green, red in 0..255 (Simonyan and Zisserman, 2015). Mean and
# standard deviation of red, green, blue in 0..1, with which PyTorch's networks were trained.
MEAN_BGR = (103.939, 116.779, 123.68)
MEAN_RGB, DEVIATION_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def use_threads(threads: int) -> None:
    """Set the size of TensorFlow's thread pools. Call this before the first backbone is built."""
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # One operation at a time: each layer depends on the one before.
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
    """A network with its weights, up to its last feature map. Models that differ only in the head share it."""

    def __init__(self, layers: "tf.keras.Model", scale: PixelScale, precision: str, weights_sha256: str) -> None:
        """Wrap Keras layers that have their weights. They compute in `precision`, "float32" or "bfloat16"."""
        self._layers = layers
        self._scale = SCALES[scale]
        self.precision = precision
        self.weights_sha256 = weights_sha256
        self._runners: dict[int | None, Callable[[Pixels], FeatureMaps]] = {}
        self.planned: set[tuple[int, int]] = set()
        """The input sides and batch sizes that were run once, so that oneDNN has planned them."""
        self.seconds: dict[tuple[int, int], float] = {}
        """Seconds per image, by input side and batch size."""

    def runner(self, side: int | None) -> Callable[[Pixels], FeatureMaps]:
        """Return a function that computes feature maps, float32[N, ...], of uint8[N, side, side, 3].

        With None the function accepts images of any one size.
        """
        if side not in self._runners:
            self._runners[side] = self._traced(side)
        return self._runners[side]

    def _traced(self, side: int | None) -> Callable[[Pixels], FeatureMaps]:
        def features(pixels: tf.Tensor) -> tf.Tensor:
            scaled = self._scale(tf.cast(pixels, tf.float32))
            return tf.cast(self._layers(tf.cast(scaled, self.precision), training=False), tf.float32)

        # One signature for all batch sizes, so that TensorFlow traces only once.
        signature = tf.TensorSpec((None, side, side, 3), tf.uint8)
        # AutoGraph writes files, and the function has no control flow to translate.
        traced = tf.function(features, input_signature=[signature], autograph=False)

        def run(pixels: Pixels) -> FeatureMaps:
            try:
                maps: FeatureMaps = traced(tf.constant(pixels)).numpy()
            except tf.errors.ResourceExhaustedError as error:
                raise MemoryError(error.message) from error
            return maps

        return run


class TensorflowModel:
    """A backbone with a head."""

    def __init__(self, info: ModelInfo, backbone: Backbone, head: Callable[[FeatureMaps], Vectors]) -> None:
        """`info` describes the model. If the dimension is still unknown, the caller sets it after the first run."""
        is_square = info.input.shape != "native"
        self.backbone = backbone
        self._features = backbone.runner(info.input.side if is_square else None)
        self._head = head
        self._unit = info.normalisation == "l2"
        self.info = info

    def embed(self, pixels: Pixels) -> Vectors:
        """Embed uint8[N, H, W, 3] as float32[N, D]. Raises MemoryError."""
        return self.vectors_of(self._features(pixels))

    def run(self, pixels: Pixels, requests: Sequence[RegionRequest | None]) -> list[ImageVectors]:
        """Embed uint8[N, H, W, 3], each image with the requested regions. Raises MemoryError."""
        maps = self._features(pixels)
        vectors = self.vectors_of(maps)
        return [
            ImageVectors(vector, None if request is None else regions_of(feature_map, request, self.vectors_of))
            for vector, feature_map, request in zip(vectors, maps, requests, strict=True)
        ]

    def vectors_of(self, maps: FeatureMaps) -> Vectors:
        """Return the vectors, float32[N, D], of the backbone's feature maps, float32[N, ...]."""
        vectors = self._head(maps)
        return unit_length(vectors) if self._unit else vectors

    def warm_up(self) -> None:
        """Run every batch size once, so that no caller waits for oneDNN's planning. Measure the seconds per image."""
        planned, side, max_size = self.backbone.planned, self.info.input.side, self.info.max_batch_size
        for size in range(1, max_size + 1):
            if (side, size) not in planned:
                self.seconds_per_image(size, runs=1)
                planned.add((side, size))
        # Models share the measurement, because the cost of a head is negligible.
        seconds = self.backbone.seconds
        if (side, max_size) not in seconds:
            seconds[side, max_size] = self.seconds_per_image(max_size)
        self.info = replace(self.info, seconds_per_image=seconds[side, max_size])

    def seconds_per_image(self, batch_size: int, runs: int = TIMED_RUNS) -> float:
        """Return the seconds per image in batches of this size: the median of some runs."""
        return median_seconds(self.embed, self._pixels(batch_size), runs) / batch_size

    def _pixels(self, images: int) -> Pixels:
        return np.zeros((images, self.info.input.side, self.info.input.side, 3), np.uint8)
