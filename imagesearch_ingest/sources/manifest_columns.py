"""What the columns of a manifest are: one is the path, one may be the id, the others are attributes."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from imagesearch_client.types import AttributeValue
from imagesearch_ingest.sources.attribute_values import attribute_name, suggest_option
from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.sources.source_options import SourceOptions

PATH_COLUMNS = ("path", "file", "filename", "file_name", "uri", "url", "image", "image_path", "image_url")
ID_COLUMN = "id"
SHOWN = 20


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """A row of a manifest whose attributes are understood."""

    number: int
    path: object
    id: object
    has_id: bool
    """Whether the row is to have an id of its own."""
    attributes: Mapping[str, AttributeValue] | None
    content: bytes | None = None
    """The image's file, if the row holds it."""
    column: str = ""
    """The column that holds the image or its path."""


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that cannot be used, and why."""

    number: int
    message: str


@dataclass(frozen=True)
class Columns:
    """What each column is."""

    path: str
    id: str | None
    """None where the manifest has no ids of its own."""
    attributes: Mapping[str, str]
    """The attribute's name by the column's."""


def path_column(present: Collection[str], options: SourceOptions) -> str | None:
    """The column or field that holds the path."""
    wanted = [options.path_column] if options.path_column else PATH_COLUMNS
    return next((name for name in wanted if name in present), None)


def id_column(present: Collection[str], options: SourceOptions, path: str | None) -> str | None:
    """The column or field that holds the id."""
    if options.id_column:
        return options.id_column
    return ID_COLUMN if ID_COLUMN in present and path != ID_COLUMN else None


def assign_columns(present: Sequence[str], options: SourceOptions, name: str) -> Columns:
    """What each of these columns is. Raises SourceError."""
    if twice := sorted({column for column in present if present.count(column) > 1}):
        raise SourceError(f"{name} has several columns of the same name: {quoted_names(twice)}")
    path = path_column(present, options)
    if path is None:
        wanted = f"no column {options.path_column!r}" if options.path_column else "no column of a usual name for paths"
        raise SourceError(
            f"{name} has {wanted}; there are {quoted_names(present)}. "
            "--path-column names the one that holds a path or URL"
        )
    image_id = id_column(present, options, path)
    if image_id is not None and image_id not in present:
        raise SourceError(
            f"{name} has no column {image_id!r}, which --id-column names; there are {quoted_names(present)}"
        )
    for option, columns in (("--map", options.columns), ("--type", options.types)):
        if unknown := [column for column in columns if column not in present]:
            raise SourceError(
                f"{name} has no column {quoted_names(unknown)}, which {option} names; there are {quoted_names(present)}"
            )
        if useless := [column for column in columns if column in (path, image_id)]:
            raise SourceError(
                f"{name}: {quoted_names(useless)} is the path or the id, where {option} is without effect"
            )
    return Columns(path, image_id, _attributes(present, (path, image_id), options, name))


def _attributes(
    present: Sequence[str], taken: Collection[str | None], options: SourceOptions, name: str
) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for column in present:
        if column in taken:
            continue
        try:
            attribute = attribute_name(column, options.columns, present)
        except ValueError as error:
            raise SourceError(f"{name}, column {column!r}: {error}") from None
        if attribute and attribute in attributes.values():
            raise SourceError(
                f"{name}: two columns would be the attribute {attribute}; "
                f"{suggest_option('--map', column)} leaves one of them out"
            )
        if attribute:
            attributes[column] = attribute
    return attributes


def quoted_names(columns: Iterable[str]) -> str:
    """Their names, if they are not too many."""
    quoted = [f"{column!r:.100}" for column in columns]
    return ", ".join(quoted[:SHOWN]) + (" and more" if len(quoted) > SHOWN else "") or "none"
