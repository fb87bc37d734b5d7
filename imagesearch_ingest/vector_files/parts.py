"""The finished parts of an export: a folder beside its target, from which another run can go on."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from imagesearch_client.listing import Place
from imagesearch_ingest.atomic_file import atomic_write
from imagesearch_ingest.vector_files.parquet_file import read_part, write_part
from imagesearch_ingest.vector_files.rows import Rows, Summary
from imagesearch_ingest.work_folder import WorkFolder

STATE = "state.json"
FILES = r"state\.json|part-\d{6}\.parquet|\.(state\.json|part-\d{6}\.parquet)\.partial"


class ExportError(Exception):
    """An export that cannot be made or cannot go on; says what to do."""


class Parts:
    """Rows that are safe on the disk, and the place of the listing after them."""

    def __init__(self, target: Path, identity: Mapping[str, Any]) -> None:
        """Those of an export to `target`.

        Args:
            target: the file that they are for.
            identity: what must be the same for another run to go on: plain values of JSON.
        """
        self.folder = target.with_name(f"{target.name}.parts")
        self._own = WorkFolder(self.folder, "export", FILES, ExportError, made_for=target.name)
        self._target = target
        self._identity = dict(identity)
        self._dimension = int(identity["dimension"])
        self._names: list[str] = []
        self.summary = Summary()
        self.place = Place()

    @contextmanager
    def opened(self, *, restart: bool) -> Iterator[None]:
        """Holds the folder for this run, with what is in it, or empty. Raises ExportError, OSError."""
        with self._own:
            if restart or self._is_left_over():
                self._clear()
            self._load()
            yield

    def _is_left_over(self) -> bool:
        """Whether the export was finished, and only its parts were not removed any more."""
        state = self.folder / STATE
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            complete = json.loads(state.read_text())["place"]["complete"]
            return complete is True and self._target.stat().st_mtime >= state.stat().st_mtime
        return False

    def _load(self) -> None:
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            found = state["identity"]
            names, summary, place = state["parts"], Summary(**state["summary"]), Place(**state["place"])
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            raise ExportError(f"{self.folder / STATE} cannot be understood: {error}; {self._remedy()}") from None
        differences = [name for name in self._identity if found.get(name) != self._identity[name]]
        if differences:
            said = "; ".join(f"{name} was {found.get(name)!r}, is {self._identity[name]!r}" for name in differences)
            raise ExportError(f"{self.folder} is of an export of something else: {said}; {self._remedy()}")
        if missing := [name for name in names if not (self.folder / name).is_file()]:
            raise ExportError(f"{self.folder} misses {missing[0]}; {self._remedy()}")
        self._names, self.summary, self.place = names, summary, place

    def _remedy(self) -> str:
        return "--restart begins anew"

    def add(self, rows: Rows, place: Place) -> None:
        """Writes a part, and that the listing goes on at `place` after it. Raises OSError."""
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
        # A part that is not in it does not count, and is written again.
        with atomic_write(self.folder / STATE) as partial:
            partial.write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")

    def batches(self, vectors: bool) -> Iterator[Rows]:
        """The rows of all parts, one part at a time. Raises ExportError."""
        for name in self._names:
            path = self.folder / name
            try:
                rows = read_part(path, self._dimension, vectors=vectors)
            except (OSError, ValueError, KeyError, pa.ArrowException) as error:
                raise ExportError(f"{path} cannot be read: {error}; {self._remedy()}") from None
            yield rows

    def remove(self) -> None:
        """Removes what the export left there, and the folder if nothing else is in it. Raises OSError."""
        self._clear()
        self._own.remove()

    def _clear(self) -> None:
        # The state goes first: without it no part counts.
        (self.folder / STATE).unlink(missing_ok=True)
        self._own.clear()
        self._names, self.summary, self.place = [], Summary(), Place()
