"""The nearest neighbours of every image of a snapshot, in parts that outlast a stop on the way."""

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.nearest import Neighbors, nearest
from imagesearch_analysis.snapshot import Snapshot, snapshot_folder
from imagesearch_ingest.atomic_file import atomic_write
from imagesearch_ingest.work_folder import WorkFolder

# Images of a part, which are compared with all others at once.
QUERY_ROWS = 2048
SNAPSHOT, STATE = "snapshot", "state.json"
FILES = r"state\.json|part-\d{12}\.npz|\.(state\.json|part-\d{12}\.npz)\.partial"


class WorkError(AnalysisError):
    """A folder of work that cannot be used; says what to do."""


class Work:
    """The folder beside a file of neighbours where what is done so far is kept."""

    def __init__(self, target: Path) -> None:
        """That of a file, `target`."""
        self.folder = target.absolute().with_name(f"{target.name}.parts")
        self.snapshot_folder = self.folder / SNAPSHOT
        self._own = WorkFolder(self.folder, "neighbors", FILES, WorkError, made_for=target.name)
        self.resumed = 0
        """Images whose neighbours an earlier run had found."""
        self.dropped = 0
        """Parts of an earlier run that were removed, because they were of another collection or of other options."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder for this process. Raises WorkError if it is not one of this command, and OSError."""
        with self._own:
            yield

    def run(
        self, snapshot: Snapshot, k: int, *, with_self: bool = False, tell: Callable[[int], None] = lambda _: None
    ) -> None:
        """Finds the neighbours that are not found yet; parts of another snapshot or k are removed.

        `tell` is told the images so far. Raises OSError; what is finished by then is kept.
        """
        identity = {"origin": asdict(snapshot.origin), "k": k, "with_self": with_self, "rows": QUERY_ROWS}
        if self._identity() != identity:
            self.dropped = sum(path.name.startswith("part-") for path in self._own.files())
            self._own.clear()
            with atomic_write(self.folder / STATE) as partial:
                partial.write_text(json.dumps(identity))
        for begin in range(0, len(snapshot), QUERY_ROWS):
            end = min(begin + QUERY_ROWS, len(snapshot))
            if _is_readable(self._part(begin)):
                self.resumed += end - begin
            else:
                own = None if with_self else np.arange(begin, end)
                found = nearest(snapshot, snapshot.block(begin, end), k, but=own)
                with atomic_write(self._part(begin)) as partial, partial.open("wb") as file:
                    np.savez(file, **asdict(found))
            tell(end)

    def parts(self, snapshot: Snapshot) -> Iterator[tuple[int, Neighbors]]:
        """The neighbours of all images, each part with the position of its first image. Raises OSError."""
        for begin in range(0, len(snapshot), QUERY_ROWS):
            with np.load(self._part(begin)) as part:
                yield begin, Neighbors(part["positions"], part["scores"], part["distances"])

    def remove(self) -> None:
        """Removes what the command left there, and the folder if nothing else is in it. Raises OSError."""
        snapshot_folder(self.snapshot_folder).remove()
        self._own.remove()

    def _part(self, begin: int) -> Path:
        return self.folder / f"part-{begin:012d}.npz"

    def _identity(self) -> Any:
        with suppress(FileNotFoundError, ValueError):
            return json.loads((self.folder / STATE).read_text())
        return None


def _is_readable(part: Path) -> bool:
    """Whether it is there, and whole."""
    try:
        with zipfile.ZipFile(part) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
