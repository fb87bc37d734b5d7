"""The images of a training: decoded once into a file of pixels, parted by their content, and fed in batches."""

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

# Different images below which there is nothing to learn from.
MIN_IMAGES = 20
PIXELS = "pixels.npy"
NOTES = "images.json"
# Files that are read and decoded at a time, before their pixels are written.
CHUNK = 256
# Images that are looked at together where all of them are.
PART = 512
# Room on the disk that is left beside the pixels: checkpoints, and the finished model.
SPARE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Photographs:
    """Images, parted into those a network learns from and those it is judged by."""

    pixels: Pixels
    """uint8[files, S, S, 3], on disk."""
    training: NDArray[np.int64]
    """Rows of `pixels`."""
    validation: NDArray[np.int64]
    """Rows of `pixels`: about a given part of the images, those with the smallest SHA-256."""
    skipped: Sequence[Skipped]


def digest_of(files: Sequence[ImageFile]) -> str:
    """Tells one set of files from another, by names and stamps, in hexadecimal digits."""
    return hashlib.sha256("\n".join(f"{file.name}\t{file.stamp}" for file in files).encode()).hexdigest()


def choose(files: Sequence[ImageFile], limit: int, seed: int) -> list[ImageFile]:
    """At most so many of the files, by chance, in the order in which they are."""
    if len(files) <= limit:
        return list(files)
    return [files[row] for row in sorted(np.random.default_rng(seed).permutation(len(files))[:limit])]


def prepare(files: Sequence[ImageFile], folder: Path, size: int, reach: Callable[[int], None]) -> None:
    """Decodes files once into a folder, for `open_prepared`. A file that cannot be decoded is noted and left out.

    Args:
        files: the files; each has a row of the pixels.
        folder: where the pixels and the notes go.
        size: the side of the squares in pixels.
        reach: is told how many files are done.

    Raises:
        TrainingError: too few images can be used, or the disk is too small for their pixels.
    """
    needed, free = len(files) * size * size * 3, shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise TrainingError(
            f"the pixels of {len(files)} images take {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are "
            "free; a smaller --size or a --limit takes less"
        )
    pixels = np.lib.format.open_memmap(folder / PIXELS, "w+", np.uint8, (len(files), size, size, 3))
    digests: list[str | None] = []
    skipped: list[Skipped] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        # An image so large that Pillow warns of it is skipped.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, len(files), CHUNK):
            for found in pool.map(lambda file: _read(file, size), files[start : start + CHUNK]):
                if isinstance(found, Skipped):
                    skipped.append(found)
                    digests.append(None)
                else:
                    digest, pixels[len(digests)] = found
                    digests.append(digest)
                reach(len(digests))
    pixels.flush()
    different = len(set(digests) - {None})
    if different < MIN_IMAGES:
        first = "".join(f"; {one.name}: {one.message}" for one in skipped[:1])
        raise TrainingError(
            f"{different} different images can be used of {len(files)} files; at least {MIN_IMAGES} are needed, and "
            f"some thousand make a good model{first}"
        )
    notes = {"sha256": digests, "skipped": [asdict(one) for one in skipped]}
    partial = folder / f"{NOTES}.partial"
    partial.write_text(json.dumps(notes))
    durable.rename(partial, folder / NOTES)


def open_prepared(folder: Path, validation: float) -> Photographs:
    """What `prepare` left in a folder, parted.

    An image's part depends on its content, so that copies of one never come to lie in both.

    Args:
        folder: the folder.
        validation: the part of the images that is kept for validation, between 0 and 1; at least one image is.
    """
    notes = json.loads((folder / NOTES).read_text())
    known = sorted((digest, row) for row, digest in enumerate(notes["sha256"]) if digest)
    different = sorted({digest for digest, _ in known})
    last = different[min(max(round(validation * len(different)), 1), len(different) - 1) - 1]
    return Photographs(
        pixels=np.load(folder / PIXELS, mmap_mode="r"),
        training=np.array(sorted(row for digest, row in known if digest > last), dtype=np.int64),
        validation=np.array(sorted(row for digest, row in known if digest <= last), dtype=np.int64),
        skipped=[Skipped(**one) for one in notes["skipped"]],
    )


def training_batches(
    photographs: Photographs, batch_size: int, seed: int, epochs: range, *, flip: bool
) -> "tf.data.Dataset":
    """The training images of some epochs, one after the other, as pairs of equal float32[N, S, S, 3] in 0..1.

    An epoch's order and its mirrored images depend on the seed and the epoch's number alone, so that a training that
    goes on sees what it would have seen.

    Args:
        photographs: the images.
        batch_size: N; an epoch's last batch may be smaller.
        seed: of the order.
        epochs: numbers of epochs.
        flip: whether half of the images, by chance, are mirrored left to right.
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
    """The validation images, as pairs of equal float32[N, S, S, 3] in 0..1."""
    rows = tf.data.Dataset.from_tensor_slices(photographs.validation).batch(batch_size)
    return rows.map(lambda order: (_gather(photographs.pixels, order),) * 2).prefetch(tf.data.AUTOTUNE)


def mean_image_loss(photographs: Photographs) -> float:
    """The mean squared error over the validation images of the training images' mean: what knowing nothing gives."""
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
        raise TrainingError(f"there is no memory left to decode {file.name}; run the same command again") from None


def _gather(pixels: Pixels, order: tf.Tensor) -> tf.Tensor:
    images = tf.numpy_function(lambda rows: pixels[rows], [order], tf.uint8)
    images.set_shape((None, *pixels.shape[1:]))
    return tf.cast(images, tf.float32) / 255.0
