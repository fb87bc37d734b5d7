"""VGG16 on TensorFlow. The only module of the service that imports it."""

import os

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


class Vgg16:
    """VGG16 without its classifier: global average pooling over block5_pool, then unit length; 512 float32."""

    def __init__(self, tensors: Tensors, max_batch_size: int) -> None:
        """Builds the network from its weights, and runs it once so that the first caller does not wait for that."""
        network = tf.keras.applications.VGG16(
            include_top=False, weights=None, input_shape=(INPUT_SIZE, INPUT_SIZE, 3), pooling="avg"
        )
        for layer in network.layers:
            if layer.weights:
                layer.set_weights([tensors[f"{layer.name}/kernel"], tensors[f"{layer.name}/bias"]])
        network.trainable = False

        def embed(pixels: tf.Tensor) -> tf.Tensor:
            blue_green_red = tf.cast(pixels, tf.float32)[..., ::-1] - tf.constant(MEAN_BGR, tf.float32)
            return tf.math.l2_normalize(network(blue_green_red, training=False), axis=1)

        # One signature for every batch size: TensorFlow traces once and never again.
        signature = tf.TensorSpec((None, INPUT_SIZE, INPUT_SIZE, 3), tf.uint8)
        self._embed = tf.function(embed, input_signature=[signature])
        self.info = ModelInfo(
            name="vgg16",
            dimension=DIMENSION,
            input_size=INPUT_SIZE,
            pooling="avg",
            preprocessing="rgb-bilinear-squash-caffe/1",
            normalisation="l2",
            weights_sha256=tensors_sha256(tensors),
            precision="float32",
            max_batch_size=max_batch_size,
            threads=tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1,
        )
        self.embed(np.zeros((max_batch_size, INPUT_SIZE, INPUT_SIZE, 3), np.uint8))

    def embed(self, pixels: Pixels) -> Vectors:
        """Embeds uint8[N, 224, 224, 3] as float32[N, 512]."""
        vectors: Vectors = self._embed(tf.constant(pixels)).numpy()
        return vectors
