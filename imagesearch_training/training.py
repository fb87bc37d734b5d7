"""One training, from image files to a finished model."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

# Before the import: TensorFlow's own notes on how it was built are no news.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

from imagesearch_training import saved
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
from imagesearch_training.network import build_autoencoder, check_size

# The learning rate is halved each time that so many epochs in a row were no better than the best before them.
PLATEAU = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a training does. What is in `configuration` is fixed once it has begun."""

    latent: int
    """Values of a vector."""
    size: int
    """The side of the images in pixels; `network.check_size` tells which are taken."""
    epochs: int
    """The most; a training that goes on may get more or fewer."""
    batch_size: int
    patience: int
    """Epochs without a better validation loss after which it ends."""
    validation: float
    """The part of the images that is not learned from, between 0 and 1."""
    seed: int
    learning_rate: float
    """Of Adam, at first."""
    flip: bool
    """Whether images are mirrored by chance."""
    limit: int | None
    """The most images, chosen by the seed; None is all."""

    def configuration(self) -> dict[str, Any]:
        """What cannot change in a training that goes on."""
        return {name: value for name, value in asdict(self).items() if name not in {"epochs", "patience"}}


class Watcher(Protocol):
    """Is told how a training goes."""

    def reads(self, total: int) -> None:
        """So many files are going to be read and decoded."""

    def has_read(self, done: int) -> None:
        """So many of them are done."""

    def begins(self, photographs: Photographs, parameters: int, done: Sequence[Epoch]) -> None:
        """The epochs begin, of a network with so many parameters; some may have been done before."""

    def ends_epoch(self, epoch: Epoch, *, best: bool) -> None:
        """An epoch is done and kept."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a training."""

    folder: Path
    """Of the finished model."""
    epochs: int
    """As many as were done."""
    best: Epoch
    """The epoch whose network was saved."""
    mean_image_loss: float
    """What predicting the mean of the training images would give in place of its validation loss."""
    stopped_early: bool
    """Whether patience ended it before the last epoch."""


def work_folder(target: Path) -> Path:
    """Where a training keeps its state until the model folder is there."""
    return target.with_name(f"{target.name}.training")


def compute_in_fixed_order() -> None:
    """Has TensorFlow compute in a fixed order, in the whole process and for good: equal seeds give equal figures."""
    tf.config.experimental.enable_op_determinism()


def train(
    files: Sequence[ImageFile], target: Path, settings: Settings, watcher: Watcher, *, force: bool = False
) -> Result:
    """Trains an autoencoder, and writes the model folder `target`.

    Until then all that is kept is in `work_folder(target)`; the same call goes on from there after a kill or
    KeyboardInterrupt. The mean squared error is minimised by Adam (Kingma and Ba, "Adam: A Method for Stochastic
    Optimization", 2015); the network of the epoch with the least validation loss is saved. Keras' seed is set;
    `compute_in_fixed_order` makes figures repeatable to the last digit.

    Args:
        files: the image files; those that cannot be decoded are skipped.
        target: the folder to write, see `saved`; resolved, so that its name is its own and it is no link.
        settings: what to do.
        watcher: is told how it goes.
        force: replace a model folder that is there, and begin anew where a training of another configuration is.

    Raises:
        TrainingError: it cannot begin or go on, or came to no result.
        OSError: the disk.
    """
    check_size(settings.size)
    saved.check_target(target, force=force)
    chosen = files if settings.limit is None else choose(files, settings.limit, settings.seed)
    checkpoints = Checkpoints(work_folder(target))
    try:
        _prepare(checkpoints, chosen, settings, watcher, force=force)
        photographs = open_prepared(checkpoints.folder, settings.validation)
        keras.utils.set_random_seed(settings.seed)
        _run_epochs(checkpoints, photographs, settings, watcher)
        baseline = mean_image_loss(photographs)
        saved.save(target, checkpoints, photographs, settings.seed, baseline)
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
    checkpoints: Checkpoints, files: Sequence[ImageFile], settings: Settings, watcher: Watcher, *, force: bool
) -> None:
    configuration = {**settings.configuration(), "images": digest_of(files)}
    try:
        if checkpoints.resume(configuration):
            return
    except TrainingError:
        if not force:
            raise
    checkpoints.clear()
    watcher.reads(len(files))
    try:
        prepare(files, checkpoints.folder, settings.size, watcher.has_read)
    except BaseException:
        # Nothing was learned yet, and the pixels may be large.
        checkpoints.remove()
        raise
    checkpoints.begin()


def _run_epochs(checkpoints: Checkpoints, photographs: Photographs, settings: Settings, watcher: Watcher) -> None:
    done = len(checkpoints.epochs)
    if done:
        network = checkpoints.load_last()
    else:
        network = build_autoencoder(settings.size, settings.latent)
        network.compile(keras.optimizers.Adam(settings.learning_rate), "mean_squared_error")
    network.optimizer.learning_rate = learning_rate(settings.learning_rate, checkpoints.epochs)
    watcher.begins(photographs, network.count_params(), checkpoints.epochs)
    if done >= settings.epochs or is_stale(checkpoints, settings.patience):
        return
    began = time.monotonic()

    def end_epoch(index: int, logs: Mapping[str, float]) -> None:
        nonlocal began
        epoch = Epoch(index + 1, logs["loss"], logs["val_loss"], round(time.monotonic() - began, 3))
        if not math.isfinite(epoch.loss + epoch.validation_loss):
            raise TrainingError(
                f"the loss of epoch {epoch.number} is no finite number; a smaller --learning-rate than "
                f"{settings.learning_rate:g} and --force to begin anew may help"
            )
        network.optimizer.learning_rate = learning_rate(settings.learning_rate, [*checkpoints.epochs, epoch])
        checkpoints.add(epoch, network)
        watcher.ends_epoch(epoch, best=epoch == checkpoints.best)
        network.stop_training = is_stale(checkpoints, settings.patience)
        began = time.monotonic()

    network.fit(
        training_batches(
            photographs, settings.batch_size, settings.seed, range(done, settings.epochs), flip=settings.flip
        ),
        steps_per_epoch=math.ceil(len(photographs.training) / settings.batch_size),
        validation_data=validation_batches(photographs, settings.batch_size),
        initial_epoch=done,
        epochs=settings.epochs,
        verbose=0,
        # Not its own BackupAndRestore, which forgets what was best, and may be killed between its two files.
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)],
        shuffle=False,
    )


def is_stale(checkpoints: Checkpoints, patience: int) -> bool:
    """Whether the best epoch lies so many epochs back."""
    return bool(checkpoints.epochs) and len(checkpoints.epochs) - checkpoints.best.number >= patience


def learning_rate(first: float, epochs: Sequence[Epoch]) -> float:
    """The learning rate after some epochs: halved after every PLATEAU that were no better than the best before."""
    rate, best, waited = first, math.inf, 0
    for epoch in epochs:
        waited += 1
        if epoch.validation_loss < best:
            best, waited = epoch.validation_loss, 0
        elif waited == PLATEAU:
            rate, waited = rate / 2, 0
    return rate
