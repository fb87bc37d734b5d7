"""Writes vectors as an ordinary Parquet file with a typed column for each attribute."""

import json
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imagesearch_client.types import Region
from imagesearch_ingest.vector_files.column_names import ATTRIBUTE_PREFIX
from imagesearch_ingest.vector_files.region_columns import COLUMN as REGIONS
from imagesearch_ingest.vector_files.region_columns import RegionColumns, arrow_type
from imagesearch_ingest.vector_files.rows import MIXED, Batches, FileInfo, Rows, Summary, attributes_json

NOTES_KEY = b"imagesearch"
# Marks a column of JSON texts, in the metadata of its field.
JSON_MARK = {b"imagesearch": b"json"}
# The column of all attributes without their own column.
REST = "attributes"
TYPES = {
    "text": pa.string(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "texts": pa.list_(pa.string()),
}


def write_parquet(path: str, info: FileInfo, batches: Batches) -> None:
    """Write a file with a row group for each batch. Raises OSError."""
    schema = _schema(info)
    texts = [field.name for field in schema if field.type == pa.string()]
    # A dictionary encoding helps only texts, because components of vectors do not repeat.
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=texts) as writer:
        for rows in batches(True):
            columns = [_column(field, rows, info) for field in schema]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=max(1, len(rows)))


def _schema(info: FileInfo) -> Any:
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("content_sha256", pa.string()),
        pa.field("create_time", pa.timestamp("us", "UTC")),
        pa.field("update_time", pa.timestamp("us", "UTC")),
        pa.field("region", pa.list_(pa.float32())),
        pa.field("vector", pa.list_(pa.float32(), info.dimension), nullable=False),
    ]
    if info.has_regions:
        fields.append(pa.field(REGIONS, arrow_type(info.dimension)))
    for name, kind in sorted(info.summary.kinds.items()):
        if kind == MIXED:
            fields.append(pa.field(ATTRIBUTE_PREFIX + name, pa.string(), metadata=JSON_MARK))
        else:
            fields.append(pa.field(ATTRIBUTE_PREFIX + name, TYPES[kind]))
    if info.summary.rest:
        fields.append(pa.field(REST, pa.string(), metadata=JSON_MARK))
    return pa.schema(fields, {NOTES_KEY: json.dumps(dict(info.notes), ensure_ascii=False).encode()})


def _column(field: Any, rows: Rows, info: FileInfo) -> Any:
    match field.name:
        case "vector":
            values = pa.array(np.ascontiguousarray(rows.vectors).reshape(-1))
            return pa.FixedSizeListArray.from_arrays(values, type=field.type)
        case "regions" if rows.region_columns is not None:
            return rows.region_columns.to_arrow(field.type)
        case "region":
            return pa.array([None if each is None else astuple(each) for each in rows.regions], field.type)
        case "id" | "uri" | "content_sha256" | "create_time" | "update_time" as name:
            plural = {"id": "ids", "uri": "uris", "create_time": "create_times", "update_time": "update_times"}
            return pa.array(getattr(rows, plural.get(name, name)), field.type)
        case "attributes":
            kinds = info.summary.kinds
            rests = ({name: value for name, value in each.items() if name not in kinds} for each in rows.attributes)
            return pa.array([attributes_json(rest) if rest else None for rest in rests], field.type)
    name = field.name.removeprefix(ATTRIBUTE_PREFIX)
    found: Iterable[Any] = (attributes.get(name) for attributes in rows.attributes)
    if field.metadata:
        found = (None if value is None else json.dumps(value, ensure_ascii=False) for value in found)
    return pa.array(list(found), field.type)


def write_part(path: str, rows: Rows, dimension: int) -> None:
    """Write a part of an export; all attributes are JSON texts. Raises OSError."""
    notes = {} if rows.region_columns is None else {"max_regions": "1"}
    write_parquet(path, FileInfo(Summary(len(rows), rest=True), dimension, notes), lambda _: [rows])


def read_part(path: Path, dimension: int, *, vectors: bool) -> Rows:
    """Return the rows of a part, with or without vectors. Raises OSError, ValueError."""
    names = [
        "id",
        "uri",
        "content_sha256",
        "region",
        "create_time",
        "update_time",
        REST,
        *(["vector"] if vectors else []),
    ]
    if vectors and REGIONS in pq.read_schema(path).names:
        names.append(REGIONS)
    table = pq.read_table(path, columns=names, partitioning=None)
    columns = {name: table.column(name).to_pylist() for name in names if name not in ("vector", REGIONS)}
    flat = table.column("vector").combine_chunks().flatten().to_numpy() if vectors else None
    return Rows(
        columns["id"],
        columns["uri"],
        columns["content_sha256"],
        np.empty((table.num_rows, 0), np.float32) if flat is None else flat.reshape(-1, dimension),
        [None if region is None else Region(*region) for region in columns["region"]],
        columns["create_time"],
        columns["update_time"],
        [{} if text is None else json.loads(text) for text in columns[REST]],
        RegionColumns.from_arrow(table.column(REGIONS)) if REGIONS in names else None,
    )
