"""The images of a training: decodes them once into a file, splits them by content, and feeds them in batches."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from imagesearch_training import durable
from imagesearch_training.errors import TrainingError
from imagesearch_training.images import ImageFile, Pixels, Skipped, UnusableError, decode

# Minimum number of different images.
MIN_IMAGES = 20
PIXELS = "pixels.npy"
DESCRIPTION = "images.json"
# Number of files that are decoded in parallel before their pixels are written.
CHUNK = 256
# Number of images that are processed together.
PART = 512
# Free space on the disk that must remain beside the pixels, for checkpoints and the model.
SPARE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Photographs:
    """Images, split into training images and validation images."""

    pixels: Pixels
    """uint8[files, S, S, 3], on disk."""
    training: NDArray[np.int64]
    """Rows of `pixels`."""
    validation: NDArray[np.int64]
    """Rows of `pixels`: the images with the lowest SHA-256."""
    skipped: Sequence[Skipped]


def digest_of(files: Sequence[ImageFile]) -> str:
    """Return a digest of the files' names and stamps, in hexadecimal digits."""
    return hashlib.sha256("\n".join(f"{file.name}\t{file.stamp}" for file in files).encode()).hexdigest()


def choose(files: Sequence[ImageFile], limit: int, seed: int) -> list[ImageFile]:
    """Return a random sample of at most `limit` files, in their original order."""
    if len(files) <= limit:
        return list(files)
    return [files[row] for row in sorted(np.random.default_rng(seed).permutation(len(files))[:limit])]


def prepare(files: Sequence[ImageFile], folder: Path, size: int, report: Callable[[int], None]) -> None:
    """Decode files into a folder, for `open_prepared`. Files that cannot be decoded are listed and skipped.

    Args:
        files: the files; each has a row of the pixels.
        folder: the folder for the pixels and their description.
        size: the side of the squares in pixels.
        report: receives the number of files so far.

    Raises:
        TrainingError: there are too few usable images, or the disk is too small for their pixels.
    """
    needed, free = len(files) * size * size * 3, shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise TrainingError(
            f"the pixels of {len(files)} images need {needed / 1e9:.1f} GB in {folder}, and {free / 1e9:.1f} GB are "
            "free; use a smaller --size or a --limit"
        )
    pixels = np.lib.format.open_memmap(folder / PIXELS, "w+", np.uint8, (len(files), size, size, 3))
    digests: list[str | None] = []
    skipped: list[Skipped] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        # Images for which Pillow warns of their size are skipped.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, len(files), CHUNK):
            for found in pool.map(lambda file: _read(file, size), files[start : start + CHUNK]):
                if isinstance(found, Skipped):
                    skipped.append(found)
                    digests.append(None)
                else:
                    digest, pixels[len(digests)] = found
                    digests.append(digest)
                report(len(digests))
    pixels.flush()
    different = len(set(digests) - {None})
    if different < MIN_IMAGES:
        first = "".join(f"; {one.name}: {one.message}" for one in skipped[:1])
        raise TrainingError(
            f"{different} different images of {len(files)} files are usable; the minimum is {MIN_IMAGES}, and a good "
            f"model needs some thousand{first}"
        )
    description = {"sha256": digests, "skipped": [asdict(one) for one in skipped]}
    partial = folder / f"{DESCRIPTION}.partial"
    partial.write_text(json.dumps(description))
    durable.rename(partial, folder / DESCRIPTION)


def open_prepared(folder: Path, validation: float) -> Photographs:
    """Return the images that `prepare` wrote to a folder, split into training and validation.

    The split depends on the content of an image, so that all copies of an image are in the same part.

    Args:
        folder: the folder.
        validation: the fraction of validation images, between 0 and 1; there is at least one.
    """
    description = json.loads((folder / DESCRIPTION).read_text())
    known = sorted((digest, row) for row, digest in enumerate(description["sha256"]) if digest)
    different = sorted({digest for digest, _ in known})
    last = different[min(max(round(validation * len(different)), 1), len(different) - 1) - 1]
    return Photographs(
        pixels=np.load(folder / PIXELS, mmap_mode="r"),
        training=np.array(sorted(row for digest, row in known if digest > last), dtype=np.int64),
        validation=np.array(sorted(row for digest, row in known if digest <= last), dtype=np.int64),
        skipped=[Skipped(**one) for one in description["skipped"]],
    )


def training_batches(
    photographs: Photographs, batch_size: int, seed: int, epochs: range, *, flip: bool
) -> "tf.data.Dataset":
    """Return the training images of these epochs as pairs of equal batches, float32[N, S, S, 3] in 0..1.

    The order and the mirrored images of an epoch depend only on the seed and the epoch's number. So a resumed training
    gets the same images.

    Args:
        photographs: the images.
        batch_size: N; the last batch of an epoch may be smaller.
        seed: the seed of the order.
        epochs: the numbers of the epochs.
        flip: whether a random half of the images is mirrored left to right.
    """
    rows = tf.constant(photographs.training)

    def one_epoch(epoch: tf.Tensor) -> "tf.data.Dataset":
        order = tf.random.experimental.stateless_shuffle(rows, seed=tf.stack([seed, 2 * epoch]))
        chances = tf.random.stateless_uniform(tf.shape(rows), seed=tf.stack([seed, 2 * epoch + 1]))
        mirrored = chances < (0.5 if flip else 0.0)
        return tf.data.Dataset.from_tensor_slices((order, mirrored)).batch(batch_size)

    def images_of(order: tf.Tensor, mirrored: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = _gather(photographs.pixels, order)
        images = tf.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        return images, images

    numbers = tf.data.Dataset.range(epochs.start, epochs.stop)
    return numbers.flat_map(one_epoch).map(images_of).prefetch(tf.data.AUTOTUNE)


def validation_batches(photographs: Photographs, batch_size: int) -> "tf.data.Dataset":
    """Return the validation images as pairs of equal batches, float32[N, S, S, 3] in 0..1."""
    rows = tf.data.Dataset.from_tensor_slices(photographs.validation).batch(batch_size)
    return rows.map(lambda order: (_gather(photographs.pixels, order),) * 2).prefetch(tf.data.AUTOTUNE)


def mean_image_loss(photographs: Photographs) -> float:
    """Return the mean squared error of the validation images if each one is predicted as the mean training image."""
    total = np.zeros(photographs.pixels.shape[1:], np.float64)
    for part in _parts(photographs.training):
        total += photographs.pixels[part].sum(axis=0, dtype=np.float64)
    mean = total / len(photographs.training)
    errors = sum(float(np.square(photographs.pixels[part] - mean).sum()) for part in _parts(photographs.validation))
    return errors / (len(photographs.validation) * mean.size * 255**2)


def _parts(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[start : start + PART] for start in range(0, len(rows), PART)]


def _read(file: ImageFile, size: int) -> tuple[str, Pixels] | Skipped:
    try:
        content = file.read()
        return hashlib.sha256(content).hexdigest(), decode(content, size)
    except OSError as error:
        return Skipped(file.name, error.strerror or str(error))
    except UnusableError as error:
        return Skipped(file.name, str(error))
    except MemoryError:
        raise TrainingError(f"there is not enough memory to decode {file.name}; run the same command again") from None


def _gather(pixels: Pixels, order: tf.Tensor) -> tf.Tensor:
    images = tf.numpy_function(lambda rows: pixels[rows], [order], tf.uint8)
    images.set_shape((None, *pixels.shape[1:]))
    return tf.cast(images, tf.float32) / 255.0
