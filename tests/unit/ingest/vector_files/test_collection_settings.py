"""Files of vectors store all settings of a collection."""

import dataclasses
import inspect
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imagesearch.search.v1 import collection_pb2

from imagesearch_client import Client, Collection, Consistency, HnswParameters, Index, IvfParameters, Metric
from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.vector_files.collection_settings import differences, notes_of, settings_from
from imagesearch_ingest.vector_files.formats import WRITERS, write_vectors
from imagesearch_ingest.vector_files.rows import FileInfo, Rows, Summary
from imagesearch_ingest.vector_files.vector_file_source import VectorFileSource, VectorOptions

COLLECTION = Collection(
    name="shoes",
    model="vgg16",
    dimension=2,
    fingerprint="0123",
    metric=Metric.IP,
    index=Index.IVF_SQ8,
    description="die schönen",
    labels={"team": "shop", "=": ""},
    create_time=datetime(2024, 5, 1, tzinfo=UTC),
    index_parameters=IvfParameters(77),
    consistency=Consistency.EVENTUALLY,
    ttl=timedelta(days=36_500, microseconds=1),
    max_regions=8,
)
# Fields of a collection that are not settings.
OWN = {"name", "create_time"}


def test_files_store_every_setting() -> None:
    """A new field of a collection fails here until files store it."""
    fields = {field.name for field in dataclasses.fields(Collection)} - OWN
    settings = settings_from(notes_of(COLLECTION))
    assert settings.keys() == fields
    assert all(settings[name] == getattr(COLLECTION, name) for name in fields)
    # Each setting differs from its default here, and is an argument of create_collection.
    defaults = {name: each.default for name, each in inspect.signature(Client.create_collection).parameters.items()}
    assert fields <= defaults.keys()
    assert not [name for name in fields if settings[name] in (defaults[name], None)]
    # The contract has no other fields than the type of the client.
    assert {field.name for field in collection_pb2.Collection.DESCRIPTOR.fields} == fields - {"index_parameters"} | OWN
    parameters = {field.name for field in collection_pb2.Index.DESCRIPTOR.fields} - {"type"}
    assert parameters == {"hnsw", "ivf"}


@pytest.mark.parametrize("parameters", [None, HnswParameters(8, 64), IvfParameters(3)])
@pytest.mark.parametrize("ttl", [None, timedelta(seconds=1), timedelta(seconds=90.5)])
def test_settings_are_read_as_they_were_written(parameters: Any, ttl: timedelta | None) -> None:
    collection = dataclasses.replace(COLLECTION, index_parameters=parameters, ttl=ttl)
    settings = settings_from(notes_of(collection))
    assert (settings["index_parameters"], settings["ttl"]) == (parameters, ttl)
    assert differences(collection, settings) == []


def test_differences_name_both_values() -> None:
    settings = settings_from(notes_of(COLLECTION))
    other = dataclasses.replace(COLLECTION, ttl=None, index=Index.HNSW, index_parameters=HnswParameters(), labels={})
    assert differences(other, settings) == [
        "index is hnsw, but ivf_sq8 in the file",
        "index_parameters is m 16, ef_construction 200, but nlist 77 in the file",
        "ttl is none, but 3153600000.000001 s in the file",
        "labels is {}, but {'team': 'shop', '=': ''} in the file",
    ]
    # Files from elsewhere contain no settings.
    assert differences(other, settings_from({})) == []


def written(path: Path, notes: dict[str, str]) -> Path:
    time = datetime(2024, 5, 1, tzinfo=UTC)
    rows = Rows(["a"], [""], [""], np.ones((1, 2), np.float32), [None], [time], [time], [{}])
    summary = Summary()
    summary.add(rows)
    write_vectors(path, FileInfo(summary, 2, notes), lambda _: [rows])
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".h5", ".npz"])
def test_each_format_stores_the_settings(tmp_path: Path, suffix: str) -> None:
    assert len(WRITERS) == 3
    source = VectorFileSource(written(tmp_path / f"a{suffix}", dict(notes_of(COLLECTION))), VectorOptions())
    assert differences(COLLECTION, settings_from(source.notes)) == []


def test_an_unknown_setting_raises_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {**notes_of(COLLECTION), "index": "quantum"})
    with pytest.raises(SourceError, match="its index is 'quantum', which this version does not support"):
        VectorFileSource(path, VectorOptions())
