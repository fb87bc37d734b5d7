"""Plots the losses of a training, and images before and after the autoencoder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from imagesearch_training.checkpoints import Epoch, best_of

TILE_INCHES = 1.3


def plot_losses(epochs: Sequence[Epoch], baseline: float, path: Path) -> None:
    """Plot the losses of all epochs, the best epoch, and the loss of the mean image to a PNG file."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    numbers = [epoch.number for epoch in epochs]
    best = best_of(epochs)
    axes.plot(numbers, [epoch.loss for epoch in epochs], marker=".", label="training")
    axes.plot(numbers, [epoch.validation_loss for epoch in epochs], marker=".", label="validation")
    axes.plot(best.number, best.validation_loss, "o", fillstyle="none", markersize=11, color="C1", label="saved")
    axes.axhline(baseline, linestyle="--", color="gray", label="mean image")
    axes.set(xlabel="epoch", ylabel="mean squared error", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    figure.savefig(path, format="png", dpi=120)


def plot_reconstructions(originals: NDArray[np.float32], decoded: NDArray[np.float32], path: Path) -> None:
    """Plot images, float32[N, S, S, 3] in 0..1, above their decoded versions to a PNG file."""
    columns = len(originals)
    figure = Figure(figsize=(columns * TILE_INCHES + 0.3, 2 * TILE_INCHES + 0.2), layout="constrained")
    grid = figure.subplots(2, columns, squeeze=False)
    for row, images, title in zip(grid, (originals, decoded), ("original", "decoded"), strict=True):
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image.clip(0, 1))
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_ylabel(title)
    figure.savefig(path, format="png", dpi=120)
