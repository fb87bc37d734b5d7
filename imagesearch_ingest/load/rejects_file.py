"""The file of rejects: a line of JSON for each entry that a load could not store."""

import errno
import json
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from imagesearch_ingest.json_text import json_text
from imagesearch_ingest.load.errors import LoadStoppedError
from imagesearch_ingest.sources.items import Item, SourceEntry

# No line of rejects is longer.
MAX_LINE_CHARACTERS = 2**24


def can_replace(path: Path) -> bool:
    """Return whether rejects can be written to a path: it is free, an older file of rejects, or not a regular file."""
    if not path.is_file():
        return True
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline(MAX_LINE_CHARACTERS)
            return not line or "_reason" in dict(json.loads(line))
    except OSError:
        # Opening the file for writing reports the error.
        return True
    except (ValueError, TypeError):
        return False


class RejectsFile:
    """A file of rejects. It is also a manifest: loading it as a source tries the rejected images again."""

    def __init__(self, path: Path | None) -> None:
        """Create the file, or replace an older file of rejects; None writes nothing. Raises OSError."""
        if path is not None and not can_replace(path):
            raise FileExistsError(errno.EEXIST, "it is not a file of rejects; name another file", str(path))
        # Line buffering reports a full disk at the line that does not fit.
        self._file: IO[str] | None = (
            None if path is None else path.open("w", buffering=1, encoding="utf-8", errors="backslashreplace")
        )

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        if self._file is not None:
            # `write` has reported the error.
            with suppress(OSError):
                self._file.close()

    def write(self, entry: SourceEntry, reason: str, message: str) -> None:
        """Add a line. The line of an entry that is not an item has no uri, so that a later load ignores it.

        Raises LoadStoppedError if the file cannot be written.
        """
        if self._file is None:
            return
        line: dict[str, object] = {"_reason": reason, "_message": message}
        if isinstance(entry, Item):
            item: dict[str, object] = {"uri": entry.uri}
            item |= {"id": entry.id} if entry.id else {}
            item |= {} if entry.attributes is None else {"attributes": entry.attributes}
            line = item | line
        else:
            line["_where"] = entry.where
        try:
            self._file.write(json_text(line, readable=True) + "\n")
        except OSError as error:
            raise LoadStoppedError("REJECTS_UNWRITABLE", f"{self._file.name}: {error.strerror}") from None
