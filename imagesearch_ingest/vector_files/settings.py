"""The settings of a collection, as a file of its vectors says them, so that an import makes the same collection."""

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
    """All settings of a collection, and where a file is from, as texts."""
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
        "description": collection.description,
        "labels": json.dumps(dict(collection.labels), ensure_ascii=False),
    }


def settings_from(notes: Mapping[str, str]) -> dict[str, Any]:
    """The settings that the notes of a file say, by the names of `Client.create_collection`.

    Files of others say none, and older exports fewer. Raises ValueError, which names the setting that is not known.
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
        "description": ("description", str),
        "labels": ("labels", json.loads),
    }
    settings: dict[str, Any] = {}
    for note, (name, read) in readers.items():
        if note in notes:
            try:
                settings[name] = read(notes[note])
            except (ValueError, TypeError) as error:
                raise ValueError(f"its {note} is {notes[note]!r:.80}, which this program does not know") from error
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
    """How the settings of a collection differ from those of a file; empty if they do not."""
    return [
        f"{name} is {_shown(getattr(collection, name))}, and {_shown(value)} in the file"
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
