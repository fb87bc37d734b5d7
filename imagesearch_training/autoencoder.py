"""The networks: an encoder down to a few values, and the decoder that mirrors it.

Trained on the mean squared error of the images that come out (Hinton and Salakhutdinov, "Reducing the Dimensionality of
Data with Neural Networks", Science 2006). Activations are SiLU, which passes a gradient on both sides of zero
(Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units for Neural Network Function Approximation in Reinforcement
Learning", Neural Networks 2018), and the latent layer is linear: its values are what searches compare, and a rectifier
would turn half of them to zero. The decoder's transposed convolutions have kernels that their stride divides: others
leave a checkerboard (Odena, Dumoulin and Olah, "Deconvolution and Checkerboard Artifacts", Distill 2016).
"""

import keras

from imagesearch_training.errors import TrainingError

SIZE_STEP = 32
MIN_SIZE, MAX_SIZE = 32, 512
# Halved down to a map of at most this side, where the image's side allows.
MAP_SIDE = 4
# Channels after each halving; the last one goes for all that follow.
CHANNELS = (16, 32, 64)


def check_size(size: int) -> None:
    """Raises TrainingError where images of that side are not taken."""
    if size % SIZE_STEP or not MIN_SIZE <= size <= MAX_SIZE:
        raise TrainingError(
            f"a side of {size} pixels should be a multiple of {SIZE_STEP} from {MIN_SIZE} to {MAX_SIZE}, such as 64"
        )


def build_autoencoder(size: int, latent: int) -> keras.Model:
    """An autoencoder of images, float32[N, size, size, 3] in 0..1, by way of `latent` values.

    Its layers "encoder", to float32[N, latent], and "decoder", back to images, are models themselves.

    Args:
        size: the side of the images in pixels; `check_size` tells which are taken.
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
    """How often the side is halved: until it is MAP_SIDE at most, or odd."""
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
