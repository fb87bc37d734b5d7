"""The report of a reindex."""

from dataclasses import dataclass, field

from imagesearch_client.types import WriteResult


@dataclass
class ReindexReport:
    """What a reindex has done."""

    source: str
    collection: str
    embedded_anew: bool
    """Whether the images' files were read and embedded; otherwise the vectors were copied."""
    copied: int = 0
    failed: list[WriteResult] = field(default_factory=list)
    differences: int = 0
    """Images that only one of the two collections has, although they did not change during the last pass."""
    source_count: int = 0
    count: int = 0
    moved: dict[str, str] = field(default_factory=dict)
    """The moved aliases, with the collections to which they led before."""
    finished: bool = False
    """Whether the copy is complete, and the aliases lead to it."""

    @property
    def complete(self) -> bool:
        """Whether every image was copied."""
        return not self.failed and not self.differences

    def as_json(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        failed = [
            {"id": result.id, "reason": result.error.reason, "message": result.error.message}
            for result in self.failed
            if result.error is not None
        ]
        return {
            "source": self.source,
            "collection": self.collection,
            "embedded_anew": self.embedded_anew,
            "copied": self.copied,
            "failed": failed,
            "differences": self.differences,
            "source_count": self.source_count,
            "count": self.count,
            "moved": self.moved,
        }
