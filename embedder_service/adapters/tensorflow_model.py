"""VGG16 on TensorFlow. The only module of the service that imports it."""

import os
import statistics
import time
from dataclasses import replace

# Before the import: TensorFlow's own notes on how it was built are no news to an operator.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from embedder_service.adapters.weights import Tensors, tensors_sha256
from embedder_service.core.types import ModelInfo, Pixels, Vectors

INPUT_SIZE = 224
DIMENSION = 512
# The mean of ImageNet's pixels, blue, green, red: what the network was trained with (Simonyan and Zisserman, 2015).
MEAN_BGR = (103.939, 116.779, 123.68)
# Runs of which the middle one is taken as the cost.
TIMED_RUNS = 3


def use_threads(threads: int) -> None:
    """Sizes TensorFlow's pools; before the first network is built."""
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # One layer follows the other: there is nothing to run side by side.
        tf.config.threading.set_inter_op_parallelism_threads(1)


class Vgg16:
    """VGG16 without its classifier: global average pooling over block5_pool, then unit length; 512 float32."""

    def __init__(self, tensors: Tensors, precision: str, max_batch_size: int, threads: int) -> None:
        """Builds the network from its weights.

        Args:
            tensors: as `weights.VGG16` names them.
            precision: what the convolutions compute in, "float32" or "bfloat16"; pooling and vectors are float32.
            max_batch_size: the largest N of `embed`.
            threads: as given to `use_threads`.
        """
        network = _build(tensors, precision)

        def embed(pixels: tf.Tensor) -> tf.Tensor:
            blue_green_red = tf.cast(pixels, tf.float32)[..., ::-1] - tf.constant(MEAN_BGR, tf.float32)
            features = network(tf.cast(blue_green_red, precision), training=False)
            pooled = tf.reduce_mean(tf.cast(features, tf.float32), axis=(1, 2))
            return tf.math.l2_normalize(pooled, axis=1)

        # One signature for every batch size: TensorFlow traces once and never again.
        signature = tf.TensorSpec((None, INPUT_SIZE, INPUT_SIZE, 3), tf.uint8)
        self._embed = tf.function(embed, input_signature=[signature])
        self.info = ModelInfo(
            name="vgg16",
            dimension=DIMENSION,
            input_size=INPUT_SIZE,
            pooling="avg",
            preprocessing="rgb-bilinear-squash-caffe/2",
            normalisation="l2",
            weights_sha256=tensors_sha256(tensors),
            precision=precision,
            max_batch_size=max_batch_size,
            threads=threads,
        )

    def embed(self, pixels: Pixels) -> Vectors:
        """Embeds uint8[N, 224, 224, 3] as float32[N, 512]."""
        vectors: Vectors = self._embed(tf.constant(pixels)).numpy()
        return vectors

    def warm_up(self) -> None:
        """Runs every batch size once, so that no caller waits for oneDNN to plan it; measures what an image costs."""
        for size in range(1, self.info.max_batch_size + 1):
            self.seconds_per_image(size, runs=1)
        self.info = replace(self.info, seconds_per_image=self.seconds_per_image(self.info.max_batch_size))

    def seconds_per_image(self, batch_size: int, runs: int = TIMED_RUNS) -> float:
        """Measures what one image costs in a batch of this size: the median of some runs."""
        pixels = np.zeros((batch_size, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
        times = []
        for _ in range(runs):
            began = time.perf_counter()
            self.embed(pixels)
            times.append(time.perf_counter() - began)
        return statistics.median(times) / batch_size


def _build(tensors: Tensors, precision: str) -> "tf.keras.Model":
    """The convolutions, which hold their weights in `precision`."""
    # Keras has no argument for this, only a policy for all that is built while it is set.
    policy = tf.keras.config.dtype_policy()
    tf.keras.config.set_dtype_policy(precision)
    try:
        network = tf.keras.applications.VGG16(include_top=False, weights=None, input_shape=(INPUT_SIZE, INPUT_SIZE, 3))
    finally:
        tf.keras.config.set_dtype_policy(policy)
    for layer in network.layers:
        if layer.weights:
            layer.set_weights([tensors[f"{layer.name}/kernel"], tensors[f"{layer.name}/bias"]])
    network.trainable = False
    return network
