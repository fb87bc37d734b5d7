"""The settings of a collection go into its file and come back: all of them, also those that come later."""

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
from imagesearch_ingest.vector_files.formats import WRITERS, write_vectors
from imagesearch_ingest.vector_files.rows import Facts, Rows, Summary
from imagesearch_ingest.vector_files.settings import differences, notes_of, settings_from
from imagesearch_ingest.vector_files.source import VectorFile, VectorOptions

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
)
# What is of one collection, and no setting of it.
OWN = {"name", "create_time"}


def test_every_field_of_a_collection_is_kept() -> None:
    """A new field of a collection fails here until files keep it."""
    fields = {field.name for field in dataclasses.fields(Collection)} - OWN
    settings = settings_from(notes_of(COLLECTION))
    assert settings.keys() == fields
    assert all(settings[name] == getattr(COLLECTION, name) for name in fields)
    # Each has a value here that is no default, and can be given to a new collection.
    defaults = {name: each.default for name, each in inspect.signature(Client.create_collection).parameters.items()}
    assert fields <= defaults.keys()
    assert not [name for name in fields if settings[name] in (defaults[name], None)]
    # The contract has no field that the client's type does not have.
    assert {field.name for field in collection_pb2.Collection.DESCRIPTOR.fields} == fields - {"index_parameters"} | OWN
    parameters = {field.name for field in collection_pb2.Index.DESCRIPTOR.fields} - {"type"}
    assert parameters == {"hnsw", "ivf"}


@pytest.mark.parametrize("parameters", [None, HnswParameters(8, 64), IvfParameters(3)])
@pytest.mark.parametrize("ttl", [None, timedelta(seconds=1), timedelta(seconds=90.5)])
def test_settings_come_back(parameters: Any, ttl: timedelta | None) -> None:
    collection = dataclasses.replace(COLLECTION, index_parameters=parameters, ttl=ttl)
    settings = settings_from(notes_of(collection))
    assert (settings["index_parameters"], settings["ttl"]) == (parameters, ttl)
    assert differences(collection, settings) == []


def test_differences_name_both_values() -> None:
    settings = settings_from(notes_of(COLLECTION))
    other = dataclasses.replace(COLLECTION, ttl=None, index=Index.HNSW, index_parameters=HnswParameters(), labels={})
    assert differences(other, settings) == [
        "index is hnsw, and ivf_sq8 in the file",
        "index_parameters is m 16, ef_construction 200, and nlist 77 in the file",
        "ttl is none, and 3153600000.000001 s in the file",
        "labels is {}, and {'team': 'shop', '=': ''} in the file",
    ]
    # A file of others says nothing of settings.
    assert differences(other, settings_from({})) == []


def written(path: Path, notes: dict[str, str]) -> Path:
    time = datetime(2024, 5, 1, tzinfo=UTC)
    rows = Rows(["a"], [""], [""], np.ones((1, 2), np.float32), [None], [time], [time], [{}])
    summary = Summary()
    summary.add(rows)
    write_vectors(path, Facts(summary, 2, notes), lambda _: [rows])
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".h5", ".npz"])
def test_each_format_keeps_the_settings(tmp_path: Path, suffix: str) -> None:
    assert len(WRITERS) == 3
    source = VectorFile(written(tmp_path / f"a{suffix}", dict(notes_of(COLLECTION))), VectorOptions())
    assert differences(COLLECTION, settings_from(source.notes)) == []


def test_a_setting_that_is_not_known_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {**notes_of(COLLECTION), "index": "quantum"})
    with pytest.raises(SourceError, match="its index is 'quantum', which this program does not know"):
        VectorFile(path, VectorOptions())
