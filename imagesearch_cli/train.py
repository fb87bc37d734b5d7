"""`imagesearch train-autoencoder`."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, NoReturn, Self

import typer
from rich.text import Text

from imagesearch_cli.bars import Bar, show_progress
from imagesearch_cli.loading import INTERRUPTED
from imagesearch_cli.output import SHOWN_REJECTS, err, out
from imagesearch_ingest.extras import how_to_install

if TYPE_CHECKING:
    from imagesearch_ingest.sources.items import Fault, SkippedFile
    from imagesearch_training.checkpoints import Epoch
    from imagesearch_training.dataset import Photographs
    from imagesearch_training.images import ImageFile
    from imagesearch_training.training import Result

FAILED = 1
STDERR = 2
# Bytes of a file that are read at most.
MAX_FILE_BYTES = 256 * 1024 * 1024

NETWORK, TRAINING = "The network", "How it is trained"


def train_autoencoder(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", exists=True, file_okay=False, help="The folder of images, with all below it."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="MODEL_FOLDER",
            resolve_path=True,
            show_default="FOLDER's name and -model, in the current directory",
            help="The folder to write; its name is the model's.",
        ),
    ] = None,
    latent: Annotated[int, typer.Option(min=1, max=4096, help="Values of a vector.", rich_help_panel=NETWORK)] = 16,
    size: Annotated[
        int,
        typer.Option(
            help="Images are stretched to so many pixels square: a multiple of 32, to 512. Small ones learn faster.",
            rich_help_panel=NETWORK,
        ),
    ] = 256,
    epochs: Annotated[
        int, typer.Option(min=1, help="Times that all images are gone through at most.", rich_help_panel=TRAINING)
    ] = 50,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Images of a step.", rich_help_panel=TRAINING)] = 32,
    patience: Annotated[
        int,
        typer.Option(
            min=1, help="Epochs without a better validation loss after which it ends.", rich_help_panel=TRAINING
        ),
    ] = 10,
    validation: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=0.5,
            help="The part of the images that it is judged by, and learns nothing from.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.1,
    learning_rate: Annotated[
        float,
        typer.Option(
            min=1e-7, max=1.0, help="Adam's at first; halved where the validation loss stays.", rich_help_panel=TRAINING
        ),
    ] = 0.002,
    flip: Annotated[
        bool,
        typer.Option("--flip", help="Mirror images left to right by chance: for few images.", rich_help_panel=TRAINING),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Of all that is left to chance.", rich_help_panel=TRAINING)
    ] = 0,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Train on so many of the images, chosen by chance.", rich_help_panel=TRAINING),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace MODEL_FOLDER, and begin anew where a training of other options was begun."
        ),
    ] = False,
) -> None:
    """Train a model of your own images, an autoencoder, which the embedder can serve.

    Its encoder turns an image into a few values of which its decoder makes the image again; images that look alike get
    values close to each other. It needs no labels; some thousand images make a good one.

    Until it is done all is kept in MODEL_FOLDER.training: after Ctrl-C or a kill the same command goes on, also with
    other --epochs and --patience. MODEL_FOLDER is written whole in the end.

    For example: imagesearch train-autoencoder ~/photos -o models/photos --size 64 --flip

    Exit codes: 0 done, 1 there is nothing to learn from or the disk fails, 2 wrong usage, 130 interrupted.
    """
    # They bring TensorFlow, which not everybody has, and which takes seconds.
    try:
        with _quiet():
            from imagesearch_training import network, saved, training  # noqa: PLC0415
            from imagesearch_training.errors import TrainingError  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        name = (missing.name or "").partition(".")[0]
        _fail(how_to_install(name, "cli,training"))

    try:
        network.check_size(size)
    except TrainingError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from None
    model_folder = output or Path(f"{folder.resolve().name}-model").resolve()
    try:
        saved.check_target(model_folder, force=force)
    except TrainingError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from None
    work = training.work_folder(model_folder)
    _check_apart(folder.resolve(), model_folder, work)
    settings = training.Settings(
        latent=latent,
        size=size,
        epochs=epochs,
        batch_size=batch_size,
        patience=patience,
        validation=validation,
        seed=seed,
        learning_rate=learning_rate,
        flip=flip,
        limit=limit,
    )
    files, faults = _list(folder)
    for fault in faults:
        err.print(Text(f"{fault.where}: {fault.message}"), style="red", soft_wrap=True)
    if not files:
        from imagesearch_ingest.sources.image_formats import SUPPORTED_SUFFIXES  # noqa: PLC0415 - it is not needed for --help

        _fail(f"no images in {folder}; files of images end in {SUPPORTED_SUFFIXES}")
    training.compute_in_fixed_order()
    with _Teller(epochs) as teller, teller.hearing_interrupts():
        try:
            result = training.train(files, model_folder, settings, teller, force=force)
        except (TrainingError, OSError) as error:
            _fail(str(error))
        except KeyboardInterrupt:
            teller.close()
            _tell_how_to_go_on(teller.done, epochs, work)
            raise typer.Exit(INTERRUPTED) from None
    _summarise(result, saved.model_name(model_folder), folder)


def _check_apart(images: Path, model_folder: Path, work: Path) -> None:
    """Raises BadParameter where the images' folder is, holds or lies in one that the training replaces or removes."""
    for written in (model_folder, work):
        if written.is_relative_to(images):
            raise typer.BadParameter(f"{written} lies in {images}; name one outside of it", param_hint="--output")
        if images.is_relative_to(written):
            raise typer.BadParameter(
                f"{images}, the folder of images, would be removed with {written}; name another one",
                param_hint="--output",
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TensorFlow's notes on how it was built from the terminal: no setting of its own does."""
    # They are written past sys.stderr.
    kept = os.dup(STDERR)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), STDERR)
    try:
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)


class _Teller:
    """Tells at the terminal how a training goes: a bar while images are read, then a line for each epoch."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._open = ExitStack()
        self._bar: Bar | None = None
        self.done: list[Epoch] = []
        self._interrupted = False

    @contextmanager
    def hearing_interrupts(self) -> Iterator[None]:
        """Lets Ctrl-C end the training at the end of an epoch at the latest.

        Python drops a KeyboardInterrupt that comes in a destructor, and TensorFlow has many of them.
        """

        def interrupt(_: int, __: object) -> None:
            self._interrupted = True
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar away."""
        self._open.close()

    def reads(self, total: int) -> None:
        self._bar = self._open.enter_context(show_progress(err))
        self._bar.start(total)

    def has_read(self, done: int) -> None:
        if self._bar is not None:
            self._bar.reach(done)

    def begins(self, photographs: "Photographs", parameters: int, done: Sequence["Epoch"]) -> None:
        self.close()
        for skipped in photographs.skipped[:SHOWN_REJECTS]:
            err.print(Text(f"{skipped.name}: {skipped.message}"), style="red", soft_wrap=True)
        if len(photographs.skipped) > SHOWN_REJECTS:
            err.print(f"and {len(photographs.skipped) - SHOWN_REJECTS} more; skipped.csv of the model lists all")
        err.print(
            f"{len(photographs.training)} images to learn from, {len(photographs.validation)} for validation, "
            f"{len(photographs.skipped)} skipped; {parameters:,} parameters",
            highlight=False,
        )
        self.done = list(done)
        if done:
            err.print(f"goes on after epoch {done[-1].number}", highlight=False)

    def ends_epoch(self, epoch: "Epoch", *, best: bool) -> None:
        self.done.append(epoch)
        width = len(str(self._epochs))
        err.print(
            f"epoch {epoch.number:{width}}/{self._epochs}  loss {epoch.loss:.5f}  "
            f"validation {epoch.validation_loss:.5f}  {epoch.seconds:.1f} s{'  best so far' if best else ''}",
            highlight=False,
        )
        if self._interrupted:
            raise KeyboardInterrupt


def _list(folder: Path) -> tuple[list["ImageFile"], list["Fault | SkippedFile"]]:
    """The images below a folder, and what is told of other files."""
    from imagesearch_ingest.sources.folder_source import FolderSource  # noqa: PLC0415 - it is not needed for --help
    from imagesearch_ingest.sources.items import Fault, Item, SkipReason  # noqa: PLC0415 - as above
    from imagesearch_training.images import ImageFile  # noqa: PLC0415 - as above

    files: list[ImageFile] = []
    told: list[Fault | SkippedFile] = []
    for found in FolderSource(folder):
        if isinstance(found, Item):
            if callable(found.content):
                files.append(
                    ImageFile(found.key, f"{found.size} {found.stamp}", partial(found.content, MAX_FILE_BYTES))
                )
        elif isinstance(found, Fault) or found.reason is SkipReason.UNSUPPORTED:
            told.append(found)
    return files, told


def _fail(message: str) -> NoReturn:
    err.print("[bold red]error[/] ", end="")
    err.print(Text(message), soft_wrap=True)
    raise typer.Exit(FAILED)


def _tell_how_to_go_on(done: Sequence["Epoch"], epochs: int, work: Path) -> None:
    if not done:
        err.print("interrupted before an epoch was done; the same command goes on")
        return
    from imagesearch_training.checkpoints import best_of  # noqa: PLC0415 - it is not needed for --help

    best, last = best_of(done), done[-1].number
    err.print(
        Text(
            f"interrupted after epoch {last} of {epochs}; the best so far, epoch {best.number} with "
            f"{best.validation_loss:.5f}, is kept in {work}. The same command goes on; with --epochs {last} it ends "
            "there and writes the model."
        ),
        soft_wrap=True,
    )


def _summarise(result: "Result", name: str, folder: Path) -> None:
    why = "no better for --patience epochs" if result.stopped_early else "all of --epochs"
    best = f"validation loss {result.best.validation_loss:.5f} in epoch {result.best.number} of {result.epochs} ({why})"
    learnt_nothing = result.best.validation_loss >= result.mean_image_loss
    lines = (
        f"{result.folder}: {best}; {result.mean_image_loss:.5f} is that of the mean image",
        *(["it has learnt nothing yet, for the mean image is as good: more --epochs"] if learnt_nothing else []),
        "next:",
        f"  EMBEDDER_MODELS=vgg16,{name}={quote(str(result.folder))} python -m embedder_service",
        f"  imagesearch collections create {name} --model {name} --metric l2",
        f"  imagesearch ingest {quote(str(folder))} -c {name}",
    )
    for line in lines:
        out.print(Text(line), soft_wrap=True)
