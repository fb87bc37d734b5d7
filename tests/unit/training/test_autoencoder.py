"""The autoencoder: shapes, gradients and sizes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from imagesearch_training.autoencoder import build_autoencoder, check_size, halvings
from imagesearch_training.errors import TrainingError


@pytest.mark.parametrize(("size", "latent"), [(32, 1), (64, 16), (96, 5)])
def test_every_unit_of_every_layer_gets_a_gradient(size: int, latent: int) -> None:
    keras.utils.set_random_seed(0)
    network = build_autoencoder(size, latent)
    images = np.random.default_rng(0).random((16, size, size, 3), np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(network(images, training=True) - images))
    gradients = tape.gradient(loss, network.trainable_variables)
    assert len(gradients) == len(network.variables)
    for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        # Units are along the last axis, and those of a transposed convolution's kernel along the last but one.
        transposed = gradient.ndim == 4 and ("transpose" in variable.path or "pixels" in variable.path)
        by_unit = np.moveaxis(gradient.numpy(), -2 if transposed else -1, 0)
        assert all(np.abs(unit).max() > 0 for unit in by_unit), variable.path


@pytest.mark.parametrize(("size", "map_side"), [(32, 4), (64, 4), (96, 3), (224, 7), (256, 4), (288, 9), (512, 4)])
def test_decoded_images_have_the_input_size(size: int, map_side: int) -> None:
    check_size(size)
    assert size >> halvings(size) == map_side
    network = build_autoencoder(size, 16)
    assert network.output_shape == network.input_shape == (None, size, size, 3)
    assert network.get_layer("encoder").output_shape == (None, 16)
    assert network.count_params() < 1_000_000


def test_the_latent_layer_is_linear() -> None:
    encoder = build_autoencoder(32, 8).get_layer("encoder")
    images = np.random.default_rng(0).random((64, 32, 32, 3), np.float32)
    vectors = encoder(images).numpy()
    assert vectors.dtype == np.float32
    assert (vectors.min(axis=0) < vectors.max(axis=0)).all()
    assert (vectors < 0).any()
    assert (vectors > 0).any()


@pytest.mark.parametrize("size", [0, -32, 16, 31, 100, 544])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(TrainingError, match=rf"the side is {size} pixels; it must be a multiple of 32 from 32 to 512"):
        check_size(size)
