"""Parquet: manifests and vector files convert attributes alike, and columns may contain images."""

import datetime as dt
import decimal
import io
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from imagesearch_cli.app import app
from imagesearch_ingest.sources.items import Fault, Item, SourceError
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions
from imagesearch_ingest.sources.uri_reader import UriReader
from imagesearch_ingest.vector_files.vector_file_source import VectorFileSource, VectorOptions

ZONE = dt.timezone(dt.timedelta(hours=2))
TIME = dt.datetime(2024, 5, 1, 10, 0, 0, 500_000)  # noqa: DTZ001 - a time without a zone
# Columns with two values, and the attributes of the two rows.
COLUMNS: list[tuple[str, Any, list[Any]]] = [
    ("text", pa.array(["x", None]), ["x", None]),
    ("large_text", pa.array(["x", ""], pa.large_string()), ["x", ""]),
    ("text_view", pa.array(["x", None], pa.string_view()), ["x", None]),
    ("dictionary", pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
    ("numbers_of_dictionary", pa.array([1, None]).dictionary_encode(), [1, None]),
    ("bool", pa.array([True, None]), [True, None]),
    ("int8", pa.array([-1, None], pa.int8()), [-1, None]),
    ("uint64", pa.array([1, 2**63 - 1], pa.uint64()), [1, 2**63 - 1]),
    ("half", pa.array(np.array([1.5, np.nan], np.float16)), [1.5, None]),
    ("nan", pa.array([1.5, float("nan")]), [1.5, None]),
    ("decimal", pa.array([decimal.Decimal("1.25"), None]), [1.25, None]),
    ("whole_decimal", pa.array([decimal.Decimal(2**53 + 1), None]), [2**53 + 1, None]),
    ("date", pa.array([dt.date(2024, 5, 1), None]), ["2024-05-01", None]),
    ("date64", pa.array([dt.date(2024, 5, 1), None], pa.date64()), ["2024-05-01", None]),
    ("time", pa.array([TIME, None]), ["2024-05-01T10:00:00.500000", None]),
    ("time_ns", pa.array([TIME, None], pa.timestamp("ns")), ["2024-05-01T10:00:00.500000", None]),
    ("time_s", pa.array([dt.datetime(2024, 5, 1), None], pa.timestamp("s")), ["2024-05-01T00:00:00", None]),  # noqa: DTZ001
    (
        "time_zone",
        pa.array([TIME.replace(tzinfo=ZONE), None], pa.timestamp("us", "Europe/Berlin")),
        ["2024-05-01T08:00:00.500000+00:00", None],
    ),
    ("texts", pa.array([["a", "b"], None]), [["a", "b"], None]),
    ("large_texts", pa.array([["a"], []], pa.large_list(pa.large_string())), [["a"], []]),
    ("nulls", pa.nulls(2), [None, None]),
    ("__index_level_0__", pa.array([0, 1]), [None, None]),
    ("_note", pa.array([{"a": 1}, None]), [None, None]),
]
WRONG = [
    ("struct", pa.array([{"a": 1}, None])),
    ("numbers", pa.array([[1], None])),
    ("map", pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64()))),
    ("time_of_day", pa.array([dt.time(1), None])),
    ("duration", pa.array([dt.timedelta(1), None])),
    ("bad name", pa.array([1, 2])),
]
SPOILED = [
    ("infinite", pa.array([float("inf"), 1.0])),
    ("beyond", pa.array([2**63, 1], pa.uint64())),
    ("rounded", pa.array([decimal.Decimal(2**60 + 1) + decimal.Decimal("0.5"), None])),
    ("year", pa.array([2**62, 0], pa.timestamp("us"))),
    ("null_in_list", pa.array([["a", None], ["b"]])),
]


def both(folder: Path, name: str, column: Any, **renamed: str) -> list[list[object]]:
    """Return the attributes that a manifest and a vector file read from a column."""
    manifest, vectors = folder / "m.parquet", folder / "v.parquet"
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"], name: column}), manifest)
    pq.write_table(pa.table({"id": ["a", "b"], "vector": [[1.0, 2.0], [3.0, 4.0]], name: column}), vectors)
    return [
        list(open_source(str(manifest), SourceOptions(columns=renamed))),
        list(VectorFileSource(vectors, VectorOptions("f", columns=renamed))),
    ]


@pytest.mark.parametrize(("name", "column", "values"), COLUMNS, ids=[name for name, _, _ in COLUMNS])
def test_manifests_and_vector_files_accept_the_same_values(
    tmp_path: Path, name: str, column: Any, values: list[Any]
) -> None:
    expected = [{} if value is None else {name: value} for value in values]
    for found in both(tmp_path, name, column):
        assert [one.attributes or {} for one in found if isinstance(one, Item)] == expected
        kinds = [[type(value) for value in (one.attributes or {}).values()] for one in found if isinstance(one, Item)]
        assert kinds == [[type(value) for value in row.values()] for row in expected]


@pytest.mark.parametrize(("name", "column"), WRONG, ids=[name for name, _ in WRONG])
def test_both_readers_refuse_the_same_columns_and_suggest_a_fix(tmp_path: Path, name: str, column: Any) -> None:
    output = []
    for reader in (0, 1):
        with pytest.raises(SourceError) as refused:
            both(tmp_path, name, column) if reader == 0 else VectorFileSource(
                tmp_path / "v.parquet", VectorOptions("f")
            )
        output.append(str(refused.value))
    assert all(f"--map '{name}='" in message for message in output)
    assert all(f"column '{name}'" in message for message in output)
    for found in both(tmp_path, name, column, **{name: ""}):
        assert [bool(one.attributes) for one in found if isinstance(one, Item)] == [False, False]


@pytest.mark.parametrize(("name", "column"), SPOILED, ids=[name for name, _ in SPOILED])
def test_manifests_and_vector_files_reject_the_same_rows(tmp_path: Path, name: str, column: Any) -> None:
    for found in both(tmp_path, name, column):
        first, second = found
        assert isinstance(first, Fault)
        assert first.reason == "ROW_INVALID"
        assert name in first.message
        assert isinstance(second, Item)


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (shade, shade, shade)).save(file, "JPEG")
    return file.getvalue()


JPEGS = [jpeg(shade) for shade in (0, 100, 200)]


def dataset(target: Path, column: str = "image", **columns: Any) -> Path:
    """Write images like a Hugging Face dataset."""
    values: list[Any] = [{"bytes": content, "path": f"{place}.jpg"} for place, content in enumerate(JPEGS)]
    values += [
        {"bytes": None, "path": "outside.jpg"},
        {"bytes": JPEGS[0], "path": None},
        None,
        {"bytes": b"", "path": ""},
    ]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    more = {name: [value] * len(values) for name, value in columns.items()}
    pq.write_table(pa.table({column: pa.array(values, kind), "label": range(7), **more}), target, row_group_size=2)
    return target


@pytest.mark.parametrize("column", ["image", "img", "jpg::x"])
def test_images_in_a_column_are_listed_and_can_be_read_again(tmp_path: Path, column: str) -> None:
    (tmp_path / "outside.jpg").write_bytes(JPEGS[1])
    path = dataset(tmp_path / "train.parquet", column)
    found = list(open_source(str(path), SourceOptions()))
    items = [one for one in found if isinstance(one, Item)]
    assert [(item.id, item.uri, item.attributes) for item in items] == [
        ("train.parquet/0.jpg", f"parquet://{column}/1::{path}", {"label": 0}),
        ("train.parquet/1.jpg", f"parquet://{column}/2::{path}", {"label": 1}),
        ("train.parquet/2.jpg", f"parquet://{column}/3::{path}", {"label": 2}),
        ("outside.jpg", str(tmp_path / "outside.jpg"), {"label": 3}),
        ("train.parquet/5", f"parquet://{column}/5::{path}", {"label": 4}),
        ("train.parquet/7", f"parquet://{column}/7::{path}", {"label": 6}),
    ]
    (fault,) = [one for one in found if isinstance(one, Fault)]
    assert (fault.where, fault.reason) == ("train.parquet, row 6", "ROW_INVALID")
    contents = [item.content(10**6) for item in items if callable(item.content)]
    assert contents == [*JPEGS, JPEGS[1], JPEGS[0], b""]
    with UriReader() as reader:
        assert [reader.read(item.uri, 10**6) for item in reversed(items)] == list(reversed(contents))
        assert reader.read(items[0].uri, 3) == JPEGS[0][:3]
        with pytest.raises(FileNotFoundError, match="no such member"):
            reader.read(f"parquet://{column}/6::{path}", 10)
    stamps = [item.stamp for item in items[:3]]
    assert len(set(stamps)) == 3
    again = [one for one in open_source(str(path), SourceOptions()) if isinstance(one, Item)]
    assert [item.stamp for item in again[:3]] == stamps


def test_images_in_a_column_of_bytes_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"jpg": pa.array(JPEGS, pa.large_binary()), "key": ["x", "y", "z"]}), path)
    with pytest.raises(SourceError, match="--path-column"):
        open_source(str(path), SourceOptions())
    found = list(open_source(str(path), SourceOptions(path_column="jpg", id_column="key")))
    assert [one.id for one in found if isinstance(one, Item)] == ["x", "y", "z"]
    with UriReader() as reader:
        assert reader.read(f"parquet://jpg/2::{path}", 10**6) == JPEGS[1]


def test_dataset_prefers_its_image_column(tmp_path: Path) -> None:
    path = dataset(tmp_path / "train.parquet", path="elsewhere")
    (first, *_) = open_source(str(path), SourceOptions(id_column="label"))
    assert isinstance(first, Item)
    assert (first.id, first.attributes) == ("0", {"path": "elsewhere"})
    (by_content, *_) = open_source(str(path), SourceOptions(by_content=True))
    assert isinstance(by_content, Item)
    assert by_content.id == ""


def test_large_images_in_a_column_are_not_kept(tmp_path: Path) -> None:
    path = dataset(tmp_path / "train.parquet")
    limit = len(JPEGS[0]) - 1
    found = [one for one in open_source(str(path), SourceOptions(max_bytes=limit)) if isinstance(one, Item)]
    assert found[0].held == 0
    assert callable(found[0].content)
    with pytest.raises(OSError, match="too large"):
        found[0].content(10)
    with UriReader(max_bytes=limit) as reader, pytest.raises(OSError, match="too large"):
        reader.read(found[0].uri, 10)


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": kind})
    with pq.ParquetWriter(path, schema) as writer:
        for group in range(20):
            images = [{"bytes": os.urandom(200_000), "path": f"{group}-{number}"} for number in range(20)]
            writer.write_table(pa.table({"image": pa.array(images, kind)}, schema=schema))
    source = open_source(str(path), SourceOptions())
    tracemalloc.start()
    try:
        (*_, last) = (one.uri for one in source if isinstance(one, Item))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        with UriReader() as reader:
            assert len(reader.read(last, 10**6)) == 200_000
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_command_loads_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "outside.jpg").write_bytes(JPEGS[1])
    path = dataset(tmp_path / "train.parquet")
    answer = CliRunner().invoke(app, ["ingest", str(path), "--dry-run", "--json", "--ledger", str(tmp_path / "l")])
    output = json.loads(answer.stdout)
    assert (output["stored"], output["reasons"]) == (5, {"FILE_EMPTY": 1, "ROW_INVALID": 1})
