"""The report of a load: what it has done so far, and what it could not store."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from imagesearch_ingest.sources.items import SkippedFile, SkipReason

MAX_FIRST_REJECTS = 10
# The reason of a reject that looks like an image, but has an unsupported format or name.
FORMAT_UNSUPPORTED = "FORMAT_UNSUPPORTED"


@dataclass(frozen=True)
class Reject:
    """An entry of a source that was not stored."""

    where: str
    """The uri of an item, or the place of a fault."""
    reason: str
    message: str


@dataclass(frozen=True)
class MissingImages:
    """The images that a source had in an earlier run, and has no longer."""

    source: str
    count: int
    known: int
    """Images of the source in the ledger before this run."""
    names: Sequence[str]
    """The ids of the first of them."""

    @property
    def share(self) -> float:
        """The missing fraction of the known images, from 0 to 1."""
        return self.count / max(self.known, self.count, 1)

    def as_json(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {"source": self.source, "missing": self.count, "known": self.known, "first": list(self.names)}


@dataclass
class LoadReport:
    """Counts of a load. The load updates them while it runs, so that other threads can show its progress."""

    expected: int | None = None
    """Approximate number of items in the sources; None if unknown."""
    listed: int = 0
    """Items and faults that the sources have listed. Files that the sources skip are counted below."""
    stored: int = 0
    """Images that were stored with a new vector."""
    replaced: int = 0
    """Stored images that replaced a different image of the same id from another source or ledger."""
    updated: int = 0
    """Images whose uri or attributes were updated. Their vectors stayed."""
    skipped: int = 0
    """Images that have not changed."""
    duplicates: int = 0
    """Images that were not stored because another image has the same content."""
    failed_before: int = 0
    """Images that failed in an earlier run, and were not tried again."""
    removed: int = 0
    """Images that were removed because the sources have them no longer. A dry run counts what it would remove."""
    missing: list[MissingImages] = field(default_factory=list)
    """What each source has no longer, if the load prunes."""
    unfinished: int = 0
    """Images that were started, but not finished before the load stopped. They are not in `listed`."""
    unsupported_suffixes: Counter[str] = field(default_factory=Counter)
    """Files that look like images but have an unsupported format, by suffix. They are not in `listed`."""
    system_files: int = 0
    """Files that systems and programs make beside images, such as thumbnails. They are not in `listed`."""
    other_files: int = 0
    """Files that do not look like images. They are not in `listed`."""
    bytes: int = 0
    """Bytes of the image files that were read."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Number of rejects by reason."""
    remarks: list[str] = field(default_factory=list)
    """Remarks of the sources for users, such as a column that became text because of a few cells."""
    first_rejects: list[Reject] = field(default_factory=list)
    stopped: str = ""
    """Why the load stopped early; empty if it did not."""
    interrupted: bool = False
    """Whether a signal or the caller stopped the load."""
    seconds: float = 0.0
    """Duration of the load."""
    waiting_for: str = ""
    """What the load waits for at the moment; empty if it does not wait."""

    def wait_for(self, what: str) -> None:
        """Set what the load waits for; an empty string ends the waiting."""
        self.waiting_for = what

    @property
    def unsupported(self) -> int:
        """Files that look like images but have an unsupported format."""
        return self.unsupported_suffixes.total()

    @property
    def failed(self) -> int:
        """Rejects of this run, and of earlier runs if they were not tried again."""
        return self.reasons.total()

    @property
    def done(self) -> int:
        """Listed items that are finished, with any outcome."""
        return self.stored + self.updated + self.skipped + self.duplicates + self.failed

    @property
    def remaining(self) -> int:
        """Images that are left for the next run, as far as known."""
        return max(self.unfinished, (self.expected or 0) - self.listed)

    @property
    def images_per_second(self) -> float:
        """Stored images per second, averaged over the whole load."""
        return self.stored / self.seconds if self.seconds else 0.0

    def add_reject(self, reject: Reject) -> None:
        """Count an entry that is not stored."""
        self.reasons[reject.reason] += 1
        if len(self.first_rejects) < MAX_FIRST_REJECTS:
            self.first_rejects.append(reject)

    def add_skipped_file(self, file: SkippedFile) -> None:
        """Count a file that a source skips."""
        match file.reason:
            case SkipReason.UNSUPPORTED:
                self.unsupported_suffixes[file.suffix] += 1
            case SkipReason.SYSTEM_FILE:
                self.system_files += 1
            case SkipReason.NOT_AN_IMAGE:
                self.other_files += 1
            case SkipReason.REPEATED:
                self.listed += 1
                self.skipped += 1

    def as_json(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {
            "listed": self.listed,
            "stored": self.stored,
            "replaced": self.replaced,
            "updated": self.updated,
            "skipped": self.skipped,
            "duplicates": self.duplicates,
            "failed": self.failed,
            "failed_before": self.failed_before,
            "removed": self.removed,
            "unfinished": self.unfinished,
            "unsupported": self.unsupported,
            "unsupported_suffixes": dict(sorted(self.unsupported_suffixes.items())),
            "system_files": self.system_files,
            "other_files": self.other_files,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 2),
            "reasons": dict(sorted(self.reasons.items())),
            "remarks": self.remarks,
            "missing": [missing.as_json() for missing in self.missing],
            "stopped": self.stopped,
        }
