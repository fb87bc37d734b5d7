"""`imagesearch train-autoencoder`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from imagesearch_cli.console import INTERRUPTED, fail, note, show
from imagesearch_cli.options import seed_option
from imagesearch_cli.training_progress import TrainingProgress
from imagesearch_ingest.extras import how_to_install

if TYPE_CHECKING:
    from imagesearch_ingest.sources.items import Fault, SkippedFile
    from imagesearch_training.checkpoints import Epoch
    from imagesearch_training.images import ImageFile
    from imagesearch_training.training import Result

STDERR = 2
MAX_FILE_BYTES = 256 * 1024 * 1024
NETWORK, TRAINING = "Network", "Training"


def train_autoencoder(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", exists=True, file_okay=False, help="Folder of images, with its subfolders."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="MODEL_FOLDER",
            resolve_path=True,
            show_default="FOLDER's name and -model, in the current directory",
            help="Folder to write. Its name becomes the model's name.",
        ),
    ] = None,
    latent: Annotated[
        int,
        typer.Option(min=1, max=4096, metavar="N", help="Number of values in a vector.", rich_help_panel=NETWORK),
    ] = 16,
    size: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Width and height, in pixels, that images are scaled to: a multiple of 32, at most 512. Small images "
            "train faster.",
            rich_help_panel=NETWORK,
        ),
    ] = 256,
    epochs: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Maximum number of epochs: passes over all images.", rich_help_panel=TRAINING
        ),
    ] = 50,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, max=4096, metavar="N", help="Number of images in a training step.", rich_help_panel=TRAINING
        ),
    ] = 32,
    patience_epochs: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Stop after this number of epochs without a better validation loss.",
            rich_help_panel=TRAINING,
        ),
    ] = 10,
    validation: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=0.5,
            metavar="SHARE",
            help="Share of the images that measures the validation loss, and is not trained on.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.1,
    learning_rate: Annotated[
        float,
        typer.Option(
            min=1e-7,
            max=1.0,
            metavar="RATE",
            help="First learning rate of Adam. It is halved when the validation loss stops falling.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.002,
    flip: Annotated[
        bool,
        typer.Option(
            "--flip", help="Mirror images left to right at random. Helps with few images.", rich_help_panel=TRAINING
        ),
    ] = False,
    seed: Annotated[int, seed_option("Seed of all random choices.", TRAINING)] = 0,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Maximum number of images; more are sampled at random. [default: all]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace MODEL_FOLDER, and discard an interrupted training with other options."),
    ] = False,
) -> None:
    """Train an autoencoder on your own images. The embedder can serve it as a model.

    The encoder turns an image into a few values, and the decoder rebuilds the image from them. Images that look alike
    get similar values. The training needs no labels, and works well with some thousand images.

    The folder MODEL_FOLDER.training keeps the state of the training. If the command is interrupted, run it again: it
    resumes, also with other --epochs and --patience-epochs. MODEL_FOLDER is written as a whole at the end.

    Example: imagesearch train-autoencoder ~/photos -o models/photos --size 64 --flip

    Exit codes: 0 done; 1 there is nothing to learn from, or a file cannot be written; 130 interrupted.
    """
    # TensorFlow takes seconds to import, and is not always installed.
    try:
        with _quiet():
            from imagesearch_training import autoencoder, trained_model, training  # noqa: PLC0415
            from imagesearch_training.errors import TrainingError  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        name = (missing.name or "").partition(".")[0]
        fail(how_to_install(name, "cli,training"))

    try:
        autoencoder.check_size(size)
    except TrainingError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from None
    model_folder = output or Path(f"{folder.resolve().name}-model").resolve()
    try:
        trained_model.check_target(model_folder, force=force)
    except TrainingError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from None
    work = training.work_folder(model_folder)
    _check_apart(folder.resolve(), model_folder, work)
    settings = training.Settings(
        latent=latent,
        size=size,
        epochs=epochs,
        batch_size=batch_size,
        patience=patience_epochs,
        validation=validation,
        seed=seed,
        learning_rate=learning_rate,
        flip=flip,
        limit=limit,
    )
    files, faults = _list(folder)
    for fault in faults:
        note(f"{fault.where}: {fault.message}", "red")
    if not files:
        from imagesearch_ingest.sources.image_formats import SUPPORTED_SUFFIXES  # noqa: PLC0415 - it takes a while to import

        fail(f"no images in {folder}; files of images end in {SUPPORTED_SUFFIXES}")
    training.compute_in_fixed_order()
    with TrainingProgress(epochs) as progress, progress.catching_interrupts():
        try:
            result = training.train(files, model_folder, settings, progress, force=force)
        except (TrainingError, OSError) as error:
            fail(str(error))
        except KeyboardInterrupt:
            progress.close()
            _note_how_to_resume(progress.done, epochs, work)
            raise typer.Exit(INTERRUPTED) from None
    _summarise(result, trained_model.model_name(model_folder), folder)


def _check_apart(images: Path, model_folder: Path, work: Path) -> None:
    """Check that the folder of images neither contains nor lies in a folder that the training replaces or deletes."""
    for written in (model_folder, work):
        if written.is_relative_to(images):
            raise typer.BadParameter(
                f"{written} is inside {images}; name a folder outside of it", param_hint="--output"
            )
        if images.is_relative_to(written):
            raise typer.BadParameter(
                f"{images} is inside {written}, which the training replaces; name another folder",
                param_hint="--output",
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep TensorFlow's build notes off the terminal. TensorFlow has no setting for that, and bypasses sys.stderr."""
    kept = os.dup(STDERR)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), STDERR)
    try:
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)


def _list(folder: Path) -> tuple[list["ImageFile"], list["Fault | SkippedFile"]]:
    """Return the images below a folder, and the faults and unsupported files to report."""
    from imagesearch_ingest.sources.folder_source import FolderSource  # noqa: PLC0415 - it takes a while to import
    from imagesearch_ingest.sources.items import Fault, Item, SkipReason  # noqa: PLC0415 - as above
    from imagesearch_training.images import ImageFile  # noqa: PLC0415 - as above

    files: list[ImageFile] = []
    faults: list[Fault | SkippedFile] = []
    for found in FolderSource(folder):
        if isinstance(found, Item):
            if callable(found.content):
                files.append(
                    ImageFile(found.key, f"{found.size} {found.stamp}", partial(found.content, MAX_FILE_BYTES))
                )
        elif isinstance(found, Fault) or found.reason is SkipReason.UNSUPPORTED:
            faults.append(found)
    return files, faults


def _note_how_to_resume(done: Sequence["Epoch"], epochs: int, work: Path) -> None:
    if not done:
        note("Interrupted before the end of the first epoch. Run the same command again to start.")
        return
    from imagesearch_training.checkpoints import best_of  # noqa: PLC0415 - TensorFlow is slow

    best, last = best_of(done), done[-1].number
    note(
        f"Interrupted after epoch {last} of {epochs}. {work} keeps the best so far: epoch {best.number} with a "
        f"validation loss of {best.validation_loss:.5f}. Run the same command again to resume, or with --epochs {last} "
        "to stop there and write the model."
    )


def _summarise(result: "Result", name: str, folder: Path) -> None:
    why = "no better for --patience-epochs" if result.stopped_early else "all of --epochs"
    best = f"validation loss {result.best.validation_loss:.5f} in epoch {result.best.number} of {result.epochs} ({why})"
    show(f"{result.folder}: {best}; the mean image has {result.mean_image_loss:.5f}")
    if result.best.validation_loss >= result.mean_image_loss:
        show("The model is no better than the mean image: train it with more --epochs.")
    show("next:")
    show(f"  EMBEDDER_MODELS=vgg16,{name}={quote(str(result.folder))} python -m embedder_service")
    show(f"  imagesearch collections create {name} --model {name} --metric l2")
    show(f"  imagesearch ingest {quote(str(folder))} -c {name}")
