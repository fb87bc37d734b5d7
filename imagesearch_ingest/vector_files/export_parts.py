"""The complete parts of an export, in a folder beside its target from which a later run resumes."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from imagesearch_client.listing import ListingPosition
from imagesearch_ingest.atomic_file import atomic_write
from imagesearch_ingest.vector_files.parquet_writer import read_part, write_part
from imagesearch_ingest.vector_files.rows import Rows, Summary
from imagesearch_ingest.work_folder import WorkFolder

STATE = "state.json"
RESTART = "use --restart to export again from the start"
FILES = r"state\.json|part-\d{6}\.parquet|\.(state\.json|part-\d{6}\.parquet)\.partial"


class ExportError(Exception):
    """An export is not possible, or cannot be resumed; the message says what to do."""


class FormatError(ExportError):
    """The format of the file cannot store the collection. Running the export again does not help."""


class ExportParts:
    """The rows that are safe on disk, and the place where the listing continues."""

    def __init__(self, target: Path, identity: Mapping[str, Any]) -> None:
        """Name the folder of an export; creates nothing yet.

        Args:
            target: the file of the export.
            identity: JSON values that must not change if a later run is to resume.
        """
        self.folder = target.with_name(f"{target.name}.parts")
        self._lock = WorkFolder(self.folder, "export", FILES, ExportError, made_for=target.name)
        self._target = target
        self._identity = dict(identity)
        self._dimension = int(identity["dimension"])
        self._names: list[str] = []
        self.summary = Summary()
        self.place = ListingPosition()

    @contextmanager
    def opened(self, *, restart: bool) -> Iterator[None]:
        """Lock the folder, and load the parts of an earlier run. Raises ExportError, OSError."""
        with self._lock:
            if restart or self._is_complete_export():
                self._clear()
            self._load()
            yield

    def _is_complete_export(self) -> bool:
        """Return whether the parts belong to a complete export, which was killed before it removed them."""
        state = self.folder / STATE
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            complete = json.loads(state.read_text())["place"]["complete"]
            return complete is True and self._target.stat().st_mtime >= state.stat().st_mtime
        return False

    def _load(self) -> None:
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            found = state["identity"]
            names, summary, place = state["parts"], Summary(**state["summary"]), ListingPosition(**state["place"])
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            raise ExportError(f"{self.folder / STATE} cannot be read: {error}; {RESTART}") from None
        differences = [name for name in self._identity if found.get(name) != self._identity[name]]
        if differences:
            changes = "; ".join(f"{name} was {found.get(name)!r}, is {self._identity[name]!r}" for name in differences)
            raise ExportError(f"{self.folder} belongs to another export: {changes}; {RESTART}")
        if missing := [name for name in names if not (self.folder / name).is_file()]:
            raise ExportError(f"{self.folder} has no {missing[0]}; {RESTART}")
        self._names, self.summary, self.place = names, summary, place

    def add(self, rows: Rows, place: ListingPosition) -> None:
        """Write a part, and the place where the listing continues. Raises OSError."""
        if len(rows):
            name = f"part-{len(self._names):06d}.parquet"
            with atomic_write(self.folder / name) as partial:
                write_part(str(partial), rows, self._dimension)
            self._names.append(name)
            self.summary.add(rows)
        self.place = place
        self._save()

    def _save(self) -> None:
        state = {
            "identity": self._identity,
            "parts": self._names,
            "summary": self.summary.as_json(),
            "place": asdict(self.place),
        }
        # A part that is not in the state is written again.
        with atomic_write(self.folder / STATE) as partial:
            partial.write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")

    def batches(self, vectors: bool) -> Iterator[Rows]:
        """Return the rows of all parts, one part at a time. Raises ExportError."""
        for name in self._names:
            path = self.folder / name
            try:
                rows = read_part(path, self._dimension, vectors=vectors)
            except (OSError, ValueError, KeyError, pa.ArrowException) as error:
                raise ExportError(f"{path} cannot be read: {error}; {RESTART}") from None
            yield rows

    def remove(self) -> None:
        """Remove the files of this export, and the folder if it is empty then. Raises OSError."""
        self._clear()
        self._lock.remove()

    def _clear(self) -> None:
        # Remove the state first: parts without a state are ignored.
        (self.folder / STATE).unlink(missing_ok=True)
        self._lock.clear()
        self._names, self.summary, self.place = [], Summary(), ListingPosition()
