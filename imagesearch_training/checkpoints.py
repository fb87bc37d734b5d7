"""What a training leaves on the disk while it goes on, so that the same command goes on after a kill."""

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagesearch_training.errors import TrainingError

if TYPE_CHECKING:
    import keras

STATE = "state.json"
LOCK = "lock"
# Another layout of the state gets another number.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Epoch:
    """What came of an epoch."""

    number: int
    """From 1."""
    loss: float
    """Mean squared error over the training images, while they were learned from."""
    validation_loss: float
    """Mean squared error over the validation images, after it."""
    seconds: float


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """The epoch of the least validation loss; the first of several."""
    return min(epochs, key=lambda epoch: epoch.validation_loss)


class Checkpoints:
    """The folder of a training: its configuration, its epochs, and the networks of the best and the last one.

    `state.json` is replaced last and in one step; what it speaks of is on the disk by then. Whoever is killed has lost
    the epoch that was under way, and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        """Takes a folder, which is made where there is none, for itself alone. Raises TrainingError."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.epochs: list[Epoch] = []
        self._configuration: dict[str, Any] = {}
        self._lock = (folder / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise TrainingError(f"another training is under way in {folder}") from None

    def close(self) -> None:
        """Leaves the folder to others."""
        self._lock.close()

    def resume(self, configuration: Mapping[str, Any]) -> bool:
        """Takes up the training of a configuration where it was left, and tells whether there was one.

        Raises TrainingError where there is one of another configuration.
        """
        self._configuration = {"format": FORMAT, **configuration}
        try:
            found = json.loads((self.folder / STATE).read_text())
        except FileNotFoundError:
            return False
        before = found["configuration"]
        different = [name for name, value in self._configuration.items() if before.get(name) != value]
        if different:
            raise TrainingError(
                f"{self.folder} holds a training of another configuration: "
                + ", ".join(_difference(name, before.get(name), self._configuration[name]) for name in different)
                + "; give what it has to go on with it, or --force to begin anew"
            )
        self.epochs = [Epoch(**epoch) for epoch in found["epochs"]]
        return True

    def clear(self) -> None:
        """Forgets all that was there."""
        # First: without it the rest counts for nothing.
        (self.folder / STATE).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def begin(self) -> None:
        """Writes the configuration, with no epoch done."""
        self._write_state()

    def add(self, epoch: Epoch, network: "keras.Model") -> None:
        """Keeps an epoch and the network, with its optimizer, as it was after it."""
        # A name that a kill leaves behind is written over by the next run.
        partial = self.folder / "partial.keras"
        network.save(partial)
        _replace(partial, self._path(epoch))
        self.epochs.append(epoch)
        self._write_state()
        kept = {self._path(self.best), self._path(epoch)}
        for path in set(self.folder.glob("epoch-*.keras")) - kept:
            path.unlink()

    @property
    def best(self) -> Epoch:
        """The epoch of the least validation loss, of one or more."""
        return best_of(self.epochs)

    def load_best(self) -> "keras.Model":
        """The network after the best epoch."""
        return self._load(self.best)

    def load_last(self) -> "keras.Model":
        """The network after the last epoch, with its optimizer."""
        return self._load(self.epochs[-1])

    def remove(self) -> None:
        """Removes the folder; the training is done."""
        self.clear()
        shutil.rmtree(self.folder)

    def _load(self, epoch: Epoch) -> "keras.Model":
        import keras  # noqa: PLC0415 - what tells how far a training is needs no TensorFlow

        return keras.saving.load_model(self._path(epoch))

    def _path(self, epoch: Epoch) -> Path:
        return self.folder / f"epoch-{epoch.number:05}.keras"

    def _write_state(self) -> None:
        state = {"configuration": self._configuration, "epochs": [asdict(epoch) for epoch in self.epochs]}
        partial = self.folder / f"{STATE}.partial"
        partial.write_text(json.dumps(state))
        _replace(partial, self.folder / STATE)


def _replace(partial: Path, path: Path) -> None:
    """Gives a file its name once it is on the disk."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _difference(name: str, before: object, now: object) -> str:
    if name == "images":
        return "the images have changed"
    if name == "format":
        return "it is of another version of imagesearch"
    if isinstance(now, bool):
        return f"{_option(name)} was {'given' if before else 'not given'}"
    return f"{_option(name)} was {before} and is {now}"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
