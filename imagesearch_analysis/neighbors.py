"""Finds the nearest neighbors of every image of a snapshot, in parts on disk from which a later run resumes."""

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.exact_search import Neighbors, nearest
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_analysis.snapshot_writer import snapshot_folder
from imagesearch_ingest.atomic_file import atomic_write
from imagesearch_ingest.work_folder import WorkFolder

# The number of images in a part.
PART_ROWS = 2048
SNAPSHOT, STATE = "snapshot", "state.json"
FILES = r"state\.json|part-\d{12}\.npz|\.(state\.json|part-\d{12}\.npz)\.partial"


class NeighborPartsError(AnalysisError):
    """The folder of the parts cannot be used; the message says what to do."""


class NeighborParts:
    """The folder `FILE.parts` beside an output file, with the snapshot and the neighbors that were found so far."""

    def __init__(self, target: Path) -> None:
        """Name the folder for an output file; creates nothing yet."""
        self.folder = target.absolute().with_name(f"{target.name}.parts")
        self.snapshot_folder = self.folder / SNAPSHOT
        self._lock = WorkFolder(self.folder, "neighbors", FILES, NeighborPartsError, made_for=target.name)
        self.resumed = 0
        """The number of images whose neighbors an earlier run has found."""
        self.dropped = 0
        """The number of parts that were removed because they belong to another collection or to other options."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create and lock the folder. Raises OSError; NeighborPartsError if the folder is not one of this command."""
        with self._lock:
            yield

    def compute(
        self,
        snapshot: Snapshot,
        k: int,
        *,
        with_self: bool = False,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Find the neighbors that no earlier run has found. Removes parts of another snapshot or of other options.

        Args:
            snapshot: the images.
            k: the number of neighbors of each image.
            with_self: whether an image may be its own neighbor.
            on_progress: receives the number of images so far.

        Raises OSError; complete parts stay.
        """
        identity = {"origin": asdict(snapshot.origin), "k": k, "with_self": with_self, "rows": PART_ROWS}
        if self._stored_identity() != identity:
            self.dropped = sum(path.name.startswith("part-") for path in self._lock.files())
            self._lock.clear()
            with atomic_write(self.folder / STATE) as partial:
                partial.write_text(json.dumps(identity))
        for begin in range(0, len(snapshot), PART_ROWS):
            end = min(begin + PART_ROWS, len(snapshot))
            if _is_complete(self._path(begin)):
                self.resumed += end - begin
            else:
                own = None if with_self else np.arange(begin, end)
                found = nearest(snapshot, snapshot.block(begin, end), k, excluded=own)
                with atomic_write(self._path(begin)) as partial, partial.open("wb") as file:
                    np.savez(file, **asdict(found))
            on_progress(end)

    def read(self, snapshot: Snapshot) -> Iterator[tuple[int, Neighbors]]:
        """Return the neighbors of all images, each part with the position of its first image. Raises OSError."""
        for begin in range(0, len(snapshot), PART_ROWS):
            with np.load(self._path(begin)) as part:
                yield begin, Neighbors(part["positions"], part["scores"], part["distances"])

    def remove(self) -> None:
        """Remove the files of this command, and the folder if it is empty then. Raises OSError."""
        snapshot_folder(self.snapshot_folder).remove()
        self._lock.remove()

    def _path(self, begin: int) -> Path:
        return self.folder / f"part-{begin:012d}.npz"

    def _stored_identity(self) -> Any:
        with suppress(FileNotFoundError, ValueError):
            return json.loads((self.folder / STATE).read_text())
        return None


def _is_complete(part: Path) -> bool:
    """Return whether the file of a part exists and is not damaged."""
    try:
        with zipfile.ZipFile(part) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
