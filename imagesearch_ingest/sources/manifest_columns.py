"""Assign the columns of a manifest to the path, the id and the attributes."""

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
    """A valid row of a manifest."""

    number: int
    path: object
    id: object
    has_id: bool
    """Whether the manifest has an id column, so that the row must have an id."""
    attributes: Mapping[str, AttributeValue] | None
    content: bytes | None = None
    """The content of the image's file, if the row has it."""
    column: str = ""
    """The column with the image or its path."""


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that cannot be used, and why."""

    number: int
    message: str


@dataclass(frozen=True)
class Columns:
    """The meaning of the columns."""

    path: str
    id: str | None
    """None if the manifest has no ids."""
    attributes: Mapping[str, str]
    """Attribute names by column name."""


def path_column(present: Collection[str], options: SourceOptions) -> str | None:
    """Return the column or field with the path; None if there is none."""
    wanted = [options.path_column] if options.path_column else PATH_COLUMNS
    return next((name for name in wanted if name in present), None)


def id_column(present: Collection[str], options: SourceOptions, path: str | None) -> str | None:
    """Return the column or field with the id; None if there is none."""
    if options.id_column:
        return options.id_column
    return ID_COLUMN if ID_COLUMN in present and path != ID_COLUMN else None


def assign_columns(present: Sequence[str], options: SourceOptions, name: str) -> Columns:
    """Return the meaning of the columns. Raises SourceError."""
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
    for option, columns in (("--map", options.columns), ("--column-type", options.types)):
        if unknown := [column for column in columns if column not in present]:
            raise SourceError(
                f"{name} has no column {quoted_names(unknown)}, which {option} names; there are {quoted_names(present)}"
            )
        if useless := [column for column in columns if column in (path, image_id)]:
            raise SourceError(f"{name}: {option} has no effect on {quoted_names(useless)}, which is the path or the id")
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
    """Return the quoted names, at most SHOWN of them."""
    quoted = [f"{column!r:.100}" for column in columns]
    return ", ".join(quoted[:SHOWN]) + (" and more" if len(quoted) > SHOWN else "") or "none"
