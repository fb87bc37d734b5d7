"""Puts the images of a folder into a collection, and keeps account of every one."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from grpc_kit.errors import AlreadyExistsError, NotFoundError
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
        return {"seen": self.seen, "stored": self.stored, "seconds": round(self.seconds, 3), "rejects": rejects}


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
    report = Report(seen=len(paths))
    ensure_collection(client, collection)
    progress.start(len(paths))

    def reject(path: str, reason: str, message: str) -> None:
        report.rejects.append(Reject(path, reason, message))
        progress.step(len(report.rejects))

    def images() -> Iterator[NewImage]:
        for path in paths:
            image_id = path.relative_to(folder).as_posix()
            try:
                # A name that is not UTF-8 cannot be sent; Python keeps its odd bytes as lone surrogates.
                image_id.encode()
                content = path.read_bytes()
            except UnicodeEncodeError:
                shown = image_id.encode(errors="backslashreplace").decode()
                reject(shown, "NAME_NOT_UTF8", "the file's name is not UTF-8, and so can be no id")
            except OSError as error:
                reject(image_id, "UNREADABLE", f"cannot be read: {error.strerror}")
            else:
                yield NewImage(image_id, content, uri=str(path.resolve()))

    begin = time.perf_counter()
    for result in client.write(collection, images()):
        if result.error is None:
            report.stored += 1
            progress.step(len(report.rejects))
        else:
            reject(result.id, result.error.reason, result.error.message)
    report.seconds = time.perf_counter() - begin
    return report
