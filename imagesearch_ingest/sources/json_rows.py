"""Read the rows of JSON Lines files: one object per line."""

from collections.abc import Iterator, Sequence

from imagesearch_client.types import AttributeValue
from imagesearch_ingest.sources.attribute_values import attribute_name, attributes_from, json_object
from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.sources.manifest_columns import InvalidRow, ManifestRow, id_column, path_column
from imagesearch_ingest.sources.source_file import SourceFile, lines_of
from imagesearch_ingest.sources.source_options import SourceOptions

ATTRIBUTES = "attributes"
# Longer lines are not rows, such as a whole JSON file without line ends.
LONGEST_LINE = 16 * 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonRows:
    """The rows of a file in which each line may have different fields."""

    remarks: Sequence[str] = ()

    def __init__(self, source_file: SourceFile, options: SourceOptions) -> None:
        """Read the first row. Raises SourceError and OSError."""
        self._source_file = source_file
        self._options = options
        first = next(self._lines(), (0, None))[1]
        if first is not None and first.startswith(b"["):
            raise SourceError(f"{source_file.file_name} begins with a list; JSON Lines has one object in each line")
        try:
            row = json_object(first or b"{}")
        except ValueError:
            # The row itself is reported later.
            return
        if _is_remark(row):
            return
        path = path_column(row, options)
        for field in row:
            if field not in (path, ATTRIBUTES, id_column(row, options, path)):
                try:
                    attribute_name(field, options.columns, row)
                except ValueError as error:
                    raise SourceError(f"{source_file.file_name}, field {field!r}: {error}") from None

    def __iter__(self) -> Iterator[ManifestRow | InvalidRow]:
        """Yield the rows, numbered by line."""
        for number, line in self._lines():
            if line is None:
                yield InvalidRow(number, f"the line has more than {LONGEST_LINE} bytes")
                continue
            try:
                fields = json_object(line)
                if not _is_remark(fields):
                    yield self._row(number, fields)
            except ValueError as error:
                yield InvalidRow(number, str(error))

    def count(self) -> int | None:
        """Return the approximate number of rows: some lines may be empty."""
        return self._source_file.count_lines()

    def _lines(self) -> Iterator[tuple[int, bytes | None]]:
        with self._source_file.open() as file:
            for number, line in lines_of(file, LONGEST_LINE):
                text = None if line is None else line.removeprefix(BYTE_ORDER_MARK if number == 1 else b"").strip()
                if text or text is None:
                    yield number, text

    def _row(self, number: int, fields: dict[str, object]) -> ManifestRow:
        path = path_column(fields, self._options)
        image_id = id_column(fields, self._options, path)
        found = {name: value for name, value in fields.items() if name not in (path, image_id, ATTRIBUTES)}
        attributes = attributes_from(found, self._options.columns)
        has_attributes = any(attribute_name(name, self._options.columns) for name in found)
        nested = fields.get(ATTRIBUTES)
        if isinstance(nested, dict):
            has_attributes = True
            attributes = _merged(attributes, attributes_from(nested, self._options.columns))
        elif nested is not None:
            raise ValueError(f"{ATTRIBUTES} is not a JSON object")
        # A row without attributes keeps stored ones.
        return ManifestRow(
            number,
            fields.get(path) if path is not None else None,
            fields.get(image_id) if image_id is not None else None,
            image_id is not None,
            attributes if has_attributes else None,
        )


def _is_remark(fields: dict[str, object]) -> bool:
    """Return whether a line describes no image, such as the reject of an unreadable folder."""
    return bool(fields) and all(name.startswith("_") for name in fields)


def _merged(one: dict[str, AttributeValue], other: dict[str, AttributeValue]) -> dict[str, AttributeValue]:
    if twice := one.keys() & other.keys():
        raise ValueError(f"two fields are the attribute {min(twice)}")
    return one | other
