"""Stores the settings of a collection in its file of vectors, so that an import creates the same collection."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from imagesearch_client.types import (
    Collection,
    Consistency,
    HnswParameters,
    Index,
    IndexParameters,
    IvfParameters,
    Metric,
)
from imagesearch_ingest.vector_files.rows import FORMAT_VERSION


def notes_of(collection: Collection) -> Mapping[str, str]:
    """Return all settings of a collection, and the origin of a file, as texts."""
    parameters = collection.index_parameters
    return {
        "format_version": FORMAT_VERSION,
        "collection": collection.name,
        "model": collection.model,
        "fingerprint": collection.fingerprint,
        "dimension": str(collection.dimension),
        "metric": collection.metric.value,
        "index": collection.index.value,
        "index_parameters": json.dumps(None if parameters is None else asdict(parameters)),
        "consistency": collection.consistency.value,
        "ttl_seconds": json.dumps(None if collection.ttl is None else collection.ttl.total_seconds()),
        "max_regions": str(collection.max_regions),
        "description": collection.description,
        "labels": json.dumps(dict(collection.labels), ensure_ascii=False),
    }


def settings_from(notes: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings in the notes of a file, with the argument names of `Client.create_collection`.

    Files from elsewhere contain no settings, and older exports fewer. Raises ValueError, which names an unknown
    setting.
    """
    readers: Mapping[str, tuple[str, Callable[[str], Any]]] = {
        "model": ("model", str),
        "fingerprint": ("fingerprint", str),
        "dimension": ("dimension", int),
        "metric": ("metric", Metric),
        "index": ("index", Index),
        "index_parameters": ("index_parameters", _parameters),
        "consistency": ("consistency", Consistency),
        "ttl_seconds": ("ttl", _ttl),
        "max_regions": ("max_regions", int),
        "description": ("description", str),
        "labels": ("labels", json.loads),
    }
    settings: dict[str, Any] = {}
    for note, (name, read) in readers.items():
        if note in notes:
            try:
                settings[name] = read(notes[note])
            except (ValueError, TypeError) as error:
                raise ValueError(f"its {note} is {notes[note]!r:.80}, which this version does not support") from error
    return settings


def _parameters(text: str) -> IndexParameters | None:
    found = json.loads(text)
    if found is None:
        return None
    return IvfParameters(**found) if "nlist" in found else HnswParameters(**found)


def _ttl(text: str) -> timedelta | None:
    seconds = json.loads(text)
    return None if seconds is None else timedelta(seconds=seconds)


def differences(collection: Collection, settings: Mapping[str, Any]) -> list[str]:
    """Return the differences between the settings of a collection and those of a file."""
    return [
        f"{name} is {_shown(getattr(collection, name))}, but {_shown(value)} in the file"
        for name, value in settings.items()
        if getattr(collection, name) != value
    ]


def _shown(value: Any) -> str:
    match value:
        case None | "":
            return "none"
        case Metric() | Index() | Consistency():
            return str(value.value)
        case HnswParameters() | IvfParameters():
            return ", ".join(f"{name} {number}" for name, number in asdict(value).items())
        case timedelta():
            return f"{value.total_seconds():.16g} s"
    return f"{value!r:.200}"
