"""Writes the model folder, atomically.

encoder.keras        float32[N, S, S, 3] in 0..1 to float32[N, L]
decoder.keras        float32[N, L] to images
model.json           the description of the encoder for the embedder
history.csv          the losses of every epoch
losses.png           a plot of the losses
reconstructions.png  validation images, and their decoded versions
skipped.csv          the files that could not be used, and the reasons
"""

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from imagesearch_training import durable
from imagesearch_training.checkpoints import Checkpoints
from imagesearch_training.dataset import Photographs
from imagesearch_training.errors import TrainingError
from imagesearch_training.plots import plot_losses, plot_reconstructions

DESCRIPTION = "model.json"
# The version of the folder's layout.
FORMAT = 1
FILES = frozenset(
    {"encoder.keras", "decoder.keras", DESCRIPTION, "history.csv", "losses.png", "reconstructions.png", "skipped.csv"}
)
# Number of images in reconstructions.png.
RECONSTRUCTIONS = 10


def check_target(target: Path, *, force: bool) -> None:
    """Raise TrainingError if the model folder must not be written."""
    if "," in str(target):
        raise TrainingError(
            f"{target} has a comma, which separates models in EMBEDDER_MODELS; use a path without a comma"
        )
    if not target.exists():
        return
    if not _is_model(target):
        raise TrainingError(
            f"{target} exists and is not a model folder (it has no {DESCRIPTION} of a training); use another folder"
        )
    if others := sorted({path.name for path in target.iterdir()} - FILES):
        raise TrainingError(
            f"{target} contains {others[0]!r:.80}, which is not part of a model and would be removed; move it, or use "
            "another folder"
        )
    if not force:
        raise TrainingError(f"{target} exists; use --force to replace it at the end of the training")


def _is_model(target: Path) -> bool:
    """Return whether the folder has the description of a trained model."""
    with suppress(OSError, ValueError, TypeError):
        return {"format", "kind"} <= set(json.loads((target / DESCRIPTION).read_text()))
    return False


def model_name(target: Path) -> str:
    """Return the model's name: the folder's name in lower-case letters, digits and underscores, at most 32 characters.

    The name of a published network gets the prefix `own_`, because the embedder would load that network instead.
    """
    name = re.sub(r"^[^a-z]+|[^a-z0-9_]", "_", target.name.lower()).strip("_") or "autoencoder"
    # Keras' names have no underscores, such as MobileNetV2.
    published = {known.lower() for known in dir(keras.applications)}
    return (f"own_{name}" if name.replace("_", "") in published else name)[:32]


def save(target: Path, checkpoints: Checkpoints, photographs: Photographs, seed: int, baseline: float) -> None:
    """Write the model folder of a finished training. An existing model folder is replaced.

    Args:
        target: the model folder.
        checkpoints: the checkpoints of the training; the best autoencoder is written.
        photographs: the images of the training.
        seed: the seed of the training.
        baseline: the loss of the mean image, for the plot.
    """
    folder = checkpoints.folder / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    autoencoder, best = checkpoints.load_best(), checkpoints.best
    encoder, decoder = autoencoder.get_layer("encoder"), autoencoder.get_layer("decoder")
    # From all parts of the validation images, because neighbors are often similar.
    shown = photographs.validation[:: max(1, len(photographs.validation) // RECONSTRUCTIONS)][:RECONSTRUCTIONS]
    originals = np.divide(photographs.pixels[shown], 255, dtype=np.float32)
    check_vectors(encoder(originals, training=False).numpy())
    encoder.save(folder / "encoder.keras")
    decoder.save(folder / "decoder.keras")
    _write_csv(
        folder / "history.csv",
        ("epoch", "loss", "validation_loss", "seconds"),
        ((epoch.number, epoch.loss, epoch.validation_loss, epoch.seconds) for epoch in checkpoints.epochs),
    )
    _write_csv(folder / "skipped.csv", ("name", "message"), ((one.name, one.message) for one in photographs.skipped))
    plot_losses(checkpoints.epochs, baseline, folder / "losses.png")
    plot_reconstructions(originals, autoencoder(originals, training=False).numpy(), folder / "reconstructions.png")
    description = {
        "format": FORMAT,
        "kind": "encoder",
        "name": model_name(target),
        "input_size": encoder.input_shape[1],
        "dimension": encoder.output_shape[1],
        "pixels": "0..1",
        "input": "squash",
        "normalisation": "none",
        "metric": "L2",
        "encoder_sha256": hashlib.sha256((folder / "encoder.keras").read_bytes()).hexdigest(),
        "trained_on": len(photographs.training),
        "validation_loss": best.validation_loss,
        "epochs": len(checkpoints.epochs),
        "seed": seed,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    if target.exists():
        # The old model moves to a folder that is removed later, so a whole model is on the disk at any time.
        replaced = checkpoints.folder / "replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    # Before the checkpoints are removed: after a power cut either they or the model exist.
    durable.rename(folder, target)


def check_vectors(vectors: NDArray[np.float32]) -> None:
    """Raise TrainingError if an encoder's vectors, float32[N, L], cannot be searched.

    The decoder's last layer bounds the images, so the loss can be finite while vectors are not.
    """
    unusable = ~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))
    if unusable.any():
        raise TrainingError(
            f"the encoder's vectors of {int(unusable.sum())} of {len(vectors)} validation images are zero or not "
            "finite; try a smaller --learning-rate, with --force to start again"
        )


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
