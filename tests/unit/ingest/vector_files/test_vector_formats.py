"""Files of all formats return exactly what was written."""

import dataclasses
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagesearch_client.types import AttributeValue, Embedding, Region, RegionEmbedding
from imagesearch_ingest.sources.items import Item
from imagesearch_ingest.vector_files import vector_file_source
from imagesearch_ingest.vector_files.formats import format_of, write_vectors
from imagesearch_ingest.vector_files.parquet_writer import read_part, write_part
from imagesearch_ingest.vector_files.region_columns import RegionColumns
from imagesearch_ingest.vector_files.rows import MAX_COLUMNS, FileInfo, RowError, Rows, Summary
from imagesearch_ingest.vector_files.vector_file_source import VectorFileSource, VectorOptions

FILES = ["v.parquet", "v.h5", "v.npz"]
NOTES = {"format_version": "1", "fingerprint": "elsewhere", "description": "Größe ✓", "labels": "{}"}
TIME = datetime(2026, 5, 4, 3, 2, 1, 987654, UTC)
ODD: list[dict[str, AttributeValue]] = [
    {},
    {"mixed": 1, "text": "", "float": 1.0, "whole": 2**63 - 1, "flag": True, "many": []},
    {"mixed": 1.0, "text": "ü✓\U0001f600", "float": -0.0, "whole": -(2**63), "flag": False, "many": ["", "b,c"]},
    {"mixed": True, "text": "\0nul\n", "float": 1e300, "many": ["\0"]},
    {"mixed": "1", "text": "null"},
    {"mixed": ["1"], "float": 5e-324},
    {"mixed": 2**53 + 1, "a" * 128: "long name"},
]


def rows_of(first: int, attributes: list[dict[str, AttributeValue]], dimension: int = 3) -> Rows:
    count = len(attributes)
    vectors = np.random.default_rng(first).normal(size=(count, dimension)).astype(np.float32)
    return Rows(
        ids=[f"ü{first + row}" for row in range(count)],
        uris=["" if row % 2 else f"s3://b/{row}" for row in range(count)],
        content_sha256=["ab" * 32 if row % 3 else "" for row in range(count)],
        vectors=vectors,
        regions=[Region(0.0, 0.125, 0.5, 1.0) if row % 2 else None for row in range(count)],
        create_times=[TIME + timedelta(microseconds=row) for row in range(count)],
        update_times=[TIME.replace(microsecond=0)] * count,
        attributes=attributes,
    )


def write(path: Path, batches: list[Rows], dimension: int = 3) -> None:
    summary = Summary()
    for rows in batches:
        summary.add(rows)
    write_vectors(path, FileInfo(summary, dimension, NOTES), lambda _: iter(batches))


def items_of(path: Path) -> Iterator[Item]:
    for found in VectorFileSource(path, VectorOptions()):
        assert isinstance(found, Item), found
        yield found


def typed(attributes: Any) -> dict[str, tuple[str, str]]:
    """Return values with their types: == does not distinguish 1 from 1.0, or 0.0 from -0.0."""
    return {name: (type(value).__name__, repr(value)) for name, value in attributes.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_round_trip_is_exact(tmp_path: Path, name: str) -> None:
    batches = [rows_of(0, ODD), rows_of(100, ODD[::-1]), rows_of(200, [{}])]
    path = tmp_path / name
    write(path, batches)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    items = list(items_of(path))
    whole = Rows.concatenate(batches, 3)
    assert [item.id for item in items] == whole.ids
    assert [item.uri for item in items] == whole.uris
    assert [item.content_sha256 for item in items] == whole.content_sha256
    assert [item.region for item in items] == whole.regions
    assert [typed(item.attributes) for item in items] == [typed(each) for each in whole.attributes]
    for item, vector in zip(items, whole.vectors, strict=True):
        assert isinstance(item.content, Embedding)
        assert list(item.content.values) == vector.tolist()
        assert item.content.fingerprint == "elsewhere"
    assert len({item.stamp for item in items}) == len(items)
    source = VectorFileSource(path, VectorOptions())
    assert (source.notes, source.dimension, source.count()) == (NOTES, 3, len(items))


@pytest.mark.parametrize("name", FILES)
def test_a_file_may_have_no_rows(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [], dimension=512)
    source = VectorFileSource(tmp_path / name, VectorOptions())
    assert (list(source), source.count(), source.dimension) == ([], 0, 512)


def test_parquet_files_have_typed_columns(tmp_path: Path) -> None:
    write(tmp_path / "v.parquet", [rows_of(0, ODD), rows_of(100, ODD)])
    file = pq.ParquetFile(tmp_path / "v.parquet")
    assert file.metadata.num_row_groups == 2
    schema = file.schema_arrow
    kinds = {name: schema.field(f"attributes.{name}").type for name in ("text", "flag", "whole", "float", "mixed")}
    assert kinds == {
        "text": pa.string(),
        "flag": pa.bool_(),
        "whole": pa.int64(),
        "float": pa.float64(),
        "mixed": pa.string(),
    }
    assert schema.field("attributes.many").type == pa.list_(pa.string())
    assert schema.field("vector").type == pa.list_(pa.float32(), 3)
    table = file.read()
    assert table.column("create_time")[1].as_py() == TIME + timedelta(microseconds=1)
    assert table.column("attributes.mixed").to_pylist()[:5] == [None, "1", "1.0", "true", '"1"']


def test_other_libraries_read_hdf5_and_npz_files(tmp_path: Path) -> None:
    rows = rows_of(0, ODD)
    write(tmp_path / "v.h5", [rows])
    write(tmp_path / "v.npz", [rows])
    with h5py.File(tmp_path / "v.h5") as file:
        assert file["ids"].asstr()[:].tolist() == rows.ids
        assert np.array_equal(file["features"][:], rows.vectors)
        assert file["create_times"].asstr()[0] == TIME.isoformat()
        assert dict(file.attrs) == NOTES
    with np.load(tmp_path / "v.npz", allow_pickle=False) as arrays:
        assert arrays["ids"].tolist() == rows.ids
        assert np.array_equal(arrays["features"], rows.vectors)
        assert arrays["update_times"][0] == TIME.replace(microsecond=0).isoformat()
        assert {"notes", "regions", "attributes", "uris", "content_sha256"} <= set(arrays)


def test_the_number_of_attribute_columns_is_limited(tmp_path: Path) -> None:
    attributes: list[dict[str, AttributeValue]] = [{f"n{row}": row, "every": 1.5} for row in range(MAX_COLUMNS + 50)]
    write(tmp_path / "v.parquet", [rows_of(0, attributes)])
    assert len(pq.ParquetFile(tmp_path / "v.parquet").schema_arrow.names) == MAX_COLUMNS + 8
    found = [typed(item.attributes) for item in items_of(tmp_path / "v.parquet")]
    assert found == [typed(each) for each in attributes]


@pytest.mark.parametrize(("name", "uri"), [("v.h5", "a\0b"), ("v.npz", "ends\0")])
def test_a_text_that_a_format_cannot_store_is_rejected(tmp_path: Path, name: str, uri: str) -> None:
    rows = rows_of(0, [{}])
    odd = Rows(
        rows.ids,
        [uri],
        rows.content_sha256,
        rows.vectors,
        rows.regions,
        rows.create_times,
        rows.update_times,
        rows.attributes,
    )
    with pytest.raises(RowError, match="the character NUL"):
        write(tmp_path / name, [odd])
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "v.parquet", [odd])
    assert [item.uri for item in items_of(tmp_path / "v.parquet")] == [uri]


@pytest.mark.parametrize("name", FILES)
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, name: str) -> None:
    dimension, batch, count = 512, 250, 60
    summary = Summary()
    attributes: list[dict[str, AttributeValue]] = [{"n": row, "text": "x" * 50} for row in range(batch)]
    for number in range(count):
        summary.add(rows_of(number, attributes, dimension))
    pool, allocated = pa.default_memory_pool(), [0]
    before = pool.bytes_allocated()

    def batches(_: bool) -> Iterator[Rows]:
        for number in range(count):
            allocated.append(pool.bytes_allocated() - before)
            yield rows_of(number, attributes, dimension)

    path = tmp_path / name
    tracemalloc.start()
    write_vectors(path, FileInfo(summary, dimension, NOTES), batches)
    read = 0
    for _ in VectorFileSource(path, VectorOptions()):
        read += 1
        if not read % 100:
            allocated.append(pool.bytes_allocated() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == batch * count
    # The vectors have 30 MB.
    assert peak < 12e6
    assert max(allocated) < 12e6


@pytest.mark.parametrize("name", ["v.csv", "v", "v.npy"])
def test_an_unknown_suffix_raises_an_error_with_the_allowed_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"\.parquet, \.h5, \.hdf5, \.npz"):
        format_of(Path(name))
    assert format_of(Path("A.H5")) == "hdf5"


def regions_of(count: int) -> tuple[RegionEmbedding, ...]:
    dice = np.random.default_rng(count)
    return tuple(
        RegionEmbedding(
            Region(0.0, 0.25, 0.5, float(np.float32(0.5 + number / 100))),
            Embedding(dice.normal(size=3).astype(np.float32), "elsewhere"),
            float(np.float32(dice.random())),
        )
        for number in range(count)
    )


def test_regions_of_a_parquet_file_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several batches in a row group, so that columns are slices.
    monkeypatch.setattr(vector_file_source, "BATCH_ROWS", 2)
    wanted = [[regions_of(count) for count in counts] for counts in ([0, 3, 1, 0, 5], [2], [0])]
    batches = [
        dataclasses.replace(rows_of(100 * number, [{}] * len(each)), region_columns=RegionColumns.from_images(each, 3))
        for number, each in enumerate(wanted)
    ]
    path = tmp_path / "vectors.parquet"
    write_vectors(path, FileInfo(Summary(7), 3, NOTES | {"max_regions": "5"}), lambda _: iter(batches))
    found = list(items_of(path))
    assert [item.regions for item in found] == [regions for each in wanted for regions in each]
    assert len({item.stamp for item in found}) == 7
    part = tmp_path / "part.parquet"
    write_part(str(part), batches[0], 3)
    columns = read_part(part, 3, vectors=True).region_columns
    assert columns is not None
    assert columns.of_rows("elsewhere") == wanted[0]
    assert read_part(part, 3, vectors=False).region_columns is None


def write_one(path: Path, rows: Rows) -> None:
    write_vectors(path, FileInfo(Summary(1), 3, NOTES | {"max_regions": "2"}), lambda _: iter([rows]))


def test_the_stamp_of_an_item_depends_on_its_regions(tmp_path: Path) -> None:
    stamps = set()
    for number, regions in enumerate([(), regions_of(1), regions_of(2), regions_of(2)[::-1]]):
        rows = dataclasses.replace(rows_of(0, [{}]), region_columns=RegionColumns.from_images([regions], 3))
        path = tmp_path / f"{number}.parquet"
        write_one(path, rows)
        stamps |= {item.stamp for item in items_of(path)}
    assert len(stamps) == 4


def test_a_column_of_another_type_named_regions_is_an_attribute_or_an_error(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.parquet"
    table = {"id": ["a"], "vector": [[1.0, 2.0]], "regions": [["north", "south"]]}
    pq.write_table(pa.table(table), path)
    (item,) = list(VectorFileSource(path, VectorOptions(fingerprint="vgg16")))
    assert isinstance(item, Item)
    assert (item.attributes, item.regions) == ({"regions": ["north", "south"]}, ())
