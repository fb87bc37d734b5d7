"""Stores the state of a training on the disk, so that the same command resumes it after a kill."""

import fcntl
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagesearch_training import durable
from imagesearch_training.errors import TrainingError

if TYPE_CHECKING:
    import keras

STATE = "state.json"
LOCK = "lock"
# The content of the lock file. A folder without this content is not a folder of a training.
MARK = "imagesearch train-autoencoder\n"
# Files of a training in its folder. `dataset` writes the pixels and their description; `trained_model` the folders.
OWN = re.compile(
    r"(state\.json|images\.json)(\.partial)?|pixels\.npy|partial\.keras|epoch-\d{5,}\.keras|model|replaced"
)
# The version of the state's layout.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Epoch:
    """The result of an epoch."""

    number: int
    """From 1."""
    loss: float
    """Mean squared error of the training images during the epoch."""
    validation_loss: float
    """Mean squared error of the validation images after the epoch."""
    seconds: float


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """Return the first epoch with the lowest validation loss."""
    return min(epochs, key=lambda epoch: epoch.validation_loss)


class Checkpoints:
    """The folder of a training: its configuration, its epochs, and the autoencoders of the best and the last epoch.

    `state.json` is replaced last and atomically, when all files that it names are on the disk. After a kill or a power
    cut only the current epoch is lost.
    """

    def __init__(self, folder: Path) -> None:
        """Create the folder if it does not exist, and lock it. Raises TrainingError and OSError."""
        _check_own(folder)
        folder.mkdir(parents=True, exist_ok=True)
        durable.sync(folder.parent)
        self.folder = folder
        self.epochs: list[Epoch] = []
        self._configuration: dict[str, Any] = {}
        self._lock = (folder / LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _has_mark(folder):
                self._lock.write(MARK)
                self._lock.flush()
        except BlockingIOError:
            self._lock.close()
            raise TrainingError(
                f"another training is running in {folder}; wait for its end, or use another --output"
            ) from None

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.close()

    def resume(self, configuration: Mapping[str, Any]) -> bool:
        """Load the state of a training with this configuration. Return whether there is one.

        Raises TrainingError if the folder has a training of another configuration, or a state that cannot be read.
        """
        self._configuration = {"format": FORMAT, **configuration}
        try:
            before, epochs = self._read_state()
        except FileNotFoundError:
            return False
        different = [name for name, value in self._configuration.items() if before.get(name) != value]
        if different:
            raise TrainingError(
                f"{self.folder} contains a training of another configuration: "
                + ", ".join(_difference(name, before.get(name), self._configuration[name]) for name in different)
                + "; use its configuration to resume it, or --force to start again"
            )
        self.epochs = epochs
        return True

    def clear(self) -> None:
        """Remove all files of a training. Other files stay."""
        # First, because without the state the other files are ignored.
        (self.folder / STATE).unlink(missing_ok=True)
        durable.sync(self.folder)
        for path in self.folder.iterdir():
            if OWN.fullmatch(path.name):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def begin(self) -> None:
        """Store the configuration, without an epoch."""
        self._write_state()

    def add(self, epoch: Epoch, autoencoder: "keras.Model") -> None:
        """Store an epoch and the autoencoder after it, with its optimizer."""
        # If a kill leaves this file behind, the next run overwrites it.
        partial = self.folder / "partial.keras"
        autoencoder.save(partial)
        durable.rename(partial, self._path(epoch))
        self.epochs.append(epoch)
        self._write_state()
        kept = {self._path(self.best), self._path(epoch)}
        for path in set(self.folder.glob("epoch-*.keras")) - kept:
            path.unlink()

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation loss. There must be at least one epoch."""
        return best_of(self.epochs)

    def load_best(self) -> "keras.Model":
        """Return the autoencoder after the best epoch."""
        return self._load(self.best)

    def load_last(self) -> "keras.Model":
        """Return the autoencoder after the last epoch, with its optimizer."""
        return self._load(self.epochs[-1])

    def remove(self) -> None:
        """Remove all files of the finished training, and the folder if it is empty then."""
        self.clear()
        (self.folder / LOCK).unlink()
        # The folder may contain other files.
        with suppress(OSError):
            self.folder.rmdir()

    def _load(self, epoch: Epoch) -> "keras.Model":
        import keras  # noqa: PLC0415 - reading the state needs no TensorFlow

        path = self._path(epoch)
        try:
            return keras.saving.load_model(path)
        except ValueError:
            raise TrainingError(f"{path} is missing or damaged; remove {self.folder} to start again") from None

    def _path(self, epoch: Epoch) -> Path:
        return self.folder / f"epoch-{epoch.number:05}.keras"

    def _read_state(self) -> tuple[dict[str, Any], list[Epoch]]:
        path = self.folder / STATE
        try:
            state = json.loads(path.read_text())
            return dict(state["configuration"]), [Epoch(**epoch) for epoch in state["epochs"]]
        except (ValueError, KeyError, TypeError):
            raise TrainingError(
                f"{path} cannot be read: it is damaged, or of another version of imagesearch; "
                "use --force to start again"
            ) from None

    def _write_state(self) -> None:
        state = {"configuration": self._configuration, "epochs": [asdict(epoch) for epoch in self.epochs]}
        partial = self.folder / f"{STATE}.partial"
        partial.write_text(json.dumps(state))
        durable.rename(partial, self.folder / STATE)


def _check_own(folder: Path) -> None:
    """Raise TrainingError if the folder has files that no training wrote, because the end of a training removes it."""
    # A kill may leave a folder without the content of the lock file.
    is_empty = folder.is_dir() and all(path.name == LOCK and not path.stat().st_size for path in folder.iterdir())
    is_own = not folder.exists() or is_empty or _has_mark(folder)
    if folder.is_symlink() or not is_own:
        raise TrainingError(
            f"{folder} exists and is not a folder of a training, which stores its state there; move it, or use another "
            "--output"
        )


def _has_mark(folder: Path) -> bool:
    with suppress(OSError, ValueError), (folder / LOCK).open(encoding="utf-8") as lock:
        return lock.read(len(MARK) + 1) == MARK
    return False


def _difference(name: str, before: object, now: object) -> str:
    if name == "images":
        return "the images have changed"
    if name == "format":
        return "it is of another version of imagesearch"
    if isinstance(now, bool):
        return f"{_option(name)} was {'set' if before else 'not set'}"
    return f"{_option(name)} was {before} and is {now}"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
