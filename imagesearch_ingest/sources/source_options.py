"""Options of a source."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Larger members of an archive that can be read only once are not kept.
MAX_BYTES = 32 * 2**20


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source. `open_source` refuses options that have no effect on the kind of source."""

    by_content: bool = False
    """Use the SHA-256 of an image's content as its id."""
    any_name: bool = False
    """Accept files of any name whose content is an image. The beginning of every file is read."""
    root: str = ""
    """Folder or URL to which paths in a list or manifest are relative; empty is the folder of the list."""
    path_column: str = ""
    """Column that holds the path or URL; empty is the first column with a usual name."""
    id_column: str = ""
    """Column that holds the id; empty is the column `id`, if there is one."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Attribute names by column name, for columns to rename; an empty name leaves the column out."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Types by CSV column: text, int, float, bool or date. Types of other columns are inferred."""
    max_bytes: int = MAX_BYTES
    """Largest member that is kept from an archive that can be read only once."""
    kind: str = ""
    """folder, list, csv, jsonl, parquet or tar; empty infers the kind from the source's name."""
