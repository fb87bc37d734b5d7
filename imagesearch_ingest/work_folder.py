"""Folders in which a command keeps unfinished work. The lock file says which command made the folder, and for what."""

import fcntl
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

LOCK = "lock"
MADE_BY = "imagesearch"
# More than this a mark never has.
MARK_BYTES = 4096


class WorkFolder:
    """A folder that belongs to one command, held by one process at a time.

    Nothing in it is changed or removed unless its lock file has the mark of the same purpose, and then only files with
    the names that this purpose gives its files.
    """

    def __init__(self, folder: Path, purpose: str, names: str, error: type[Exception], *, made_for: str = "") -> None:
        """Takes no folder yet.

        Args:
            folder: the path; it need not exist.
            purpose: the command that keeps its work there, such as "neighbors".
            names: a regular expression that matches the names of all files that the purpose leaves there.
            error: is raised if the folder cannot be used. Its one argument says why, and what to do.
            made_for: the file that the work is for, as the mark tells people.
        """
        self.folder = folder
        self._mark = {"made_by": MADE_BY, "purpose": purpose, "for": made_for}
        self._names = re.compile(names)
        self._error = error

    def __enter__(self) -> Self:
        """Makes the folder or takes an own one, and locks it until the end of the process at the latest."""
        self._made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_own()
        # Not "w": that would empty a file before it is known whose it is.
        self._lock = (self.folder / LOCK).open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have taken the folder since.
            self._check_own()
            if not self._is_own():
                self._lock.write(json.dumps(self._mark) + "\n")
                self._lock.flush()
        except BlockingIOError:
            self._lock.close()
            raise self._error(
                f"{self.folder} is in use by another command; wait for its end, or name another one"
            ) from None
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Releases the lock. The folder stays, unless it was made just now and nothing came of it."""
        with suppress(OSError):
            if self._made and [path.name for path in self.folder.iterdir()] == [LOCK]:
                self.remove()
        self._lock.close()

    def files(self) -> Sequence[Path]:
        """The files that the purpose has left, without the lock. Raises OSError."""
        return sorted(path for path in self.folder.iterdir() if self._names.fullmatch(path.name))

    def clear(self) -> None:
        """Removes the files that the purpose has left. Raises OSError; does nothing in a folder of others."""
        if self._is_own():
            for path in self.files():
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the files that the purpose has left, and the folder if nothing else is in it. Raises OSError."""
        if not self._is_own():
            return
        self.clear()
        (self.folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _check_own(self) -> None:
        """Raises the error if the folder holds anything, and has no mark of the same purpose."""
        if self._is_own():
            return
        mark = self._read_mark()
        if isinstance(mark, dict) and mark.get("made_by") == MADE_BY:
            of = f" for {mark['for']}" if mark.get("for") else ""
            raise self._error(
                f"{self.folder} holds unfinished work of `imagesearch {mark.get('purpose')}`{of}; finish that first, "
                "remove the folder, or name another one"
            )
        for path in sorted(self.folder.iterdir()):
            if path.name != LOCK or path.stat().st_size:
                raise self._error(
                    f"{self.folder} holds {path.name!r:.80}, and this command did not make that folder; move it "
                    "elsewhere, or name another one"
                )

    def _is_own(self) -> bool:
        mark = self._read_mark()
        return isinstance(mark, dict) and all(mark.get(name) == self._mark[name] for name in ("made_by", "purpose"))

    def _read_mark(self) -> Any:
        with suppress(OSError, ValueError), (self.folder / LOCK).open(encoding="utf-8") as lock:
            return json.loads(lock.read(MARK_BYTES))
        return None
