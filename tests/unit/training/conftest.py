"""Small real photographs, and one training of them that several tests share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from imagesearch_training.checkpoints import Epoch
from imagesearch_training.dataset import Photographs
from imagesearch_training.images import ImageFile
from imagesearch_training.training import Result, Settings, train

SOURCES = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg")
CROPS = 12
SETTINGS = Settings(
    latent=4,
    size=32,
    epochs=12,
    batch_size=16,
    patience=12,
    validation=0.2,
    seed=0,
    learning_rate=0.005,
    flip=False,
    limit=None,
)


@dataclass
class Recorder:
    """A watcher that remembers."""

    read: list[int] = field(default_factory=list)
    photographs: Photographs | None = None
    done_before: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    best: list[int] = field(default_factory=list)

    def decoding_started(self, total: int) -> None:
        self.read.append(0)

    def files_decoded(self, done: int) -> None:
        self.read.append(done)

    def epochs_started(self, photographs: Photographs, parameters: int, done: Sequence[Epoch]) -> None:
        self.photographs = photographs
        self.done_before = len(done)

    def epoch_ended(self, epoch: Epoch, *, best: bool) -> None:
        self.epochs.append(epoch)
        if best:
            self.best.append(epoch.number)


@dataclass(frozen=True)
class Trained:
    """A training that is done."""

    result: Result
    recorder: Recorder
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    validation: np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def image_files(folder: Path) -> list[ImageFile]:
    """The files of a folder."""
    return [ImageFile(path.name, str(path.stat().st_size), path.read_bytes) for path in sorted(folder.iterdir())]


def make_photographs(folder: Path) -> None:
    """Crops of real photographs, 96 pixels square."""
    chance = np.random.default_rng(0)
    data = Path(skimage.__file__).parent / "data"
    for source in SOURCES:
        with Image.open(data / source) as opened:
            photograph = opened.convert("RGB")
        for number in range(CROPS):
            left, top = (int(chance.integers(0, side - 96)) for side in photograph.size)
            crop = photograph.crop((left, top, left + 96, top + 96))
            crop.save(folder / f"{Path(source).stem}-{number:02}.jpg", quality=90)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    make_photographs(folder)
    return folder


@pytest.fixture(scope="session")
def trained(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    recorder = Recorder()
    result = train(image_files(photographs), tmp_path_factory.mktemp("models") / "Crops-1", SETTINGS, recorder)
    assert recorder.photographs is not None
    return Trained(result, recorder, recorder.photographs.pixels, recorder.photographs.validation)
