"""What a source may be told beside where it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Larger files in an archive that is read in passing are not kept.
MAX_BYTES = 32 * 2**20


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read. What has no effect for a kind of source is refused where one is opened."""

    by_content: bool = False
    """Whether the SHA-256 of an image's content is to be its id."""
    any_name: bool = False
    """Whether files of any name are taken if their content is an image; it is read from each of them."""
    root: str = ""
    """The folder or URL that relative paths of a list or manifest begin at; empty is where the list itself is."""
    path_column: str = ""
    """The column that holds the path or URL; empty is the first that has one of the usual names."""
    id_column: str = ""
    """The column that holds the id; empty is `id` where there is one."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The attributes that columns become where these have other names; an empty name leaves the column out."""
    types: Mapping[str, str] = field(default_factory=dict)
    """The types of CSV columns: text, int, float, bool or date; others are found out."""
    max_bytes: int = MAX_BYTES
    """The largest member that is kept of an archive that is read in passing."""
    kind: str = ""
    """folder, list, csv, jsonl, parquet or tar; empty is by the source's name."""
