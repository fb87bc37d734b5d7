"""The images of a training: decoding, the split by content, and the order of epochs."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image
from PIL import ImageFile as PillowImageFile

from imagesearch_training import dataset
from imagesearch_training import images as image_decoding
from imagesearch_training.dataset import Photographs
from imagesearch_training.errors import TrainingError
from imagesearch_training.images import ImageFile, decode
from tests.unit.training.conftest import image_files


def prepared(files: list[ImageFile], folder: Path, validation: float = 0.2) -> Photographs:
    dataset.prepare(files, folder, 32, lambda _: None)
    return dataset.open_prepared(folder, validation)


def epochs_of(images: Photographs, epochs: range, *, seed: int = 0, flip: bool = False) -> list[NDArray[np.float32]]:
    batches = dataset.training_batches(images, 16, seed, epochs, flip=flip)
    return [inputs.numpy() for inputs, _ in batches]


def unreadable() -> bytes:
    raise PermissionError(13, "Permission denied")


def test_bad_files_are_skipped_and_listed(photographs: Path, tmp_path: Path) -> None:
    good = image_files(photographs)
    content = good[0].read()
    bomb = BytesIO()
    Image.new("1", (10_000, 9_000)).save(bomb, "PNG")
    bad = {
        "cut.jpg": lambda: content[: len(content) // 2],
        "empty.jpg": lambda: b"",
        "text.png": lambda: b"no image",
        "huge.png": bomb.getvalue,
        "closed.jpg": unreadable,
    }
    files = [good[0], *(ImageFile(name, "", read) for name, read in bad.items()), *good[1:]]
    done: list[int] = []
    dataset.prepare(files, tmp_path, 32, done.append)
    found = dataset.open_prepared(tmp_path, 0.2)

    assert done == list(range(1, len(files) + 1))
    assert [skipped.name for skipped in found.skipped] == list(bad)
    messages = [skipped.message for skipped in found.skipped]
    assert "truncated" in messages[0]
    assert messages[1] == messages[2] == "the file is not a JPEG, PNG, WEBP, GIF, TIFF, BMP or AVIF file"
    assert "90000000 pixels" in messages[3]
    assert messages[4] == "Permission denied"
    used = [*found.training, *found.validation]
    assert sorted(used) == [0, *range(1 + len(bad), len(files))]
    for row in used:
        assert np.array_equal(found.pixels[row], decode(files[row].read(), 32))


@pytest.mark.parametrize(
    ("error", "raised"), [(MemoryError(), TrainingError), (TypeError("a fault"), TypeError)], ids=repr
)
def test_errors_that_are_not_a_files_fault_end_the_training(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(image_decoding, "to_upright_rgb", fail)
    with pytest.raises(raised):
        prepared(image_files(photographs), tmp_path)


def test_a_lack_of_memory_in_pillow_skips_no_file(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(f"{PillowImageFile.ERRORS[-9]} when reading image file")

    monkeypatch.setattr(PillowImageFile.ImageFile, "load", fail)
    with pytest.raises(TrainingError, match="not enough memory to decode"):
        prepared(image_files(photographs), tmp_path)


def test_copies_of_an_image_are_never_in_both_parts(photographs: Path, tmp_path: Path) -> None:
    files = image_files(photographs)
    images = prepared(files + files, tmp_path)
    training, validation = ({row % len(files) for row in part} for part in (images.training, images.validation))
    assert not training & validation
    assert len(images.training) == 2 * len(training)
    assert len(validation) == round(0.2 * len(files))


def test_parts_do_not_depend_on_names_or_order(photographs: Path, tmp_path: Path) -> None:
    files = image_files(photographs)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = prepared(files, tmp_path / "a")
    turned = prepared([ImageFile(f"other-{file.name}", "", file.read) for file in reversed(files)], tmp_path / "b")
    assert {len(files) - 1 - row for row in turned.validation} == set(first.validation)


@pytest.mark.parametrize(("part", "images"), [(0.001, 1), (0.1, 7), (0.5, 36)])
def test_validation_has_the_requested_fraction(photographs: Path, tmp_path: Path, part: float, images: int) -> None:
    found = prepared(image_files(photographs), tmp_path, part)
    assert (len(found.validation), len(found.training)) == (images, 72 - images)


def test_an_epoch_does_not_depend_on_earlier_epochs(photographs: Path, tmp_path: Path) -> None:
    images = prepared(image_files(photographs), tmp_path)
    whole = epochs_of(images, range(4), flip=True)
    rest = epochs_of(images, range(2, 4), flip=True)
    assert len(whole) == 4 * 4
    assert all(np.array_equal(one, other) for one, other in zip(whole[8:], rest, strict=True))
    assert not np.array_equal(whole[0], whole[4])
    assert not np.array_equal(whole[0], epochs_of(images, range(1), seed=1, flip=True)[0])


def test_an_epoch_has_every_training_image_once(photographs: Path, tmp_path: Path) -> None:
    images = prepared(image_files(photographs), tmp_path)
    expected = sorted(images.pixels[row].tobytes() for row in images.training)
    for epoch in range(2):
        batches = epochs_of(images, range(epoch, epoch + 1))
        assert [len(batch) for batch in batches] == [16, 16, 16, 10]
        found = np.concatenate(batches)
        assert found.dtype == np.float32
        assert 0 <= found.min() < found.max() <= 1
        assert sorted(np.round(image * 255).astype(np.uint8).tobytes() for image in found) == expected


def test_about_half_of_the_images_are_mirrored(photographs: Path, tmp_path: Path) -> None:
    images = prepared(image_files(photographs), tmp_path)
    plain, flipped = (np.concatenate(epochs_of(images, range(1), flip=flip)) for flip in (False, True))
    as_it_is = np.array([np.array_equal(one, other) for one, other in zip(plain, flipped, strict=True)])
    mirrored = np.array([np.array_equal(one[:, ::-1], other) for one, other in zip(plain, flipped, strict=True)])
    assert (as_it_is ^ mirrored).all()
    assert 0.25 < mirrored.mean() < 0.75


def test_targets_equal_inputs(photographs: Path, tmp_path: Path) -> None:
    images = prepared(image_files(photographs), tmp_path)
    batches = [
        *dataset.training_batches(images, 16, 0, range(1), flip=True),
        *dataset.validation_batches(images, 16),
    ]
    for inputs, targets in batches:
        tf.debugging.assert_equal(inputs, targets)
    validation = np.concatenate([inputs.numpy() for inputs, _ in batches[-1:]])
    assert np.array_equal(validation, images.pixels[images.validation].astype(np.float32) / 255)


def test_mean_image_loss_is_the_error_of_the_mean_training_image(photographs: Path, tmp_path: Path) -> None:
    images = prepared(image_files(photographs), tmp_path)
    training, validation = (images.pixels[part] / 255 for part in (images.training, images.validation))
    expected = np.square(validation - training.mean(axis=0)).mean()
    assert dataset.mean_image_loss(images) == pytest.approx(expected, rel=1e-9)


def test_too_few_different_images_are_refused(photographs: Path, tmp_path: Path) -> None:
    files = image_files(photographs)[:19]
    bad = ImageFile("bad.jpg", "", lambda: b"nothing")
    with pytest.raises(
        TrainingError, match=r"19 different images of 39 files are usable; the minimum is 20.*; bad.jpg: the file is"
    ):
        prepared([bad, *files, *files], tmp_path)
    assert not (tmp_path / dataset.DESCRIPTION).exists()


def test_a_disk_that_is_too_small_is_reported_before_writing(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"need \d+\.\d GB in .* are free; use a smaller --size or a --limit"):
        dataset.prepare(image_files(photographs), tmp_path, 1_000_000, lambda _: None)
    assert not list(tmp_path.iterdir())


def test_a_limit_samples_the_files(photographs: Path) -> None:
    files = image_files(photographs)
    some = dataset.choose(files, 20, seed=3)
    assert [files.index(file) for file in some] == sorted({files.index(file) for file in some})
    assert len(some) == 20
    assert len({file.name.split("-")[0] for file in some}) > 3
    assert dataset.choose(files, 20, seed=3) == some != dataset.choose(files, 20, seed=4)
    assert dataset.choose(files, 100, seed=3) == files


def test_the_digest_of_files_depends_on_names_and_stamps(photographs: Path) -> None:
    files = image_files(photographs)
    changed = [ImageFile(files[0].name, "another", files[0].read), *files[1:]]
    digests = {dataset.digest_of(some) for some in (files, changed, files[1:], list(reversed(files)))}
    assert len(digests) == 4
    assert dataset.digest_of(image_files(photographs)) in digests
