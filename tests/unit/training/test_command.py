"""`imagesearch train-autoencoder`: kills, Ctrl-C, output, and wrong arguments."""

import csv
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imagesearch_cli.app import app
from imagesearch_cli.train import train_autoencoder
from imagesearch_training import training
from imagesearch_training.checkpoints import MARK, Checkpoints
from tests.unit.training.conftest import SETTINGS

OPTIONS = (
    f"--latent={SETTINGS.latent}",
    f"--size={SETTINGS.size}",
    f"--batch-size={SETTINGS.batch_size}",
    f"--validation={SETTINGS.validation}",
    f"--learning-rate={SETTINGS.learning_rate}",
)
COMMAND = (sys.executable, "-m", "imagesearch_cli", "train-autoencoder")


@pytest.fixture(autouse=True)
def _leaves_tensorflow_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be undone, and other tests run in this process; the commands that are started on their own do it."""
    monkeypatch.setattr(training, "compute_in_fixed_order", lambda: None)


def start(folder: Path, target: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, str(folder), "-o", str(target), *OPTIONS, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )


def read_until(process: "subprocess.Popen[str]", beginning: str) -> list[str]:
    """Lines of standard error, to the one that begins so."""
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(beginning):
            return lines
    raise AssertionError(f"no {beginning!r} in {''.join(lines)}")


def invoke(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["train-autoencoder", *map(str, arguments)], env={"COLUMNS": "400"})
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.soak
def test_a_kill_and_ctrl_c_lose_one_epoch_each(photographs: Path, tmp_path: Path) -> None:
    folder, target = tmp_path / "photographs", tmp_path / "my crops"
    shutil.copytree(photographs, folder)
    (folder / "cut.jpg").write_bytes((folder / "rocket-00.jpg").read_bytes()[:500])
    (folder / "notes.txt").write_text("not looked at")

    process = start(folder, target, "--epochs=100000", "--patience-epochs=100000")
    lines = read_until(process, "epoch      3/100000  loss 0.")
    process.kill()
    process.communicate()
    assert any(line.startswith("cut.jpg: ") for line in lines)
    assert "58 images to train on, 14 for validation, 1 skipped; 74,583 parameters\n" in lines
    assert not target.exists()

    process = start(folder, target, "--epochs=100000", "--patience-epochs=100000")
    lines = read_until(process, "epoch      6/100000")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert output == ""
    # Another epoch may have been done before the kill, and none is done twice.
    (resumed,) = (int(line.split()[-1]) for line in lines if line.startswith("resumes after epoch"))
    assert resumed >= 3
    # A signal may come while a line is written, which is then written twice.
    done = list(dict.fromkeys(line.split()[1] for line in [*lines, *errors.splitlines()] if line.startswith("epoch ")))
    assert done[0] == f"{resumed + 1}/100000"
    last = resumed + len(done)
    assert f"Interrupted after epoch {last} of 100000. {target}.training keeps the best so far: epoch " in errors
    assert f"or with --epochs {last} to stop there and write the model" in errors
    assert not target.exists()

    code, output, errors = invoke(folder, "-o", target, *OPTIONS, f"--epochs={last}")
    assert code == 0, errors
    assert f"resumes after epoch {last}" in errors
    assert f"EMBEDDER_MODELS=vgg16,my_crops='{target}' python -m embedder_service" in output
    assert "imagesearch collections create my_crops --model my_crops --metric l2" in output
    assert f"imagesearch ingest {folder} -c my_crops" in output
    assert (target / "skipped.csv").read_text().splitlines()[1].startswith("cut.jpg,")
    with (target / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, last + 1))
    # The figures of a training that was never interrupted.
    process = start(folder, tmp_path / "in one go", f"--epochs={last}", "--patience-epochs=100000")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    with (tmp_path / "in one go" / "history.csv").open() as file:
        expected = [float(row["validation_loss"]) for row in csv.DictReader(file)]
    assert [float(row["validation_loss"]) for row in rows] == pytest.approx(expected, rel=1e-6)


def test_a_training_without_a_stop(photographs: Path, tmp_path: Path) -> None:
    target = tmp_path / "models" / "crops"
    code, output, errors = invoke(photographs, "-o", target, *OPTIONS, "--epochs=2", "--limit=40", "--seed=7", "--flip")
    assert code == 0, errors
    assert "32 images to train on, 8 for validation, 0 skipped" in errors
    assert "epoch 2/2  loss 0." in errors
    assert f"{target}: validation loss 0." in output
    assert "of 2 (all of --epochs); the mean image has 0." in output
    facts = json.loads((target / "model.json").read_text())
    assert (facts["trained_on"], facts["seed"], facts["epochs"], facts["dimension"]) == (32, 7, 2, 4)

    code, _, errors = invoke(photographs, "-o", target, *OPTIONS)
    assert code == 2
    assert "use --force to replace it at the end of the training" in errors


def test_wrong_arguments_are_reported(photographs: Path, tmp_path: Path) -> None:
    empty, target = tmp_path / "empty", tmp_path / "model"
    empty.mkdir()
    (tmp_path / "file").write_text("")
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((empty, "-o", target), 1, f"error no images in {empty}; files of images end in .jpg, .jpeg, .jpe"),
        ((tmp_path / "nowhere", "-o", target), 2, "does not exist"),
        ((tmp_path / "file", "-o", target), 2, "is a file"),
        (
            (photographs, "-o", target, "--size=100"),
            2,
            "the side is 100 pixels; it must be a multiple of 32 from 32 to 512",
        ),
        ((photographs, "-o", target, "--latent=0"), 2, "Invalid value for '--latent'"),
        ((photographs, "-o", target, "--validation=0.9"), 2, "Invalid value for '--validation'"),
        ((photographs, "-o", photographs / "model"), 2, "outside of it"),
        ((photographs, "-o", empty), 2, "exists and is not a model folder"),
        (
            (photographs, "-o", tmp_path / "a,b"),
            2,
            "a,b has a comma, which separates models in",
        ),
        ((photographs, "-o", tmp_path / "file" / "model"), 1, "Not a directory"),
        ((photographs, "-o", target, "--limit=10"), 1, "10 different images of 10 files are usable; the minimum is 20"),
    ]
    for arguments, expected, message in cases:
        code, output, errors = invoke(*arguments)
        assert (code, output) == (expected, ""), arguments
        assert message in " ".join(errors.replace("│", " ").split()), arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def copy_of(photographs: Path, folder: Path) -> list[str]:
    """Copies the photographs, and tells their names."""
    shutil.copytree(photographs, folder)
    return sorted(path.name for path in photographs.iterdir())


@pytest.mark.parametrize(
    ("place", "force"),
    [
        ("flowers", ["--force"]),
        ("flowers/photographs", ["--force"]),
        ("flowers.training", []),
        ("flowers.training", ["--force"]),
        ("flowers.training/photographs", ["--force"]),
    ],
)
def test_a_folder_with_images_is_never_removed(photographs: Path, tmp_path: Path, place: str, force: list[str]) -> None:
    names = copy_of(photographs, tmp_path / place)
    # To all appearances it is a model, and the work of a training.
    mark = tmp_path / Path(place).parts[0] / ("lock" if "training" in place else "model.json")
    mark.write_text(MARK if mark.name == "lock" else '{"format": 1, "kind": "encoder"}')
    code, output, errors = invoke(tmp_path / place, "-o", tmp_path / "flowers", *OPTIONS, "--epochs=1", *force)
    assert (code, output) == (2, "")
    assert "Invalid value for --output" in errors
    assert {*names} <= {path.name for path in (tmp_path / place).iterdir()}
    assert mark.exists()


def test_without_output_the_model_is_in_the_current_directory(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = copy_of(photographs, tmp_path / "data" / "Flowers")
    monkeypatch.chdir(tmp_path)
    code, output, errors = invoke("data/Flowers", *OPTIONS, "--epochs=1")
    assert code == 0, errors
    assert (tmp_path / "Flowers-model" / "encoder.keras").is_file()
    assert f"flowers_model={tmp_path}/Flowers-model python" in output
    code, _, errors = invoke("data/Flowers", *OPTIONS)
    assert (code, "use --force to replace it" in errors) == (2, True)
    # The model would lie among the images.
    monkeypatch.chdir(tmp_path / "data" / "Flowers")
    code, _, errors = invoke(".", *OPTIONS)
    assert (code, "outside of it" in errors) == (2, True)
    assert sorted(path.name for path in Path.cwd().iterdir()) == names


@pytest.mark.parametrize("named", ["link", "."])
def test_a_model_is_replaced_by_any_spelling_of_its_path(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    model = tmp_path / "models" / "flowers"
    model.mkdir(parents=True)
    (model / "model.json").write_text('{"format": 1, "kind": "encoder"}')
    (tmp_path / "link").symlink_to(model)
    monkeypatch.chdir(model if named == "." else tmp_path)
    code, output, errors = invoke(photographs, "-o", named, *OPTIONS, "--epochs=1", "--force")
    assert code == 0, errors
    assert f"{model}: validation loss" in output
    assert json.loads((tmp_path / "link" / "model.json").read_text())["name"] == "flowers"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "models"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["flowers"]


def test_a_damaged_state_is_reported_with_advice(photographs: Path, tmp_path: Path) -> None:
    work = tmp_path / "model.training"
    Checkpoints(work).close()
    (work / "state.json").write_text("")
    code, output, errors = invoke(photographs, "-o", tmp_path / "model", *OPTIONS, "--epochs=1")
    assert (code, output) == (1, "")
    assert f"error {work}/state.json cannot be read" in errors
    code, _, errors = invoke(photographs, "-o", tmp_path / "model", *OPTIONS, "--epochs=1", "--force")
    assert code == 0, errors
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_patience_outlasts_a_plateau() -> None:
    assert inspect.signature(train_autoencoder).parameters["patience_epochs"].default > training.PLATEAU


def test_without_tensorflow_it_says_what_to_install(photographs: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['tensorflow'] = None; from imagesearch_cli import main; main()"
    arguments = ["train-autoencoder", str(photographs), "-o", str(tmp_path / "model")]
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error tensorflow is not installed; run pip install '.[cli,training]'")


def test_help_needs_no_tensorflow() -> None:
    program = (
        "import sys; import imagesearch_cli; assert not {'tensorflow', 'keras'} & set(sys.modules);"
        "assert not any(name.startswith('imagesearch_training') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
