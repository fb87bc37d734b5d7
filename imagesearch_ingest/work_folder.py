"""Folders for the unfinished work of a command. The lock file says which command made the folder, and for what."""

import fcntl
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

LOCK = "lock"
MADE_BY = "imagesearch"
# A mark is never larger.
MARK_BYTES = 4096


class WorkFolder:
    """A folder that belongs to one command, and is locked by one process at a time.

    Nothing in it changes unless its lock file has the mark of the same purpose. Then the command changes and removes
    only files that match `names`.
    """

    def __init__(self, folder: Path, purpose: str, names: str, error: type[Exception], *, made_for: str = "") -> None:
        """Set the folder. It is not created yet.

        Args:
            folder: the path; it may not exist.
            purpose: the command that works in the folder, such as "neighbors".
            names: a regular expression that matches the names of all files of this purpose.
            error: the exception class to raise if the folder cannot be used. Its argument is the message.
            made_for: the file for which the work is done. The mark names it for people.
        """
        self.folder = folder
        self._mark = {"made_by": MADE_BY, "purpose": purpose, "for": made_for}
        self._names = re.compile(names)
        self._error = error

    def __enter__(self) -> Self:
        """Create the folder, or use an existing one of the same purpose, and lock it."""
        self._made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_own()
        # Not "w", which would empty another program's file.
        self._lock = (self.folder / LOCK).open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have created the folder since.
            self._check_own()
            if not self._is_own():
                self._lock.write(json.dumps(self._mark) + "\n")
                self._lock.flush()
        except BlockingIOError:
            self._lock.close()
            raise self._error(
                f"{self.folder} is in use by another command; wait until that has finished, or name another folder"
            ) from None
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock. Remove the folder if it was created now and contains no work."""
        with suppress(OSError):
            if self._made and [path.name for path in self.folder.iterdir()] == [LOCK]:
                self.remove()
        self._lock.close()

    def files(self) -> Sequence[Path]:
        """Return the files of this purpose, without the lock. Raises OSError."""
        return sorted(path for path in self.folder.iterdir() if self._names.fullmatch(path.name))

    def clear(self) -> None:
        """Remove the files of this purpose, if the folder has its mark. Raises OSError."""
        if self._is_own():
            for path in self.files():
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the files of this purpose, and the folder if it is empty then. Raises OSError."""
        if not self._is_own():
            return
        self.clear()
        (self.folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _check_own(self) -> None:
        """Raise the error if the folder is not empty and has no mark of the same purpose."""
        if self._is_own():
            return
        mark = self._read_mark()
        if isinstance(mark, dict) and mark.get("made_by") == MADE_BY:
            of = f" for {mark['for']}" if mark.get("for") else ""
            raise self._error(
                f"{self.folder} holds unfinished work of `imagesearch {mark.get('purpose')}`{of}; finish that first, "
                "remove the folder, or name another folder"
            )
        for path in sorted(self.folder.iterdir()):
            if path.name != LOCK or path.stat().st_size:
                raise self._error(
                    f"{self.folder} holds {path.name!r:.80}, and this command did not make that folder; move the file "
                    "elsewhere, or name another folder"
                )

    def _is_own(self) -> bool:
        mark = self._read_mark()
        return isinstance(mark, dict) and all(mark.get(name) == self._mark[name] for name in ("made_by", "purpose"))

    def _read_mark(self) -> Any:
        with suppress(OSError, ValueError), (self.folder / LOCK).open(encoding="utf-8") as lock:
            return json.loads(lock.read(MARK_BYTES))
        return None
