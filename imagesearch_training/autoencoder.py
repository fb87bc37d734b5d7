"""Builds the autoencoder: an encoder from images to a few values, and a decoder from these values to images.

The loss is the mean squared error of the decoded images (Hinton and Salakhutdinov, "Reducing the Dimensionality of Data
with Neural Networks", Science 2006). The activation is SiLU, which has a gradient on both sides of zero (Elfwing,
Uchibe and Doya, "Sigmoid-Weighted Linear Units for Neural Network Function Approximation in Reinforcement Learning",
Neural Networks 2018). The latent layer is linear: searches compare its values, and a rectifier would set half of them
to zero. In the decoder the stride of each transposed convolution divides its kernel size; otherwise images get a
checkerboard pattern (Odena, Dumoulin and Olah, "Deconvolution and Checkerboard Artifacts", Distill 2016).
"""

import keras

from imagesearch_training.errors import TrainingError

SIZE_STEP = 32
MIN_SIZE, MAX_SIZE = 32, 512
# The encoder halves the side until the map has at most this side, or an odd side.
MAP_SIDE = 4
# Channels after each halving. Further halvings have the last number.
CHANNELS = (16, 32, 64)


def check_size(size: int) -> None:
    """Raise TrainingError if the side of the images is not supported."""
    if size % SIZE_STEP or not MIN_SIZE <= size <= MAX_SIZE:
        raise TrainingError(
            f"the side is {size} pixels; it must be a multiple of {SIZE_STEP} from {MIN_SIZE} to {MAX_SIZE}, such as 64"
        )


def build_autoencoder(size: int, latent: int) -> keras.Model:
    """Return an autoencoder of images, float32[N, size, size, 3] in 0..1.

    Its layer "encoder" returns float32[N, latent], and its layer "decoder" returns images. Both are Keras models.

    Args:
        size: the side of the images in pixels; see `check_size`.
        latent: the number of latent values.
    """
    steps = halvings(size)
    channels = [CHANNELS[min(step, len(CHANNELS) - 1)] for step in range(steps)]
    map_shape = (size >> steps, size >> steps, channels[-1])
    images = keras.Input((size, size, 3), name="images")
    encoder = _build_encoder(size, latent, channels)
    decoder = _build_decoder(latent, channels, map_shape)
    return keras.Model(images, decoder(encoder(images)), name="autoencoder")


def halvings(size: int) -> int:
    """Return how often the encoder halves this side."""
    steps = 0
    while size > MAP_SIDE and size % 2 == 0:
        size //= 2
        steps += 1
    return steps


def _build_encoder(size: int, latent: int, channels: list[int]) -> keras.Model:
    images = keras.Input((size, size, 3), name="images")
    values = images
    for filters in channels:
        values = keras.layers.Conv2D(
            filters, 3, strides=2, padding="same", activation="silu", kernel_initializer="he_normal"
        )(values)
    values = keras.layers.Flatten()(values)
    return keras.Model(images, keras.layers.Dense(latent, name="latent")(values), name="encoder")


def _build_decoder(latent: int, channels: list[int], map_shape: tuple[int, int, int]) -> keras.Model:
    vectors = keras.Input((latent,), name="vectors")
    side, _, depth = map_shape
    values = keras.layers.Dense(side * side * depth, activation="silu", kernel_initializer="he_normal")(vectors)
    values = keras.layers.Reshape(map_shape)(values)
    for filters in reversed(channels[:-1]):
        values = keras.layers.Conv2DTranspose(
            filters, 4, strides=2, padding="same", activation="silu", kernel_initializer="he_normal"
        )(values)
    values = keras.layers.Conv2DTranspose(3, 4, strides=2, padding="same", activation="sigmoid", name="pixels")(values)
    return keras.Model(vectors, values, name="decoder")
