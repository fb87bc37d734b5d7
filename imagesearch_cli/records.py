"""Collections and images as commands print them: as JSON for programs, as fields for people."""

import dataclasses
from collections.abc import Mapping

from imagesearch_cli.option_values import parse_attribute
from imagesearch_cli.tables import print_fields
from imagesearch_client.filters import split_values, unquoted
from imagesearch_client.types import AttributeValue, Collection, Image
from imagesearch_ingest.json_text import json_text


def collection_json(collection: Collection, count: int) -> dict[str, object]:
    """Return a collection with its number of images as JSON values."""
    return {
        "name": collection.name,
        "images": count,
        "model": collection.model,
        "dimension": collection.dimension,
        "fingerprint": collection.fingerprint,
        "metric": collection.metric.value,
        "index": collection.index.value,
        "index_parameters": dataclasses.asdict(collection.index_parameters) if collection.index_parameters else {},
        "consistency": collection.consistency.value,
        "ttl_seconds": collection.ttl.total_seconds() if collection.ttl else None,
        "max_regions": collection.max_regions,
        "description": collection.description,
        "labels": dict(collection.labels),
        "create_time": collection.create_time.isoformat(),
    }


def image_json(image: Image) -> dict[str, object]:
    """Return a stored image as JSON values."""
    found: dict[str, object] = {
        "id": image.id,
        "uri": image.uri,
        "attributes": dict(image.attributes),
        "content_sha256": image.content_sha256,
        "create_time": image.create_time.isoformat(),
        "update_time": image.update_time.isoformat(),
    }
    if image.embedding is not None:
        found["vector"] = image.embedding.values.tolist()
    if image.region is not None:
        found["region"] = dataclasses.astuple(image.region)
    return found


def print_record(record: Mapping[str, object], *, as_json: bool) -> None:
    """Print the JSON values of a collection or an image: as one line of JSON, or a line for each field."""
    if as_json:
        print(json_text(record))
        return
    fields = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            text = shown_attributes(value)
        else:
            text = value if isinstance(value, str) else json_text(value, readable=True)
        fields.append((name, "" if value is None else text))
    print_fields(fields)


def shown_attributes(attributes: Mapping[str, AttributeValue]) -> str:
    """Return attributes as NAME=VALUE, in the order of their names."""
    return " ".join(f"{name}={shown_attribute(value)}" for name, value in sorted(attributes.items()))


def shown_attribute(value: AttributeValue) -> str:
    """Return an attribute's value as `images update` reads it."""
    if isinstance(value, str):
        return value if _is_read_as_itself(value) else json_text(value, readable=True)
    if isinstance(value, bool | int | float):
        return json_text(value, readable=True)
    return f"[{','.join(map(_shown_in_list, value))}]"


def _is_read_as_itself(text: str) -> bool:
    try:
        return parse_attribute(text) == text
    except ValueError:
        return False


def _shown_in_list(text: str) -> str:
    """Return a text of a list, in quotes if it would be read differently without them."""
    if split_values(text) == [text] and unquoted(text) == text and text:
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'
