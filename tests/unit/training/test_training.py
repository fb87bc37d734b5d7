"""A training learns, keeps the best epoch, resumes, and writes the model folder atomically."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from embedder_service.core.model_names import EncoderName, parse_model_name
from embedder_service.core.networks import NETWORKS
from imagesearch_training import trained_model
from imagesearch_training.autoencoder import build_autoencoder
from imagesearch_training.checkpoints import Checkpoints, Epoch
from imagesearch_training.dataset import Photographs
from imagesearch_training.errors import TrainingError
from imagesearch_training.training import Settings, learning_rate, train, work_folder
from tests.unit.training.conftest import SETTINGS, Recorder, Trained, image_files

FILES = [
    "decoder.keras",
    "encoder.keras",
    "history.csv",
    "losses.png",
    "model.json",
    "reconstructions.png",
    "skipped.csv",
]


class KilledError(Exception):
    """Ends a training in the middle."""


class Killer(Recorder):
    """Ends the training when so many epochs are done."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._left = epochs

    def epochs_started(self, photographs: Photographs, parameters: int, done: Sequence[Epoch]) -> None:
        super().epochs_started(photographs, parameters, done)
        if not self._left:
            raise KilledError

    def epoch_ended(self, epoch: Epoch, *, best: bool) -> None:
        super().epoch_ended(epoch, best=best)
        if len(self.epochs) == self._left:
            raise KilledError


def losses(epochs: Sequence[Epoch]) -> list[float]:
    return [loss for epoch in epochs for loss in (epoch.loss, epoch.validation_loss)]


def loss_of_saved(trained: Trained) -> float:
    """The mean squared error of the saved networks over the validation images."""
    images = trained.pixels[trained.validation].astype(np.float32) / 255
    encoder, decoder = (
        keras.saving.load_model(trained.result.folder / f"{name}.keras") for name in ("encoder", "decoder")
    )
    return float(np.square(decoder(encoder(images)).numpy() - images).mean())


def test_the_validation_loss_decreases(trained: Trained) -> None:
    result, epochs = trained.result, trained.recorder.epochs
    assert [epoch.number for epoch in epochs] == list(range(1, 13))
    assert (result.epochs, result.stopped_early) == (12, False)
    assert result.best.validation_loss < 0.75 * result.mean_image_loss < epochs[0].validation_loss
    assert epochs[-1].loss < 0.5 * epochs[0].loss


def test_every_latent_value_differs_between_images(trained: Trained) -> None:
    encoder = keras.saving.load_model(trained.result.folder / "encoder.keras")
    vectors = encoder(trained.pixels.astype(np.float32) / 255).numpy()
    assert vectors.shape == (72, SETTINGS.latent)
    assert (vectors.std(axis=0) > 0.05).all()
    # Nor do two of them say the same.
    assert (np.abs(np.corrcoef(vectors.T) - np.eye(SETTINGS.latent)) < 0.98).all()


def test_the_model_folder_describes_the_training(trained: Trained) -> None:
    folder, best = trained.result.folder, trained.result.best
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert not work_folder(folder).exists()
    assert json.loads((folder / "model.json").read_text()) == {
        "format": 1,
        "kind": "encoder",
        "name": "crops_1",
        "input_size": 32,
        "dimension": 4,
        "pixels": "0..1",
        "input": "squash",
        "normalisation": "none",
        "metric": "L2",
        "encoder_sha256": hashlib.sha256((folder / "encoder.keras").read_bytes()).hexdigest(),
        "trained_on": 58,
        "validation_loss": best.validation_loss,
        "epochs": 12,
        "seed": 0,
    }
    with (folder / "history.csv").open() as file:
        rows = [Epoch(int(number), *map(float, values)) for number, *values in list(csv.reader(file))[1:]]
    assert rows == trained.recorder.epochs
    for name, columns in (("losses.png", 1), ("reconstructions.png", 4)):
        with Image.open(folder / name) as picture:
            assert picture.width > columns * picture.height
            assert len(picture.convert("RGB").getcolors(maxcolors=2**24) or []) > 50


def test_the_best_epoch_is_saved_and_patience_ends_the_training(photographs: Path, tmp_path: Path) -> None:
    # At such a rate the network is soon of no use.
    settings = replace(SETTINGS, learning_rate=0.1, epochs=40, patience=2)
    recorder = Recorder()
    result = train(image_files(photographs), tmp_path / "model", settings, recorder)
    assert result.stopped_early
    assert result.epochs == len(recorder.epochs) == result.best.number + 2
    assert result.best.number == recorder.best[-1]
    assert result.best == min(recorder.epochs, key=lambda epoch: epoch.validation_loss)
    assert recorder.photographs is not None
    images = Trained(result, recorder, recorder.photographs.pixels, recorder.photographs.validation)
    assert loss_of_saved(images) == pytest.approx(result.best.validation_loss, rel=1e-5)
    assert result.best.validation_loss != pytest.approx(recorder.epochs[-1].validation_loss, rel=1e-5)


def test_the_saved_model_has_the_reported_loss(trained: Trained) -> None:
    assert loss_of_saved(trained) == pytest.approx(trained.result.best.validation_loss, rel=1e-4)


def test_a_fresh_process_gets_the_same_vectors(trained: Trained, tmp_path: Path) -> None:
    images = trained.pixels[:10].astype(np.float32) / 255
    np.save(tmp_path / "images.npy", images)
    # Keras alone, in its safe mode: nothing of ours is needed.
    program = (
        "import sys, keras, numpy; folder, work = sys.argv[1:];"
        "encoder = keras.saving.load_model(f'{folder}/encoder.keras', safe_mode=True);"
        "numpy.save(f'{work}/vectors.npy', encoder.predict(numpy.load(f'{work}/images.npy'), verbose=0));"
        "assert not any(name.startswith('imagesearch') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(trained.result.folder), str(tmp_path)], check=True, timeout=120)
    expected = keras.saving.load_model(trained.result.folder / "encoder.keras")(images).numpy()
    vectors = np.load(tmp_path / "vectors.npy")
    assert (vectors.dtype, vectors.shape) == (np.float32, (10, 4))
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def interrupted(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a training that ended after two epochs; not to be changed."""
    target = tmp_path_factory.mktemp("interrupted") / "model"
    with pytest.raises(KilledError):
        train(image_files(photographs), target, SETTINGS, Killer(2))
    return target


@pytest.fixture
def copied(interrupted: Path, tmp_path: Path) -> Path:
    """The same, to go on with."""
    shutil.copytree(work_folder(interrupted), work_folder(tmp_path / "model"))
    return tmp_path / "model"


def test_a_resumed_training_has_the_result_of_an_uninterrupted_one(
    photographs: Path, trained: Trained, copied: Path
) -> None:
    assert not copied.exists()
    recorder = Recorder()
    result = train(image_files(photographs), copied, SETTINGS, recorder)
    assert recorder.read == []
    assert recorder.done_before == 2
    assert [epoch.number for epoch in recorder.epochs] == list(range(3, 13))
    assert losses(recorder.epochs) == pytest.approx(losses(trained.recorder.epochs)[4:], rel=1e-2)
    assert result.best.number == trained.result.best.number
    assert sorted(path.name for path in copied.iterdir()) == FILES
    assert not work_folder(copied).exists()


def test_a_training_resumes_without_a_finished_epoch(photographs: Path, tmp_path: Path) -> None:
    files, target, settings = image_files(photographs), tmp_path / "model", replace(SETTINGS, epochs=1)
    with pytest.raises(KilledError):
        train(files, target, settings, Killer(0))
    recorder = Recorder()
    train(files, target, settings, recorder)
    assert (recorder.read, len(recorder.epochs)) == ([], 1)
    assert sorted(path.name for path in target.iterdir()) == FILES


def test_fewer_epochs_end_a_training_that_was_interrupted(photographs: Path, copied: Path) -> None:
    recorder = Recorder()
    assert train(image_files(photographs), copied, replace(SETTINGS, epochs=2), recorder).epochs == 2
    assert recorder.epochs == []
    assert json.loads((copied / "model.json").read_text())["epochs"] == 2


CHANGES: dict[str, tuple[Callable[[Settings], Settings], str]] = {
    "latent": (lambda settings: replace(settings, latent=5), "--latent was 4 and is 5"),
    "rate": (lambda settings: replace(settings, learning_rate=0.1), "--learning-rate was 0.005 and is 0.1"),
    "flip": (lambda settings: replace(settings, flip=True), "--flip was not set"),
    "two": (lambda settings: replace(settings, size=64, seed=1), "--size was 32 and is 64, --seed was 0 and is 1"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_another_configuration_is_refused(
    photographs: Path, interrupted: Path, change: Callable[[Settings], Settings], message: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in work_folder(interrupted).iterdir() if path.name != "lock"}
    with pytest.raises(TrainingError, match=f"another configuration: {message}; use its configuration .*--force"):
        train(image_files(photographs), interrupted, change(SETTINGS), Recorder())
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())


def test_other_images_are_refused(photographs: Path, interrupted: Path) -> None:
    with pytest.raises(TrainingError, match="the images have changed; use"):
        train(image_files(photographs)[1:], interrupted, SETTINGS, Recorder())


def test_force_starts_again_and_replaces_the_model(photographs: Path, copied: Path) -> None:
    files = image_files(photographs)
    copied.mkdir()
    old = '{"format": 1, "kind": "encoder"}'
    (copied / "model.json").write_text(old)
    with pytest.raises(TrainingError, match="model exists; use --force to replace it"):
        train(files, copied, SETTINGS, Recorder())

    other = replace(SETTINGS, latent=2, epochs=1)
    with pytest.raises(KilledError):
        train(files, copied, other, Killer(1), force=True)
    # The old model stays until the new one is there.
    assert (copied / "model.json").read_text() == old
    recorder = Recorder()
    train(files, copied, other, recorder, force=True)
    assert recorder.done_before == 1
    assert json.loads((copied / "model.json").read_text())["dimension"] == 2
    assert sorted(path.name for path in copied.iterdir()) == FILES
    assert [path.name for path in copied.parent.iterdir()] == ["model"]


def test_a_folder_that_is_not_a_model_is_never_replaced(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(TrainingError, match="exists and is not a model folder"):
            train(image_files(photographs), tmp_path, SETTINGS, Recorder(), force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_a_model_folder_with_a_users_own_files_is_never_replaced(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"format": 1, "kind": "encoder"}')
    (tmp_path / "letters.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(TrainingError, match=r"contains 'letters\.txt', which is not part of a model"):
            train(image_files(photographs), tmp_path, SETTINGS, Recorder(), force=force)
    (tmp_path / "letters.txt").unlink()
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(TrainingError, match="is not a model folder"):
        train(image_files(photographs), tmp_path, SETTINGS, Recorder(), force=True)


def test_other_files_in_a_work_folder_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "model.training")
    checkpoints.begin()
    (checkpoints.folder / "letters.txt").write_text("mine")
    checkpoints.remove()
    checkpoints.close()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["letters.txt"]


@pytest.mark.parametrize("kind", ["folder", "with a lock", "file", "link"])
def test_a_folder_that_no_training_wrote_is_never_emptied(photographs: Path, tmp_path: Path, kind: str) -> None:
    work = work_folder(tmp_path / "model")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letters.txt").write_text("mine")
    (tmp_path / "with a lock").mkdir()
    (tmp_path / "with a lock" / "lock").write_text("")
    (tmp_path / "with a lock" / "letters.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    Checkpoints(tmp_path / "elsewhere").close()
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / kind).rename(work)
    before = sorted(tmp_path.rglob("*"))
    for force in (False, True):
        with pytest.raises(TrainingError, match=r"model\.training exists and is not a folder of a training.*; move it"):
            train(image_files(photographs), tmp_path / "model", SETTINGS, Recorder(), force=force)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_work_folder_is_used(tmp_path: Path) -> None:
    Checkpoints(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    "state",
    ["", '{"configuration": {}, "ep', "[]", "{}", '{"configuration": {}, "epochs": [{"number": 1}]}', '"\\ud800"'],
)
def test_an_unreadable_state_is_reported_and_force_starts_again(photographs: Path, tmp_path: Path, state: str) -> None:
    work = work_folder(tmp_path / "model")
    Checkpoints(work).close()
    (work / "state.json").write_text(state)
    files, settings = image_files(photographs), replace(SETTINGS, epochs=1)
    with pytest.raises(TrainingError, match=r"state\.json cannot be read.* damaged.*; use --force to start again"):
        train(files, tmp_path / "model", settings, Recorder())
    with pytest.raises(KilledError):
        train(files, tmp_path / "model", settings, Killer(0), force=True)
    assert json.loads((work / "state.json").read_text())["epochs"] == []


def test_a_damaged_checkpoint_is_reported(photographs: Path, copied: Path) -> None:
    (work_folder(copied) / "epoch-00002.keras").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"epoch-00002\.keras is missing or damaged; remove .*model\.training to"):
        train(image_files(photographs), copied, SETTINGS, Recorder())


def test_the_model_is_on_the_disk_before_the_checkpoints_are_removed(
    photographs: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    at_removal: list[Path] = []
    remove = Checkpoints.remove

    def note_and_remove(checkpoints: Checkpoints) -> None:
        at_removal.extend(synced)
        remove(checkpoints)

    monkeypatch.setattr(Checkpoints, "remove", note_and_remove)
    train(image_files(photographs), copied, replace(SETTINGS, epochs=2), Recorder())
    written = work_folder(copied) / "model"
    assert {written, *(written / name for name in FILES)} <= set(at_removal)
    # The names of the model: in its new folder, and no longer in the old one.
    assert set(at_removal[-2:]) == {copied.parent, work_folder(copied)}


def test_the_images_are_on_the_disk_before_the_state_names_them(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    with pytest.raises(KilledError):
        train(image_files(photographs), tmp_path / "model", SETTINGS, Killer(0))
    work = work_folder(tmp_path / "model")
    # Each name after its content.
    assert synced[-4:] == [work / "images.json.partial", work, work / "state.json.partial", work]


def test_too_few_images_leave_nothing_behind(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="5 different images of 5 files are usable"):
        train(image_files(photographs)[:5], tmp_path / "model", SETTINGS, Recorder())
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_is_reported(photographs: Path, tmp_path: Path) -> None:
    # Weights that are infinite after the first step.
    settings = replace(SETTINGS, learning_rate=1e38)
    with pytest.raises(TrainingError, match=r"the loss of epoch 1 is not finite; try a smaller --learning-rate than"):
        train(image_files(photographs), tmp_path / "model", settings, Recorder())
    assert Checkpoints(work_folder(tmp_path / "model")).epochs == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_an_encoder_without_usable_vectors_is_not_saved(trained: Trained, tmp_path: Path, value: float) -> None:
    network = build_autoencoder(SETTINGS.size, SETTINGS.latent)
    for variable in network.get_layer("encoder").get_layer("latent").weights:
        variable.assign(np.full(variable.shape, value))
    network.compile("adam", "mean_squared_error")
    checkpoints = Checkpoints(tmp_path / "work")
    checkpoints.add(Epoch(1, 1.0, 1.0, 0.1), network)
    assert trained.recorder.photographs is not None
    with pytest.raises(TrainingError, match=r"10 of 10 validation images are zero or not finite"):
        trained_model.save(tmp_path / "model", checkpoints, trained.recorder.photographs, 0, 1.0)
    checkpoints.close()
    assert not (tmp_path / "model").exists()


def test_a_second_training_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path / "work")
    with pytest.raises(TrainingError, match=r"another training is running in .*work"):
        Checkpoints(tmp_path / "work")
    first.close()
    Checkpoints(tmp_path / "work").close()


def test_the_learning_rate_is_halved_on_a_plateau() -> None:
    falling = [Epoch(number, 1.0, 1.0 / number, 0.1) for number in range(1, 4)]
    flat = [Epoch(number, 1.0, 0.5, 0.1) for number in range(4, 12)]
    rates = [learning_rate(0.8, [*falling, *flat][:number]) for number in range(12)]
    assert rates == [0.8] * 6 + [0.4] * 3 + [0.2] * 3
    assert learning_rate(0.8, [*falling, *flat, Epoch(12, 1.0, 0.1, 0.1), *flat[:2]]) == 0.2


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("flowers", "flowers"),
        ("My Photos-2", "my_photos_2"),
        ("2024", "autoencoder"),
        ("7.a", "a"),
        ("x" * 50, "x" * 32),
        ("VGG16", "own_vgg16"),
        ("MobileNet-v2", "own_mobilenet_v2"),
        ("vgg" + "-" * 40 + "16", "own_vgg" + "_" * 25),
        ("vgg16 flowers", "vgg16_flowers"),
        *((network, f"own_{network}") for network in NETWORKS),
    ],
)
def test_the_embedder_accepts_the_name_of_a_model(folder: str, name: str) -> None:
    target = Path("models") / folder
    assert trained_model.model_name(target) == name
    assert parse_model_name(f"{name}={target}") == EncoderName(name, target)


def test_a_resumed_training_may_change_only_epochs_and_patience() -> None:
    assert asdict(SETTINGS).keys() - SETTINGS.configuration().keys() == {"epochs", "patience"}
