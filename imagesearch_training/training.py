"""Trains an autoencoder, from image files to the finished model."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

# TensorFlow reads this when it is imported. 2 hides its notes about its own build.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

from imagesearch_training import trained_model
from imagesearch_training.autoencoder import build_autoencoder, check_size
from imagesearch_training.checkpoints import Checkpoints, Epoch
from imagesearch_training.dataset import (
    Photographs,
    choose,
    digest_of,
    mean_image_loss,
    open_prepared,
    prepare,
    training_batches,
    validation_batches,
)
from imagesearch_training.errors import TrainingError
from imagesearch_training.images import ImageFile

# The learning rate is halved after this many epochs in a row without a new best epoch.
PLATEAU = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a training. A resumed training must have the same `configuration`."""

    latent: int
    """Number of values of a vector."""
    size: int
    """Side of the images in pixels; see `autoencoder.check_size`."""
    epochs: int
    """Maximum number of epochs. A resumed training may have another number."""
    batch_size: int
    patience: int
    """Number of epochs without a better validation loss after which the training ends."""
    validation: float
    """Fraction of validation images, between 0 and 1."""
    seed: int
    learning_rate: float
    """First learning rate of Adam."""
    flip: bool
    """Whether a random half of the images is mirrored."""
    limit: int | None
    """Maximum number of images, a random sample by the seed; None uses all images."""

    def configuration(self) -> dict[str, Any]:
        """Return the settings that cannot change in a resumed training."""
        return {name: value for name, value in asdict(self).items() if name not in {"epochs", "patience"}}


class TrainingObserver(Protocol):
    """Is notified of the progress of a training."""

    def decoding_started(self, total: int) -> None:
        """The training starts to decode this number of files."""

    def files_decoded(self, done: int) -> None:
        """This number of files is decoded so far."""

    def epochs_started(self, photographs: Photographs, parameters: int, done: Sequence[Epoch]) -> None:
        """The epochs start. A resumed training has `done` epochs; the autoencoder has this number of parameters."""

    def epoch_ended(self, epoch: Epoch, *, best: bool) -> None:
        """An epoch has ended, and its checkpoint is stored."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a training."""

    folder: Path
    """The model folder."""
    epochs: int
    """Number of finished epochs."""
    best: Epoch
    """The epoch whose autoencoder was saved."""
    mean_image_loss: float
    """The validation loss if each image is predicted as the mean training image."""
    stopped_early: bool
    """Whether `patience` ended it before the last epoch."""


def work_folder(target: Path) -> Path:
    """Return the folder for the state of a training."""
    return target.with_name(f"{target.name}.training")


def compute_in_fixed_order() -> None:
    """Make TensorFlow deterministic in the whole process, so that equal seeds produce equal results."""
    tf.config.experimental.enable_op_determinism()


def train(
    files: Sequence[ImageFile], target: Path, settings: Settings, observer: TrainingObserver, *, force: bool = False
) -> Result:
    """Train an autoencoder, and write the model folder `target`.

    During the training its state is in `work_folder(target)`. After a kill or KeyboardInterrupt the same call resumes
    the training. Adam minimises the mean squared error (Kingma and Ba, "Adam: A Method for Stochastic Optimization",
    2015). The autoencoder of the epoch with the lowest validation loss is saved. This sets Keras' seed; with
    `compute_in_fixed_order` equal seeds produce equal results.

    Args:
        files: the image files; files that cannot be decoded are skipped.
        target: the model folder, see `trained_model`; a resolved path, because its last part becomes the model's name.
        settings: the settings of the training.
        observer: is notified of the progress.
        force: replace an existing model folder, and discard a training of another configuration.

    Raises:
        TrainingError: the training cannot start, cannot resume, or has no usable result.
        OSError: the disk has an error.
    """
    check_size(settings.size)
    trained_model.check_target(target, force=force)
    chosen = files if settings.limit is None else choose(files, settings.limit, settings.seed)
    checkpoints = Checkpoints(work_folder(target))
    try:
        _prepare(checkpoints, chosen, settings, observer, force=force)
        photographs = open_prepared(checkpoints.folder, settings.validation)
        keras.utils.set_random_seed(settings.seed)
        _run_epochs(checkpoints, photographs, settings, observer)
        baseline = mean_image_loss(photographs)
        trained_model.save(target, checkpoints, photographs, settings.seed, baseline)
        result = Result(
            folder=target,
            epochs=len(checkpoints.epochs),
            best=checkpoints.best,
            mean_image_loss=baseline,
            stopped_early=len(checkpoints.epochs) < settings.epochs,
        )
        checkpoints.remove()
    finally:
        checkpoints.close()
    return result


def _prepare(
    checkpoints: Checkpoints, files: Sequence[ImageFile], settings: Settings, observer: TrainingObserver, *, force: bool
) -> None:
    configuration = {**settings.configuration(), "images": digest_of(files)}
    try:
        if checkpoints.resume(configuration):
            return
    except TrainingError:
        if not force:
            raise
    checkpoints.clear()
    observer.decoding_started(len(files))
    try:
        prepare(files, checkpoints.folder, settings.size, observer.files_decoded)
    except BaseException:
        # No epoch is lost, and the pixels may be large.
        checkpoints.remove()
        raise
    checkpoints.begin()


def _run_epochs(
    checkpoints: Checkpoints, photographs: Photographs, settings: Settings, observer: TrainingObserver
) -> None:
    done = len(checkpoints.epochs)
    if done:
        autoencoder = checkpoints.load_last()
    else:
        autoencoder = build_autoencoder(settings.size, settings.latent)
        autoencoder.compile(keras.optimizers.Adam(settings.learning_rate), "mean_squared_error")
    autoencoder.optimizer.learning_rate = learning_rate(settings.learning_rate, checkpoints.epochs)
    observer.epochs_started(photographs, autoencoder.count_params(), checkpoints.epochs)
    if done >= settings.epochs or is_stale(checkpoints, settings.patience):
        return
    began = time.monotonic()

    def end_epoch(index: int, logs: Mapping[str, float]) -> None:
        nonlocal began
        epoch = Epoch(index + 1, logs["loss"], logs["val_loss"], round(time.monotonic() - began, 3))
        if not math.isfinite(epoch.loss + epoch.validation_loss):
            raise TrainingError(
                f"the loss of epoch {epoch.number} is not finite; try a smaller --learning-rate than "
                f"{settings.learning_rate:g}, with --force to start again"
            )
        autoencoder.optimizer.learning_rate = learning_rate(settings.learning_rate, [*checkpoints.epochs, epoch])
        checkpoints.add(epoch, autoencoder)
        observer.epoch_ended(epoch, best=epoch == checkpoints.best)
        autoencoder.stop_training = is_stale(checkpoints, settings.patience)
        began = time.monotonic()

    autoencoder.fit(
        training_batches(
            photographs, settings.batch_size, settings.seed, range(done, settings.epochs), flip=settings.flip
        ),
        steps_per_epoch=math.ceil(len(photographs.training) / settings.batch_size),
        validation_data=validation_batches(photographs, settings.batch_size),
        initial_epoch=done,
        epochs=settings.epochs,
        verbose=0,
        # Keras' BackupAndRestore forgets the best epoch, and a kill may leave only one of its two files.
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)],
        shuffle=False,
    )


def is_stale(checkpoints: Checkpoints, patience: int) -> bool:
    """Return whether the best epoch is at least `patience` epochs ago."""
    return bool(checkpoints.epochs) and len(checkpoints.epochs) - checkpoints.best.number >= patience


def learning_rate(first: float, epochs: Sequence[Epoch]) -> float:
    """Return the learning rate after these epochs: halved after every PLATEAU epochs without a new best."""
    rate, best, waited = first, math.inf, 0
    for epoch in epochs:
        waited += 1
        if epoch.validation_loss < best:
            best, waited = epoch.validation_loss, 0
        elif waited == PLATEAU:
            rate, waited = rate / 2, 0
    return rate
