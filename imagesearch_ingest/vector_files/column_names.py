"""Finds the columns of vectors, ids, uris and attributes in files from elsewhere."""

from collections.abc import Collection, Iterable, Mapping

from imagesearch_ingest.sources.attribute_values import attribute_name, suggest_option
from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.vector_files.rows import ColumnNames

# The usual names of each column, most important first. Tutorials use the last ones.
VECTOR_NAMES = ("vector", "embedding", "vectors", "embeddings", "features", "feats", "dataset_1")
ID_NAMES = ("id", "ids", "image_names", "names", "dataset_2")
URI_NAMES = ("uri", "uris", "path", "paths")
ATTRIBUTE_PREFIX = "attributes."


def find_columns(present: Collection[str], columns: ColumnNames) -> tuple[str, str, str | None]:
    """Return the names of the columns of vectors, ids and, if there is one, uris. Raises SourceError."""
    vector = _named(present, columns.vector, VECTOR_NAMES, "vectors", "vector")
    image_id = _named(present, columns.id, ID_NAMES, "ids", "id")
    if columns.uri:
        return vector, image_id, _named(present, columns.uri, (), "uris", "uri")
    return vector, image_id, next((name for name in URI_NAMES if name in present and name != image_id), None)


def _named(present: Collection[str], wanted: str, usual: Iterable[str], what: str, option: str) -> str:
    if wanted:
        if wanted not in present:
            raise SourceError(f"there is no column {wanted!r}; the columns are {shown(present)}")
        return wanted
    for name in usual:
        if name in present:
            return name
    raise SourceError(
        f"no column has a usual name for {what} ({', '.join(usual)}); use --{option}-column to name it. The "
        f"columns are {shown(present)}"
    )


def attribute_names(found: Iterable[str], renamed: Mapping[str, str]) -> dict[str, str]:
    """Return the attribute name of each column, without the columns that are left out. Raises SourceError."""
    names: dict[str, str] = {}
    columns = set(found)
    # `renamed` may omit the prefix of a column.
    if unknown := {name for name in renamed if name not in columns and ATTRIBUTE_PREFIX + name not in columns}:
        raise SourceError(
            f"there is no attribute {shown(unknown)} to rename or leave out; the attributes are {shown(columns)}"
        )
    for column in sorted(columns):
        short = column.removeprefix(ATTRIBUTE_PREFIX)
        try:
            name = attribute_name(short, {short: renamed[column]} if column in renamed else renamed, columns)
        except ValueError as error:
            raise SourceError(f"column {column!r:.80}: {error}") from None
        if not name:
            continue
        if name in names.values():
            raise SourceError(
                f"two columns would become the attribute {name}; use {suggest_option('--map', column)} to leave one out"
            )
        names[column] = name
    return names


def shown(names: Iterable[str]) -> str:
    """Return at most twelve names, quoted."""
    ordered = sorted(names)
    return ", ".join(f"{name!r:.60}" for name in ordered[:12]) + (", ..." if len(ordered) > 12 else "")  # noqa: PLR2004
