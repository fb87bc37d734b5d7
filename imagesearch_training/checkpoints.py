"""What a training leaves on the disk while it goes on, so that the same command goes on after a kill."""

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
# What the lock file holds. A folder without it belongs to somebody else.
MARK = "imagesearch train-autoencoder\n"
# What a training leaves in its folder; the pixels and their notes are of `dataset`, the folders of `saved`.
OWN = re.compile(
    r"(state\.json|images\.json)(\.partial)?|pixels\.npy|partial\.keras|epoch-\d{5,}\.keras|model|replaced"
)
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

    `state.json` is replaced last and in one step; what it speaks of is on the disk by then. A kill or a power cut
    costs the epoch that was under way, and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        """Takes a folder, which is made where there is none, for itself alone. Raises TrainingError and OSError."""
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
                f"another training is under way in {folder}; wait for its end, or name another --output"
            ) from None

    def close(self) -> None:
        """Leaves the folder to others."""
        self._lock.close()

    def resume(self, configuration: Mapping[str, Any]) -> bool:
        """Takes up the training of a configuration where it was left, and tells whether there was one.

        Raises TrainingError where there is one of another configuration, or one that cannot be read.
        """
        self._configuration = {"format": FORMAT, **configuration}
        try:
            before, epochs = self._read_state()
        except FileNotFoundError:
            return False
        different = [name for name, value in self._configuration.items() if before.get(name) != value]
        if different:
            raise TrainingError(
                f"{self.folder} holds a training of another configuration: "
                + ", ".join(_difference(name, before.get(name), self._configuration[name]) for name in different)
                + "; give what it has to go on with it, or --force to begin anew"
            )
        self.epochs = epochs
        return True

    def clear(self) -> None:
        """Forgets all that a training left there; what others put there stays."""
        # First: without it the rest counts for nothing.
        (self.folder / STATE).unlink(missing_ok=True)
        durable.sync(self.folder)
        for path in self.folder.iterdir():
            if OWN.fullmatch(path.name):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def begin(self) -> None:
        """Writes the configuration, with no epoch done."""
        self._write_state()

    def add(self, epoch: Epoch, network: "keras.Model") -> None:
        """Keeps an epoch and the network, with its optimizer, as it was after it."""
        # A name that a kill leaves behind is written over by the next run.
        partial = self.folder / "partial.keras"
        network.save(partial)
        durable.rename(partial, self._path(epoch))
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
        """Removes what the training left, and the folder if nothing else is in it; the training is done."""
        self.clear()
        (self.folder / LOCK).unlink()
        # Somebody may have put something else there.
        with suppress(OSError):
            self.folder.rmdir()

    def _load(self, epoch: Epoch) -> "keras.Model":
        import keras  # noqa: PLC0415 - what tells how far a training is needs no TensorFlow

        path = self._path(epoch)
        try:
            return keras.saving.load_model(path)
        except ValueError:
            raise TrainingError(f"{path} is missing or damaged; remove {self.folder} to begin anew") from None

    def _path(self, epoch: Epoch) -> Path:
        return self.folder / f"epoch-{epoch.number:05}.keras"

    def _read_state(self) -> tuple[dict[str, Any], list[Epoch]]:
        path = self.folder / STATE
        try:
            state = json.loads(path.read_text())
            return dict(state["configuration"]), [Epoch(**epoch) for epoch in state["epochs"]]
        except (ValueError, KeyError, TypeError):
            raise TrainingError(
                f"{path} does not tell how far a training is: it is damaged, or of another version of imagesearch; "
                "--force begins anew"
            ) from None

    def _write_state(self) -> None:
        state = {"configuration": self._configuration, "epochs": [asdict(epoch) for epoch in self.epochs]}
        partial = self.folder / f"{STATE}.partial"
        partial.write_text(json.dumps(state))
        durable.rename(partial, self.folder / STATE)


def _check_own(folder: Path) -> None:
    """Raises TrainingError where something is there that no training made: in the end it would be removed."""
    # A kill may have come between the folder and the mark.
    is_empty = folder.is_dir() and all(path.name == LOCK and not path.stat().st_size for path in folder.iterdir())
    is_own = not folder.exists() or is_empty or _has_mark(folder)
    if folder.is_symlink() or not is_own:
        raise TrainingError(
            f"{folder} is there and holds no training, which would keep its work under that name; move it elsewhere, "
            "or name another --output"
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
        return f"{_option(name)} was {'given' if before else 'not given'}"
    return f"{_option(name)} was {before} and is {now}"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
