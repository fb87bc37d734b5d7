"""Puts the images of a folder into a collection, and keeps account of every one."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from grpc_kit.errors import AlreadyExistsError, NotFoundError, ServiceError
from imagesearch_client.client import Client
from imagesearch_client.types import NewImage

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"})


@dataclass(frozen=True)
class Reject:
    """An image that was not stored, and why."""

    path: str
    reason: str
    message: str


@dataclass
class Report:
    """What came of a folder."""

    seen: int
    stored: int = 0
    seconds: float = 0.0
    rejects: list[Reject] = field(default_factory=list)
    stopped: str = ""
    """Why it ended before its end; empty where it did not."""

    @property
    def images_per_second(self) -> float:
        """Stored images by the second."""
        return self.stored / self.seconds if self.seconds else 0.0

    def reasons(self) -> Counter[str]:
        """How often each reason was given."""
        return Counter(reject.reason for reject in self.rejects)

    def as_json(self) -> dict[str, object]:
        """The report as JSON has it."""
        rejects = [{"path": r.path, "reason": r.reason, "message": r.message} for r in self.rejects]
        return {
            "seen": self.seen,
            "stored": self.stored,
            "seconds": round(self.seconds, 3),
            "rejects": rejects,
            "stopped": self.stopped,
        }


class IngestProgress:
    """Shows how far an ingestion is; does nothing where there is no terminal."""

    def __init__(self, bars: Progress) -> None:
        """Shows in `bars`."""
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, total: int) -> None:
        """Begins with `total` images to do."""
        self._task = self._bars.add_task("ingest", total=total, failed=0)

    def step(self, failed: int) -> None:
        """One more is done; `failed` is the number of failures so far."""
        if self._task is not None:
            self._bars.update(self._task, advance=1, failed=failed)


@contextmanager
def show_progress(console: Console) -> Iterator[IngestProgress]:
    """A progress bar on a console."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield IngestProgress(bars)


def find_images(folder: Path) -> list[Path]:
    """The files below a folder whose names end as images' do, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def ensure_collection(client: Client, name: str) -> None:
    """Makes a collection for the embedder's default model where there is none of this name."""
    try:
        client.get_collection(name)
    except NotFoundError:
        try:
            client.create_collection(name)
        except AlreadyExistsError:
            # Somebody else made it a moment ago.
            return


def ingest_folder(client: Client, collection: str, folder: Path, progress: IngestProgress) -> Report:
    """Writes every image below a folder; its id is its path below the folder, its uri its path on this machine."""
    paths = find_images(folder)
    ensure_collection(client, collection)
    progress.start(len(paths))
    begin = time.perf_counter()
    ingestion = _Ingestion(folder, paths, progress)
    ingestion.run(client, collection)
    ingestion.report.seconds = time.perf_counter() - begin
    return ingestion.report


class _Ingestion:
    """Writes some files, and keeps account of every one."""

    def __init__(self, folder: Path, paths: Sequence[Path], progress: IngestProgress) -> None:
        self.report = Report(seen=len(paths))
        self._folder = folder
        self._paths = paths
        self._progress = progress
        # Sent, and without an answer so far; a dict because it keeps their order.
        self._unanswered: dict[str, None] = {}

    def run(self, client: Client, collection: str) -> None:
        """Writes them all, or as many as the service takes before it goes away."""
        try:
            for result in client.write(collection, self._images()):
                self._unanswered.pop(result.id, None)
                if result.error is None:
                    self.report.stored += 1
                    self._progress.step(len(self.report.rejects))
                else:
                    self._reject(result.id, result.error.reason, result.error.message)
        except KeyboardInterrupt:
            self.report.stopped = "interrupted; ingest again to go on"
        except ServiceError as error:
            for image_id in list(self._unanswered):
                self._reject(image_id, error.reason, f"no answer: {error.message}")
            not_sent = self.report.seen - self.report.stored - len(self.report.rejects)
            self.report.stopped = (
                f"{error.reason}: {error.message}; {not_sent} images were not sent. Ingest again to go on."
            )

    def _images(self) -> Iterator[NewImage]:
        for path in self._paths:
            image_id, uri = path.relative_to(self._folder).as_posix(), str(path.resolve())
            try:
                # A name that is not UTF-8 cannot be sent; Python keeps its odd bytes as lone surrogates.
                f"{image_id}{uri}".encode()
                content = path.read_bytes()
            except UnicodeEncodeError:
                shown = image_id.encode(errors="backslashreplace").decode()
                self._reject(shown, "NAME_NOT_UTF8", "the file's name is not UTF-8, and so can be no id")
            except OSError as error:
                self._reject(image_id, "UNREADABLE", f"cannot be read: {error.strerror}")
            else:
                self._unanswered[image_id] = None
                yield NewImage(image_id, content, uri=uri)

    def _reject(self, path: str, reason: str, message: str) -> None:
        self.report.rejects.append(Reject(path, reason, message))
        self._progress.step(len(self.report.rejects))
