"""Writes neighbors as JSON, JSON lines, Parquet or CSV."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from imagesearch_analysis.exact_search import Neighbors
from imagesearch_client.types import Metric
from imagesearch_ingest.atomic_file import atomic_write
from imagesearch_ingest.json_text import json_text

Record: TypeAlias = Mapping[str, Any]
"""{"id", "neighbors": [{"id", "score"}, ...]}; with the metric L2 a neighbor also has its "distance"."""
Batches: TypeAlias = Iterable[Sequence[Record]]


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """How neighbors become records."""

    metric: Metric
    digits: int | None = None
    """Decimal places of scores and distances; None keeps all."""
    min_score: float | None = None
    """The lowest score of a neighbor; None keeps all neighbors."""


def records(
    names: Sequence[str], parts: Iterable[tuple[int, Neighbors]], options: RecordOptions
) -> Iterator[list[Record]]:
    """Return a record for each image, in batches of one part.

    Args:
        names: the name of each image by position, such as its id.
        parts: neighbors, each part with the position of its first image.
        options: how neighbors become records.
    """
    for begin, found in parts:
        used = np.unique(found.positions[found.positions >= 0]).tolist()
        name_of = {position: names[position] for position in used}
        rows = zip(found.positions.tolist(), found.scores.tolist(), found.distances.tolist(), strict=True)
        yield [
            {"id": name, "neighbors": list(_neighbors(name_of, *row, options))}
            for name, row in zip(names[begin : begin + len(found.positions)], rows, strict=True)
        ]


def _neighbors(
    name_of: Mapping[int, str],
    positions: Sequence[int],
    scores: Sequence[float],
    distances: Sequence[float],
    options: RecordOptions,
) -> Iterator[Record]:
    for position, score, distance in zip(positions, scores, distances, strict=True):
        if position >= 0 and (options.min_score is None or score >= options.min_score):
            values = {"score": score} | ({"distance": distance} if options.metric is Metric.L2 else {})
            if options.digits is not None:
                values = {key: round(value, options.digits) for key, value in values.items()}
            yield {"id": name_of[position]} | values


def write_neighbors(target: Path, batches: Batches, metric: Metric, file_format: str = "") -> None:
    """Write a complete file, or none, in a format of WRITERS; by default that of its suffix.

    Raises OSError; KeyError for an unknown format.
    """
    write = WRITERS[file_format or target.suffix.lower().removeprefix(".")]
    with atomic_write(target) as partial:
        write(partial, batches, metric)


def _write_json(path: Path, batches: Batches, _: Metric) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        separator = "\n"
        for batch in batches:
            for record in batch:
                file.write(separator + json_text(record, readable=True))
                separator = ",\n"
        file.write("\n]\n")


def _write_json_lines(path: Path, batches: Batches, _: Metric) -> None:
    with path.open("w", encoding="utf-8") as file:
        for batch in batches:
            file.writelines(json_text(record, readable=True) + "\n" for record in batch)


def _write_csv(path: Path, batches: Batches, metric: Metric) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        values = _value_names(metric)
        writer.writerow(["id", "rank", "neighbor", *values])
        for batch in batches:
            for record in batch:
                for rank, neighbor in enumerate(record["neighbors"], start=1):
                    writer.writerow([record["id"], rank, neighbor["id"], *(neighbor[name] for name in values)])


def _write_parquet(path: Path, batches: Batches, metric: Metric) -> None:
    import pyarrow as pa  # noqa: PLC0415 - only this format needs it
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    values = [pa.field(name, pa.float64()) for name in _value_names(metric)]
    neighbor = pa.struct([pa.field("id", pa.string()), *values])
    schema = pa.schema([pa.field("id", pa.string()), pa.field("neighbors", pa.list_(neighbor))])
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_pylist(list(batch), schema))


def _value_names(metric: Metric) -> list[str]:
    return ["score", "distance"] if metric is Metric.L2 else ["score"]


WRITERS: Mapping[str, Callable[[Path, Batches, Metric], None]] = {
    "json": _write_json,
    "jsonl": _write_json_lines,
    "parquet": _write_parquet,
    "csv": _write_csv,
}
