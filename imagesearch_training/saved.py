"""The model folder: written whole or not at all.

encoder.keras        float32[N, S, S, 3] in 0..1 to float32[N, L]
decoder.keras        back to images
model.json           what the embedder has to know of it
history.csv          the losses of every epoch
losses.png           the same, drawn
reconstructions.png  validation images, and what the decoder makes of their latent values
skipped.csv          the files that could not be used, and why
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

NOTES = "model.json"
# Another layout of the folder gets another number.
FORMAT = 1
FILES = frozenset(
    {"encoder.keras", "decoder.keras", NOTES, "history.csv", "losses.png", "reconstructions.png", "skipped.csv"}
)
# Images in the picture of reconstructions.
SHOWN = 10


def check_target(target: Path, *, force: bool) -> None:
    """Raises TrainingError where a model folder may not be written."""
    if "," in str(target):
        raise TrainingError(
            f"{target} has a comma, which separates models in the embedder's EMBEDDER_MODELS; name a path without one"
        )
    if not target.exists():
        return
    if not _is_model(target):
        raise TrainingError(
            f"{target} is there and is no model folder (it has no {NOTES} of a training); name another one"
        )
    if others := sorted({path.name for path in target.iterdir()} - FILES):
        raise TrainingError(
            f"{target} holds {others[0]!r:.80}, which is no part of a model and would be removed with it; move it "
            "elsewhere, or name another folder"
        )
    if not force:
        raise TrainingError(f"{target} is there; --force replaces it when the training is done")


def _is_model(target: Path) -> bool:
    """Whether its notes are those of a training."""
    with suppress(OSError, ValueError, TypeError):
        return {"format", "kind"} <= set(json.loads((target / NOTES).read_text()))
    return False


def model_name(target: Path) -> str:
    """The name of a model in a folder: the folder's, in small letters, digits and underscores, at most 32 of them.

    That of a published network gets `own_` in front: the embedder takes it for the network's.
    """
    name = re.sub(r"^[^a-z]+|[^a-z0-9_]", "_", target.name.lower()).strip("_") or "autoencoder"
    # Keras writes them without underscores, such as MobileNetV2.
    published = {known.lower() for known in dir(keras.applications)}
    return (f"own_{name}" if name.replace("_", "") in published else name)[:32]


def save(target: Path, checkpoints: Checkpoints, photographs: Photographs, seed: int, baseline: float) -> None:
    """Writes the model folder of a training that is done; one that is there is replaced.

    Args:
        target: the folder.
        checkpoints: of the training; the best network is taken.
        photographs: what it was trained on.
        seed: of the training.
        baseline: the loss of the mean image, for the picture.
    """
    folder = checkpoints.folder / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    network, best = checkpoints.load_best(), checkpoints.best
    encoder, decoder = network.get_layer("encoder"), network.get_layer("decoder")
    # Spread over all validation images: neighbours are often alike.
    shown = photographs.validation[:: max(1, len(photographs.validation) // SHOWN)][:SHOWN]
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
    plot_reconstructions(originals, network(originals, training=False).numpy(), folder / "reconstructions.png")
    notes = {
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
    (folder / NOTES).write_text(json.dumps(notes, indent=2) + "\n")
    if target.exists():
        # Into a folder that is removed in the end: there is no moment at which neither model is whole on the disk.
        replaced = checkpoints.folder / "replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    # Before the checkpoints go: a power cut leaves either them or the model.
    durable.rename(folder, target)


def check_vectors(vectors: NDArray[np.float32]) -> None:
    """Raise TrainingError if an encoder's vectors, float32[N, L], cannot be searched.

    The decoder's last layer bounds the images, so the loss can be finite while vectors are not.
    """
    unusable = ~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))
    if unusable.any():
        raise TrainingError(
            f"the encoder gives {int(unusable.sum())} of {len(vectors)} validation images a vector that is zero or not "
            "finite; a smaller --learning-rate and --force to begin anew may help"
        )


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
