"""What a load has done so far, and what it could not."""

import errno
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from imagesearch_ingest.json_text import json_text
from imagesearch_ingest.load.service_retries import LoadStoppedError
from imagesearch_ingest.sources.items import Item, SkippedFile, SkipReason, SourceEntry

SHOWN_REJECTS = 10
# No line of rejects has more characters.
REJECT_LENGTH = 2**24
# The reason of files that look like images and are not taken.
FORMAT_NOT_TAKEN = "FORMAT_NOT_TAKEN"


@dataclass(frozen=True)
class Reject:
    """What was not stored, and why."""

    where: str
    """Its uri; or the place in the source, of what is no item."""
    reason: str
    message: str


@dataclass(frozen=True)
class MissingImages:
    """Images that a source no longer has."""

    source: str
    count: int
    known: int
    """Images that were known of the source before the run."""
    names: Sequence[str]
    """The ids of some of them."""

    @property
    def share(self) -> float:
        """The part of the known images."""
        return self.count / max(self.known, self.count, 1)

    def as_json(self) -> dict[str, object]:
        """As JSON has it."""
        return {"source": self.source, "gone": self.count, "known": self.known, "first": list(self.names)}


@dataclass
class LoadReport:
    """Counts everything that a load has met; it grows while the load goes on."""

    expected: int | None = None
    """About how many items there are; None where that is not known."""
    met: int = 0
    """Items, and what is none."""
    stored: int = 0
    """Images that were embedded, or whose ready vectors were taken, and that are stored."""
    replaced: int = 0
    """Those of the stored ones that replaced another image of the same id, which another source or ledger stored."""
    described: int = 0
    """Images whose vectors stay, and whose uri or attributes are new."""
    skipped: int = 0
    """Images that are as they were."""
    duplicates: int = 0
    """Images whose content is stored as another one's."""
    failed_before: int = 0
    """Images that failed in a run before, and were not tried again."""
    removed: int = 0
    """Images of the collection that the source no longer has; of a dry run, that would be removed."""
    gone: list[MissingImages] = field(default_factory=list)
    """What each source no longer has, if that was asked."""
    left: int = 0
    """Images that were begun and given up, because the load stopped; the next run does them. They are not `met`."""
    not_taken_suffixes: Counter[str] = field(default_factory=Counter)
    """Files that look like images and are not taken, by their suffixes; they are not among `met`."""
    left_out: int = 0
    """Files that systems and programs make beside images, such as thumbnails; they are not among `met`."""
    other_files: int = 0
    """Files that do not look like images; they are not among `met`."""
    bytes: int = 0
    """Of the files that were read."""
    reasons: Counter[str] = field(default_factory=Counter)
    """How often each reason was given for what was not stored."""
    remarks: list[str] = field(default_factory=list)
    """What users should know of the sources, such as a column that is text because of a few cells."""
    first_rejects: list[Reject] = field(default_factory=list)
    stopped: str = ""
    """Why it ended before its end; empty where it did not."""
    interrupted: bool = False
    """Whether that was asked for."""
    seconds: float = 0.0
    """From the first look at the sources to the last record."""

    waiting_for: str = ""
    """What keeps it from going on at the moment; empty where nothing does."""

    def wait_for(self, what: str) -> None:
        """Something keeps it from going on, or nothing where `what` is empty."""
        self.waiting_for = what

    @property
    def not_taken(self) -> int:
        """Files that look like images, and are of formats that are not taken."""
        return self.not_taken_suffixes.total()

    @property
    def failed(self) -> int:
        """What is not stored, in this run or one before."""
        return self.reasons.total()

    @property
    def done(self) -> int:
        """Items whose outcome is known."""
        return self.stored + self.described + self.skipped + self.duplicates + self.failed

    @property
    def remaining(self) -> int:
        """Images that are left for the next run, as far as that is known."""
        return max(self.left, (self.expected or 0) - self.met)

    @property
    def images_per_second(self) -> float:
        """Stored images by the second, over the whole load."""
        return self.stored / self.seconds if self.seconds else 0.0

    def reject(self, reject: Reject) -> None:
        """Counts what is not stored."""
        self.reasons[reject.reason] += 1
        if len(self.first_rejects) < SHOWN_REJECTS:
            self.first_rejects.append(reject)

    def pass_over(self, passed: SkippedFile) -> None:
        """Counts a file that is no item."""
        match passed.why:
            case SkipReason.UNSUPPORTED:
                self.not_taken_suffixes[passed.suffix] += 1
            case SkipReason.SYSTEM_FILE:
                self.left_out += 1
            case SkipReason.NOT_AN_IMAGE:
                self.other_files += 1
            case SkipReason.REPEATED:
                self.met += 1
                self.skipped += 1

    def as_json(self) -> dict[str, object]:
        """The account as JSON has it."""
        return {
            "met": self.met,
            "stored": self.stored,
            "replaced": self.replaced,
            "described": self.described,
            "skipped": self.skipped,
            "duplicates": self.duplicates,
            "failed": self.failed,
            "failed_before": self.failed_before,
            "removed": self.removed,
            "left": self.left,
            "not_taken": self.not_taken,
            "not_taken_suffixes": dict(sorted(self.not_taken_suffixes.items())),
            "left_out": self.left_out,
            "other_files": self.other_files,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 2),
            "reasons": dict(sorted(self.reasons.items())),
            "remarks": self.remarks,
            "gone": [gone.as_json() for gone in self.gone],
            "stopped": self.stopped,
        }


def is_replaceable(path: Path) -> bool:
    """Whether rejects can be written to a path: nothing is there, or rejects of a run before, or no regular file."""
    if not path.is_file():
        return True
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline(REJECT_LENGTH)
            return not line or "_reason" in dict(json.loads(line))
    except OSError:
        # Opening it for writing says what is wrong.
        return True
    except (ValueError, TypeError):
        return False


class RejectsFile:
    """A line of JSON for everything that was not stored. It is a manifest: given as a source, it is tried again."""

    def __init__(self, path: Path | None) -> None:
        """Writes to a new file, or replaces an older file of rejects; None writes nothing. Raises OSError."""
        if path is not None and not is_replaceable(path):
            raise FileExistsError(errno.EEXIST, "it is no file of rejects, and is not replaced", str(path))
        # Line by line, so that a disk that is full is told of by the line that finds no room.
        self._file: IO[str] | None = (
            None if path is None else path.open("w", buffering=1, encoding="utf-8", errors="backslashreplace")
        )

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        if self._file is not None:
            # What could not be written was told of then.
            with suppress(OSError):
                self._file.close()

    def write(self, rejected: SourceEntry, reason: str, message: str) -> None:
        """Adds a line. What is no item has no uri, and is passed over in a source. Raises LoadStoppedError."""
        if self._file is None:
            return
        line: dict[str, object] = {"_reason": reason, "_message": message}
        if isinstance(rejected, Item):
            about: dict[str, object] = {"uri": rejected.uri}
            about |= {"id": rejected.id} if rejected.id else {}
            about |= {} if rejected.attributes is None else {"attributes": rejected.attributes}
            line = about | line
        else:
            line["_where"] = rejected.where
        try:
            self._file.write(json_text(line, readable=True) + "\n")
        except OSError as error:
            raise LoadStoppedError("REJECTS_UNWRITABLE", f"{self._file.name}: {error.strerror}") from None
